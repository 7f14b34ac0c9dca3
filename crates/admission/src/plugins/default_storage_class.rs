//! DefaultStorageClass: a claim that names no class gets the default one, if there is one.

use api::Status;
use async_trait::async_trait;
use serde_json::Value;

use crate::json::{default_of, is, object};
use crate::{Attributes, Operation, Plugin};

/// See the module.
pub struct DefaultStorageClass;

#[async_trait]
impl Plugin for DefaultStorageClass {
    fn name(&self) -> &'static str {
        "DefaultStorageClass"
    }

    fn handles(&self, a: &Attributes<'_>) -> bool {
        is(a, "", "persistentvolumeclaims") && a.operation == Operation::Create
    }

    async fn admit(
        &self,
        a: &Attributes<'_>,
        claim: Option<&mut Value>,
        _: Option<&Value>,
    ) -> Result<(), Status> {
        let Some(claim) = claim else { return Ok(()) };
        // An empty name is an answer: no class.
        let named = claim
            .pointer("/spec/storageClassName")
            .is_some_and(|n| !n.is_null())
            || claim
                .pointer("/metadata/annotations/volume.beta.kubernetes.io~1storage-class")
                .is_some();
        if named {
            return Ok(());
        }
        let classes = a
            .reader
            .list("storage.k8s.io", "storageclasses", "")
            .await?;
        if let Some(name) = default_of(&classes, "storageclass.kubernetes.io/is-default-class")
            && let Some(spec) = object(claim, &["spec"])
        {
            spec.insert("storageClassName".into(), name.into());
        }
        Ok(())
    }
}
