//! The quality-of-service class of a pod.

use serde_json::Value;

use crate::quant;
use crate::value::Tree;

/// `Guaranteed`, `Burstable` or `BestEffort`, from the requests and limits of cpu and memory.
pub fn class(pod: &Value) -> &'static str {
    let spec = pod.at("spec");
    let own = spec.at("resources");
    if !own.map("requests").is_empty() || !own.map("limits").is_empty() {
        return of_all(std::iter::once(own));
    }
    of_all(
        spec.list("containers")
            .iter()
            .chain(spec.list("initContainers"))
            .map(|c| c.at("resources")),
    )
}

fn of_all<'a>(resources: impl Iterator<Item = &'a Value>) -> &'static str {
    let mut any = false;
    let mut guaranteed = true;
    for r in resources {
        let get = |list: &str, name: &str| {
            r.map(list)
                .get(name)
                .map(quant::of)
                .filter(|q| !q.is_zero())
        };
        for name in ["cpu", "memory"] {
            let (request, limit) = (get("requests", name), get("limits", name));
            any |= request.is_some() || limit.is_some();
            guaranteed &= limit.is_some() && (request.is_none() || request == limit);
        }
    }
    match (any, guaranteed) {
        (false, _) => "BestEffort",
        (true, true) => "Guaranteed",
        (true, false) => "Burstable",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn classes() {
        let pod = |r: Value| json!({"spec": {"containers": [{"resources": r}]}});
        assert_eq!(class(&pod(json!({}))), "BestEffort");
        assert_eq!(class(&pod(json!({"requests": {"cpu": "1"}}))), "Burstable");
        let full = json!({"limits": {"cpu": "1", "memory": "1Gi"}, "requests": {"cpu": "1000m", "memory": "1024Mi"}});
        assert_eq!(class(&pod(full.clone())), "Guaranteed");
        let two = json!({"spec": {"containers": [{"resources": full}, {}]}});
        assert_eq!(class(&two), "Burstable");
    }
}
