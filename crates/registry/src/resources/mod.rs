//! One file per resource or small family: strategies and subresources.

pub mod autoscaler;
pub mod componentstatus;
pub mod configmap;
pub mod connect;
pub mod csr;
pub mod device;
pub mod disruption;
pub mod endpoints;
pub mod endpointslice;
pub mod event;
pub mod eviction;
pub mod flowcontrol;
pub mod job;
pub mod lease;
pub mod namespace;
pub mod network;
pub mod node;
pub mod plain;
pub mod pod;
pub mod priorityclass;
pub mod quota;
pub mod rbac;
pub mod review;
pub mod scale;
pub mod secret;
pub mod service;
pub mod serviceaccount;
pub mod storage;
pub mod token;
pub mod volume;
pub mod webhook;
pub mod workload;

use apiserver::resource::Context;
use serde_json::Value;

use crate::value::Tree;

/// A `metav1.Status` of success, as actions answer.
pub(crate) fn success() -> (u16, Value) {
    (
        201,
        serde_json::json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201}),
    )
}

/// `/status` writes: everything but status and metadata comes from the stored object; otherwise the status does.
pub(crate) fn split_status(ctx: &Context<'_>, object: &mut Value, old: &Value) {
    if ctx.subresource == "status" {
        let (status, meta) = (object.at("status").clone(), object.at("metadata").clone());
        *object = old.clone();
        if status.is_null() {
            object.remove_at("status");
        } else {
            object.put("status", status);
        }
        object.put("metadata", meta);
    } else {
        object.copy_at("status", old);
    }
}
