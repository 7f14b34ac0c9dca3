//! `serviceaccounts/token`: TokenRequest.

use std::sync::Arc;

use api::Status;
use apiserver::resource::{ActionSubresource, Context, ObjectWriter};
use async_trait::async_trait;
use serde_json::{Value, json};

use crate::validate::{Errors, Path};
use crate::value::Tree;

/// An object that a token is bound to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bound {
    /// `Pod`, `Secret`, `Node`.
    pub kind: &'static str,
    /// Its name.
    pub name: String,
    /// Its UID; empty for a node that does not exist.
    pub uid: String,
}

/// What a token is to say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grant {
    /// The service account's namespace.
    pub namespace: String,
    /// The service account's name.
    pub name: String,
    /// The service account's UID.
    pub uid: String,
    /// For whom; empty for the issuer's own audiences.
    pub audiences: Vec<String>,
    /// The life asked for.
    pub expiration_seconds: i64,
    /// A pod, secret or node, and for a pod also its node.
    pub bound: Vec<Bound>,
}

/// A signed token.
#[derive(Clone, Debug)]
pub struct Issued {
    /// The JWT.
    pub token: String,
    /// RFC 3339: when clients should have replaced it.
    pub expiration: String,
    /// The audiences it carries.
    pub audiences: Vec<String>,
    /// The life granted.
    pub expiration_seconds: i64,
}

/// Signs service account tokens.
#[async_trait]
pub trait TokenIssuer: Send + Sync + 'static {
    /// A token for a grant.
    async fn issue(&self, grant: &Grant) -> Result<Issued, Status>;
}

/// The subresource.
pub struct TokenRequest {
    /// Who signs.
    pub issuer: Option<Arc<dyn TokenIssuer>>,
}

const GROUP: &str = "authentication.k8s.io";

fn mismatch(field: &str, value: &str, name: &str) -> Status {
    let mut e = Errors::new();
    e.invalid(
        &Path::new("metadata").child(field),
        value,
        &format!("must match the service account {field} if specified"),
    );
    Status::invalid(GROUP, "TokenRequest", name, &e)
}

fn validate(body: &Value) -> Result<(), Status> {
    let mut e = Errors::new();
    let p = Path::new("spec").child("expirationSeconds");
    let seconds = body.int("spec.expirationSeconds");
    if seconds < 600 {
        e.invalid(
            &p,
            seconds,
            "may not specify a duration less than 10 minutes",
        );
    }
    if seconds > 1 << 32 {
        e.invalid(
            &p,
            seconds,
            "may not specify a duration larger than 2^32 seconds",
        );
    }
    if e.is_empty() {
        Ok(())
    } else {
        Err(Status::invalid(GROUP, "TokenRequest", "", &e))
    }
}

async fn bound(
    ctx: &Context<'_>,
    writer: &dyn ObjectWriter,
    body: &Value,
) -> Result<Vec<Bound>, Status> {
    let r = body.at("spec.boundObjectRef");
    if r.is_null() {
        return Ok(vec![]);
    }
    let core = r.text("apiVersion") == "v1" || r.text("apiVersion").is_empty();
    let name = r.text("name");
    let (kind, resource, namespace) = match (core, r.text("kind")) {
        (true, "Pod") => ("Pod", "pods", ctx.namespace),
        (true, "Secret") => ("Secret", "secrets", ctx.namespace),
        (true, "Node") => ("Node", "nodes", ""),
        (_, kind) => {
            let (group, version) = r
                .text("apiVersion")
                .split_once('/')
                .unwrap_or(("", r.text("apiVersion")));
            return Err(Status::bad_request(format!(
                "cannot bind token to object of type {group}/{version}, Kind={kind}"
            )));
        }
    };
    let object = writer.read("", resource, namespace, name).await?;
    let mut out = vec![];
    let uid = object.text("metadata.uid");
    if kind == "Pod" {
        if object.text("spec.serviceAccountName") != ctx.name {
            return Err(Status::bad_request(format!(
                "cannot bind token for serviceaccount {:?} to pod running with different serviceaccount name.",
                ctx.name
            )));
        }
        let node = object.text("spec.nodeName");
        if !node.is_empty() {
            let found = ctx.reader.get("", "nodes", "", node).await?;
            let uid = found
                .map(|n| n.text("metadata.uid").to_owned())
                .unwrap_or_default();
            out.push(Bound {
                kind: "Node",
                name: node.to_owned(),
                uid,
            });
        }
    }
    let asked = r.text("uid");
    if !asked.is_empty() && asked != uid {
        return Err(Status::conflict(
            "",
            kind,
            name,
            &format!(
                "the UID in the bound object reference ({asked}) does not match the UID in record. The object might have been deleted and then recreated"
            ),
        ));
    }
    out.insert(
        0,
        Bound {
            kind,
            name: name.to_owned(),
            uid: uid.to_owned(),
        },
    );
    Ok(out)
}

#[async_trait]
impl ActionSubresource for TokenRequest {
    async fn post(
        &self,
        ctx: &Context<'_>,
        writer: &dyn ObjectWriter,
        mut body: Value,
    ) -> Result<(u16, Value), Status> {
        let Some(issuer) = &self.issuer else {
            return Err(Status::no_such_path());
        };
        for (field, want) in [("name", ctx.name), ("namespace", ctx.namespace)] {
            let has = body.at("metadata").text(field);
            if !has.is_empty() && has != want {
                return Err(mismatch(field, has, ctx.name));
            }
        }
        let account = writer
            .read("", "serviceaccounts", ctx.namespace, ctx.name)
            .await?;
        let uid = account.text("metadata.uid").to_owned();
        let asked = body.text("metadata.uid");
        if !asked.is_empty() && asked != uid {
            return Err(Status::conflict(
                GROUP,
                "TokenRequest",
                ctx.name,
                &format!(
                    "the UID in the token request ({asked}) does not match the UID of the service account ({uid})"
                ),
            ));
        }
        body.put_if_absent("spec.expirationSeconds", 3600);
        validate(&body)?;
        let grant = Grant {
            namespace: ctx.namespace.to_owned(),
            name: ctx.name.to_owned(),
            uid: uid.clone(),
            audiences: body
                .texts("spec.audiences")
                .iter()
                .map(|a| (*a).to_owned())
                .collect(),
            expiration_seconds: body.int("spec.expirationSeconds"),
            bound: bound(ctx, writer, &body).await?,
        };
        let issued = issuer.issue(&grant).await?;
        let mut spec = json!({
            "audiences": issued.audiences, "expirationSeconds": issued.expiration_seconds, "boundObjectRef": null,
        });
        spec.copy_at("boundObjectRef", body.at("spec"));
        if spec.at("boundObjectRef").is_null() {
            spec.put("boundObjectRef", Value::Null);
        }
        Ok((
            201,
            json!({
                "kind": "TokenRequest", "apiVersion": "authentication.k8s.io/v1",
                "metadata": {
                    "name": ctx.name, "namespace": ctx.namespace, "uid": uid, "creationTimestamp": ctx.now,
                },
                "spec": spec,
                "status": {"token": issued.token, "expirationTimestamp": issued.expiration},
            }),
        ))
    }
}
