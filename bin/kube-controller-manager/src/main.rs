//! kube-controller-manager.

use component::Shutdown;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> anyhow::Result<()> {
    let flags = controllers::daemon::command_line().parse_or_exit();
    component::logging::init(&flags.logging());
    component::files::raise_limit();
    for warning in &flags.warnings {
        tracing::warn!("{warning}");
    }
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .on_thread_park(component::memory::before_sleep)
        .build()?
        .block_on(async {
            let shutdown = Shutdown::on_signals()?;
            tokio::spawn(component::memory::keep_small(shutdown.token.clone()));
            controllers::daemon::run(&flags, shutdown.clone()).await?;
            shutdown.drain(std::time::Duration::from_secs(10)).await;
            Ok(())
        })
}
