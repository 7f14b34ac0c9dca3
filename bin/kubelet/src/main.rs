//! The kubelet: reads flags and configuration, then runs `kubelet::run`.

use anyhow::Context as _;
use component::Shutdown;

fn main() -> anyhow::Result<()> {
    let flags = kubelet::config::flags::command_line().parse_or_exit();
    let settings = kubelet::config::flags::settings(&flags);
    let logging = settings
        .as_ref()
        .map_or_else(|_| flags.logging(), |s| s.logging.clone());
    component::logging::init(&logging);
    component::files::raise_limit();
    for w in &flags.warnings {
        tracing::warn!("{w}");
    }
    let settings = settings?;
    settings.check_machine(&std::fs::read_to_string("/proc/swaps").unwrap_or_default())?;
    if let (Some(bootstrap), Some(kubeconfig)) =
        (&settings.bootstrap_kubeconfig, &settings.kubeconfig)
        && !kubeconfig.exists()
    {
        anyhow::bail!(
            "--kubeconfig {} does not exist, and getting one with --bootstrap-kubeconfig {} is not supported: \
             make a client certificate for system:node:{} in the group system:nodes and a kubeconfig with it",
            kubeconfig.display(),
            bootstrap.display(),
            settings.node_name
        );
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(std::thread::available_parallelism().map_or(2, |n| n.get().min(4)))
        .enable_all()
        .build()
        .context("starting the async runtime")?;
    runtime.block_on(async {
        let shutdown = Shutdown::on_signals().context("installing signal handlers")?;
        let client = match &settings.kubeconfig {
            Some(path) => {
                let options = client::Options {
                    user_agent: component::version::user_agent("kubelet"),
                    qps: settings.api_qps,
                    burst: settings.api_burst,
                    ..client::Options::default()
                };
                Some(
                    client::Client::from_kubeconfig(path, options)
                        .await
                        .with_context(|| format!("kubeconfig {}", path.display()))?,
                )
            }
            None => None,
        };
        let metrics = component::metrics::Registry::new();
        metrics.features(&settings.features);
        let deps = kubelet::Dependencies {
            client,
            runtime: None,
            metrics,
        };
        let r = kubelet::run(settings, deps, shutdown.clone()).await;
        shutdown.drain(std::time::Duration::from_secs(5)).await;
        r.map_err(anyhow::Error::from)
    })
}
