//! Who asks about others does not keep this process from being heard.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "a test"
)]

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use client::callers::Callers;
use client::gate::Delegated;
use client::resource::LEASES;
use client::reviews::{AT_ONCE, Reviews, Times};
use client::transport::Source;
use client::{Client, Options};
use component::serve::{Gate, Peer};
use http_body_util::{BodyExt as _, Full};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;
use tokio::sync::watch;

/// An apiserver that answers leases at once and reviews only when it is told to.
struct Slow {
    client: Client,
    /// Reviews that are being answered, and at most at once so far.
    open: Arc<AtomicUsize>,
    most: Arc<AtomicUsize>,
    asked: Arc<AtomicUsize>,
    answers: watch::Sender<bool>,
}

async fn slow() -> Slow {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (answers, told) = watch::channel(false);
    let (open, most, asked) = (
        Arc::<AtomicUsize>::default(),
        Arc::<AtomicUsize>::default(),
        Arc::<AtomicUsize>::default(),
    );
    let counters = (open.clone(), most.clone(), asked.clone());
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let (told, counters) = (told.clone(), counters.clone());
            let service = service_fn(move |request: http::Request<hyper::body::Incoming>| {
                let (mut told, (open, most, asked)) = (told.clone(), counters.clone());
                async move {
                    let path = request.uri().path().to_owned();
                    let body = request.into_body().collect().await?.to_bytes();
                    let text = String::from_utf8_lossy(&body).into_owned();
                    let answer = if path.ends_with("/tokenreviews") {
                        asked.fetch_add(1, Ordering::SeqCst);
                        most.fetch_max(open.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                        told.wait_for(|t| *t).await.ok();
                        open.fetch_sub(1, Ordering::SeqCst);
                        let good = text.contains("\"good\"");
                        format!(
                            r#"{{"status":{{"authenticated":{good},"user":{{"username":"jane","groups":["system:masters"]}}}}}}"#
                        )
                    } else {
                        r#"{"kind":"Lease","metadata":{"name":"node"}}"#.to_owned()
                    };
                    let mut response = http::Response::new(Full::new(Bytes::from(answer)));
                    let json = http::HeaderValue::from_static("application/json");
                    response.headers_mut().insert("content-type", json);
                    Ok::<_, hyper::Error>(response)
                }
            });
            let serve = hyper::server::conn::http1::Builder::new();
            tokio::spawn(serve.serve_connection(TokioIo::new(stream), service));
        }
    });
    let config = kube::Config::new(format!("http://{address}").parse().unwrap());
    let client = Client::from_source(Source::Fixed(Box::new(config)), Options::default());
    Slow {
        client: client.await.unwrap(),
        open,
        most,
        asked,
        answers,
    }
}

async fn until(what: &str, condition: impl Fn() -> bool) {
    let wait = async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let waited = tokio::time::timeout(Duration::from_secs(60), wait).await;
    waited.expect(what);
}

fn minute() -> Times {
    let minute = Duration::from_secs(60);
    Times {
        token: minute,
        allowed: minute,
        denied: minute,
    }
}

async fn ask(gate: Arc<Delegated>, token: String) -> u16 {
    let peer = Peer::new(Some(([10, 0, 0, 1], 1).into()), Vec::new());
    ask_from(&gate, &peer, &token).await
}

async fn ask_from(gate: &Delegated, peer: &Peer, token: &str) -> u16 {
    let request = http::Request::get("/metrics").header("authorization", format!("Bearer {token}"));
    let (mut parts, ()) = request.body(()).unwrap().into_parts();
    match gate.check(peer, &mut parts).await {
        Ok(()) => 200,
        Err(refusal) => refusal.code,
    }
}

// On one thread, so that no wait goes on between the ends of others.
#[tokio::test]
async fn made_up_tokens_do_not_hold_up_leases() {
    let server = slow().await;
    let leases = server
        .client
        .for_leases(Duration::from_secs(60))
        .await
        .unwrap();
    let reviews = Reviews::new(&server.client, minute()).await.unwrap();
    let gate = Arc::new(Delegated {
        callers: Callers::default(),
        tokens: Some(Arc::new(reviews)),
        access: None,
        open_paths: vec!["/healthz".into()],
    });
    let mut flood = tokio::task::JoinSet::new();
    for n in 0..3000 {
        flood.spawn(ask(gate.clone(), format!("made-up-{n}")));
    }
    let half = AT_ONCE / 2;
    let open = server.open.clone();
    until("the reviews are open", || {
        open.load(Ordering::SeqCst) == half
    })
    .await;
    // Leases, and whatever else this process sends, go through while every review hangs.
    let lease = leases.namespaced(&LEASES, "kube-node-lease");
    let renew = lease.get_value("node");
    let renewed = tokio::time::timeout(Duration::from_secs(60), renew).await;
    renewed.expect("not held up").unwrap();
    let lease = server.client.namespaced(&LEASES, "kube-node-lease");
    let own = lease.get_value("node");
    let own = tokio::time::timeout(Duration::from_secs(60), own).await;
    own.expect("not held up").unwrap();
    assert_eq!(server.open.load(Ordering::SeqCst), half);
    // The queue is bounded: most were turned away, without a question.
    let mut codes = Vec::new();
    while flood.len() > half + 64 {
        codes.push(flood.join_next().await.unwrap().unwrap());
    }
    assert!(codes.iter().all(|c| *c == 429));
    // Another address has its part.
    let other = Peer::new(Some(([10, 0, 0, 2], 1).into()), Vec::new());
    let (g, asked) = (gate.clone(), server.asked.clone());
    let good = tokio::spawn(async move { ask_from(&g, &other, "good").await });
    until("the other is asked about", || {
        asked.load(Ordering::SeqCst) == half + 1
    })
    .await;
    // Waits that are given up leave no question behind.
    flood.abort_all();
    while flood.join_next().await.is_some() {}
    server.answers.send_replace(true);
    assert_eq!(good.await.unwrap(), 200);
    assert_eq!(ask(gate.clone(), "bad".into()).await, 401);
    assert!(server.most.load(Ordering::SeqCst) <= AT_ONCE);
    assert!(server.asked.load(Ordering::SeqCst) <= half + 2);
    // Both answers are kept.
    let before = server.asked.load(Ordering::SeqCst);
    assert_eq!(ask(gate.clone(), "good".into()).await, 200);
    assert_eq!(ask(gate.clone(), "bad".into()).await, 401);
    assert_eq!(server.asked.load(Ordering::SeqCst), before);
}

#[tokio::test]
async fn an_answer_that_never_ends_is_given_up() {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut some = [0; 1024];
        let _ = stream.read(&mut some).await;
        let head = "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{";
        stream.write_all(head.as_bytes()).await.unwrap();
        std::future::pending::<()>().await;
    });
    let config = kube::Config::new(format!("http://{address}").parse().unwrap());
    let options = Options {
        timeout: Some(Duration::from_millis(100)),
        ..Options::default()
    };
    let client = Client::from_source(Source::Fixed(Box::new(config)), options);
    let client = client.await.unwrap();
    let leases = client.namespaced(&LEASES, "a");
    let got = tokio::time::timeout(Duration::from_secs(60), leases.get_value("node")).await;
    let error = got.expect("given up").unwrap_err();
    assert!(matches!(error, client::Error::Timeout), "{error}");
}

#[tokio::test]
async fn without_kubeconfigs_tokens_say_nothing_and_only_open_paths_pass() {
    let gate = Delegated {
        callers: Callers::default(),
        tokens: None,
        access: None,
        open_paths: vec!["/healthz".into(), "/open/*".into()],
    };
    let peer = Peer::new(None, Vec::new());
    for (path, code) in [
        ("/healthz", 200),
        ("/open/x", 200),
        ("/healthz/x", 403),
        ("/metrics", 403),
    ] {
        let request = http::Request::get(path).header("authorization", "Bearer x");
        let (mut parts, ()) = request.body(()).unwrap().into_parts();
        let got = gate
            .check(&peer, &mut parts)
            .await
            .map_or_else(|r| r.code, |()| 200);
        assert_eq!(got, code, "{path}");
    }
}

/// Identity: a credential that is bad fails the request on open paths too; whoever shows none is not asked about.
#[tokio::test]
async fn bad_credentials_fail_on_open_paths_too() {
    let server = slow().await;
    server.answers.send_replace(true);
    let reviews = Reviews::new(&server.client, minute()).await.unwrap();
    let gate = Delegated {
        callers: Callers::default(),
        tokens: Some(Arc::new(reviews)),
        access: None,
        open_paths: vec!["/healthz".into()],
    };
    let peer = Peer::new(None, Vec::new());
    for (sent, code, asked) in [
        (None, 200, 0),
        (Some("Basic eDp5"), 200, 0),
        (Some("Bearer"), 401, 0),
        (Some("Bearer made-up"), 401, 1),
        (Some("Bearer good"), 200, 2),
    ] {
        let mut request = http::Request::get("/healthz");
        if let Some(sent) = sent {
            request = request.header("authorization", sent);
        }
        let (mut parts, ()) = request.body(()).unwrap().into_parts();
        let got = gate.check(&peer, &mut parts).await;
        assert_eq!(got.map_or_else(|r| r.code, |()| 200), code, "{sent:?}");
        assert_eq!(server.asked.load(Ordering::SeqCst), asked, "{sent:?}");
    }
}
