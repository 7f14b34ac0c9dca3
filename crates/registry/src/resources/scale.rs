//! `scale`: any workload with replicas as `autoscaling/v1` Scale.

use api::Status;
use apiserver::resource::MappedSubresource;
use serde_json::{Value, json};

use crate::check::non_negative;
use crate::print::text::{labels, selector_query};
use crate::validate::{Errors, Path};
use crate::value::Tree;

/// Scale of a workload.
pub struct Scale {
    /// The selector is a map of labels rather than a label selector (ReplicationController).
    pub plain_selector: bool,
}

impl MappedSubresource for Scale {
    fn view(&self, o: &Value) -> Result<Value, Status> {
        let selector = if self.plain_selector {
            match labels(o.at("spec.selector")) {
                none if none == "<none>" => String::new(),
                some => some,
            }
        } else {
            selector_query(o.at("spec.selector"))
        };
        let mut meta = json!({});
        for key in [
            "name",
            "namespace",
            "uid",
            "resourceVersion",
            "creationTimestamp",
        ] {
            if o.at("metadata").has(key) {
                meta.put(key, o.at("metadata").at(key).clone());
            }
        }
        let mut view = json!({
            "kind": "Scale", "apiVersion": "autoscaling/v1", "metadata": meta, "spec": {},
            "status": {"replicas": o.int("status.replicas")},
        });
        if o.int("spec.replicas") != 0 {
            view.put("spec.replicas", o.int("spec.replicas"));
        }
        if !selector.is_empty() {
            view.put("status.selector", selector);
        }
        Ok(view)
    }

    fn validate(&self, body: &Value) -> Errors {
        let mut e = Errors::new();
        non_negative(
            &mut e,
            &Path::new("spec").child("replicas"),
            body.int("spec.replicas"),
        );
        e
    }

    fn apply(&self, o: &mut Value, body: &Value) {
        o.put("spec.replicas", body.int("spec.replicas"));
        if body.has("metadata.resourceVersion") {
            o.copy_at("metadata.resourceVersion", body);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn views_and_writes() {
        let s = Scale {
            plain_selector: false,
        };
        let mut o = json!({"metadata": {"name": "d"}, "spec": {"replicas": 2, "selector": {"matchLabels": {"a": "b"}}}});
        let view = s.view(&o).unwrap();
        assert_eq!(view.at("spec"), &json!({"replicas": 2}));
        assert_eq!(
            view.at("status"),
            &json!({"replicas": 0, "selector": "a=b"})
        );
        s.apply(&mut o, &json!({"spec": {}}));
        assert_eq!(o.int_opt("spec.replicas"), Some(0));
        assert_eq!(
            s.validate(&json!({"spec": {"replicas": -3}})).aggregate(),
            "spec.replicas: Invalid value: -3: must be greater than or equal to 0"
        );
    }
}
