//! Every controller against a real apiserver core on a store in memory, in one thread per seed whose clock and chance are
//! the seed's: people change things, machines run pods and fail, the controllers' requests, answers and watch events are
//! lost, late and repeated, and the controllers are killed between any two calls. Held at every step: no name of a pod is
//! given away while its machine runs it, no pod of a Job goes uncounted or is counted twice, no quota is exceeded. Held
//! in the end: what was asked for is there, no object has an owner that is gone, and whatever is deleted is gone.
//!
//! `SEEDS` (100) seeds are run from `SEED` (1) on; a failing one replays exactly: `SEED=17 SEEDS=1`, with `DIARY=1` for
//! what people did, and `V=2` (or more) for what the daemons say.

#![expect(
    clippy::unwrap_used,
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

use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Instant;

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|v| v.parse().ok()).unwrap_or(default)
}

fn main() -> ExitCode {
    if std::env::args().any(|a| a == "--list") {
        println!("simulation: test");
        return ExitCode::SUCCESS;
    }
    if std::env::var_os("V").is_some() {
        component::logging::init(&component::logging::Logging {
            verbosity: u32::try_from(number("V", 2)).unwrap_or(2),
            ..Default::default()
        });
    }
    let (first, count) = (number("SEED", 1), number("SEEDS", 100));
    let keep = std::env::var_os("DIARY").is_some();
    let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get) as u64;
    let began = Instant::now();
    // Tables that are made once take their chance from one seed, whatever is run after. Then the first seed twice: it has
    // to be the same.
    let warm = run::run(0, keep);
    if keep {
        println!("seed 0: {warm:#?}");
    }
    let twice = (run::run(first, keep), run::run(first, keep));
    let failed = AtomicU64::new(0);
    if twice.0.digest != twice.1.digest {
        println!("seed {first} does not replay: {twice:#?}");
        failed.fetch_add(1, Relaxed);
    }
    let (next, writes) = (AtomicU64::new(first), AtomicU64::new(0));
    let print = Mutex::new(());
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Relaxed);
                    if seed >= first + count {
                        return;
                    }
                    let outcome = run::run(seed, keep);
                    writes.fetch_add(u64::try_from(outcome.writes).unwrap_or(0), Relaxed);
                    let _one = print.lock();
                    for line in &outcome.diary {
                        println!("{line}");
                    }
                    if keep {
                        println!("seed {seed}: {:?}", outcome.busiest);
                    }
                    if outcome.wrong.is_empty() {
                        continue;
                    }
                    failed.fetch_add(1, Relaxed);
                    println!("seed {seed} failed after {:.0} s of its clock:", outcome.took);
                    for what in outcome.wrong.iter().take(20) {
                        println!("  {what}");
                    }
                }
            });
        }
    });
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
