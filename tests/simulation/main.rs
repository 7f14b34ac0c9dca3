//! Every controller against a real apiserver core on a store in memory, in one thread per seed whose clock and chance are
//! the seed's: people change things, machines run pods and fail, the controllers' requests, answers and watch events are
//! lost, late and repeated, and the controllers are killed between any two calls. Held at every step: no name of a pod is
//! given away while its machine runs it, no pod of a Job goes uncounted or is counted twice, no quota is exceeded. Held
//! in the end: what was asked for is there, no object has an owner that is gone, and whatever is deleted is gone.
//!
//! `SEEDS` (100) seeds are run from `SEED` (1) on, each in a process of its own; a failing one replays exactly: `SEED=17 SEEDS=1`, with `DIARY=1` for
//! what people did, and `V=2` (or more) for what the daemons say.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a test's failure is a panic"
)]

mod end;
mod fate;
mod machines;
mod memory;
mod run;
mod truth;
mod users;
mod wire;

use std::process::{Command, ExitCode, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Instant;

/// The seed that this process is for.
const ONE: &str = "KEELSON_SIMULATION_SEED";
/// What the last line of such a process begins with: then come the digest and the number of writes.
const END: &str = "end of seed: ";

fn number(name: &str, default: u64) -> u64 {
    let text = std::env::var(name).ok();
    text.and_then(|v| v.parse().ok()).unwrap_or(default)
}

fn main() -> ExitCode {
    if std::env::args().any(|a| a == "--list") {
        println!("simulation: test");
        return ExitCode::SUCCESS;
    }
    if std::env::var_os(ONE).is_some() {
        return one(number(ONE, 1));
    }
    let (first, count) = (number("SEED", 1), number("SEEDS", 100));
    let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let began = Instant::now();
    let (failed, writes) = (AtomicU64::new(0), AtomicU64::new(0));
    let print = Mutex::new(());
    // The first once more: it has to be the same.
    let next = AtomicU64::new(0);
    let digests = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let turn = next.fetch_add(1, Relaxed);
                    if turn > count {
                        return;
                    }
                    let seed = first + turn.saturating_sub(1);
                    let (text, end, good) = apart(seed);
                    let mut words = end.split(' ');
                    let digest = words.next().unwrap_or_default().to_owned();
                    let written = words.next().and_then(|w| w.parse().ok()).unwrap_or(0);
                    if seed == first {
                        digests.lock().unwrap().push(digest);
                    }
                    if turn == 0 {
                        continue;
                    }
                    writes.fetch_add(written, Relaxed);
                    failed.fetch_add(u64::from(!good), Relaxed);
                    let _one = print.lock();
                    print!("{text}");
                }
            });
        }
    });
    let digests = digests.into_inner().unwrap();
    if digests
        .iter()
        .any(|d| d.is_empty() || Some(d) != digests.first())
    {
        println!("seed {first} does not replay: {digests:?}");
        failed.fetch_add(1, Relaxed);
    }
    let failed = failed.into_inner();
    println!(
        "simulation: seeds {first} to {}, {} writes, {:.0} s",
        first + count - 1,
        writes.into_inner(),
        began.elapsed().as_secs_f64()
    );
    println!(
        "test result: {}. {} passed; {failed} failed; 0 ignored; 0 measured; 0 filtered out",
        if failed == 0 { "ok" } else { "FAILED" },
        count.saturating_sub(failed)
    );
    ExitCode::from(u8::from(failed > 0))
}

/// Runs a seed in a process of its own: what it prints, its last line, and whether all held.
fn apart(seed: u64) -> (String, String, bool) {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.env(ONE, seed.to_string()).stderr(Stdio::inherit());
    let output = command.output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    match text.split_once(END) {
        Some((text, end)) => (
            text.to_owned(),
            end.trim().to_owned(),
            output.status.success(),
        ),
        None => {
            let text = format!("{text}seed {seed} ended with {}\n", output.status);
            (text, String::new(), false)
        }
    }
}

fn one(seed: u64) -> ExitCode {
    if std::env::var_os("V").is_some() {
        component::logging::init(&component::logging::Logging {
            verbosity: u32::try_from(number("V", 2)).unwrap_or(2),
            ..Default::default()
        });
    }
    let outcome = run::run(seed);
    if std::env::var_os("DIARY").is_some() {
        for line in &outcome.diary {
            println!("{line}");
        }
        println!("writes of seed {seed}: {:?}", outcome.busiest);
    }
    if !outcome.wrong.is_empty() {
        println!(
            "seed {seed} failed after {:.0} s of its clock:",
            outcome.took
        );
        for what in outcome.wrong.iter().take(20) {
            println!("  {what}");
        }
    }
    println!("{END}{:016x} {}", outcome.digest, outcome.writes);
    ExitCode::from(u8::from(!outcome.wrong.is_empty()))
}
