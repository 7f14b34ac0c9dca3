//! kube-proxy.

use component::Shutdown;

fn main() -> anyhow::Result<()> {
    let flags = proxy::daemon::command_line().parse_or_exit();
    component::logging::init(&proxy::daemon::logging(&flags));
    component::files::raise_limit();
    for warning in &flags.warnings {
        tracing::warn!("{warning}");
    }
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()?
        .block_on(async {
            let shutdown = Shutdown::on_signals()?;
            proxy::daemon::run(&flags, shutdown.clone()).await?;
            shutdown.drain(std::time::Duration::from_secs(10)).await;
            Ok(())
        })
}
