//! TaintNodesByCondition: a new node takes no pods until it is ready.

use api::Status;
use async_trait::async_trait;
use serde_json::{Value, json};

use crate::json::{array, at, is, list, object};
use crate::{Attributes, Operation, Plugin};

/// See the module.
pub struct TaintNodesByCondition;

#[async_trait]
impl Plugin for TaintNodesByCondition {
    fn name(&self) -> &'static str {
        "TaintNodesByCondition"
    }

    fn handles(&self, a: &Attributes<'_>) -> bool {
        is(a, "", "nodes") && a.operation == Operation::Create
    }

    async fn admit(
        &self,
        _: &Attributes<'_>,
        node: Option<&mut Value>,
        _: Option<&Value>,
    ) -> Result<(), Status> {
        const KEY: &str = "node.kubernetes.io/not-ready";
        let Some(node) = node else { return Ok(()) };
        let has = list(node, "/spec/taints")
            .iter()
            .any(|t| at(t, "/key") == KEY && at(t, "/effect") == "NoSchedule");
        if !has && let Some(taints) = object(node, &["spec"]).and_then(|s| array(s, "taints")) {
            taints.push(json!({"key": KEY, "effect": "NoSchedule"}));
        }
        Ok(())
    }
}
