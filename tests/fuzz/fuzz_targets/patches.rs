//! Every kind of patch on a Pod.
#![no_main]

use libfuzzer_sys::fuzz_target;
use patch::ssa::Actor;
use serde_json::json;

fuzz_target!(|data: &[u8]| {
    let Some(msg) = api::schema::message("v1", "Pod") else {
        return;
    };
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p", "labels": {"a": "b"}, "finalizers": ["x/y"]},
        "spec": {"containers": [{"name": "a", "image": "i", "ports": [{"containerPort": 1}]}], "volumes": [{"name": "v"}]}
    });
    let _ = patch::json_patch(&pod, data);
    let _ = patch::merge_patch(&pod, data);
    let _ = patch::strategic_merge(&pod, data, msg);
    let actor = Actor {
        manager: "m",
        api_version: "v1",
        kind: "Pod",
        subresource: "",
        now: "2026-01-01T00:00:00Z",
        reset: &[&["status"]],
    };
    if let Ok(config) = wire::yaml::to_value(data)
        && let Ok(first) = patch::ssa::apply(None, &config, msg, &actor, false)
    {
        let _ = patch::ssa::apply(
            Some(&first),
            &pod,
            msg,
            &Actor {
                manager: "n",
                ..actor
            },
            true,
        );
    }
});
