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
mod node;
mod schema;
mod server;

use std::time::{Duration, Instant};

use http::Method;
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

/// Lines of the table that are printed.
const SHOWN: usize = 40;

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

/// A line of the table.
struct Row {
    name: String,
    /// What was answered; 0 where nothing was, or nobody asked.
    code: u16,
    sent: usize,
    answered: usize,
    cost: Cost,
}

impl std::fmt::Display for Row {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{:>6} ms {:>4} MB {:>5} KiB {:>5} KiB {:>5}  {}",
            self.cost.cpu.as_millis(),
            self.cost.memory >> 20,
            self.sent >> 10,
            self.answered >> 10,
            self.code,
            self.name,
        )
    }
}

#[derive(Default)]
struct Results {
    rows: Vec<Row>,
    failures: Vec<String>,
}

impl Results {
    /// Sends a request and notes what it cost; answers the code.
    async fn ask(&mut self, server: &server::Server, case: cases::Case) -> u16 {
        let headers: Vec<(&str, &str)> =
            case.headers.iter().map(|(k, v)| (*k, v.as_str())).collect();
        let sent = headers.iter().map(|(k, v)| k.len() + v.len());
        let sent = case.body.len() + case.path.len() + sent.sum::<usize>();
        let meter = Meter::start();
        let answer = server
            .call(case.method, &case.path, &headers, case.body)
            .await;
        let cost = meter.read();
        let (code, answered, fault) = match answer {
            Ok(a) => {
                let panic = a.code == 500 && a.body.windows(PANIC.len()).any(|w| w == PANIC);
                (a.code, a.body.len(), panic.then(|| "a panic".to_owned()))
            }
            Err(e) => (0, 0, Some(format!("no answer: {e}"))),
        };
        let row = Row {
            name: case.name,
            code,
            sent,
            answered,
            cost,
        };
        self.add(row, fault);
        code
    }

    fn add(&mut self, row: Row, fault: Option<String>) {
        let over = row.cost.cpu > BUDGET.cpu || row.cost.memory > BUDGET.memory;
        let fault = fault.or_else(|| {
            over.then(|| {
                let memory = row.cost.memory >> 20;
                format!("{:?} of CPU time and {memory} MB", row.cost.cpu)
            })
        });
        if let Some(fault) = fault {
            println!("{row}: {fault}");
            self.failures.push(format!("{}: {fault}", row.name));
        }
        self.rows.push(row);
    }

    /// Prints what was dearest, and the closing lines.
    fn print(mut self, took: Duration) -> usize {
        self.rows
            .sort_by_key(|r| std::cmp::Reverse((r.cost.cpu, r.cost.memory)));
        println!(
            "\n{:>9} {:>7} {:>9} {:>9} {:>5}  request",
            "CPU", "memory", "sent", "answer", "code"
        );
        for row in self.rows.iter().take(SHOWN) {
            println!("{row}");
        }
        let most = self.rows.iter().max_by_key(|r| r.cost.memory);
        if let Some(row) = most {
            println!("most memory:\n{row}");
        }
        for failure in &self.failures {
            println!("over budget: {failure}");
        }
        println!(
            "\n{} requests; budget: {:?} of CPU time and {} MB each",
            self.rows.len(),
            BUDGET.cpu,
            BUDGET.memory >> 20
        );
        println!(
            "\ntest result: {}. {} passed; {} failed; 0 ignored; 0 measured; 0 filtered out; finished in {:.2}s\n",
            if self.failures.is_empty() {
                "ok"
            } else {
                "FAILED"
            },
            self.rows.len() - self.failures.len(),
            self.failures.len(),
            took.as_secs_f64()
        );
        self.failures.len()
    }
}

async fn run(wanted: Vec<String>) -> usize {
    let started = Instant::now();
    let server = server::Server::start().await;
    let is_wanted =
        |name: &str| wanted.is_empty() || wanted.iter().any(|w| name.contains(w.as_str()));
    let mut all = cases::cases();
    all.extend(schema::cases(&server.core.table()));
    all.retain(|c| is_wanted(&c.name));
    cases::prepare(&server).await;
    let mut results = Results::default();
    for case in all {
        let (created, then) = (case.body.clone(), case.then.clone());
        let again = cases::Case {
            name: format!("{}, put again", case.name),
            method: Method::PUT,
            path: case.path.clone(),
            headers: case.headers.clone(),
            body: then.unwrap_or_default(),
            then: None,
        };
        if results.ask(&server, case).await == 201 && !again.body.is_empty() {
            let object: serde_json::Value = serde_json::from_slice(&created).unwrap();
            let name = object["metadata"]["name"].as_str().unwrap();
            let path = format!("{}/{name}", again.path);
            results.ask(&server, cases::Case { path, ..again }).await;
        }
    }
    let dir = tempfile::tempdir().unwrap();
    let mut inputs = node::inputs(dir.path());
    inputs.retain(|i| is_wanted(&i.name));
    for input in inputs {
        let meter = Meter::start();
        // With the stack that the kubelet's threads have.
        let read = std::thread::Builder::new()
            .stack_size(2 << 20)
            .spawn(input.read)
            .unwrap();
        let fault = read.join().is_err().then(|| "a panic".to_owned());
        let row = Row {
            name: input.name,
            code: 0,
            sent: 0,
            answered: 0,
            cost: meter.read(),
        };
        results.add(row, fault);
    }
    results.print(started.elapsed())
}
