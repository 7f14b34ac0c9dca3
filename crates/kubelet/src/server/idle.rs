//! Ends sessions in which nothing moves: `streamingConnectionIdleTimeout`.
//!
//! What counts is what either side has to say: bytes of a joined connection, messages of a WebSocket. Pings of a WebSocket
//! do not count, as in upstream's `wsstream`.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// When something last moved in a session.
#[derive(Clone, Debug)]
pub struct Traffic(Arc<Mutex<Instant>>);

impl Default for Traffic {
    fn default() -> Traffic {
        Traffic(Arc::new(Mutex::new(Instant::now())))
    }
}

impl Traffic {
    /// Something moved.
    pub fn moved(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }

    /// Returns once nothing has moved for `limit`; `None`: never.
    pub async fn silence(&self, limit: Option<Duration>) {
        let Some(limit) = limit else {
            return std::future::pending().await;
        };
        loop {
            let last = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
            let rest = limit.saturating_sub(last.elapsed());
            if rest.is_zero() {
                return;
            }
            tokio::time::sleep(rest).await;
        }
    }

    /// Runs a session of this traffic to its end; `None`: it was given up because nothing moved for `limit`.
    pub async fn watch<T>(
        &self,
        limit: Option<Duration>,
        session: impl Future<Output = T>,
    ) -> Option<T> {
        tokio::select! {
            ended = session => Some(ended),
            () = self.silence(limit) => {
                tracing::info!(?limit, "Ending a session in which nothing moves");
                None
            }
        }
    }
}
