//! AlwaysPullImages: images are pulled anew for every container, so that a pod needs the right to its images.

use api::Status;
use async_trait::async_trait;
use serde_json::Value;

use crate::json::{at, containers, forbidden};
use crate::{Attributes, Operation, Plugin};

/// See the module.
pub struct AlwaysPullImages;

#[async_trait]
impl Plugin for AlwaysPullImages {
    fn name(&self) -> &'static str {
        "AlwaysPullImages"
    }

    fn handles(&self, a: &Attributes<'_>) -> bool {
        a.group.is_empty()
            && a.resource == "pods"
            && ["", "ephemeralcontainers"].contains(&a.subresource)
            && matches!(a.operation, Operation::Create | Operation::Update)
    }

    async fn admit(
        &self,
        _: &Attributes<'_>,
        pod: Option<&mut Value>,
        _: Option<&Value>,
    ) -> Result<(), Status> {
        let Some(spec) = pod.and_then(|p| p.get_mut("spec")) else {
            return Ok(());
        };
        for key in ["initContainers", "containers", "ephemeralContainers"] {
            for c in spec
                .get_mut(key)
                .and_then(Value::as_array_mut)
                .into_iter()
                .flatten()
            {
                if let Some(c) = c.as_object_mut() {
                    c.insert("imagePullPolicy".into(), "Always".into());
                }
            }
        }
        Ok(())
    }

    async fn validate(
        &self,
        a: &Attributes<'_>,
        pod: Option<&Value>,
        _: Option<&Value>,
    ) -> Result<(), Status> {
        let Some(pod) = pod else { return Ok(()) };
        match containers(pod).find(|(_, c)| at(c, "/imagePullPolicy") != "Always") {
            None => Ok(()),
            Some((_, c)) => {
                let why = format!(
                    "spec.containers[{}].imagePullPolicy: Unsupported value: {:?}: supported values: \"Always\"",
                    at(c, "/name"),
                    at(c, "/imagePullPolicy")
                );
                Err(forbidden(a, Some(pod), &why))
            }
        }
    }
}
