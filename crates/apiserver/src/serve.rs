//! The life of the process's server: start, hooks, stop. Connections are [`component::serve`]'s.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use auth::Peer;
use component::Shutdown;
use component::serve::{Answer, Limits, Settings, listen};
use component::tls::Tls;
use http::Request;
use hyper::body::Incoming;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::Response;
use crate::body::Body;
use crate::chain::{Config, Dependencies, HookContext, Server};
use crate::engine::Engine;
use crate::health::Health;
use crate::metrics::Metrics;
use crate::shares::Shares;

/// Connections at most, where the limit of open files allows so many.
const CONNECTIONS: usize = 16_384;
/// How long requests in flight may go on after the stop.
const GRACE: Duration = Duration::from_secs(10);

/// Why the server could not start.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The address cannot be listened on.
    #[error("cannot listen on {0}: {1}")]
    Bind(std::net::SocketAddr, io::Error),
}

/// Runs the server until `stop` is cancelled and its requests have ended.
pub async fn run(
    config: Config,
    dependencies: Dependencies,
    tls: Tls,
    stop: CancellationToken,
) -> Result<(), Error> {
    let listener = TcpListener::bind(config.bind)
        .await
        .map_err(|e| Error::Bind(config.bind, e))?;
    run_on(listener, config, dependencies, tls, stop).await
}

/// As [`run`], on a listener that is bound already.
pub async fn run_on(
    listener: TcpListener,
    config: Config,
    dependencies: Dependencies,
    tls: Tls,
    stop: CancellationToken,
) -> Result<(), Error> {
    let shutdown = Shutdown {
        token: stop,
        tasks: TaskTracker::new(),
    };
    let server = start(config, dependencies, &shutdown);
    let engine = server.engine.clone();
    tracing::info!(address = %server.config.bind, "serving");
    let settings = Settings {
        limits: Limits::by_open_files(CONNECTIONS),
        head_bytes: 1024 * 1024,
        stream_window: 256 * 1024,
        connection_window: 1024 * 1024,
        ..Settings::SMALL
    }
    .with_streams(server.config.max_streams);
    listen(
        listener,
        Some(tls),
        settings,
        server.clone(),
        shutdown.clone(),
    )
    .await;
    server.health.shutting_down();
    if !shutdown.drain(GRACE).await {
        tracing::warn!("requests were still running at the end of the grace period");
    }
    engine.core.closed().await;
    Ok(())
}

/// The server without its port, with its hooks running: what answers requests until `shutdown`.
pub fn start(config: Config, dependencies: Dependencies, shutdown: &Shutdown) -> Arc<Server> {
    let reader = dependencies.core.reader();
    let engine = Arc::new(Engine {
        core: dependencies.core,
        admission: dependencies.admission,
        authorizer: dependencies.authorizer,
        reader,
        gates: Default::default(),
    });
    let server = Arc::new(Server {
        shares: Shares::new(config.max_in_flight),
        budget: Arc::default(),
        health: Health::new(dependencies.hooks.iter().map(|h| h.name)),
        metrics: Metrics::new(&config.features),
        documents: Default::default(),
        authenticator: dependencies.authenticator,
        kubelet_tls: dependencies.kubelet_tls,
        extra_paths: dependencies.extra_paths,
        extra_metrics: dependencies.extra_metrics,
        engine,
        stop: shutdown.token.clone(),
        config,
    });
    let hooks = dependencies.hooks;
    let (for_hooks, hook_stop) = (server.clone(), shutdown.token.clone());
    shutdown.spawn(async move {
        let core = for_hooks.engine.core.clone();
        tokio::select! {
            () = hook_stop.cancelled() => return,
            () = core.wait_ready() => {}
        }
        for_hooks.health.caches_ready();
        let context = HookContext {
            engine: for_hooks.engine.clone(),
            user: auth::UserInfo {
                name: "system:apiserver".into(),
                groups: vec![auth::GROUP_MASTERS.into(), auth::GROUP_AUTHENTICATED.into()],
                ..auth::UserInfo::default()
            },
            stop: hook_stop.clone(),
        };
        for hook in hooks {
            let run = (hook.run)(context.clone());
            tokio::select! {
                () = hook_stop.cancelled() => return,
                result = run => match result {
                    Ok(()) => for_hooks.health.hook_done(hook.name),
                    Err(e) => {
                        tracing::error!(hook = hook.name, error = %e, "post-start hook failed");
                        for_hooks.health.hook_failed(hook.name, e);
                    }
                },
            }
        }
        tracing::info!("ready");
    });
    server
}

#[async_trait]
impl Answer for Server {
    type Body = Body;

    async fn answer(self: Arc<Self>, peer: Arc<Peer>, request: Request<Incoming>) -> Response {
        self.handle(peer, request).await
    }
}
