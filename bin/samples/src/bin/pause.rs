//! `pause`: the first process of every pod. It holds the pod's namespaces open, takes up the children of processes that
//! have ended (in pods that share process ids), and ends on SIGTERM or SIGINT.

use std::process::ExitCode;
use tokio::signal::unix::{SignalKind, signal};

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let (Ok(mut terminate), Ok(mut interrupt), Ok(mut child)) = (
        signal(SignalKind::terminate()),
        signal(SignalKind::interrupt()),
        signal(SignalKind::child()),
    ) else {
        return ExitCode::FAILURE;
    };
    loop {
        tokio::select! {
            _ = terminate.recv() => return ExitCode::SUCCESS,
            _ = interrupt.recv() => return ExitCode::SUCCESS,
            _ = child.recv() => {
                while let Ok(Some(_)) = rustix::process::wait(rustix::process::WaitOptions::NOHANG) {}
            }
        }
    }
}
