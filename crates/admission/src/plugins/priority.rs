//! Priority: a pod's priority comes from its class; at most one class is the default.

use std::sync::Arc;

use api::Status;
use async_trait::async_trait;
use serde_json::Value;

use crate::json::{at, forbidden, is, object, some};
use crate::{Attributes, Operation, Plugin};

const GROUP: &str = "scheduling.k8s.io";

/// See the module.
pub struct Priority;

async fn default_class(a: &Attributes<'_>) -> Result<Option<Arc<Value>>, Status> {
    let all = a.reader.list(GROUP, "priorityclasses", "").await?;
    let value = |c: &Arc<Value>| c.get("value").and_then(Value::as_i64).unwrap_or(0);
    Ok(all
        .into_iter()
        .filter(|c| c.get("globalDefault").and_then(Value::as_bool) == Some(true))
        .min_by_key(value))
}

#[async_trait]
impl Plugin for Priority {
    fn name(&self) -> &'static str {
        "Priority"
    }

    fn handles(&self, a: &Attributes<'_>) -> bool {
        matches!(a.operation, Operation::Create | Operation::Update)
            && (is(a, "", "pods") || is(a, GROUP, "priorityclasses"))
    }

    async fn admit(
        &self,
        a: &Attributes<'_>,
        pod: Option<&mut Value>,
        old: Option<&Value>,
    ) -> Result<(), Status> {
        let Some(pod) = pod.filter(|_| a.resource == "pods") else {
            return Ok(());
        };
        if a.operation == Operation::Update {
            for key in ["priority", "preemptionPolicy"] {
                let pointer = format!("/spec/{key}");
                if let Some(v) = old
                    .and_then(|o| some(o, &pointer))
                    .filter(|_| some(pod, &pointer).is_none())
                    && let Some(spec) = object(pod, &["spec"])
                {
                    spec.insert(key.to_owned(), v.clone());
                }
            }
            return Ok(());
        }
        let named = at(pod, "/spec/priorityClassName").to_owned();
        let class = if named.is_empty() {
            default_class(a).await?
        } else {
            let found = a.reader.get(GROUP, "priorityclasses", "", &named).await?;
            let Some(c) = found else {
                return Err(forbidden(
                    a,
                    Some(pod),
                    &format!("no PriorityClass with name {named} was found"),
                ));
            };
            Some(c)
        };
        let (name, value, policy) = match &class {
            Some(c) => (
                at(c, "/metadata/name").to_owned(),
                c.get("value").and_then(Value::as_i64).unwrap_or(0),
                // Absent in storage means the default of the type.
                Some(at(c, "/preemptionPolicy"))
                    .filter(|p| !p.is_empty())
                    .unwrap_or("PreemptLowerPriority"),
            ),
            None => (String::new(), 0, "PreemptLowerPriority"),
        };
        if let Some(given) = pod
            .pointer("/spec/priority")
            .and_then(Value::as_i64)
            .filter(|g| *g != value)
        {
            let why = format!(
                "the integer value of priority ({given}) must not be provided in pod spec; priority admission controller computed {value} from the given PriorityClass name"
            );
            return Err(forbidden(a, Some(pod), &why));
        }
        let given = at(pod, "/spec/preemptionPolicy");
        if !given.is_empty() && given != policy {
            let why = format!(
                "the string value of PreemptionPolicy ({given}) must not be provided in pod spec; priority admission controller computed {policy} from the given PriorityClass name"
            );
            return Err(forbidden(a, Some(pod), &why));
        }
        if let Some(spec) = object(pod, &["spec"]) {
            if !name.is_empty() {
                spec.insert("priorityClassName".into(), name.into());
            }
            spec.insert("priority".into(), value.into());
            spec.insert("preemptionPolicy".into(), policy.into());
        }
        Ok(())
    }

    async fn validate(
        &self,
        a: &Attributes<'_>,
        class: Option<&Value>,
        _: Option<&Value>,
    ) -> Result<(), Status> {
        let Some(class) = class.filter(|_| a.resource == "priorityclasses") else {
            return Ok(());
        };
        if class.get("globalDefault").and_then(Value::as_bool) != Some(true) {
            return Ok(());
        }
        let Some(known) = default_class(a).await? else {
            return Ok(());
        };
        let known = at(&known, "/metadata/name");
        if a.operation == Operation::Create || known != at(class, "/metadata/name") {
            let why = format!(
                "PriorityClass {known} is already marked as default. Only one default can exist"
            );
            return Err(forbidden(a, Some(class), &why));
        }
        Ok(())
    }
}
