//! Whose certificates are good, as `kube-system/extension-apiserver-authentication` says.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test"
)]

use std::collections::BTreeMap;
use std::time::Duration;

use client::Options;
use client::gate::Delegated;
use client::secure_port::FLAGS;
use component::flags::Outcome;
use component::serve::{Gate as _, Peer};
use component::tls::Tls;
use component::{CommandLine, Shutdown};
use pki::cert::{Ca, LEAF_VALIDITY, Spec, Use};
use serde_json::{Value, json};
use testkit::apiserver::{Answer, Asked};
use tokio::sync::watch;

type Data = BTreeMap<String, String>;

/// What the apiserver has: the ConfigMap's data, or a code.
type Says = Result<Data, u16>;

const PATH: &str = "/api/v1/namespaces/kube-system/configmaps";
const NAME: &str = "extension-apiserver-authentication";

fn object(data: &Data, version: usize) -> Value {
    let metadata = json!({"name": NAME, "namespace": "kube-system", "uid": "u", "resourceVersion": version.to_string()});
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": data})
}

async fn answer(
    mut told: watch::Receiver<Says>,
    asked: Asked,
    client: Answer,
) -> std::io::Result<()> {
    let says = told.borrow_and_update().clone();
    let data = match says {
        Ok(data) => data,
        Err(code) => return client.refuse(code).await,
    };
    if asked.target == format!("{PATH}/{NAME}") {
        return client.send(200, &object(&data, 1)).await;
    }
    // No other is asked for.
    if !asked.target.starts_with(&format!("{PATH}?")) || !asked.target.contains(NAME) {
        return client.refuse(403).await;
    }
    if !asked.target.contains("watch=1") {
        let metadata = json!({"resourceVersion": "1"});
        let items = [object(&data, 1)];
        let list = json!({"apiVersion": "v1", "kind": "ConfigMapList", "metadata": metadata, "items": items});
        return client.send(200, &list).await;
    }
    let mut watch = client.watch(&[object(&data, 1)]).await?;
    for version in 2.. {
        told.changed().await.map_err(std::io::Error::other)?;
        let Ok(data) = told.borrow_and_update().clone() else {
            break;
        };
        watch.tell("MODIFIED", &object(&data, version)).await?;
    }
    Ok(())
}

/// An apiserver that has one ConfigMap, and a kubeconfig for it.
async fn apiserver(says: Says) -> (watch::Sender<Says>, tempfile::NamedTempFile) {
    let (sender, told) = watch::channel(says);
    let address =
        testkit::apiserver::serve(move |asked, client| answer(told.clone(), asked, client)).await;
    (sender, testkit::apiserver::kubeconfig(address))
}

async fn gate(args: &[&str], shutdown: &Shutdown) -> Result<Delegated, String> {
    let line = CommandLine::new("kube-scheduler", "x").honour(FLAGS);
    let flags = match line.parse(args.iter().copied()).unwrap() {
        Outcome::Run(flags) => flags,
        Outcome::Print(text) => panic!("{text}"),
    };
    let tls = Tls::new(&component::tls::Options::default()).unwrap();
    Delegated::from_flags(&flags, &Options::default(), &tls, shutdown).await
}

fn ca(name: &str) -> Ca {
    Ca::generate(name, pki::key::generate().unwrap()).unwrap()
}

fn peer(ca: &Ca, name: &str, group: Option<&str>) -> Peer {
    let spec = Spec {
        common_name: name.into(),
        organization: group.map(Into::into),
        sans: vec![],
        usage: Use::Client,
    };
    let key = pki::key::generate().unwrap();
    let pem = ca.sign(&spec, &key, LEAF_VALIDITY).unwrap();
    let der = pki::key::pem_blocks(&pem).unwrap().remove(0).der;
    Peer::new(None, vec![der])
}

/// What somebody who says such things gets.
async fn code(gate: &Delegated, peer: &Peer, headers: &[(&str, &str)]) -> u16 {
    let mut request = http::Request::get("/metrics");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let (mut parts, ()) = request.body(()).unwrap().into_parts();
    let checked = gate.check(peer, &mut parts).await;
    checked.map_or_else(|r| r.code, |()| 200)
}

async fn until(what: &str, gate: &Delegated, peer: &Peer, headers: &[(&str, &str)], want: u16) {
    let wait = async {
        while code(gate, peer, headers).await != want {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let waited = tokio::time::timeout(Duration::from_secs(60), wait).await;
    waited.expect(what);
}

#[tokio::test]
async fn certificates_are_good_as_the_cluster_says() {
    let (old, new, front) = (ca("old"), ca("new"), ca("front"));
    let masters = Some(auth::GROUP_MASTERS);
    let (by_old, by_new) = (peer(&old, "jane", masters), peer(&new, "jane", masters));
    let (proxy, other) = (peer(&front, "proxy", None), peer(&front, "other", None));
    let ann = [("x-who", "ann"), ("x-in", auth::GROUP_MASTERS)];
    let mut data: Data = [
        ("client-ca-file", old.cert_pem.as_str()),
        ("requestheader-client-ca-file", &front.cert_pem),
        ("requestheader-allowed-names", r#"["proxy"]"#),
        ("requestheader-username-headers", r#"["X-Who"]"#),
        ("requestheader-group-headers", r#"["X-In"]"#),
    ]
    .map(|(k, v)| (k.to_owned(), v.to_owned()))
    .into();
    let (says, config) = apiserver(Ok(data.clone())).await;
    let config = format!("--authentication-kubeconfig={}", config.path().display());
    let shutdown = Shutdown::new();
    let gate = gate(&[&config], &shutdown).await.unwrap();
    assert_eq!(code(&gate, &by_old, &[]).await, 200);
    assert_eq!(code(&gate, &by_new, &[]).await, 401);
    assert_eq!(code(&gate, &proxy, &ann).await, 200);
    assert_eq!(code(&gate, &proxy, &[("x-who", "ann")]).await, 403);
    assert_eq!(
        code(&gate, &proxy, &[("x-remote-user", "ann")]).await,
        401,
        "headers of another name say nothing"
    );
    assert_eq!(code(&gate, &other, &ann).await, 401);

    data.insert("client-ca-file".into(), new.cert_pem.clone());
    says.send(Ok(data.clone())).unwrap();
    until("the new authority", &gate, &by_new, &[], 200).await;
    assert_eq!(code(&gate, &by_old, &[]).await, 401);

    // What cannot be read leaves what was there, and does not keep the rest from being read.
    data.insert("client-ca-file".into(), "garbage".into());
    data.insert("requestheader-allowed-names".into(), "[]".into());
    says.send(Ok(data.clone())).unwrap();
    until("any name", &gate, &other, &ann, 200).await;
    assert_eq!(code(&gate, &by_new, &[]).await, 200);
    data.insert("client-ca-file".into(), old.cert_pem.clone());
    data.insert("requestheader-group-headers".into(), "x-in".into());
    says.send(Ok(data.clone())).unwrap();
    until("the old authority", &gate, &by_old, &[], 200).await;
    assert_eq!(code(&gate, &other, &ann).await, 200);
    assert!(shutdown.drain(Duration::from_secs(60)).await);
}

/// Flags win over the cluster, each for itself.
#[tokio::test]
async fn what_flags_say_is_not_looked_up() {
    let (own, told) = (ca("own"), ca("told"));
    let data = [("client-ca-file".to_owned(), told.cert_pem.clone())];
    let (_says, config) = apiserver(Ok(data.into())).await;
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), &own.cert_pem).unwrap();
    let masters = Some(auth::GROUP_MASTERS);
    let (by_own, by_told) = (peer(&own, "jane", masters), peer(&told, "jane", masters));
    let config = format!("--authentication-kubeconfig={}", config.path().display());
    let by_flag = format!("--client-ca-file={}", file.path().display());
    let skip = "--authentication-skip-lookup";
    for (args, own_code, told_code) in [
        (vec![config.as_str()], 401, 200),
        (vec![&config, &by_flag], 200, 401),
        // Nobody knows certificates: they are looked at by nobody.
        (vec![&config, skip], 403, 403),
        (vec![], 403, 403),
    ] {
        let shutdown = Shutdown::new();
        let gate = gate(&args, &shutdown).await.unwrap();
        assert_eq!(code(&gate, &by_own, &[]).await, own_code, "{args:?}");
        assert_eq!(code(&gate, &by_told, &[]).await, told_code, "{args:?}");
        assert!(shutdown.drain(Duration::from_secs(60)).await);
    }
}

#[tokio::test]
async fn a_failed_look_up_ends_the_start_unless_it_is_tolerated() {
    let strict = "--authentication-tolerate-lookup-failure=false";
    let ca = ca("told");
    let jane = peer(&ca, "jane", Some(auth::GROUP_MASTERS));
    let (says, config) = apiserver(Err(500)).await;
    let config = format!("--authentication-kubeconfig={}", config.path().display());
    let shutdown = Shutdown::new();
    let refused = gate(&[&config, strict], &shutdown).await.err().unwrap();
    let begin = "unable to load configmap based request-header-client-ca-file: ";
    assert!(refused.starts_with(begin), "{refused}");
    let skipped = gate(
        &[&config, strict, "--authentication-skip-lookup"],
        &shutdown,
    )
    .await;
    assert_eq!(code(&skipped.unwrap(), &jane, &[]).await, 403);
    // Tolerated, it is learnt as soon as there is an answer.
    let tolerant = gate(&[&config], &shutdown).await.unwrap();
    assert_eq!(code(&tolerant, &jane, &[]).await, 403);
    let data = [("client-ca-file".to_owned(), ca.cert_pem.clone())];
    says.send(Ok(data.into())).unwrap();
    until("an answer", &tolerant, &jane, &[], 200).await;
    // That there is no ConfigMap is an answer.
    says.send(Err(404)).unwrap();
    gate(&[&config, strict], &shutdown).await.unwrap();
    assert!(shutdown.drain(Duration::from_secs(60)).await);
}
