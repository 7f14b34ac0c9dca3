//! NamespaceLifecycle: nothing is created in a namespace that is missing or going away; three namespaces stay.

use api::Status;
use api::status::StatusCause;
use async_trait::async_trait;
use serde_json::Value;

use crate::json::{at, forbidden};
use crate::{Attributes, Operation, Plugin};

const IMMORTAL: [&str; 3] = ["default", "kube-system", "kube-public"];

/// See the module.
pub struct NamespaceLifecycle;

#[async_trait]
impl Plugin for NamespaceLifecycle {
    fn name(&self) -> &'static str {
        "NamespaceLifecycle"
    }

    fn handles(&self, a: &Attributes<'_>) -> bool {
        let namespaces = a.group.is_empty() && a.resource == "namespaces";
        match a.operation {
            Operation::Delete => namespaces,
            Operation::Create | Operation::Update => !namespaces && !a.namespace.is_empty(),
            Operation::Connect => false,
        }
    }

    async fn admit(
        &self,
        a: &Attributes<'_>,
        object: Option<&mut Value>,
        _: Option<&Value>,
    ) -> Result<(), Status> {
        if a.operation == Operation::Delete {
            if IMMORTAL.contains(&a.name) && a.subresource.is_empty() {
                return Err(Status::forbidden(
                    "",
                    "namespaces",
                    a.name,
                    "this namespace may not be deleted",
                ));
            }
            return Ok(());
        }
        // May be asked in a namespace that does not exist.
        if a.group == "authorization.k8s.io" && a.resource == "localsubjectaccessreviews" {
            return Ok(());
        }
        let Some(ns) = a.reader.get("", "namespaces", "", a.namespace).await? else {
            return Err(Status::not_found("", "namespaces", a.namespace));
        };
        let ending = at(&ns, "/status/phase") == "Terminating"
            || ns
                .pointer("/metadata/deletionTimestamp")
                .is_some_and(|t| !t.is_null());
        if a.operation != Operation::Create || !ending {
            return Ok(());
        }
        let why = format!(
            "unable to create new content in namespace {} because it is being terminated",
            a.namespace
        );
        let mut status = forbidden(a, object.as_deref(), &why);
        if let Some(d) = status.details.as_mut() {
            d.causes.push(StatusCause {
                reason: "NamespaceTerminating".into(),
                message: format!("namespace {} is being terminated", a.namespace),
                field: "metadata.namespace".into(),
            });
        }
        Err(status)
    }
}
