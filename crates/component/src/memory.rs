//! Gives memory that nothing holds any more back to the system, in a process whose allocator is mimalloc.
//!
//! That allocator keeps what a thread has freed for that thread, and what another thread has freed of it until the first asks
//! for more: after a burst, workers that sleep would keep the burst's memory for good. So all workers are told, once in a
//! while, to look through what they have. Threads that are no workers, such as the one that a runtime is started on, are not
//! told: work that takes and frees much belongs on a worker.

use std::cell::Cell;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio_util::sync::CancellationToken;

/// How often.
const EVERY: Duration = Duration::from_secs(30);
/// How long a worker is held, so that the others wake up for the rest of what there is to do.
const HELD: Duration = Duration::from_millis(1);

/// Rounds that were called for.
static CALLED: AtomicU64 = AtomicU64::new(0);

thread_local! {
    /// The last round that this thread has done.
    static DONE: Cell<u64> = const { Cell::new(0) };
}

/// For threads that are about to sleep: gives back what this thread has, if that was called for.
pub fn before_sleep() {
    let called = CALLED.load(Ordering::Relaxed);
    if DONE.replace(called) == called {
        return;
    }
    #[expect(
        unsafe_code,
        reason = "it may be called at any time, by any thread, and touches only what is free"
    )]
    unsafe {
        libmimalloc_sys::mi_collect(true);
    }
}

/// Calls for a round once in a while, until `stop`.
pub async fn keep_small(stop: CancellationToken) {
    let workers = tokio::runtime::Handle::current().metrics().num_workers();
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(EVERY) => {}
        }
        CALLED.fetch_add(1, Ordering::Relaxed);
        for _ in 0..workers {
            tokio::spawn(async { std::thread::sleep(HELD) });
        }
    }
}
