//! RuntimeClass: a pod takes over its class's overhead and scheduling constraints.

use std::sync::Arc;

use api::Status;
use async_trait::async_trait;
use serde_json::Value;

use crate::json::{array, at, forbidden, is, list, object, some};
use crate::{Attributes, Operation, Plugin};

/// See the module.
pub struct RuntimeClass;

const MISMATCH: &str = "pod rejected: Pod's Overhead doesn't match RuntimeClass's defined Overhead";

async fn class(a: &Attributes<'_>, pod: &Value) -> Result<Option<Arc<Value>>, Status> {
    let name = at(pod, "/spec/runtimeClassName");
    if name.is_empty() {
        return Ok(None);
    }
    match a
        .reader
        .get("node.k8s.io", "runtimeclasses", "", name)
        .await?
    {
        Some(c) => Ok(Some(c)),
        None => Err(forbidden(
            a,
            Some(pod),
            &format!("pod rejected: RuntimeClass {name:?} not found"),
        )),
    }
}

#[async_trait]
impl Plugin for RuntimeClass {
    fn name(&self) -> &'static str {
        "RuntimeClass"
    }

    fn handles(&self, a: &Attributes<'_>) -> bool {
        is(a, "", "pods") && a.operation == Operation::Create
    }

    async fn admit(
        &self,
        a: &Attributes<'_>,
        pod: Option<&mut Value>,
        _: Option<&Value>,
    ) -> Result<(), Status> {
        let Some(pod) = pod else { return Ok(()) };
        let Some(class) = class(a, pod).await? else {
            return Ok(());
        };
        if let Some(overhead) = some(&class, "/overhead/podFixed") {
            if some(pod, "/spec/overhead").is_some_and(|o| o != overhead) {
                return Err(forbidden(a, Some(pod), MISMATCH));
            }
            if let Some(spec) = object(pod, &["spec"]) {
                spec.insert("overhead".into(), overhead.clone());
            }
        }
        let selector = class
            .pointer("/scheduling/nodeSelector")
            .and_then(Value::as_object);
        for (k, v) in selector.into_iter().flatten() {
            let (old, new) = (
                pod.pointer("/spec/nodeSelector").and_then(|s| s.get(k)),
                v.as_str().unwrap_or_default(),
            );
            if let Some(old) = old.and_then(Value::as_str).filter(|o| *o != new) {
                let why = format!(
                    "conflict: runtimeClass.scheduling.nodeSelector[{k}] = {new}; pod.spec.nodeSelector[{k}] = {old}"
                );
                return Err(forbidden(a, Some(pod), &why));
            }
            if let Some(s) = object(pod, &["spec", "nodeSelector"]) {
                s.insert(k.clone(), v.clone());
            }
        }
        for t in list(&class, "/scheduling/tolerations") {
            if !list(pod, "/spec/tolerations").contains(t)
                && let Some(all) = object(pod, &["spec"]).and_then(|s| array(s, "tolerations"))
            {
                all.push(t.clone());
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
        let class = class(a, pod).await?;
        let wanted = class.as_ref().and_then(|c| some(c, "/overhead/podFixed"));
        match (some(pod, "/spec/overhead"), wanted) {
            (Some(o), Some(w)) if o != w => Err(forbidden(a, Some(pod), MISMATCH)),
            (Some(_), None) => Err(forbidden(
                a,
                Some(pod),
                "pod rejected: Pod Overhead set without corresponding RuntimeClass defined Overhead",
            )),
            _ => Ok(()),
        }
    }
}
