//! Kills a writing process a hundred times and looks for every write it was told is durable.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests"
)]

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use storage::embedded::{Embedded, Options};
use storage::{Error, Expect, Store, WatchMessage, Written};

const DIR: &str = "KEELSON_CRASH_TEST_DIR";
const WRITERS: usize = 100;
const KILLS: usize = 100;

fn options() -> Options {
    // Small files, so that kills also hit new files, compactions and rewrites.
    Options {
        retention: Duration::ZERO,
        history_changes: 3_000,
        file_bytes: 1 << 20,
        rewrite_slack: 1 << 20,
        ..Options::default()
    }
}

fn key(writer: usize, slot: u64) -> String {
    format!("/registry/crash/{writer:03}/{slot}")
}

fn value(writer: usize, round: u64, sequence: u64) -> Bytes {
    let mut text = format!("{writer} {round} {sequence} ").into_bytes();
    text.resize(2300, b'x');
    text.into()
}

/// Not a test by itself: the process that gets killed. Prints a line for every acknowledged write.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn child() {
    let Ok(dir) = std::env::var(DIR) else { return };
    let round: u64 = std::env::var("KEELSON_CRASH_TEST_ROUND")
        .unwrap()
        .parse()
        .unwrap();
    let store = Embedded::open(dir, options()).await.unwrap();
    let writers = (0..WRITERS).map(|writer| {
        let store = store.clone();
        tokio::spawn(async move {
            for sequence in 0.. {
                let key = key(writer, sequence % 3);
                let value = value(writer, round, sequence);
                let Written::Done { revision, .. } = store
                    .put(key.as_bytes(), value, Expect::Any, 0)
                    .await
                    .unwrap()
                else {
                    panic!("an unconditional put is refused")
                };
                let line = format!("\nacknowledged {writer} {sequence} {revision} end\n");
                std::io::stdout().lock().write_all(line.as_bytes()).unwrap();
            }
        })
    });
    futures::future::join_all(writers).await;
}

struct Acknowledged {
    writer: usize,
    sequence: u64,
    revision: i64,
}

fn run_and_kill(dir: &Path, round: u64, lifetime: Duration) -> Vec<Acknowledged> {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "child", "--nocapture", "--test-threads=1"])
        .env(DIR, dir)
        .env("KEELSON_CRASH_TEST_ROUND", round.to_string())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let stdout = child.stdout.take().unwrap();
    let (first, started) = std::sync::mpsc::channel();
    let reader = std::thread::spawn(move || {
        let mut found = Vec::new();
        for line in BufReader::new(stdout).lines() {
            let line = line.unwrap();
            let words: Vec<&str> = line.split(' ').collect();
            if let ["acknowledged", writer, sequence, revision, "end"] = words.as_slice() {
                found.push(Acknowledged {
                    writer: writer.parse().unwrap(),
                    sequence: sequence.parse().unwrap(),
                    revision: revision.parse().unwrap(),
                });
                let _ = first.send(());
            }
        }
        found
    });
    started
        .recv_timeout(Duration::from_secs(30))
        .expect("the child writes nothing");
    std::thread::sleep(lifetime);
    child.kill().unwrap();
    child.wait().unwrap();
    reader.join().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_acknowledged_write_survives_a_hundred_kills() {
    if std::env::var(DIR).is_ok() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let mut highest = 0;
    let mut total = 0;
    for round in 0..KILLS as u64 {
        // The moment of the kill: anything from the first write on.
        let lifetime = Duration::from_micros(1 + round * 7919 % 200_000);
        let path = dir.path().to_owned();
        let found = tokio::task::spawn_blocking(move || run_and_kill(&path, round, lifetime))
            .await
            .unwrap();
        let before = highest;
        total += found.len();
        let store = Embedded::open(dir.path(), options())
            .await
            .expect("the store opens after a kill");
        let mut newest: HashMap<(usize, u64), u64> = HashMap::new();
        let mut checked = 0;
        for write in &found {
            assert!(
                write.revision > before,
                "round {round}: a revision was given out twice"
            );
            highest = highest.max(write.revision);
            let key = key(write.writer, write.sequence % 3);
            match store.get(key.as_bytes(), write.revision).await {
                Ok(got) => {
                    let kv = got.kv.expect("an acknowledged write is missing");
                    assert_eq!(kv.mod_revision, write.revision);
                    assert_eq!(kv.value, value(write.writer, round, write.sequence));
                    checked += 1;
                }
                Err(Error::Compacted { .. }) => {}
                Err(error) => panic!("{error}"),
            }
            let sequence = newest
                .entry((write.writer, write.sequence % 3))
                .or_default();
            *sequence = (*sequence).max(write.sequence);
        }
        assert!(checked > 0);
        for ((writer, slot), sequence) in newest {
            let kv = store
                .get(key(writer, slot).as_bytes(), 0)
                .await
                .unwrap()
                .kv
                .expect("an acknowledged key is gone");
            let text = String::from_utf8(kv.value.to_vec()).unwrap();
            let stored: Vec<u64> = text
                .split(' ')
                .take(3)
                .map(|word| word.parse().unwrap())
                .collect();
            assert_eq!(stored[..2], [writer as u64, round]);
            assert!(
                stored[2] >= sequence,
                "round {round}: {text:.20} is older than the acknowledged {sequence}"
            );
        }
        let current = store.revision().await.unwrap();
        assert!(
            current >= highest,
            "round {round}: the revision went backwards"
        );
        highest = current;
        // History has no gaps.
        let from = store.compacted().max(2);
        let mut watch = store.watch(b"/registry/crash/", from).await.unwrap();
        let mut next = from;
        while next <= current {
            if let WatchMessage::Events(events) = watch.next().await.unwrap().unwrap() {
                for event in events {
                    assert_eq!(event.kv.mod_revision, next);
                    next += 1;
                }
            }
        }
    }
    println!("{total} acknowledged writes, {KILLS} kills");
}
