//! One seeded source of time and chance for a thread: the C library's `clock_gettime` and `getrandom` answer here, so that
//! hash seeds, UIDs, jitter and timestamps of the daemons are the seed's, without a line of theirs knowing.
//!
//! Threads without a seed get the kernel's answers.

#![expect(
    unsafe_code,
    reason = "two functions of the C library are defined here, with its signatures"
)]

use std::cell::Cell;
use std::ffi::{c_int, c_void};

use tokio::time::Instant;

/// 2026-01-05 00:00:30 UTC, a Monday.
const BEGIN: u64 = 1_767_571_230;
const REALTIME: c_int = 0;
const REALTIME_COARSE: c_int = 5;

thread_local! {
    static STATE: Cell<Option<u64>> = const { Cell::new(None) };
    static START: Cell<Option<Instant>> = const { Cell::new(None) };
}

/// From now on this thread has no chance but that of the seed, and its monotonic clock stands.
pub fn seed(seed: u64) {
    STATE.set(Some(seed));
}

/// The wall clock goes with tokio's from here on.
pub fn start() {
    START.set(Some(Instant::now()));
}

/// Seconds since [`start`].
pub fn elapsed() -> f64 {
    START.get().map_or(0.0, |s| s.elapsed().as_secs_f64())
}

/// SplitMix64.
fn next(state: u64) -> (u64, u64) {
    let state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = state;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    (state, z ^ (z >> 31))
}

/// See getrandom(2).
///
/// # Safety
/// `buffer` has room for `length` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn getrandom(buffer: *mut c_void, length: usize, _flags: u32) -> isize {
    // SAFETY: the caller's promise.
    let buffer = unsafe { std::slice::from_raw_parts_mut(buffer.cast::<u8>(), length) };
    let Some(mut state) = STATE.get() else {
        let flags = rustix::rand::GetRandomFlags::empty();
        return match rustix::rand::getrandom(buffer, flags) {
            Ok(n) => isize::try_from(n).unwrap_or(-1),
            Err(_) => -1,
        };
    };
    for chunk in buffer.chunks_mut(8) {
        let (after, value) = next(state);
        state = after;
        chunk.copy_from_slice(&value.to_le_bytes()[..chunk.len()]);
    }
    STATE.set(Some(state));
    isize::try_from(length).unwrap_or(-1)
}

/// As C has it.
#[repr(C)]
pub struct Timespec {
    seconds: i64,
    nanos: i64,
}

/// See clock_gettime(2).
///
/// # Safety
/// `out` can be written to.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn clock_gettime(id: c_int, out: *mut Timespec) -> c_int {
    let (seconds, nanos) = if STATE.get().is_none() {
        let id = match id {
            REALTIME | REALTIME_COARSE => rustix::time::ClockId::Realtime,
            _ => rustix::time::ClockId::Monotonic,
        };
        let t = rustix::time::clock_gettime(id);
        (t.tv_sec, t.tv_nsec)
    } else if id == REALTIME || id == REALTIME_COARSE {
        let run = START.get().map_or_else(Default::default, |s| s.elapsed());
        let nanos = i64::from(run.subsec_nanos());
        (i64::try_from(BEGIN + run.as_secs()).unwrap_or(0), nanos)
    } else {
        // Tokio's clock is paused and asks once; std's stands, which no one decides by.
        (1_000_000, 0)
    };
    // SAFETY: the caller's promise.
    unsafe { out.write(Timespec { seconds, nanos }) };
    0
}
