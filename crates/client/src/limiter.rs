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
    /// Held by the first of those who wait; the rest stand in line for it.
    turn: tokio::sync::Mutex<()>,
}

impl TokenBucket {
    /// `qps` that is not above 0, or not a number, means no limit.
    pub fn new(qps: f32, burst: u32) -> TokenBucket {
        let burst = f64::from(burst.max(1));
        TokenBucket {
            // Of a number and NaN it is the number.
            qps: f64::from(qps).max(0.0),
            burst,
            state: Mutex::new((burst, None)),
            turn: tokio::sync::Mutex::default(),
        }
    }

    /// A full bucket of the same size.
    pub fn another(&self) -> TokenBucket {
        TokenBucket {
            qps: self.qps,
            burst: self.burst,
            state: Mutex::new((self.burst, None)),
            turn: tokio::sync::Mutex::default(),
        }
    }

    /// Tokens a second, and how many it holds.
    pub fn size(&self) -> (f32, u32) {
        #[expect(clippy::cast_possible_truncation, reason = "what it was made of")]
        let qps = self.qps as f32;
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "what it was made of"
        )]
        let burst = self.burst as u32;
        (qps, burst)
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

    /// Takes one token, going into debt when there is none, and returns how long the caller has to wait.
    pub fn reserve(&self, now: Instant) -> Duration {
        if self.qps <= 0.0 {
            return Duration::ZERO;
        }
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        self.refill(&mut state, now);
        state.0 -= 1.0;
        // A rate near zero makes for a time that no duration holds.
        Duration::from_secs_f64((-state.0 / self.qps).clamp(0.0, MAX_WAIT))
    }

    /// How long until there is a token.
    fn missing(&self, now: Instant) -> Duration {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        self.refill(&mut state, now);
        Duration::from_secs_f64(((1.0 - state.0) / self.qps).clamp(0.0, MAX_WAIT))
    }

    /// Waits for a token. A wait that is given up takes nothing.
    pub async fn take(&self) {
        if self.qps <= 0.0 {
            return;
        }
        let _turn = self.turn.lock().await;
        loop {
            let now = Instant::now();
            if self.try_take(now) {
                return;
            }
            // Rounded up, so that the token is there.
            let wait = self.missing(now) + Duration::from_micros(1);
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

    #[tokio::test(start_paused = true)]
    async fn burst_then_rate() {
        let b = TokenBucket::new(10.0, 2);
        let start = Instant::now();
        for want in [0, 0, 100, 200] {
            b.take().await;
            // The clock stands still but for the timer, which counts whole milliseconds.
            let took = start.elapsed().as_millis();
            assert!((want..want + 3).contains(&took), "{took}");
        }
        // A second later it is full again, not fuller.
        tokio::time::advance(Duration::from_secs(1)).await;
        let t = Instant::now();
        assert!(b.try_take(t) && b.try_take(t) && !b.try_take(t));
    }

    #[tokio::test(start_paused = true)]
    async fn a_wait_that_is_given_up_takes_nothing() {
        let b = std::sync::Arc::new(TokenBucket::new(10.0, 1));
        b.take().await;
        let many: Vec<_> = (0..3000)
            .map(|_| {
                let b = b.clone();
                tokio::spawn(async move { b.take().await })
            })
            .collect();
        tokio::task::yield_now().await;
        many.iter().for_each(tokio::task::JoinHandle::abort);
        for task in many {
            assert!(task.await.is_err());
        }
        let start = Instant::now();
        b.take().await;
        assert!(start.elapsed() <= Duration::from_millis(102));
    }

    #[tokio::test(start_paused = true)]
    async fn rates_at_their_ends() {
        let start = Instant::now();
        for qps in [0.0, -1.0, f32::NEG_INFINITY, f32::NAN, f32::INFINITY] {
            let b = TokenBucket::new(qps, 1);
            for _ in 0..1000 {
                b.take().await;
            }
        }
        // Timers count whole milliseconds; an infinite rate may set one each time.
        assert!(start.elapsed() <= Duration::from_secs(2));
        for qps in [f32::MIN_POSITIVE, f32::MAX] {
            let b = TokenBucket::new(qps, u32::MAX);
            assert!(b.reserve(start) <= Duration::from_secs_f64(MAX_WAIT));
        }
    }
}
