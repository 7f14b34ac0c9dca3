//! What work costs: CPU time of this process, and bytes that its allocator has given out at once.

#![allow(unsafe_code, reason = "an allocator is unsafe by its signature")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

/// The system's allocator, counting.
pub struct Counting;

static NOW: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

fn grow(bytes: usize) {
    let now = NOW.fetch_add(bytes, Ordering::Relaxed) + bytes;
    PEAK.fetch_max(now, Ordering::Relaxed);
}

fn shrink(bytes: usize) {
    NOW.fetch_sub(bytes, Ordering::Relaxed);
}

unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        grow(layout.size());
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        shrink(layout.size());
        unsafe { System.dealloc(ptr, layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        grow(layout.size());
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, ptr: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // Old and new may be there at once.
        grow(size);
        let new = unsafe { System.realloc(ptr, layout, size) };
        shrink(layout.size());
        new
    }
}

/// CPU time that all threads have used. The kernel counts it in hundredths of a second.
fn cpu() -> Duration {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    // Behind the command's name, which may hold anything, field 3 comes first; 14 and 15 are user and system time.
    let (_, rest) = stat.rsplit_once(')').unwrap();
    let fields: Vec<&str> = rest.split_whitespace().collect();
    let ticks: u64 = fields[11..13]
        .iter()
        .map(|f| f.parse::<u64>().unwrap())
        .sum();
    Duration::from_millis(ticks * 10)
}

/// What something cost.
#[derive(Clone, Copy, Debug, Default)]
pub struct Cost {
    pub cpu: Duration,
    /// Bytes above what was there before.
    pub memory: usize,
}

/// A measurement that goes on.
pub struct Meter {
    cpu: Duration,
    memory: usize,
}

impl Meter {
    pub fn start() -> Meter {
        let memory = NOW.load(Ordering::Relaxed);
        PEAK.store(memory, Ordering::Relaxed);
        Meter { cpu: cpu(), memory }
    }

    pub fn read(&self) -> Cost {
        Cost {
            cpu: cpu() - self.cpu,
            memory: PEAK.load(Ordering::Relaxed).saturating_sub(self.memory),
        }
    }
}
