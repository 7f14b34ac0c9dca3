//! The daemon as the program runs it.

use std::net::SocketAddr;
use std::path::Path;

use component::Shutdown;
use component::flags::Outcome;
use controllers::daemon;

/// Runs it with a kubeconfig and more flags until it is told to end; tells its address.
pub fn run(kubeconfig: impl AsRef<Path> + Send + 'static, more: &[&str]) -> (SocketAddr, Shutdown) {
    let port = testkit::free_port();
    let mut args = vec![
        format!("--kubeconfig={}", kubeconfig.as_ref().display()),
        "--bind-address=127.0.0.1".into(),
        format!("--secure-port={port}"),
    ];
    args.extend(more.iter().map(|flag| (*flag).to_owned()));
    let flags = match daemon::command_line().parse(args).unwrap() {
        Outcome::Run(flags) => flags,
        Outcome::Print(text) => panic!("{text}"),
    };
    let shutdown = Shutdown::new();
    let stop = shutdown.clone();
    // As the program does: nothing asks that the whole daemon can move between threads.
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build();
        let ended = runtime.unwrap().block_on(daemon::run(&flags, stop));
        drop(kubeconfig);
        ended.unwrap();
    });
    (([127, 0, 0, 1], port).into(), shutdown)
}
