//! certificatesigningrequest-approving-controller: approves the client certificates of kubelets, where who asks may have them
//! (`create` of `certificatesigningrequests/selfnodeclient` or `nodeclient`).
//!
//! Invariants: only requests that the signer would sign for a kubelet are looked at; what is approved is what was looked at,
//! since the spec of a request does not change; a request that has been decided is left alone.

use client::resource::{CERTIFICATE_SIGNING_REQUESTS, SUBJECT_ACCESS_REVIEWS};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{Error, KUBELET_CLIENT, SigningRequest, SigningRequestStatus, kubelet_client};
use crate::context::{Context, rewrite};

/// A subresource that who asks must be allowed to create, and what is told then.
type Way = (&'static str, &'static str);

const OWN: Way = (
    "selfnodeclient",
    "Auto approving self kubelet client certificate after SubjectAccessReview.",
);
const ANY: Way = (
    "nodeclient",
    "Auto approving kubelet client certificate after SubjectAccessReview.",
);

/// The ways in which a request may be approved, in the order in which they are tried.
///
/// # Errors
/// For a request that cannot be read.
pub fn decide(request: &SigningRequest) -> Result<&'static [Way], String> {
    let status = &request.status;
    if !status.certificate.0.is_empty() || status.has("Approved") || status.has("Denied") {
        return Ok(&[]);
    }
    let asked = request.asked()?;
    let spec = &request.spec;
    if spec.signer_name != KUBELET_CLIENT || kubelet_client(&asked, &spec.usages).is_err() {
        return Ok(&[]);
    }
    Ok(if spec.username == asked.common_name {
        &[OWN, ANY]
    } else {
        &[ANY]
    })
}

/// Starts the controller.
pub fn start(ctx: Context) {
    let client = ctx.client.clone();
    super::watch(&ctx, "certificate_approving", move |request| {
        let client = client.clone();
        async move { approve(&client, &request).await }
    });
}

async fn approve(client: &client::Client, request: &SigningRequest) -> Result<(), Error> {
    let ways = decide(request).map_err(Error::Request)?;
    for (subresource, message) in ways {
        if !may(client, request, subresource).await? {
            continue;
        }
        let condition = json!({
            "type": "Approved", "status": "True", "reason": "AutoApproved", "message": message,
        });
        let api = client.api(&CERTIFICATE_SIGNING_REQUESTS);
        let (name, uid) = (&request.metadata.name, &request.metadata.uid);
        rewrite(&api, name, uid, "approval", |object| {
            let undecided = |s: SigningRequestStatus| !s.has("Approved") && !s.has("Denied");
            if !SigningRequestStatus::of(object).is_some_and(undecided) {
                return false;
            }
            super::add_condition(object, condition.clone());
            true
        })
        .await?;
        return Ok(());
    }
    if ways.is_empty() {
        return Ok(());
    }
    let name = api::text::go_quote(&request.metadata.name);
    let tried: Vec<&str> = ways.iter().map(|w| w.0).collect();
    Err(Error::Request(format!(
        "recognized csr {name} as [{}] but subject access review was not approved",
        tried.join(" ")
    )))
}

/// Whether who made the request may create the subresource.
async fn may(
    client: &client::Client,
    request: &SigningRequest,
    subresource: &str,
) -> Result<bool, client::Error> {
    #[derive(Default, Deserialize)]
    #[serde(default)]
    struct Review {
        status: Status,
    }
    #[derive(Default, Deserialize)]
    #[serde(default)]
    struct Status {
        allowed: bool,
    }
    let spec = &request.spec;
    let review: Value = json!({
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SubjectAccessReview",
        "spec": {
            "user": spec.username, "uid": spec.uid, "groups": spec.groups, "extra": spec.extra,
            "resourceAttributes": {
                "group": "certificates.k8s.io", "version": "*", "resource": "certificatesigningrequests",
                "subresource": subresource, "verb": "create",
            },
        },
    });
    let api = client.api(&SUBJECT_ACCESS_REVIEWS);
    let review: Review = api.create(&review).await?;
    Ok(review.status.allowed)
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::super::tests::{request, words};
    use super::*;
    use crate::views::{Blob, Condition};

    const USAGES: [&str; 3] = ["key encipherment", "digital signature", "client auth"];

    fn kubelet() -> SigningRequest {
        let mut r = SigningRequest::default();
        r.metadata.name = "csr-1".into();
        r.metadata.uid = "u".into();
        r.spec.signer_name = KUBELET_CLIENT.into();
        r.spec.username = "system:node:foo".into();
        r.spec.usages = words(&USAGES);
        r.spec.request = Blob(request("system:node:foo", &["system:nodes"], &[]).into());
        r
    }

    #[test]
    fn whose_requests_are_recognized() {
        type Change = fn(&mut SigningRequest);
        let (own, any, none): (&[Way], &[Way], &[Way]) = (&[OWN, ANY], &[ANY], &[]);
        let cases: [(&str, Change, &[Way]); 13] = [
            ("its own", |_| {}, own),
            (
                "without encipherment",
                |r| {
                    r.spec.usages.remove(0);
                },
                own,
            ),
            ("for another", |r| r.spec.username = "joe".into(), any),
            (
                "of another",
                |r| {
                    r.spec.request = Blob(request("system:node:bar", &["system:nodes"], &[]).into())
                },
                any,
            ),
            (
                "no node",
                |r| r.spec.request = Blob(request("mike", &["system:nodes"], &[]).into()),
                none,
            ),
            (
                "no group",
                |r| r.spec.request = Blob(request("system:node:foo", &[], &[]).into()),
                none,
            ),
            (
                "another group",
                |r| {
                    r.spec.request =
                        Blob(request("system:node:foo", &["system:master"], &[]).into())
                },
                none,
            ),
            (
                "a name",
                |r| {
                    r.spec.request =
                        Blob(request("system:node:foo", &["system:nodes"], &["a.b"]).into())
                },
                none,
            ),
            (
                "a server",
                |r| r.spec.usages.push("server auth".into()),
                none,
            ),
            (
                "somebody else's signer",
                |r| r.spec.signer_name = "example.com/not-correct".into(),
                none,
            ),
            (
                "another signer",
                |r| r.spec.signer_name = super::super::KUBELET_SERVING.into(),
                none,
            ),
            (
                "decided",
                |r| {
                    r.status.conditions = vec![Condition {
                        kind: "Denied".into(),
                        ..Default::default()
                    }]
                },
                none,
            ),
            (
                "signed",
                |r| r.status.certificate = Blob(b"x".to_vec()),
                none,
            ),
        ];
        for (what, change, want) in cases {
            let mut r = kubelet();
            change(&mut r);
            assert_eq!(decide(&r), Ok(want), "{what}");
        }
        let mut unreadable = kubelet();
        unreadable.spec.request = Blob(b"x".to_vec());
        let why = "unable to parse csr \"csr-1\": signing request: PEM block type must be CERTIFICATE REQUEST";
        assert_eq!(decide(&unreadable), Err(why.into()));
    }

    #[tokio::test]
    async fn those_who_may_are_approved() {
        for (what, username, allowed, decided, asked, approved) in [
            (
                "itself",
                "system:node:foo",
                &["selfnodeclient"][..],
                false,
                1,
                true,
            ),
            (
                "any, also itself",
                "system:node:foo",
                &["nodeclient"],
                false,
                2,
                true,
            ),
            ("any", "joe", &["nodeclient"], false, 1, true),
            ("itself only", "joe", &["selfnodeclient"], false, 1, false),
            ("nobody", "system:node:foo", &[], false, 2, false),
            ("decided in between", "joe", &["nodeclient"], true, 1, false),
        ] {
            let mut r = kubelet();
            r.spec.username = username.into();
            r.spec.groups = words(&["g"]);
            r.spec.extra = [("k".to_owned(), words(&["v"]))].into();
            let log: Arc<Mutex<Vec<(String, Value)>>> = Arc::default();
            let told = log.clone();
            let apiserver = testkit::apiserver::serve(move |asked, client| {
                let told = told.clone();
                async move {
                    told.lock().unwrap().push((
                        format!("{} {}", asked.method, asked.target),
                        asked.body.clone(),
                    ));
                    let answer = match asked.method.as_str() {
                        "POST" => {
                            let of = &asked.body["spec"]["resourceAttributes"]["subresource"];
                            json!({"status": {"allowed": allowed.iter().any(|a| a == of)}})
                        }
                        "GET" => {
                            let conditions = if decided {
                                json!([{"type": "Denied", "status": "True"}])
                            } else {
                                json!([])
                            };
                            json!({"metadata": {"name": "csr-1", "uid": "u", "resourceVersion": "7"}, "status": {"conditions": conditions}})
                        }
                        _ => asked.body,
                    };
                    client.send(200, &answer).await
                }
            });
            let config = testkit::apiserver::kubeconfig(apiserver.await);
            let client = client::Client::from_kubeconfig(config.path(), client::Options::default());
            let got = approve(&client.await.unwrap(), &r).await;
            assert_eq!(got.is_ok(), approved || decided, "{what}");
            if let Err(e) = got {
                let tried = if username == "joe" {
                    "[nodeclient]"
                } else {
                    "[selfnodeclient nodeclient]"
                };
                let why = format!(
                    "recognized csr \"csr-1\" as {tried} but subject access review was not approved"
                );
                assert_eq!(e.to_string(), why);
            }
            let log = log.lock().unwrap();
            let reviews: Vec<_> = log.iter().filter(|l| l.0.starts_with("POST")).collect();
            assert_eq!(reviews.len(), asked, "{what}");
            let spec = &reviews[0].1["spec"];
            assert_eq!(
                (&spec["user"], &spec["groups"], &spec["extra"]),
                (&json!(username), &json!(["g"]), &json!({"k": ["v"]}))
            );
            assert_eq!(
                (
                    &spec["resourceAttributes"]["verb"],
                    &spec["resourceAttributes"]["version"]
                ),
                (&json!("create"), &json!("*"))
            );
            let put = log.iter().find(|l| l.0.starts_with("PUT"));
            assert_eq!(put.is_some(), approved, "{what}");
            if let Some((path, body)) = put {
                assert!(
                    path.ends_with("/certificatesigningrequests/csr-1/approval"),
                    "{path}"
                );
                let c = &body["status"]["conditions"][0];
                assert_eq!(
                    (&c["type"], &c["status"], &c["reason"]),
                    (&json!("Approved"), &json!("True"), &json!("AutoApproved"))
                );
                assert_eq!(body["metadata"]["resourceVersion"], "7");
            }
        }
    }
}
