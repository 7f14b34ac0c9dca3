//! Pods on create.

use serde_json::{Map, Value};

use super::pod_spec::pod_spec;
use super::{Errors, Path, affinity, container, security};
use crate::value::Tree;

/// The annotation that marks the API object of a static pod.
pub const MIRROR: &str = "kubernetes.io/config.mirror";
const DELETION_COST: &str = "controller.kubernetes.io/pod-deletion-cost";
const TOLERATIONS: &str = "scheduler.alpha.kubernetes.io/tolerations";

/// Annotations with a meaning for pods.
pub fn specific_annotations(
    e: &mut Errors,
    path: &Path,
    annotations: &Map<String, Value>,
    spec: &Value,
) {
    let get = |k: &str| annotations.get(k).and_then(Value::as_str);
    if let Some(v) = get(MIRROR)
        && spec.text("nodeName").is_empty()
    {
        e.invalid(
            &path.key(MIRROR),
            v,
            "must set spec.nodeName if mirror pod annotation is set",
        );
    }
    if let Some(text) = get(TOLERATIONS).filter(|t| !t.is_empty()) {
        match serde_json::from_str::<Vec<Value>>(text) {
            Ok(list) => affinity::tolerations(e, &path.child(TOLERATIONS), &list),
            Err(why) => e.invalid(path, TOLERATIONS, &why.to_string()),
        }
    }
    if let Some(cost) = get(DELETION_COST) {
        let digits = cost.strip_prefix('-').unwrap_or(cost);
        let canonical = digits == "0" || !digits.starts_with('0') && !digits.starts_with('+');
        if !canonical || cost.parse::<i32>().is_err() {
            e.invalid(&path.key(DELETION_COST), cost, "must be a 32bit integer");
        }
    }
    security::annotations(e, path, annotations, spec);
}

/// Metadata-dependent checks and the spec, for create and update.
pub fn meta_and_spec(e: &mut Errors, pod: &Value) {
    let spec = pod.at("spec");
    let path = Path::new("spec");
    let annotations = pod.map("metadata.annotations");
    specific_annotations(
        e,
        &Path::new("metadata").child("annotations"),
        annotations,
        spec,
    );
    pod_spec(e, &path, spec, Some(pod.at("metadata")), true);
    if spec.text("serviceAccountName").is_empty() {
        for (i, v) in spec.list("volumes").iter().enumerate() {
            for (j, s) in v.list("projected.sources").iter().enumerate() {
                if s.has("serviceAccountToken") {
                    e.forbidden(
                        &path
                            .child("volumes")
                            .index(i)
                            .child("projected")
                            .child("sources")
                            .index(j)
                            .child("serviceAccountToken"),
                        "must not be specified when serviceAccountName is not set",
                    );
                }
            }
        }
    }
    for key in ["containers", "initContainers"] {
        for (i, c) in spec.list(key).iter().enumerate() {
            container::image_padding(e, &path.child(key).index(i), c);
        }
    }
}

/// A new pod, metadata excluded.
pub fn create(pod: &Value) -> Errors {
    let mut e = Errors::new();
    meta_and_spec(&mut e, pod);
    let path = Path::new("spec");
    let spec = pod.at("spec");
    if !spec.list("ephemeralContainers").is_empty() {
        e.forbidden(
            &path.child("ephemeralContainers"),
            "cannot be set on create",
        );
    }
    if !spec.text("nodeName").is_empty() && !spec.list("schedulingGates").is_empty() {
        e.forbidden(
            &path.child("nodeName"),
            "cannot be set until all schedulingGates have been cleared",
        );
    }
    security::annotations_match_fields(&mut e, &path, pod.map("metadata.annotations"), spec);
    e
}
