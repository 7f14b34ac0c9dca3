//! Ending in order: one token that says stop, one tracker that knows what still runs.

use std::future::Future;
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Handed to every part of a daemon; cheap to clone. Dropping it stops nothing.
#[derive(Clone, Debug, Default)]
pub struct Shutdown {
    /// Cancelled when the daemon shall end.
    pub token: CancellationToken,
    /// Every task that must end before the daemon does.
    pub tasks: TaskTracker,
}

impl Shutdown {
    /// Nothing is cancelled, nothing runs.
    pub fn new() -> Shutdown {
        Shutdown::default()
    }

    /// Like [`Shutdown::new`], and SIGTERM or SIGINT cancel it; a second signal ends the process at once with code 1, as
    /// upstream does. Only for `bin/`.
    ///
    /// # Errors
    /// When the system refuses to install signal handlers.
    pub fn on_signals() -> std::io::Result<Shutdown> {
        let s = Shutdown::new();
        let mut term = signal(SignalKind::terminate())?;
        let mut int = signal(SignalKind::interrupt())?;
        let token = s.token.clone();
        tokio::spawn(async move {
            for second in [false, true] {
                tokio::select! {
                    _ = term.recv() => {}
                    _ = int.recv() => {}
                }
                if second {
                    std::process::exit(1);
                }
                token.cancel();
            }
        });
        Ok(s)
    }

    /// A child that ends with this one and can be ended alone; tasks are tracked together.
    #[must_use]
    pub fn child(&self) -> Shutdown {
        Shutdown {
            token: self.token.child_token(),
            tasks: self.tasks.clone(),
        }
    }

    /// Starts a task that [`Shutdown::drain`] waits for. The task itself must watch the token.
    pub fn spawn<F>(&self, future: F) -> tokio::task::JoinHandle<F::Output>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        self.tasks.spawn(future)
    }

    /// Starts a task that is dropped at its next await when the daemon ends.
    pub fn spawn_until_cancelled<F>(&self, future: F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let token = self.token.clone();
        self.tasks.spawn(async move {
            tokio::select! {
                () = token.cancelled() => {}
                () = future => {}
            }
        });
    }

    /// Resolves when the daemon shall end.
    pub async fn cancelled(&self) {
        self.token.cancelled().await;
    }

    /// Whether the daemon shall end.
    pub fn is_cancelled(&self) -> bool {
        self.token.is_cancelled()
    }

    /// Cancels, and waits for all tasks, at most `limit`. Tells whether all ended.
    pub async fn drain(&self, limit: Duration) -> bool {
        self.token.cancel();
        self.tasks.close();
        tokio::time::timeout(limit, self.tasks.wait()).await.is_ok()
    }
}
