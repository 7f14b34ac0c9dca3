//! The real `etcdctl` against the embedded store, and a real etcd on its snapshot.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests"
)]

mod suite;

use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};

use bytes::Bytes;
use storage::embedded::{Embedded, Options};
use storage::{Expect, ListOptions, Listen, Store, etcd_server};
use suite::etcd_process::EtcdProcess;

fn etcdctl(endpoint: &str) -> Command {
    let mut command = Command::new("etcdctl");
    command
        .env("ETCDCTL_API", "3")
        .args(["--endpoints", endpoint]);
    command
}

fn output(mut command: Command) -> String {
    let output = command
        .output()
        .expect("etcdctl must be installed for this test (Debian: etcd-client)");
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(
        output.status.success(),
        "{text}{}",
        String::from_utf8_lossy(&output.stderr)
    );
    text
}

fn run(endpoint: &str, arguments: &[&str]) -> String {
    let mut command = etcdctl(endpoint);
    command.args(arguments);
    output(command)
}

fn with_input(endpoint: &str, arguments: &[&str], input: &str) -> String {
    let mut child = etcdctl(endpoint)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    child
        .stdin
        .take()
        .unwrap()
        .write_all(input.as_bytes())
        .unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success());
    String::from_utf8(output.stdout).unwrap()
}

async fn open(dir: &tempfile::TempDir) -> (Embedded, String) {
    let store = Embedded::open(dir.path().join("data"), Options::default())
        .await
        .unwrap();
    let listen = Listen::Loopback("127.0.0.1:0".parse().unwrap());
    let address = etcd_server::serve(&store, listen).await.unwrap();
    // etcdctl 3.4 puts the address as given into a header, where a scheme may not be.
    (store, address.replace("http://", ""))
}

#[tokio::test(flavor = "multi_thread")]
async fn etcdctl_works() {
    let dir = tempfile::tempdir().unwrap();
    let (store, at) = open(&dir).await;
    let socket = dir.path().join("etcd.sock");
    etcd_server::serve(&store, Listen::Unix(socket.clone()))
        .await
        .unwrap();
    tokio::task::spawn_blocking(move || {
        assert_eq!(run(&at, &["put", "/registry/a", "one"]), "OK\n");
        assert_eq!(run(&at, &["put", "/registry/b", "two"]), "OK\n");
        assert_eq!(run(&at, &["get", "/", "--prefix", "--keys-only"]), "/registry/a\n\n/registry/b\n\n");
        // etcdctl 3.4 puts the address into a header where slashes may not be: so from the socket's directory.
        let mut over_socket = etcdctl("unix://etcd.sock");
        over_socket.args(["get", "/", "--prefix", "--keys-only"]).current_dir(socket.parent().unwrap());
        assert_eq!(output(over_socket), "/registry/a\n\n/registry/b\n\n");
        assert_eq!(run(&at, &["get", "/registry/a", "/registry/z", "--print-value-only"]), "one\ntwo\n");
        let descending = ["get", "", "--prefix", "--order=DESCEND", "--sort-by=MODIFY", "--limit=1"];
        assert_eq!(run(&at, &descending), "/registry/b\ntwo\n");
        assert_eq!(run(&at, &["put", "/registry/a", "three", "--prev-kv"]), "OK\n/registry/a\none\n");
        assert_eq!(run(&at, &["get", "/registry/a", "--rev=2"]), "/registry/a\none\n");
        let input = "value(\"/registry/a\") = \"three\"\nver(\"/registry/none\") = \"0\"\n\nput /registry/c done\nget /registry/c\n\nget /registry/a\n\n";
        assert_eq!(with_input(&at, &["txn"], input), "SUCCESS\n\nOK\n\n/registry/c\ndone\n");
        let input = "mod(\"/registry/a\") > \"1000\"\n\nput /registry/c done\n\ndel /registry/c\n\n";
        assert_eq!(with_input(&at, &["txn"], input), "FAILURE\n\n1\n");

        let mut watch = etcdctl(&at);
        watch.args(["watch", "/registry/", "--prefix", "--rev=2", "--prev-kv"]).stdout(Stdio::piped());
        let mut watch = watch.spawn().unwrap();
        let mut lines = BufReader::new(watch.stdout.take().unwrap()).lines().map(Result::unwrap);
        let mut next = |count: usize| -> String { lines.by_ref().take(count).collect::<Vec<_>>().join(" ") };
        assert_eq!(next(9), "PUT /registry/a one PUT /registry/b two PUT /registry/a one");
        assert_eq!(next(6), "/registry/a three PUT /registry/c done DELETE");
        run(&at, &["put", "/registry/live", "now"]);
        assert_eq!(next(7), "/registry/c done /registry/c  PUT /registry/live now");
        watch.kill().unwrap();
        watch.wait().unwrap();

        let granted = run(&at, &["lease", "grant", "600"]);
        let lease = granted.split(' ').nth(1).unwrap().to_owned();
        run(&at, &["put", "/registry/leased", "x", &format!("--lease={lease}")]);
        let left = run(&at, &["lease", "timetolive", &lease, "--keys"]);
        assert!(left.contains("granted with TTL(600s)") && left.contains("/registry/leased"), "{left}");
        assert!(run(&at, &["lease", "list"]).contains(&lease));
        assert!(run(&at, &["lease", "keep-alive", "--once", &lease]).contains("keepalived with TTL(600)"));
        run(&at, &["lease", "revoke", &lease]);
        assert_eq!(run(&at, &["get", "/registry/leased"]), "");

        assert_eq!(run(&at, &["del", "/registry/live", "--prev-kv"]), "1\n/registry/live\nnow\n");
        let status = run(&at, &["endpoint", "status", "-w", "json"]);
        assert!(status.contains("\"version\":\"3.5"), "{status}");
        let size = |what: &str| -> u64 {
            let rest = status.split_once(&format!("\"{what}\":")).unwrap().1;
            rest.split_once([',', '}']).unwrap().0.parse().unwrap()
        };
        assert!((1..=size("dbSize")).contains(&size("dbSizeInUse")), "{status}");
        run(&at, &["endpoint", "health"]);
        assert!(run(&at, &["member", "list"]).contains("keelson"));
        assert_eq!(run(&at, &["alarm", "list"]), "");
        run(&at, &["defrag"]);
        assert!(run(&at, &["compaction", "4"]).contains("compacted revision 4"));
        let old = etcdctl(&at).args(["get", "/registry/a", "--rev=2"]).output().unwrap();
        assert!(String::from_utf8_lossy(&old.stderr).contains("required revision has been compacted"));
    })
    .await
    .unwrap();
    assert_eq!(
        store
            .get(b"/registry/a", 0)
            .await
            .unwrap()
            .kv
            .unwrap()
            .value,
        "three"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_becomes_a_real_etcd() {
    let dir = tempfile::tempdir().unwrap();
    let (store, at) = open(&dir).await;
    let lease = store.grant(3600).await.unwrap();
    for number in 0..3000_usize {
        // Empty, small, and larger than a page or several.
        let size = match number % 50 {
            0 => 0,
            1 => 10_000,
            2 => 300_000 * usize::from(number == 2),
            other => other * 40,
        };
        let value: Bytes = vec![b'a' + u8::try_from(number % 26).unwrap(); size].into();
        let lease = if number == 7 { lease } else { 0 };
        let key = format!("/registry/things/{number:05}");
        store
            .put(key.as_bytes(), value, Expect::Absent, lease)
            .await
            .unwrap();
    }
    for number in (0..3000).step_by(3) {
        store
            .delete(
                format!("/registry/things/{number:05}").as_bytes(),
                Expect::Any,
            )
            .await
            .unwrap();
    }
    let listed = store.list(b"/", ListOptions::default()).await.unwrap();
    let file = dir.path().join("snapshot.db").display().to_string();
    let restored = dir.path().join("restored").display().to_string();
    tokio::task::spawn_blocking({
        let restored = restored.clone();
        move || {
            run(&at, &["snapshot", "save", &file]);
            let status = run(&at, &["snapshot", "status", &file, "-w", "json"]);
            assert!(status.contains("\"revision\":"), "{status}");
            run(
                &at,
                &[
                    "snapshot",
                    "restore",
                    &file,
                    "--data-dir",
                    &restored,
                    "--name",
                    "test",
                    "--initial-cluster",
                    "test=http://127.0.0.1:2380",
                    "--initial-advertise-peer-urls",
                    "http://127.0.0.1:2380",
                ],
            );
        }
    })
    .await
    .unwrap();
    let etcd = EtcdProcess::start_on(std::path::Path::new(&restored)).await;
    let copy = etcd.connect().await;
    let copied = copy.list(b"/", ListOptions::default()).await.unwrap();
    assert_eq!(copied.items.len(), 2000);
    assert!(copied.items == listed.items, "the copy differs");
    assert!(copied.revision >= listed.revision);
    // It is a working etcd.
    copy.put(
        b"/registry/new",
        Bytes::from_static(b"1"),
        Expect::Absent,
        0,
    )
    .await
    .unwrap();
}

/// Everything beneath `/registry/`, without what a copy cannot keep: revisions.
async fn pairs(store: &dyn Store) -> Vec<(Bytes, Bytes)> {
    let listed = store
        .list(b"/registry/", ListOptions::default())
        .await
        .unwrap();
    listed
        .items
        .into_iter()
        .map(|kv| (kv.key, kv.value))
        .collect()
}

/// `etcdctl make-mirror` between the two, until the copy is the same.
async fn mirror(from: (&str, &dyn Store), to: (&str, &dyn Store)) {
    let mut child = etcdctl(from.0)
        .args(["make-mirror", "--prefix=/registry/", to.0])
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(60);
    let wanted = pairs(from.1).await;
    while pairs(to.1).await != wanted {
        assert!(
            std::time::Instant::now() < deadline,
            "the copy did not become the same"
        );
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    child.kill().unwrap();
    child.wait().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn either_store_is_copied_into_the_other() {
    let etcd = EtcdProcess::start().await;
    let in_etcd = etcd.connect().await;
    for number in 0..300_usize {
        let key = format!("/registry/things/{number:05}");
        let value = format!("k8s\0{number}").repeat(1 + number % 40);
        in_etcd
            .put(key.as_bytes(), value.into(), Expect::Absent, 0)
            .await
            .unwrap();
    }
    let dir = tempfile::tempdir().unwrap();
    let (store, at) = open(&dir).await;
    let etcd_at = etcd.address.replace("http://", "");
    mirror((&etcd_at, &in_etcd), (&at, &store)).await;

    let other = EtcdProcess::start().await;
    let in_other = other.connect().await;
    store
        .put(
            b"/registry/more",
            Bytes::from_static(b"1"),
            Expect::Absent,
            0,
        )
        .await
        .unwrap();
    let other_at = other.address.replace("http://", "");
    mirror((&at, &store), (&other_at, &in_other)).await;
}

/// As etcd does: by the key where nothing else was asked for, and ascending where only a target was.
#[tokio::test(flavor = "multi_thread")]
async fn a_range_is_sorted_as_it_was_asked_for() {
    let etcd = EtcdProcess::start().await;
    let dir = tempfile::tempdir().unwrap();
    let (_store, at) = open(&dir).await;
    let both = [etcd.address.replace("http://", ""), at];
    tokio::task::spawn_blocking(move || {
        for at in both {
            for (key, value) in [
                ("c", "2"),
                ("a", "3"),
                ("b", "1"),
                ("c", "2"),
                ("c", "2"),
                ("b", "1"),
            ] {
                run(&at, &["put", key, value]);
            }
            // The last: of the first two keys, as etcd reads no more for a limit of one without an order.
            for (target, order, first) in [
                ("KEY", "a b c", "a"),
                ("CREATE", "c a b", "a"),
                ("MODIFY", "a c b", "a"),
                ("VERSION", "a b c", "a"),
                ("VALUE", "b c a", "b"),
            ] {
                let by = format!("--sort-by={target}");
                let get = |more: &[&str]| -> Vec<String> {
                    let args = [&["get", "", "--prefix", "--keys-only", &by][..], more].concat();
                    run(&at, &args)
                        .split_whitespace()
                        .map(str::to_owned)
                        .collect()
                };
                let ascending: Vec<&str> = order.split(' ').collect();
                let mut descending = ascending.clone();
                descending.reverse();
                assert_eq!(get(&[]), ascending, "{at} {target}");
                assert_eq!(get(&["--order=ASCEND"]), ascending, "{at} {target}");
                assert_eq!(get(&["--order=DESCEND"]), descending, "{at} {target}");
                assert_eq!(
                    get(&["--order=DESCEND", "--limit=2"]),
                    descending[..2],
                    "{at} {target}"
                );
                assert_eq!(get(&["--limit=1"]), [first], "{at} {target}");
            }
            let whole = run(&at, &["get", "", "--prefix", "--sort-by=VALUE"]);
            assert_eq!(whole, "b\n1\nc\n2\na\n3\n", "{at}");
        }
    })
    .await
    .unwrap();
}
