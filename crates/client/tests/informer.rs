//! Informers against a scripted apiserver: streaming lists, the fallback to pages, resuming, and listing again.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "a test"
)]

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use client::resource::CONFIG_MAPS;
use client::transport::Source;
use client::view::MetaView;
use client::{Change, Client, Informers, Options};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// One answer: a code, the text, and whether the stream stays open after it.
type Answer = (u16, String, bool);

/// Answers requests in order and tells their targets.
async fn server(answers: Vec<Answer>) -> (Client, mpsc::UnboundedReceiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (sender, receiver) = mpsc::unbounded_channel();
    let answers = Arc::new(Mutex::new(VecDeque::from(answers)));
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let (answers, sender) = (answers.clone(), sender.clone());
            tokio::spawn(async move {
                let mut buffer = Vec::new();
                while !buffer.ends_with(b"\r\n\r\n") {
                    let mut byte = [0];
                    if stream.read(&mut byte).await.unwrap_or(0) == 0 {
                        return;
                    }
                    buffer.push(byte[0]);
                }
                let text = String::from_utf8(buffer).unwrap();
                let _ = sender.send(text.split(' ').nth(1).unwrap().to_owned());
                let next = answers.lock().unwrap().pop_front();
                let Some((code, body, open)) = next else {
                    return std::future::pending().await;
                };
                let head = format!(
                    "HTTP/1.1 {code} X\r\nContent-Type: application/json\r\nConnection: close\r\n\r\n"
                );
                stream.write_all((head + &body).as_bytes()).await.unwrap();
                if open {
                    std::future::pending::<()>().await;
                }
            });
        }
    });
    let config = kube::Config::new(format!("http://{address}").parse().unwrap());
    let client = Client::from_source(Source::Fixed(Box::new(config)), Options::default());
    (client.await.unwrap(), receiver)
}

fn object(name: &str, version: u32) -> String {
    format!(
        r#"{{"kind":"ConfigMap","apiVersion":"v1","metadata":{{"name":"{name}","namespace":"ns","uid":"{name}","resourceVersion":"{version}"}}}}"#
    )
}

fn event(kind: &str, object: &str) -> String {
    format!(r#"{{"type":"{kind}","object":{object}}}"#) + "\n"
}

fn bookmark(version: u32, end: bool) -> String {
    let end = if end {
        r#","annotations":{"k8s.io/initial-events-end":"true"}"#
    } else {
        ""
    };
    event(
        "BOOKMARK",
        &format!(r#"{{"kind":"ConfigMap","metadata":{{"resourceVersion":"{version}"{end}}}}}"#),
    )
}

fn status(code: u16, reason: &str) -> String {
    format!(
        r#"{{"kind":"Status","apiVersion":"v1","status":"Failure","reason":"{reason}","message":"m","code":{code}}}"#
    )
}

fn list(version: u32, next: &str, items: &[String]) -> String {
    format!(
        r#"{{"kind":"ConfigMapList","metadata":{{"resourceVersion":"{version}","continue":"{next}"}},"items":[{}]}}"#,
        items.join(",")
    )
}

/// Runs an informer and tells its changes as `+name@version`, `~name@version` and `-name`.
fn follow(client: &Client) -> (Informers, mpsc::UnboundedReceiver<String>) {
    let informers = Informers::new(client.clone(), CancellationToken::new());
    let (sender, receiver) = mpsc::unbounded_channel();
    informers
        .all::<MetaView>(&CONFIG_MAPS)
        .on_change(move |change| {
            let m = &change.object().metadata;
            let _ = sender.send(match change {
                Change::Added(_) => format!("+{}@{}", m.name, m.resource_version),
                Change::Updated { .. } => format!("~{}@{}", m.name, m.resource_version),
                Change::Deleted(_) => format!("-{}", m.name),
            });
        });
    (informers, receiver)
}

async fn next(receiver: &mut mpsc::UnboundedReceiver<String>) -> String {
    tokio::time::timeout(Duration::from_secs(20), receiver.recv())
        .await
        .expect("in time")
        .unwrap()
}

#[tokio::test]
async fn a_streaming_list_is_told_when_it_is_complete() {
    let stream = event("ADDED", &object("a", 1))
        + &event("ADDED", &object("b", 2))
        + &event("DELETED", &object("b", 3))
        + &bookmark(5, true)
        + &event("MODIFIED", &object("a", 6))
        + &bookmark(9, false);
    let (client, mut asked) = server(vec![(200, stream, false)]).await;
    let (informers, mut changes) = follow(&client);
    assert_eq!(
        next(&mut changes).await,
        "+a@1",
        "what went before the end of the list is not told"
    );
    assert_eq!(next(&mut changes).await, "~a@6");
    informers.synced().await;
    let first = next(&mut asked).await;
    assert!(
        first.contains("sendInitialEvents=true")
            && first.contains("resourceVersionMatch=NotOlderThan"),
        "{first}"
    );
    let second = next(&mut asked).await;
    assert!(
        second.contains("resourceVersion=9") && !second.contains("sendInitialEvents"),
        "{second}"
    );
}

#[tokio::test]
async fn without_streaming_lists_it_pages_and_after_410_it_tells_only_the_difference() {
    let (client, mut asked) = server(vec![
        (422, status(422, "Invalid"), false),
        (
            200,
            list(10, "token", &[object("a", 1), object("b", 2)]),
            false,
        ),
        (200, list(10, "", &[object("c", 3)]), false),
        (200, event("ERROR", &status(410, "Expired")), false),
        (422, status(422, "Invalid"), false),
        (
            200,
            list(20, "", &[object("a", 1), object("b", 15), object("d", 16)]),
            false,
        ),
        (200, event("DELETED", &object("d", 21)), true),
    ])
    .await;
    let (_informers, mut changes) = follow(&client);
    let mut first = Vec::new();
    for _ in 0..3 {
        first.push(next(&mut changes).await);
    }
    first.sort();
    assert_eq!(first, ["+a@1", "+b@2", "+c@3"]);
    let mut second = Vec::new();
    for _ in 0..3 {
        second.push(next(&mut changes).await);
    }
    second.sort();
    assert_eq!(second, ["+d@16", "-c", "~b@15"], "a has not changed");
    assert_eq!(next(&mut changes).await, "-d");
    let mut targets = Vec::new();
    for _ in 0..7 {
        targets.push(next(&mut asked).await);
    }
    assert!(
        targets[1].contains("limit=500") && targets[1].contains("resourceVersion=0"),
        "{targets:?}"
    );
    assert!(
        targets[2].contains("continue=token") && !targets[2].contains("resourceVersion="),
        "{targets:?}"
    );
    assert!(
        targets[3].contains("watch=1") && targets[3].contains("resourceVersion=10"),
        "{targets:?}"
    );
    assert!(
        !targets[5].contains("resourceVersion=0"),
        "the newest state, not any: {targets:?}"
    );
    assert!(targets[6].contains("resourceVersion=20"), "{targets:?}");
}

/// Of a good name and version, but with labels that are none.
fn bad(name: &str, version: u32) -> String {
    format!(
        r#"{{"kind":"ConfigMap","metadata":{{"name":"{name}","namespace":"ns","resourceVersion":"{version}","labels":7}}}}"#
    )
}

#[tokio::test]
async fn an_object_the_view_cannot_read_hides_no_other() {
    let stream = event("ADDED", r#"{"metadata":{"name":7}}"#)
        + &event("ADDED", r#"{"metadata":7}"#)
        + &event("ADDED", "8")
        + "no frame at all\n"
        + &event("ADDED", &bad("x", 1))
        + &event("ADDED", &object("a", 1))
        + &bookmark(5, true)
        + &event("ADDED", &bad("y", 6))
        + &event("ADDED", &object("b", 7));
    let (client, _asked) = server(vec![(200, stream, true)]).await;
    let (informers, mut changes) = follow(&client);
    assert_eq!(next(&mut changes).await, "+a@1");
    assert_eq!(next(&mut changes).await, "+b@7");
    assert_eq!(informers.unreadable(), 6);
}

#[tokio::test]
async fn an_object_that_cannot_be_read_any_more_stays_as_it_was_until_it_is_gone() {
    let first = event("ADDED", &object("a", 1))
        + &event("ADDED", &object("b", 1))
        + &bookmark(5, true)
        + &event("MODIFIED", &bad("a", 6))
        + &event("MODIFIED", &bad("b", 7));
    let again = event("ERROR", &status(410, "Expired"));
    let second = event("ADDED", &bad("a", 6))
        + &bookmark(9, true)
        + &event("DELETED", &bad("a", 10))
        + &event("ADDED", &object("c", 11));
    let (client, mut asked) = server(vec![
        (200, first, false),
        (200, again, false),
        (200, second, true),
    ])
    .await;
    let (_informers, mut changes) = follow(&client);
    let mut told = [next(&mut changes).await, next(&mut changes).await];
    told.sort();
    assert_eq!(told, ["+a@1", "+b@1"]);
    // The new list shows that b is gone, and a as something that cannot be read.
    assert_eq!(next(&mut changes).await, "-b");
    assert_eq!(next(&mut changes).await, "-a");
    assert_eq!(next(&mut changes).await, "+c@11");
    next(&mut asked).await;
    let resumed = next(&mut asked).await;
    assert!(
        resumed.contains("resourceVersion=7"),
        "behind what could not be read: {resumed}"
    );
}

#[tokio::test]
async fn a_page_with_an_object_that_cannot_be_read_is_read_item_by_item() {
    let page = || list(10, "", &[object("a", 1), bad("x", 2), object("b", 3)]);
    let (client, _asked) = server(vec![
        (422, status(422, "Invalid"), false),
        (200, page(), false),
        (200, page(), false),
        (200, event("ADDED", &object("c", 11)), true),
    ])
    .await;
    let (informers, mut changes) = follow(&client);
    let mut told = [next(&mut changes).await, next(&mut changes).await];
    told.sort();
    assert_eq!(told, ["+a@1", "+b@3"]);
    assert_eq!(next(&mut changes).await, "+c@11");
    assert_eq!(informers.unreadable(), 1);
}

#[tokio::test]
async fn a_handler_that_panics_misses_that_change_only() {
    let stream =
        event("ADDED", &object("a", 1)) + &bookmark(5, true) + &event("ADDED", &object("b", 6));
    let (client, _asked) = server(vec![(200, stream, true)]).await;
    let informers = Informers::new(client, CancellationToken::new());
    let informer = informers.all::<MetaView>(&CONFIG_MAPS);
    let (sender, mut receiver) = mpsc::unbounded_channel();
    informer.on_change(move |c| {
        let name = c.object().metadata.name.clone();
        assert_ne!(name, "a");
        let _ = sender.send(name);
    });
    assert_eq!(next(&mut receiver).await, "b");
    assert_eq!(informers.panics(), 1);
}

#[tokio::test]
async fn a_handler_added_late_is_told_of_everything_first() {
    let stream = event("ADDED", &object("a", 1)) + &bookmark(5, true);
    let (client, _asked) = server(vec![(200, stream, true)]).await;
    let (informers, _changes) = follow(&client);
    informers.synced().await;
    let seen = Arc::new(Mutex::new(Vec::new()));
    let log = seen.clone();
    informers
        .all::<MetaView>(&CONFIG_MAPS)
        .on_change(move |c| log.lock().unwrap().push(c.object().metadata.name.clone()));
    assert_eq!(*seen.lock().unwrap(), ["a"]);
}
