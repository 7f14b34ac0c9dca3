//! What is not there is refused or told, never accepted in silence.

use std::process::{Command, Output};

use serde_json::{Value, json};

use crate::server::{Answer, Server};

fn warnings(a: &Answer) -> Vec<String> {
    a.headers
        .get_all("warning")
        .iter()
        .map(|w| w.to_str().unwrap().to_owned())
        .collect()
}

#[tokio::test]
async fn new_objects_that_nothing_acts_on_are_warned_of() {
    let server = Server::start().await;
    let mut c = server.with_namespace("absent").await;
    let template = json!({"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}});
    let selector = json!({"matchLabels": {"a": "b"}});
    let job = json!({"metadata": {"name": "j"}, "spec": {"template": {"spec": {"restartPolicy": "Never", "containers": [{"name": "c", "image": "i"}]}}}});
    for (path, body, kind) in [
        (
            "/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicybindings",
            json!({"metadata": {"name": "b"}, "spec": {"policyName": "p", "validationActions": ["Deny"]}}),
            "ValidatingAdmissionPolicyBinding",
        ),
        (
            "/apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations",
            webhook("ignored.example.com", "Ignore"),
            "ValidatingWebhookConfiguration",
        ),
    ] {
        let answer = c.post(path, &body).await;
        let told = warnings(&answer);
        assert_eq!(answer.code, 201, "{}", answer.text());
        let start = format!("299 - \"{kind} is stored, but ");
        assert!(
            told.iter().any(|w| w.starts_with(&start)),
            "{kind}: {told:?}"
        );
    }
    // Somebody acts on these.
    for (path, body) in [
        ("/apis/batch/v1/namespaces/absent/jobs", job),
        (
            "/apis/apps/v1/namespaces/absent/deployments",
            json!({"metadata": {"name": "d"}, "spec": {"selector": selector, "template": template}}),
        ),
        (
            "/apis/apps/v1/namespaces/absent/statefulsets",
            json!({"metadata": {"name": "s"}, "spec": {"serviceName": "s", "selector": selector, "template": template}}),
        ),
        (
            "/api/v1/namespaces/absent/configmaps",
            json!({"metadata": {"name": "c"}}),
        ),
        (
            "/api/v1/namespaces/absent/resourcequotas",
            json!({"metadata": {"name": "q"}, "spec": {"hard": {"pods": "1"}}}),
        ),
        (
            "/api/v1/namespaces/absent/limitranges",
            json!({"metadata": {"name": "l"}, "spec": {"limits": []}}),
        ),
    ] {
        let answer = c.post(path, &body).await;
        assert_eq!((answer.code, warnings(&answer)), (201, vec![]), "{path}");
    }
}

fn webhook(name: &str, policy: &str) -> Value {
    json!({"metadata": {"name": name}, "webhooks": [{
        "name": name,
        "clientConfig": {"url": "https://127.0.0.1:1/"},
        "sideEffects": "None",
        "admissionReviewVersions": ["v1"],
        "failurePolicy": policy,
        "rules": [{"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["pods"]}],
    }]})
}

#[tokio::test]
async fn a_webhook_that_would_guard_is_refused_and_pod_security_is_told() {
    let server = Server::start().await;
    let mut c = server.connect().await;
    for kind in [
        "validatingwebhookconfigurations",
        "mutatingwebhookconfigurations",
    ] {
        let path = format!("/apis/admissionregistration.k8s.io/v1/{kind}");
        let refused = c.post(&path, &webhook("guard.example.com", "Fail")).await;
        let status = refused.expect(422);
        assert_eq!(
            status["details"]["causes"][0]["field"],
            "webhooks[0].failurePolicy"
        );
        // Fail is the default.
        let mut silent = webhook("guard.example.com", "");
        silent["webhooks"][0]
            .as_object_mut()
            .unwrap()
            .remove("failurePolicy");
        c.post(&path, &silent).await.expect(422);
        c.post(&path, &webhook("ignored.example.com", "Ignore"))
            .await
            .expect(201);
        let change = json!({"webhooks": webhook("ignored.example.com", "Fail")["webhooks"]});
        c.merge(&format!("{path}/ignored.example.com"), &change)
            .await
            .expect(422);
    }
    let labels = json!({"pod-security.kubernetes.io/enforce": "restricted"});
    let body = json!({"metadata": {"name": "guarded", "labels": labels}});
    let answer = c.post("/api/v1/namespaces", &body).await;
    assert_eq!(answer.code, 201, "{}", answer.text());
    let told = warnings(&answer);
    assert!(
        told.iter().any(|w| w.contains("no pod security admission")),
        "{told:?}"
    );
    // Told once, not with every change.
    let answer = c
        .merge(
            "/api/v1/namespaces/guarded",
            &json!({"metadata": {"labels": {"a": "b"}}}),
        )
        .await;
    assert_eq!((answer.code, warnings(&answer)), (200, vec![]));
}

fn start(flag: &str) -> Output {
    Command::new(env!("CARGO_BIN_EXE_kube-apiserver"))
        .args(["--data-dir=/nonexistent/data", flag])
        .output()
        .unwrap()
}

#[test]
fn what_cannot_be_had_ends_the_start() {
    for (flag, message) in [
        (
            "--feature-gates=Nope=true",
            "Error: invalid argument \"Nope=true\" for \"--feature-gates\" flag: unrecognized feature gate: Nope\n",
        ),
        (
            "--feature-gates=kube:CoordinatedLeaderElection=true",
            "Error: invalid argument \"kube:CoordinatedLeaderElection=true\" for \"--feature-gates\" flag: cannot set feature gate CoordinatedLeaderElection to true: what it would turn on is not there\n",
        ),
        (
            "--audit-policy-file=f",
            "Error: flag --audit-policy-file is not supported: there is no audit log\n",
        ),
        (
            "--runtime-config=api/all=false",
            "Error: flag --runtime-config is not supported: the versions that are served cannot be switched on or off\n",
        ),
    ] {
        let out = start(flag);
        assert_eq!(out.status.code(), Some(1), "{flag}");
        assert_eq!(String::from_utf8_lossy(&out.stderr), message);
    }
}

#[test]
fn wrong_flags_end_the_start_before_anything_is_made() {
    for (flag, message) in [
        ("--service-node-port-range=80-20", "end port cannot be less"),
        (
            "--service-cluster-ip-range=10.0.0.0/99",
            "invalid CIDR address",
        ),
        (
            "--service-cluster-ip-range=fd00::/108",
            "must match public address family",
        ),
        ("--max-requests-inflight=-1", "can not be negative"),
        (
            "--enable-admission-plugins=Nope",
            "plugin \"Nope\" is unknown",
        ),
        (
            "--enable-admission-plugins=PodSecurity",
            "is not implemented",
        ),
        ("--tls-min-version=VersionTLS14", "unknown tls version"),
        ("--tls-cipher-suites=NOPE", "Cipher suite NOPE"),
        ("--client-ca-file=/nonexistent", "/nonexistent"),
        (
            "--admission-control-config-file=/nonexistent",
            "/nonexistent",
        ),
        (
            "--kubelet-certificate-authority=/nonexistent",
            "/nonexistent",
        ),
    ] {
        let made = tempfile::tempdir().unwrap();
        let place = |name: &str| format!("--{name}={}", made.path().join(name).display());
        let out = Command::new(env!("CARGO_BIN_EXE_kube-apiserver"))
            .args([
                place("data-dir"),
                place("cert-dir"),
                "--advertise-address=192.0.2.1".into(),
                flag.into(),
            ])
            .output()
            .unwrap();
        let told = String::from_utf8_lossy(&out.stderr);
        assert_eq!(out.status.code(), Some(1), "{flag}: {told}");
        assert!(told.contains(message), "{flag}: {told}");
        let left: Vec<_> = std::fs::read_dir(made.path()).unwrap().collect();
        assert!(left.is_empty(), "{flag}: {left:?}");
    }
}

#[tokio::test]
async fn gates_are_shown_and_read() {
    let server = Server::start().await;
    let metrics = server.connect().await.get("/metrics").await.text();
    for line in [
        "kubernetes_feature_enabled{name=\"WatchList\",stage=\"BETA\"} 1",
        "kubernetes_feature_enabled{name=\"MemoryQoS\",stage=\"ALPHA\"} 0",
    ] {
        assert!(metrics.lines().any(|l| l == line), "{line}");
    }
}
