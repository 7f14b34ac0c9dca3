//! Progress: one line per step, with the time it took and the time since the start.

use std::time::Instant;

/// Like `println!`, but a reader that has gone away (`keelson status | head`) is no failure.
macro_rules! say {
    ($($words:tt)*) => {{
        let _ = std::io::Write::write_fmt(&mut std::io::stdout(), format_args!("{}\n", format_args!($($words)*)));
    }};
}

#[derive(Clone, Copy)]
pub struct Steps {
    start: Instant,
}

impl Steps {
    pub fn new() -> Self {
        Steps {
            start: Instant::now(),
        }
    }

    /// Says that something is done that began at `since`.
    pub fn done(&self, what: &str, since: Instant) {
        say!(
            "  {:>6.2}s  {what} ({:.2}s)",
            self.start.elapsed().as_secs_f64(),
            since.elapsed().as_secs_f64()
        );
    }

    /// Says something that took no time worth naming.
    pub fn note(&self, what: &str) {
        say!("  {:>6.2}s  {what}", self.start.elapsed().as_secs_f64());
    }

    pub fn seconds(&self) -> f64 {
        self.start.elapsed().as_secs_f64()
    }
}
