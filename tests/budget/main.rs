//! No request costs more than its budget: each kind of body, patch, selector, option and header in its deepest, longest,
//! widest, most repeated and most aliased form goes to an apiserver in this process, and CPU time and memory are counted.
//!
//! Source: CVE-2019-11253, CVE-2019-1002100 and the trials of this project. An argument picks the cases whose names
//! contain it.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test's failure is a panic"
)]

mod cases;
mod meter;
mod schema;
mod server;

use std::time::{Duration, Instant};

use meter::{Cost, Meter};

#[global_allocator]
static ALLOCATOR: meter::Counting = meter::Counting;

/// What a request may cost, by the crates as they are built for tests: several times what the dearest does cost, and far less
/// than anything quadratic would.
const BUDGET: Cost = Cost {
    cpu: Duration::from_secs(15),
    memory: 1 << 30,
};

/// What is answered where a handler panicked.
const PANIC: &[u8] = b"apiserver to panic";

/// As the apiserver's: trees of ten thousand levels are dropped recursively.
const STACK: usize = 128 << 20;

fn main() -> std::process::ExitCode {
    let wanted: Vec<String> = std::env::args()
        .skip(1)
        .filter(|a| !a.starts_with('-'))
        .collect();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .worker_threads(2)
        .thread_stack_size(STACK)
        .build()
        .unwrap();
    // Cases are made and dropped on a thread with that stack, too.
    let failed = std::thread::Builder::new()
        .stack_size(STACK)
        .spawn(move || runtime.block_on(run(wanted)))
        .unwrap()
        .join()
        .unwrap();
    if failed == 0 {
        std::process::ExitCode::SUCCESS
    } else {
        std::process::ExitCode::FAILURE
    }
}

async fn run(wanted: Vec<String>) -> usize {
    let started = Instant::now();
    let server = server::Server::start().await;
    let mut all = cases::cases();
    all.extend(schema::cases(&server.core.table()));
    all.retain(|c| wanted.is_empty() || wanted.iter().any(|w| c.name.contains(w.as_str())));
    cases::prepare(&server).await;
    let mut costs: Vec<(String, u16, usize, usize, Cost)> = Vec::new();
    let mut failures = Vec::new();
    for case in all {
        let headers: Vec<(&str, &str)> =
            case.headers.iter().map(|(k, v)| (*k, v.as_str())).collect();
        let size = case.body.len();
        let meter = Meter::start();
        let answer = server
            .call(case.method, &case.path, &headers, case.body)
            .await;
        let cost = meter.read();
        let (code, answered) = match answer {
            Ok(a) => {
                if a.code == 500 && a.body.windows(PANIC.len()).any(|w| w == PANIC) {
                    failures.push(format!("{}: a panic", case.name));
                }
                (a.code, a.body.len())
            }
            Err(e) => {
                failures.push(format!("{}: no answer: {e}", case.name));
                (0, 0)
            }
        };
        if cost.cpu > BUDGET.cpu || cost.memory > BUDGET.memory {
            failures.push(format!(
                "{}: {:?} of CPU time and {} MB",
                case.name,
                cost.cpu,
                cost.memory >> 20
            ));
        }
        costs.push((case.name, code, size, answered, cost));
    }
    let passed = costs.len() - failures.len().min(costs.len());
    costs.sort_by_key(|(.., cost)| std::cmp::Reverse((cost.cpu, cost.memory)));
    println!(
        "\n{:>8} {:>7} {:>8} {:>8} {:>5}  request",
        "CPU", "memory", "sent", "answer", "code"
    );
    let kib = |n: usize| n >> 10;
    for (name, code, size, answered, cost) in &costs {
        println!(
            "{:>6} ms {:>4} MB {:>4} KiB {:>4} KiB {code:>5}  {name}",
            cost.cpu.as_millis(),
            cost.memory >> 20,
            kib(*size),
            kib(*answered),
        );
    }
    for failure in &failures {
        println!("over budget: {failure}");
    }
    println!(
        "\nbudget: {:?} of CPU time and {} MB per request",
        BUDGET.cpu,
        BUDGET.memory >> 20
    );
    println!(
        "\ntest result: {}. {passed} passed; {} failed; 0 ignored; 0 measured; 0 filtered out; finished in {:.2}s\n",
        if failures.is_empty() { "ok" } else { "FAILED" },
        failures.len(),
        started.elapsed().as_secs_f64()
    );
    failures.len()
}
