//! DenyServiceExternalIPs: nobody adds external addresses to a service (CVE-2020-8554).

use std::collections::HashSet;

use api::Status;
use async_trait::async_trait;
use serde_json::Value;

use crate::json::{forbidden, is, list};
use crate::{Attributes, Operation, Plugin};

/// See the module.
pub struct DenyServiceExternalIPs;

#[async_trait]
impl Plugin for DenyServiceExternalIPs {
    fn name(&self) -> &'static str {
        "DenyServiceExternalIPs"
    }

    fn handles(&self, a: &Attributes<'_>) -> bool {
        is(a, "", "services") && matches!(a.operation, Operation::Create | Operation::Update)
    }

    async fn validate(
        &self,
        a: &Attributes<'_>,
        new: Option<&Value>,
        old: Option<&Value>,
    ) -> Result<(), Status> {
        let Some(new) = new else { return Ok(()) };
        fn addresses(service: &Value) -> HashSet<&str> {
            let all = list(service, "/spec/externalIPs").iter();
            all.filter_map(Value::as_str).collect()
        }
        let had = old.map(addresses).unwrap_or_default();
        // Those that were there may stay or go.
        if addresses(new).is_subset(&had) {
            return Ok(());
        }
        Err(forbidden(
            a,
            Some(new),
            "Use of external IPs is denied by admission control.",
        ))
    }
}
