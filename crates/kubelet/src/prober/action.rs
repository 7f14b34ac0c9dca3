//! One probe attempt, by command, HTTP, TCP or gRPC.

use std::time::Duration;

use crate::cri::{CriError, Runtime};
use crate::pod::{Container, HttpGet, Probe};

use super::http;

/// Longest output that becomes part of an event, in bytes.
const MAX_OUTPUT: usize = 10 * 1024;

/// Wait between tries to connect to a gRPC server.
const GRPC_RETRY: Duration = Duration::from_millis(250);

/// What an attempt found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// Healthy.
    Success,
    /// Healthy, with something to say.
    Warning(String),
    /// Unhealthy.
    Failure(String),
    /// The probe itself could not be made.
    Error(String),
}

/// Makes one attempt.
pub async fn probe(
    rt: &dyn Runtime,
    p: &Probe,
    c: &Container,
    id: &str,
    ip: &str,
    timeout: Duration,
) -> Outcome {
    if let Some(e) = &p.exec {
        return match static_command(&e.command, c) {
            Ok(command) => exec(rt, id, &command, timeout).await,
            Err(e) => Outcome::Error(e),
        };
    }
    if let Some(h) = &p.http_get {
        return http_get(h, c, ip, timeout).await;
    }
    if let Some(t) = &p.tcp_socket {
        let Some(port) = t.port.resolve(c) else {
            return Outcome::Error("failed to find port".into());
        };
        let host = if t.host.is_empty() { ip } else { &t.host };
        return tcp(host, port, timeout).await;
    }
    if let Some(g) = &p.grpc {
        let Ok(port) = u16::try_from(g.port) else {
            return Outcome::Error("invalid port".into());
        };
        return grpc(ip, port, g.service.as_deref().unwrap_or_default(), timeout).await;
    }
    Outcome::Error("missing probe handler".into())
}

/// Expands the static variables of the container in a command.
fn static_command(command: &[String], c: &Container) -> Result<Vec<String>, String> {
    let env: Vec<(String, String)> = c
        .env
        .iter()
        .filter(|e| e.value_from.is_none())
        .map(|e| (e.name.clone(), e.value.clone()))
        .collect();
    crate::runtime::env::expand_all(command, &env)
}

async fn exec(rt: &dyn Runtime, id: &str, command: &[String], timeout: Duration) -> Outcome {
    match tokio::time::timeout(
        timeout + Duration::from_secs(2),
        rt.exec_sync(id, command, timeout),
    )
    .await
    {
        Err(_) | Ok(Err(CriError::Timeout)) => timed_out(command, timeout),
        Ok(Err(e))
            if e.to_string().contains("DeadlineExceeded")
                || e.to_string().contains("timed out")
                || e.to_string().contains("timeout") =>
        {
            timed_out(command, timeout)
        }
        Ok(Err(e)) => Outcome::Error(e.to_string()),
        Ok(Ok(r)) if r.exit_code == 0 => Outcome::Success,
        Ok(Ok(r)) => {
            let mut out = r.stdout;
            out.extend_from_slice(&r.stderr);
            out.truncate(MAX_OUTPUT);
            Outcome::Failure(String::from_utf8_lossy(&out).into_owned())
        }
    }
}

fn timed_out(command: &[String], timeout: Duration) -> Outcome {
    Outcome::Failure(format!(
        "command timed out: \"{}\" timed out after {}",
        command.join(" "),
        component::duration::format(timeout)
    ))
}

async fn http_get(h: &HttpGet, c: &Container, ip: &str, timeout: Duration) -> Outcome {
    let Some(port) = h.port.resolve(c) else {
        return Outcome::Error("failed to find port".into());
    };
    let host = if h.host.is_empty() { ip } else { &h.host };
    match http::get(h, host, port, "kube-probe/1.37", timeout).await {
        Err(e) => Outcome::Failure(e),
        Ok(r) if (200..300).contains(&r.status) => Outcome::Success,
        Ok(r) if (300..400).contains(&r.status) => Outcome::Warning(format!(
            "Probe terminated redirects, Response body: {}",
            r.body
        )),
        Ok(r) => Outcome::Failure(format!("HTTP probe failed with statuscode: {}", r.status)),
    }
}

async fn tcp(host: &str, port: u16, timeout: Duration) -> Outcome {
    match http::dial(host, port, timeout).await {
        Ok(_) => Outcome::Success,
        Err(e) => Outcome::Failure(e),
    }
}

#[derive(Clone, PartialEq, prost::Message)]
struct HealthRequest {
    #[prost(string, tag = "1")]
    service: String,
}

#[derive(Clone, PartialEq, prost::Message)]
struct HealthResponse {
    #[prost(int32, tag = "1")]
    status: i32,
}

async fn grpc(ip: &str, port: u16, service: &str, timeout: Duration) -> Outcome {
    let host = if ip.contains(':') {
        format!("[{ip}]")
    } else {
        ip.to_string()
    };
    let addr = format!("{host}:{port}");
    let Ok(endpoint) = tonic::transport::Endpoint::from_shared(format!("http://{addr}")) else {
        return Outcome::Error(format!("invalid address {addr}"));
    };
    let shown = component::duration::format(timeout);
    let deadline = tokio::time::Instant::now() + timeout;
    // A server that is not there yet is waited for.
    let connect = async {
        loop {
            match endpoint.connect().await {
                Ok(channel) => break channel,
                Err(_) => tokio::time::sleep(GRPC_RETRY).await,
            }
        }
    };
    let Ok(channel) = tokio::time::timeout_at(deadline, connect).await else {
        return Outcome::Failure(format!(
            "timeout: failed to connect service \"{addr}\" within {shown}: context deadline exceeded"
        ));
    };
    let work = async {
        let mut grpc = tonic::client::Grpc::new(channel);
        grpc.ready().await.map_err(|e| e.to_string())?;
        let codec = tonic_prost::ProstCodec::<HealthRequest, HealthResponse>::default();
        let path = ::http::uri::PathAndQuery::from_static("/grpc.health.v1.Health/Check");
        grpc.unary(tonic::Request::new(HealthRequest { service: service.to_string() }), path, codec).await.map_err(|s| match s.code() {
            tonic::Code::Unimplemented => format!(
                "error: this server does not implement the grpc health protocol (grpc.health.v1.Health): {}",
                s.message()
            ),
            code => format!(
                "error: health rpc probe failed: rpc error: code = {code:?} desc = {}",
                s.message()
            ),
        })
    };
    match tokio::time::timeout_at(deadline, work).await {
        Err(_) => Outcome::Failure(format!(
            "timeout: health rpc did not complete within {shown}"
        )),
        Ok(Err(e)) => Outcome::Failure(e),
        Ok(Ok(r)) => match r.into_inner().status {
            1 => Outcome::Success,
            s => {
                let name = match s {
                    0 => "UNKNOWN",
                    2 => "NOT_SERVING",
                    _ => "SERVICE_UNKNOWN",
                };
                Outcome::Failure(format!("service unhealthy (responded with \"{name}\")"))
            }
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    async fn server(answer: &'static str) -> u16 {
        let l = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = l.local_addr().unwrap().port();
        tokio::spawn(async move {
            while let Ok((mut s, _)) = l.accept().await {
                let mut buf = [0; 1024];
                let _ = s.read(&mut buf).await;
                let _ = s.write_all(answer.as_bytes()).await;
            }
        });
        port
    }

    async fn try_http(answer: &'static str) -> Outcome {
        let port = server(answer).await;
        let h = HttpGet {
            port: crate::pod::Port::Number(port.into()),
            path: "/x".into(),
            ..Default::default()
        };
        http_get(
            &h,
            &Container::default(),
            "127.0.0.1",
            Duration::from_secs(2),
        )
        .await
    }

    #[tokio::test]
    async fn http_status_decides() {
        assert_eq!(
            try_http("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await,
            Outcome::Success
        );
        assert_eq!(
            try_http("HTTP/1.1 503 No\r\nContent-Length: 0\r\n\r\n").await,
            Outcome::Failure("HTTP probe failed with statuscode: 503".into())
        );
        assert_eq!(
            try_http("HTTP/1.1 302 Found\r\nLocation: http://elsewhere.example/\r\nContent-Length: 2\r\n\r\nhi").await,
            Outcome::Warning("Probe terminated redirects, Response body: hi".into())
        );
        assert!(matches!(
            try_http("").await,
            Outcome::Failure(e) if e.ends_with("/x\": EOF")
        ));
    }

    #[tokio::test]
    async fn a_grpc_server_that_is_not_there_is_waited_for() {
        let l = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = l.local_addr().unwrap().port();
        drop(l);
        assert_eq!(
            grpc("127.0.0.1", port, "", Duration::from_secs(1)).await,
            Outcome::Failure(format!(
                "timeout: failed to connect service \"127.0.0.1:{port}\" within 1s: context deadline exceeded"
            ))
        );
    }

    #[tokio::test]
    async fn refused_connections_read_as_go_prints_them() {
        let l = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = l.local_addr().unwrap().port();
        drop(l);
        assert_eq!(
            tcp("127.0.0.1", port, Duration::from_secs(1)).await,
            Outcome::Failure(format!(
                "dial tcp 127.0.0.1:{port}: connect: connection refused"
            ))
        );
    }
}
