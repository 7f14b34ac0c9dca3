//! `hello`: the web server of the sample images. Says which version it is and on which pod it runs.
//!
//! - `GET /` answers `hello VERSION from HOSTNAME`, where VERSION comes from the environment.
//! - `GET /healthz` answers 200, and 503 once it has been told to end.
//! - On SIGTERM it goes on answering for DRAIN_SECONDS (3), so that proxies have time to take it off their lists.
//!
//! Every answer closes its connection. Requests are at most 8 KiB and take at most 10 s.

use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::signal::unix::{SignalKind, signal};

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    match serve().await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("hello: {error}");
            ExitCode::FAILURE
        }
    }
}

fn setting(name: &str, default: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| default.to_string())
}

async fn serve() -> std::io::Result<()> {
    let version = setting("VERSION", "0");
    let host = rustix::system::uname()
        .nodename()
        .to_string_lossy()
        .into_owned();
    let drain = Duration::from_secs(setting("DRAIN_SECONDS", "3").parse().unwrap_or(3));
    let address = format!("0.0.0.0:{}", setting("PORT", "8080"));
    let listener = TcpListener::bind(&address).await?;
    let mut terminate = signal(SignalKind::terminate())?;
    let ending = Arc::new(AtomicBool::new(false));
    let greeting: Arc<str> = format!("hello {version} from {host}\n").into();
    println!("hello {version} listens on {address}");
    let mut deadline: Option<tokio::time::Instant> = None;
    loop {
        let over = async {
            match deadline {
                Some(at) => tokio::time::sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            accepted = listener.accept() => {
                if let Ok((stream, _)) = accepted {
                    let (greeting, ending) = (greeting.clone(), ending.clone());
                    tokio::spawn(async move {
                        let _ = tokio::time::timeout(Duration::from_secs(10), answer(stream, &greeting, &ending)).await;
                    });
                }
            }
            _ = terminate.recv() => {
                println!("hello {version} ends in {} s", drain.as_secs());
                ending.store(true, Ordering::Relaxed);
                deadline = Some(tokio::time::Instant::now() + drain);
            }
            () = over => return Ok(()),
        }
    }
}

async fn answer(mut stream: TcpStream, greeting: &str, ending: &AtomicBool) -> std::io::Result<()> {
    let mut request = Vec::new();
    let mut chunk = [0_u8; 1024];
    while !request.windows(4).any(|w| w == b"\r\n\r\n") {
        let n = stream.read(&mut chunk).await?;
        if n == 0 || request.len() > 8192 {
            return Ok(());
        }
        request.extend_from_slice(chunk.get(..n).unwrap_or_default());
    }
    let line = String::from_utf8_lossy(&request)
        .lines()
        .next()
        .unwrap_or_default()
        .to_string();
    let (status, body) = match line.split(' ').nth(1) {
        Some("/healthz") if ending.load(Ordering::Relaxed) => {
            ("503 Service Unavailable", "ending\n")
        }
        Some("/healthz") => ("200 OK", "ok\n"),
        _ => ("200 OK", greeting),
    };
    if !line.contains("/healthz") {
        println!("{line}");
    }
    let text = format!(
        "HTTP/1.1 {status}\r\ncontent-type: text/plain\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(text.as_bytes()).await?;
    stream.shutdown().await
}
