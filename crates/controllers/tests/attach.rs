//! A volume of a driver on its way to a node and back: what is asked of the apiserver, and in which order.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test"
)]

mod suite;

use std::time::Duration;

use controllers::attach::decide::attachment_name;
use serde_json::{Value, json};
use testkit::apiserver::{Answer, Asked, discovery};
use testkit::wait_until;
use tokio::sync::watch;

const LIMIT: Duration = Duration::from_secs(60);
const UNIQUE: &str = "kubernetes.io/csi/d^h";
const ATTACHMENTS: &str = "/apis/storage.k8s.io/v1/volumeattachments";

/// What was asked for, and what watches tell after the start.
#[derive(Clone, Default)]
struct Log {
    asked: Vec<String>,
    events: Vec<String>,
    told: Vec<(&'static str, &'static str, Value)>,
}

fn node(in_use: &[&str], version: usize) -> Value {
    json!({
        "metadata": {
            "name": "a", "uid": "a", "resourceVersion": version.to_string(),
            "annotations": {"volumes.kubernetes.io/controller-managed-attach-detach": "true"},
        },
        "status": {
            "conditions": [{"type": "Ready", "status": "True"}],
            "volumesInUse": in_use,
            "volumesAttached": [{"name": "kubernetes.io/iscsi/x", "devicePath": "/dev/x"}],
        },
    })
}

fn pod() -> Value {
    json!({
        "metadata": {"name": "p", "namespace": "n", "uid": "up", "resourceVersion": "1"},
        "spec": {"nodeName": "a", "volumes": [{"name": "v", "ephemeral": {"volumeClaimTemplate": {"spec": {}}}}]},
        "status": {"phase": "Pending"},
    })
}

fn claim() -> Value {
    json!({
        "metadata": {
            "name": "p-v", "namespace": "n", "uid": "uc", "resourceVersion": "2",
            "ownerReferences": [{"apiVersion": "v1", "kind": "Pod", "name": "p", "uid": "up", "controller": true}],
        },
        "spec": {"volumeName": "pv"}, "status": {"phase": "Bound"},
    })
}

fn volume() -> Value {
    json!({
        "metadata": {"name": "pv", "uid": "uv", "resourceVersion": "1"},
        "spec": {
            "accessModes": ["ReadWriteOnce"], "csi": {"driver": "d", "volumeHandle": "h"},
            "claimRef": {"namespace": "n", "name": "p-v", "uid": "uc"},
        },
    })
}

fn attachment(attached: bool, version: usize) -> Value {
    json!({
        "metadata": {"name": attachment_name("d", "h", "a"), "uid": "ua", "resourceVersion": version.to_string()},
        "spec": {"attacher": "d", "nodeName": "a", "source": {"persistentVolumeName": "pv"}},
        "status": {"attached": attached},
    })
}

async fn answer(asked: Asked, client: Answer, log: watch::Sender<Log>) -> std::io::Result<()> {
    let path = asked.target.split('?').next().unwrap_or_default();
    if let Some(resources) = discovery(path) {
        return client.send(200, &resources).await;
    }
    let one = format!("{ATTACHMENTS}/{}", attachment_name("d", "h", "a"));
    let note = |what: &str| log.send_modify(|l| l.asked.push(what.to_owned()));
    let tell = |path, kind, object| log.send_modify(|l| l.told.push((path, kind, object)));
    match (asked.method.as_str(), path) {
        ("GET", "/api/v1/nodes/a") => {
            note("ask the node");
            client.send(200, &node(&[], 5)).await
        }
        ("GET", _) => {
            let there = match path {
                "/api/v1/nodes" => vec![node(&[], 1)],
                "/api/v1/pods" => vec![pod()],
                "/api/v1/persistentvolumes" => vec![volume()],
                "/api/v1/persistentvolumeclaims" | ATTACHMENTS => vec![],
                path if path.ends_with("csidrivers") => vec![],
                _ => return client.refuse(404).await,
            };
            let mut news = log.subscribe();
            let mut watch = client.watch(&there).await?;
            let mut seen = 0;
            loop {
                let told = news.borrow_and_update().told.clone();
                for (at, kind, object) in told.iter().skip(seen) {
                    if *at == path {
                        watch.tell(kind, object).await?;
                    }
                }
                seen = told.len();
                if news.changed().await.is_err() {
                    return watch.stay().await;
                }
            }
        }
        ("POST", "/api/v1/namespaces/n/persistentvolumeclaims") => {
            assert_eq!(asked.body["metadata"]["name"], "p-v");
            note("claim");
            client.send(201, &claim()).await?;
            tell("/api/v1/persistentvolumeclaims", "ADDED", claim());
            Ok(())
        }
        ("POST", ATTACHMENTS) => {
            assert_eq!(asked.body["spec"], attachment(false, 1)["spec"]);
            note("attach");
            client.send(201, &attachment(false, 2)).await?;
            tell(ATTACHMENTS, "ADDED", attachment(false, 2));
            tell(ATTACHMENTS, "MODIFIED", attachment(true, 3));
            Ok(())
        }
        ("PATCH", "/api/v1/nodes/a/status") => {
            note(&asked.body["status"]["volumesAttached"].to_string());
            client.send(200, &node(&[UNIQUE], 2)).await
        }
        ("DELETE", path) if path == one => {
            note("detach");
            client.send(200, &attachment(true, 3)).await?;
            tell(ATTACHMENTS, "DELETED", attachment(true, 4));
            Ok(())
        }
        ("POST", path) if path.ends_with("/events") => {
            let text = |key: &str| asked.body[key].as_str().unwrap_or_default().to_owned();
            let event = format!("{} {}", text("reason"), text("message"));
            log.send_modify(|l| l.events.push(event));
            client.send(201, &asked.body).await
        }
        _ => client.refuse(404).await,
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_volume_is_attached_told_of_and_detached_in_order() {
    let (log, seen) = watch::channel(Log::default());
    let server = log.clone();
    let apiserver =
        testkit::apiserver::serve(move |asked, client| answer(asked, client, server.clone()));
    let config = testkit::apiserver::kubeconfig(apiserver.await);
    let flags = [
        "--leader-elect=false",
        "--controllers=attachdetach,ephemeral-volume",
    ];
    let (_, shutdown) = suite::run(config, &flags);
    let wait = async |what: &str, enough: &(dyn Fn(&Log) -> bool + Sync)| {
        wait_until(what, LIMIT, async || {
            let log = seen.borrow().clone();
            if enough(&log) {
                Ok(())
            } else {
                Err(format!("{:?} {:?}", log.asked, log.events))
            }
        })
        .await;
    };
    let foreign = r#"{"devicePath":"/dev/x","name":"kubernetes.io/iscsi/x"}"#;
    let own = format!(r#"{{"devicePath":"","name":"{UNIQUE}"}}"#);
    let succeeded = "SuccessfulAttachVolume AttachVolume.Attach succeeded for volume \"pv\" ";
    wait("it is attached", &|l| {
        l.asked.len() == 3 && l.events.iter().any(|e| e == succeeded)
    })
    .await;
    let told = format!("[{own},{foreign}]");
    assert_eq!(seen.borrow().asked, ["claim", "attach", told.as_str()]);

    // The pod goes while its volume is in use.
    let tell = |path, kind, object| log.send_modify(|l| l.told.push((path, kind, object)));
    tell("/api/v1/nodes", "MODIFIED", node(&[UNIQUE], 3));
    tell("/api/v1/pods", "DELETED", pod());
    tell("/api/v1/nodes", "MODIFIED", node(&[], 4));
    wait("it is detached", &|l| l.asked.len() == 6).await;
    let told = format!("[{foreign}]");
    let asked = seen.borrow().asked.clone();
    assert_eq!(asked[3..], [told.as_str(), "ask the node", "detach"]);
    assert!(shutdown.drain(LIMIT).await);
}
