//! DefaultIngressClass: an ingress that names no class gets the default one, if there is one.

use api::Status;
use async_trait::async_trait;
use serde_json::Value;

use crate::json::{default_of, is, object};
use crate::{Attributes, Operation, Plugin};

/// See the module.
pub struct DefaultIngressClass;

#[async_trait]
impl Plugin for DefaultIngressClass {
    fn name(&self) -> &'static str {
        "DefaultIngressClass"
    }

    fn handles(&self, a: &Attributes<'_>) -> bool {
        is(a, "networking.k8s.io", "ingresses") && a.operation == Operation::Create
    }

    async fn admit(
        &self,
        a: &Attributes<'_>,
        ingress: Option<&mut Value>,
        _: Option<&Value>,
    ) -> Result<(), Status> {
        let Some(ingress) = ingress else {
            return Ok(());
        };
        let named = ingress
            .pointer("/spec/ingressClassName")
            .is_some_and(|n| !n.is_null())
            || ingress
                .pointer("/metadata/annotations/kubernetes.io~1ingress.class")
                .is_some();
        if named {
            return Ok(());
        }
        let classes = a
            .reader
            .list("networking.k8s.io", "ingressclasses", "")
            .await?;
        if let Some(name) = default_of(&classes, "ingressclass.kubernetes.io/is-default-class")
            && let Some(spec) = object(ingress, &["spec"])
        {
            spec.insert("ingressClassName".into(), name.into());
        }
        Ok(())
    }
}
