//! PersistentVolumeClaimResize: a claim grows only where its storage class lets it.

use api::Status;
use api::quant;
use async_trait::async_trait;
use serde_json::Value;

use crate::json::{at, forbidden, is};
use crate::{Attributes, Operation, Plugin};

/// See the module.
pub struct PersistentVolumeClaimResize;

/// The annotation counts before the field.
fn class(claim: &Value) -> &str {
    match at(
        claim,
        "/metadata/annotations/volume.beta.kubernetes.io~1storage-class",
    ) {
        "" => at(claim, "/spec/storageClassName"),
        named => named,
    }
}

#[async_trait]
impl Plugin for PersistentVolumeClaimResize {
    fn name(&self) -> &'static str {
        "PersistentVolumeClaimResize"
    }

    fn handles(&self, a: &Attributes<'_>) -> bool {
        is(a, "", "persistentvolumeclaims") && a.operation == Operation::Update
    }

    async fn validate(
        &self,
        a: &Attributes<'_>,
        claim: Option<&Value>,
        old: Option<&Value>,
    ) -> Result<(), Status> {
        let (Some(claim), Some(old)) = (claim, old) else {
            return Ok(());
        };
        let size = |v: &Value| {
            v.pointer("/spec/resources/requests/storage")
                .map(quant::of)
                .unwrap_or_default()
        };
        if size(claim) <= size(old) {
            return Ok(());
        }
        if at(old, "/status/phase") != "Bound" {
            let why = "Only bound persistent volume claims can be expanded";
            return Err(forbidden(a, Some(claim), why));
        }
        let name = class(claim);
        let allowed = if name.is_empty() || name != class(old) {
            false
        } else {
            let found = a
                .reader
                .get("storage.k8s.io", "storageclasses", "", name)
                .await?;
            found.is_some_and(|c| {
                c.get("allowVolumeExpansion").and_then(Value::as_bool) == Some(true)
            })
        };
        if allowed {
            return Ok(());
        }
        let why = "only dynamically provisioned pvc can be resized and the storageclass that provisions the pvc must support resize";
        Err(forbidden(a, Some(claim), why))
    }
}
