//! StorageObjectInUseProtection: claims and volumes get the finalizer that keeps them while they are used.

use api::Status;
use async_trait::async_trait;
use serde_json::Value;

use crate::json::{array, object};
use crate::{Attributes, Operation, Plugin};

/// See the module.
pub struct StorageObjectInUseProtection;

fn finalizer(a: &Attributes<'_>) -> Option<&'static str> {
    match (a.group, a.resource, a.subresource) {
        ("", "persistentvolumeclaims", "") => Some("kubernetes.io/pvc-protection"),
        ("", "persistentvolumes", "") => Some("kubernetes.io/pv-protection"),
        ("storage.k8s.io", "volumeattributesclasses", "") => Some("kubernetes.io/vac-protection"),
        _ => None,
    }
}

#[async_trait]
impl Plugin for StorageObjectInUseProtection {
    fn name(&self) -> &'static str {
        "StorageObjectInUseProtection"
    }

    fn handles(&self, a: &Attributes<'_>) -> bool {
        a.operation == Operation::Create && finalizer(a).is_some()
    }

    async fn admit(
        &self,
        a: &Attributes<'_>,
        new: Option<&mut Value>,
        _: Option<&Value>,
    ) -> Result<(), Status> {
        let (Some(new), Some(name)) = (new, finalizer(a)) else {
            return Ok(());
        };
        if let Some(all) = object(new, &["metadata"]).and_then(|m| array(m, "finalizers"))
            && !all.iter().any(|f| f == name)
        {
            all.push(name.into());
        }
        Ok(())
    }
}
