//! DefaultTolerationSeconds: how long pods stay on a node that is not ready or unreachable, unless they say themselves.

use api::Status;
use async_trait::async_trait;
use serde_json::{Value, json};

use crate::json::{array, at, is, list, object};
use crate::{Attributes, Operation, Plugin};

/// See the module.
pub struct DefaultTolerationSeconds {
    /// Seconds on a node that is not ready.
    pub not_ready: i64,
    /// Seconds on a node that cannot be reached.
    pub unreachable: i64,
}

#[async_trait]
impl Plugin for DefaultTolerationSeconds {
    fn name(&self) -> &'static str {
        "DefaultTolerationSeconds"
    }

    fn handles(&self, a: &Attributes<'_>) -> bool {
        is(a, "", "pods") && matches!(a.operation, Operation::Create | Operation::Update)
    }

    async fn admit(
        &self,
        _: &Attributes<'_>,
        pod: Option<&mut Value>,
        _: Option<&Value>,
    ) -> Result<(), Status> {
        let Some(pod) = pod else { return Ok(()) };
        let covered = |pod: &Value, key: &str| {
            list(pod, "/spec/tolerations").iter().any(|t| {
                ["", key].contains(&at(t, "/key")) && ["", "NoExecute"].contains(&at(t, "/effect"))
            })
        };
        for (key, seconds) in [
            ("node.kubernetes.io/not-ready", self.not_ready),
            ("node.kubernetes.io/unreachable", self.unreachable),
        ] {
            if !covered(pod, key) {
                let t = json!({"key": key, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": seconds});
                if let Some(all) = object(pod, &["spec"]).and_then(|s| array(s, "tolerations")) {
                    all.push(t);
                }
            }
        }
        Ok(())
    }
}
