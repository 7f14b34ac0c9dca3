//! Token bucket, as client-go's `--kube-api-qps` and `--kube-api-burst` mean it.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// The longest wait, in seconds.
const MAX_WAIT: f64 = 366.0 * 24.0 * 3600.0;

/// A bucket of `burst` tokens that fills at `qps` tokens a second. Callers wait in the order they came.
#[derive(Debug)]
pub struct TokenBucket {
    qps: f64,
    burst: f64,
    state: Mutex<(f64, Option<Instant>)>,
}

impl TokenBucket {
    /// `qps <= 0` means no limit.
    pub fn new(qps: f32, burst: u32) -> TokenBucket {
        let burst = f64::from(burst.max(1));
        TokenBucket {
            qps: f64::from(qps),
            burst,
            state: Mutex::new((burst, None)),
        }
    }

    /// A full bucket of the same size.
    pub fn another(&self) -> TokenBucket {
        TokenBucket {
            qps: self.qps,
            burst: self.burst,
            state: Mutex::new((self.burst, None)),
        }
    }

    /// Takes one token, going into debt when there is none, and returns how long the caller has to wait.
    pub fn reserve(&self, now: Instant) -> Duration {
        if self.qps <= 0.0 {
            return Duration::ZERO;
        }
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        self.refill(&mut state, now);
        state.0 -= 1.0;
        if state.0 >= 0.0 {
            Duration::ZERO
        } else {
            // A rate near zero makes for a time that no duration holds.
            Duration::from_secs_f64((-state.0 / self.qps).min(MAX_WAIT))
        }
    }

    /// Takes a token if there is one.
    pub fn try_take(&self, now: Instant) -> bool {
        if self.qps <= 0.0 {
            return true;
        }
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        self.refill(&mut state, now);
        if state.0 >= 1.0 {
            state.0 -= 1.0;
            true
        } else {
            false
        }
    }

    /// Waits for a token.
    pub async fn take(&self) {
        let wait = self.reserve(Instant::now());
        if !wait.is_zero() {
            tokio::time::sleep(wait).await;
        }
    }

    fn refill(&self, state: &mut (f64, Option<Instant>), now: Instant) {
        let since = state
            .1
            .map_or(Duration::ZERO, |last| now.saturating_duration_since(last));
        state.0 = (state.0 + since.as_secs_f64() * self.qps).min(self.burst);
        state.1 = Some(now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn burst_then_rate() {
        let b = TokenBucket::new(10.0, 2);
        let t = Instant::now();
        assert_eq!(b.reserve(t), Duration::ZERO);
        assert_eq!(b.reserve(t), Duration::ZERO);
        assert_eq!(b.reserve(t), Duration::from_millis(100));
        assert_eq!(b.reserve(t), Duration::from_millis(200));
        // 0.5 s later the debt of two is paid and the bucket is full again, not fuller.
        let t = t + Duration::from_millis(500);
        assert!(b.try_take(t) && b.try_take(t) && !b.try_take(t));
    }

    #[test]
    fn no_limit_below_zero() {
        let b = TokenBucket::new(-1.0, 1);
        let t = Instant::now();
        assert!((0..1000).all(|_| b.reserve(t).is_zero()));
    }
}
