//! The controllers of certificate signing requests: [`approving`], [`signing`] and [`cleaning`].

pub mod approving;
pub mod cleaning;
pub mod signing;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use client::resource::CERTIFICATE_SIGNING_REQUESTS;
use client::{Change, ObjectKey, ObjectMeta, views};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::context::Context;
use crate::views::{Blob, Condition};

/// `certificates.k8s.io/v1.CertificateSigningRequest`
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct SigningRequest {
    /// Metadata.
    pub metadata: ObjectMeta,
    /// Spec.
    pub spec: SigningRequestSpec,
    /// Status.
    pub status: SigningRequestStatus,
}

views!(SigningRequest);

/// `certificates.k8s.io/v1.CertificateSigningRequestSpec`
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[expect(missing_docs, reason = "fields are the API's")]
pub struct SigningRequestSpec {
    pub request: Blob,
    pub signer_name: String,
    pub expiration_seconds: Option<i32>,
    pub usages: Vec<String>,
    pub username: String,
    pub uid: String,
    pub groups: Vec<String>,
    pub extra: BTreeMap<String, Vec<String>>,
}

/// `certificates.k8s.io/v1.CertificateSigningRequestStatus`
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
#[expect(missing_docs, reason = "fields are the API's")]
pub struct SigningRequestStatus {
    pub conditions: Vec<Condition>,
    pub certificate: Blob,
}

/// Of kubelets, towards the apiserver.
const KUBELET_CLIENT: &str = "kubernetes.io/kube-apiserver-client-kubelet";
/// Of kubelets, as servers.
const KUBELET_SERVING: &str = "kubernetes.io/kubelet-serving";
/// Of anybody, towards the apiserver.
const CLIENT: &str = "kubernetes.io/kube-apiserver-client";
/// Of anybody, for anything.
const LEGACY: &str = "kubernetes.io/legacy-unknown";

impl SigningRequest {
    /// The request in PEM.
    fn pem(&self) -> Result<&str, String> {
        std::str::from_utf8(&self.spec.request.0).map_err(|e| self.unreadable(e))
    }

    /// What is asked for.
    fn asked(&self) -> Result<pki::csr::Request, String> {
        pki::csr::parse(self.pem()?).map_err(|e| self.unreadable(e))
    }

    fn unreadable(&self, why: impl std::fmt::Display) -> String {
        let name = api::text::go_quote(&self.metadata.name);
        format!("unable to parse csr {name}: {why}")
    }
}

impl SigningRequestStatus {
    fn has(&self, kind: &str) -> bool {
        self.conditions.iter().any(|c| c.kind == kind)
    }

    /// Whether it may be signed.
    fn is_approved(&self) -> bool {
        self.has("Approved") && !self.has("Denied")
    }

    fn has_failed(&self) -> bool {
        let mut of_kind = self.conditions.iter().filter(|c| c.kind == "Failed");
        of_kind.any(|c| c.status.is_empty() || c.status == "True")
    }

    /// Whether it is to be signed, or refused for good.
    fn waits_for_a_signer(&self) -> bool {
        self.certificate.0.is_empty() && self.is_approved() && !self.has_failed()
    }

    /// The status of an object as it is now; none that cannot be read, since it may say no.
    fn of(object: &Value) -> Option<SigningRequestStatus> {
        match object.get("status") {
            Some(status) => serde_json::from_value(status.clone()).ok(),
            None => Some(SigningRequestStatus::default()),
        }
    }
}

/// Puts a condition at the end of an object's.
fn add_condition(object: &mut Value, condition: Value) {
    let Some(status) = object.as_object_mut().map(|o| o.entry("status")) else {
        return;
    };
    let status = status.or_insert_with(|| json!({}));
    match status.get_mut("conditions").and_then(Value::as_array_mut) {
        Some(all) => all.push(condition),
        None => {
            if let Some(status) = status.as_object_mut() {
                status.insert("conditions".into(), json!([condition]));
            }
        }
    }
}

/// Why a request could not be dealt with.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The apiserver's word.
    #[error(transparent)]
    Client(#[from] client::Error),
    /// The request itself, or what it would be signed with.
    #[error("{0}")]
    Request(String),
}

/// The policy of what a kubelet may ask for, which both the approver and the signer hold it to.
///
/// # Errors
/// Upstream's message.
fn kubelet_client(asked: &pki::csr::Request, usages: &[String]) -> Result<(), String> {
    kubelet(asked)?;
    let unwanted = [
        (&asked.dns_names.is_empty(), "DNS"),
        (&asked.emails.is_empty(), "Email"),
        (&asked.ips.is_empty(), "IP"),
        (&asked.uris.is_empty(), "URI"),
    ];
    if let Some((_, kind)) = unwanted.iter().find(|(empty, _)| !**empty) {
        return Err(format!("{kind} subjectAltNames are not allowed"));
    }
    kubelet_name(asked)?;
    kubelet_usages(usages, "client auth")
}

/// As [`kubelet_client`], of a kubelet's port.
///
/// # Errors
/// Upstream's message.
fn kubelet_serving(asked: &pki::csr::Request, usages: &[String]) -> Result<(), String> {
    kubelet(asked)?;
    if asked.dns_names.is_empty() && asked.ips.is_empty() {
        return Err("DNS or IP subjectAltName is required".into());
    }
    for (empty, kind) in [
        (asked.emails.is_empty(), "Email"),
        (asked.uris.is_empty(), "URI"),
    ] {
        if !empty {
            return Err(format!("{kind} subjectAltNames are not allowed"));
        }
    }
    kubelet_usages(usages, "server auth")?;
    kubelet_name(asked)
}

fn kubelet(asked: &pki::csr::Request) -> Result<(), String> {
    match asked.organizations[..] {
        [ref one] if one == "system:nodes" => Ok(()),
        _ => Err("subject organization is not system:nodes".into()),
    }
}

fn kubelet_name(asked: &pki::csr::Request) -> Result<(), String> {
    if asked.common_name.starts_with("system:node:") {
        Ok(())
    } else {
        Err("subject common name does not begin with system:node:".into())
    }
}

/// All of them; encipherment only where the key can do it.
fn kubelet_usages(usages: &[String], auth: &str) -> Result<(), String> {
    let has = |usage: &str| usages.iter().any(|u| u == usage);
    let known = |u: &String| u == "digital signature" || u == "key encipherment" || u == auth;
    if has("digital signature") && has(auth) && usages.iter().all(known) {
        return Ok(());
    }
    // As Go prints a sorted set.
    let mut all = ["digital signature", "key encipherment", auth];
    all.sort_unstable();
    Err(format!("usages did not match [{}]", all.join(" ")))
}

/// Has every request that has no certificate looked at, again after a failure.
fn watch<F, Fut>(ctx: &Context, name: &'static str, look: F)
where
    F: Fn(Arc<SigningRequest>) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<(), Error>> + Send,
{
    let requests = ctx.informer::<SigningRequest>(&CERTIFICATE_SIGNING_REQUESTS);
    let queue = ctx.queue_with_limits(name, Duration::from_millis(200), Duration::from_secs(1000));
    let q = queue.clone();
    requests.on_change(move |change| {
        if !matches!(change, Change::Deleted(_)) {
            q.add(ObjectKey::of(&**change.object()));
        }
    });
    let (requests, look) = (requests.store(), Arc::new(look));
    ctx.run(queue, 5, move |key| {
        let (request, look) = (requests.get_key(&key), look.clone());
        async move {
            match request {
                Some(r) if r.status.certificate.0.is_empty() => look(r).await.map(|()| None),
                _ => Ok(None),
            }
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A request of a subject: common name, organizations, DNS names.
    pub fn request(name: &str, organizations: &[&str], dns: &[&str]) -> String {
        let spec = pki::cert::Spec {
            common_name: name.into(),
            organization: organizations.first().map(|o| (*o).to_owned()),
            sans: dns.iter().map(|n| (*n).to_owned()).collect(),
            usage: pki::cert::Use::Client,
        };
        pki::csr::create(&spec, &pki::key::generate().unwrap()).unwrap()
    }

    pub fn words(words: &[&str]) -> Vec<String> {
        words.iter().map(|w| (*w).to_owned()).collect()
    }

    #[test]
    fn what_kubelets_may_ask_for() {
        type Change = fn(&mut pki::csr::Request);
        let both = ["digital signature", "key encipherment"];
        let organization = "subject organization is not system:nodes";
        let name = "subject common name does not begin with system:node:";
        let cases: [(&str, Change, &str, &str); 12] = [
            ("as it should be", |_| {}, "", ""),
            (
                "nobody",
                |r| r.organizations.clear(),
                organization,
                organization,
            ),
            (
                "somebody",
                |r| r.organizations = words(&["system:masters"]),
                organization,
                organization,
            ),
            (
                "more",
                |r| r.organizations.push("system:masters".into()),
                organization,
                organization,
            ),
            ("no node", |r| r.common_name = "mike".into(), name, name),
            ("no name", |r| r.common_name.clear(), name, name),
            (
                "a node of that name",
                |r| r.common_name = "System:node:a".into(),
                name,
                name,
            ),
            (
                "no host",
                |r| r.dns_names.clear(),
                "",
                "DNS or IP subjectAltName is required",
            ),
            (
                "an address",
                |r| {
                    r.dns_names.clear();
                    r.ips.push([1, 2, 3, 4].into())
                },
                "IP subjectAltNames are not allowed",
                "",
            ),
            (
                "a name and an address",
                |r| r.ips.push([1, 2, 3, 4].into()),
                "IP subjectAltNames are not allowed",
                "",
            ),
            (
                "a mailbox",
                |r| r.emails.push("a@b".into()),
                "Email subjectAltNames are not allowed",
                "Email subjectAltNames are not allowed",
            ),
            (
                "a page",
                |r| r.uris.push("a:b".into()),
                "URI subjectAltNames are not allowed",
                "URI subjectAltNames are not allowed",
            ),
        ];
        for (what, change, client, serving) in cases {
            let mut asked = pki::csr::Request {
                common_name: "system:node:a".into(),
                organizations: words(&["system:nodes"]),
                dns_names: words(&["a.example"]),
                ..Default::default()
            };
            change(&mut asked);
            let got = kubelet_serving(&asked, &words(&[both[0], both[1], "server auth"]));
            assert_eq!(got.err().unwrap_or_default(), serving, "{what}");
            asked.dns_names.clear();
            let got = kubelet_client(&asked, &words(&[both[0], both[1], "client auth"]));
            assert_eq!(got.err().unwrap_or_default(), client, "{what}");
        }
        let named = pki::csr::Request {
            common_name: "system:node:a".into(),
            organizations: words(&["system:nodes"]),
            dns_names: words(&["a.example"]),
            ..Default::default()
        };
        let got = kubelet_client(&named, &words(&[both[0], "client auth"]));
        assert_eq!(got, Err("DNS subjectAltNames are not allowed".into()));
    }

    #[test]
    fn usages_of_kubelets() {
        for (usages, fits) in [
            (&["digital signature", "client auth"][..], true),
            (
                &[
                    "client auth",
                    "key encipherment",
                    "digital signature",
                    "client auth",
                ],
                true,
            ),
            (&["client auth", "key encipherment"], false),
            (&["digital signature", "key encipherment"], false),
            (&["digital signature", "client auth", "server auth"], false),
            (&["digital signature", "server auth"], false),
            (&["signing", "client auth"], false),
            (&[], false),
        ] {
            let got = kubelet_usages(&words(usages), "client auth");
            assert_eq!(got.is_ok(), fits, "{usages:?}");
            if let Err(why) = got {
                assert_eq!(
                    why,
                    "usages did not match [client auth digital signature key encipherment]"
                );
            }
        }
    }

    #[test]
    fn conditions() {
        for (conditions, approved, failed) in [
            (&[][..], false, false),
            (&[("Denied", "True")], false, false),
            (&[("Approved", "True")], true, false),
            (&[("Approved", "")], true, false),
            (&[("Approved", "True"), ("Denied", "True")], false, false),
            (&[("Approved", "True"), ("Failed", "")], true, true),
            (&[("Approved", "True"), ("Failed", "False")], true, false),
            (&[("Failed", "True")], false, true),
        ] {
            let condition = |(kind, status): &(&str, &str)| Condition {
                kind: (*kind).into(),
                status: (*status).into(),
                ..Condition::default()
            };
            let status = SigningRequestStatus {
                conditions: conditions.iter().map(condition).collect(),
                ..Default::default()
            };
            assert_eq!(
                (status.is_approved(), status.has_failed()),
                (approved, failed),
                "{conditions:?}"
            );
        }
    }
}
