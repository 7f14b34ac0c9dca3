//! Pods: strategy, binding, and the rest of their subresources' wiring.

use std::collections::BTreeMap;
use std::sync::Arc;

use api::Status;
use apiserver::resource::{ActionSubresource, Context, ObjectWriter, Strategy, SubresourceKind};
use async_trait::async_trait;
use serde_json::{Value, json};

use super::connect::{Attachment, Kubelets, Log, PodProxy, PortForward};
use super::eviction::Eviction;
use super::{namespace::masked, success};
use crate::builtin::{Config, Parts};
use crate::check::dns1123_subdomain;
use crate::validate::pod_spec::visit_containers;
use crate::validate::{Errors, Path, pod, pod_update, security};
use crate::value::{Tree, same};
use crate::{defaults, qos, warn};

/// The fields by which pods can be selected.
const FIELDS: [&str; 9] = [
    "spec.nodeName",
    "spec.restartPolicy",
    "spec.schedulerName",
    "spec.serviceAccountName",
    "spec.hostNetwork",
    "status.phase",
    "status.podIP",
    "status.nominatedNodeName",
    // Known, and without a value, as upstream has it.
    "status.podIPs",
];

struct Pod {
    allow_privileged: bool,
}

impl Pod {
    fn privileged(&self, e: &mut Errors, o: &Value) {
        if self.allow_privileged {
            return;
        }
        visit_containers(o.at("spec"), &Path::new("spec"), |c, p| {
            if c.flag("securityContext.privileged") {
                e.forbidden(
                    &p.child("securityContext").child("privileged"),
                    "disallowed by cluster policy",
                );
            }
        });
    }
}

/// Sets a condition, keeping the transition time while the status stays.
pub fn set_condition(
    o: &mut Value,
    now: &str,
    kind: &str,
    status: &str,
    reason: &str,
    message: &str,
) {
    let old = o
        .list("status.conditions")
        .iter()
        .find(|c| c.text("type") == kind);
    let since = match old {
        Some(c) if c.text("status") == status => c.text("lastTransitionTime").to_owned(),
        _ => now.to_owned(),
    };
    let mut c = json!({
        "type": kind, "status": status, "lastProbeTime": null, "lastTransitionTime": since,
    });
    for (key, text) in [("reason", reason), ("message", message)] {
        if !text.is_empty() {
            c.put(key, text);
        }
    }
    // Only where the kubelet says which generation it speaks of, others do.
    let generation = o.int("metadata.generation");
    if o.int("status.observedGeneration") != 0 && generation != 0 {
        c.put("observedGeneration", generation);
    }
    let mut all = o.list("status.conditions").to_vec();
    match all.iter_mut().find(|c| c.text("type") == kind) {
        Some(slot) => *slot = c,
        None => all.push(c),
    }
    o.put("status.conditions", all);
}

/// `matchLabelKeys` become expressions of the selector beside them, from the pod's own labels.
fn merge_label_keys(o: &mut Value) {
    /// Most expressions that one pod gets; each takes a hundred times the key it comes from.
    const MAX_MERGED: usize = 10_000;

    let labels = o.at("metadata.labels").clone();
    let Some(spec) = o.at_mut("spec") else { return };
    let mut room = MAX_MERGED;
    let mut merge = |t: &mut Value| {
        if !t.has("labelSelector") {
            return;
        }
        for (field, operator) in [("matchLabelKeys", "In"), ("mismatchLabelKeys", "NotIn")] {
            let mut all = t.list("labelSelector.matchExpressions").to_vec();
            for key in t.texts(field) {
                if let (Some(v), true) = (labels.map("").get(key), room > 0) {
                    room -= 1;
                    all.push(json!({"key": key, "operator": operator, "values": [v]}));
                }
            }
            if !all.is_empty() {
                t.put("labelSelector.matchExpressions", all);
            }
        }
    };
    for key in ["affinity.podAffinity", "affinity.podAntiAffinity"] {
        let Some(a) = spec.at_mut(key) else { continue };
        for t in a.list_mut("preferredDuringSchedulingIgnoredDuringExecution") {
            if let Some(term) = t.at_mut("podAffinityTerm") {
                merge(term);
            }
        }
        a.list_mut("requiredDuringSchedulingIgnoredDuringExecution")
            .iter_mut()
            .for_each(&mut merge);
    }
    spec.list_mut("topologySpreadConstraints")
        .iter_mut()
        .for_each(merge);
}

/// Annotations that say what fields say now become the fields.
fn apparmor_fields(ctx: &Context<'_>, o: &mut Value) {
    if o.text("spec.os.name") == "windows" {
        return;
    }
    let annotations = o.map("metadata.annotations").clone();
    let of_pod = o.at("spec.securityContext.appArmorProfile").clone();
    for key in ["initContainers", "containers", "ephemeralContainers"] {
        for c in o.slot("spec").list_mut(key) {
            let name = format!("{}{}", security::APP_ARMOR, c.text("name"));
            let Some(text) = annotations.get(&name).and_then(Value::as_str) else {
                continue;
            };
            if c.has("securityContext.appArmorProfile") {
                continue;
            }
            let field = security::app_armor_field(text);
            if field.as_ref() == Some(&of_pod) {
                continue;
            }
            if let Some(field) = field {
                c.put("securityContext.appArmorProfile", field);
            }
            ctx.warn(format!(
                "metadata.annotations[{name}]: deprecated since v1.30; use the \"appArmorProfile\" field instead"
            ));
        }
    }
}

/// Keeps the observed generations that an older client did not send.
fn keep_observed_generation(o: &mut Value, old: &Value) {
    if o.int("status.observedGeneration") == 0 && old.int("status.observedGeneration") != 0 {
        o.copy_at("status.observedGeneration", old);
    }
    let before: BTreeMap<&str, &Value> = old
        .list("status.conditions")
        .iter()
        .rev()
        .map(|p| (p.text("type"), p))
        .collect();
    for c in o.list_mut("status.conditions") {
        if let Some(was) = before.get(c.text("type"))
            && c.int("observedGeneration") == 0
            && was.int("observedGeneration") != 0
        {
            c.copy_at("observedGeneration", was);
        }
    }
}

/// Everything but the fields a subresource may write comes from the old object.
fn only(o: &mut Value, old: &Value, write: impl Fn(&mut Value, &Value)) {
    let new = std::mem::take(o);
    *o = old.clone();
    o.copy_at("metadata.resourceVersion", &new);
    o.copy_at("metadata.managedFields", &new);
    write(o, &new);
}

fn only_resize(o: &mut Value, old: &Value) {
    let lists = ["spec.containers", "spec.initContainers"];
    let alike = |key: &&str| {
        let (n, p) = (o.list(key), old.list(key));
        n.len() == p.len()
            && n.iter()
                .zip(p)
                .all(|(a, b)| a.text("name") == b.text("name"))
    };
    if !lists.iter().all(alike) {
        return;
    }
    only(o, old, |o, new| {
        o.copy_at("spec.resources", new);
        for key in lists {
            for (c, n) in o.list_mut(key).iter_mut().zip(new.list(key)) {
                c.copy_at("resources", n);
                c.copy_at("resizePolicy", n);
            }
        }
    });
}

impl Strategy for Pod {
    fn returns_deleted(&self) -> bool {
        true
    }

    fn default(&self, o: &mut Value) {
        defaults::pod::pod(o);
    }

    fn prepare_create(&self, ctx: &Context<'_>, o: &mut Value) {
        let class = match o.text("status.qosClass") {
            "" => qos::class(o),
            given => given,
        }
        .to_owned();
        o.put("status", json!({"phase": "Pending", "qosClass": class}));
        if !o.list("spec.schedulingGates").is_empty() {
            let why = "Scheduling is blocked due to non-empty scheduling gates";
            set_condition(o, ctx.now, "PodScheduled", "False", "SchedulingGated", why);
        }
        merge_label_keys(o);
        apparmor_fields(ctx, o);
    }

    fn prepare_update(&self, ctx: &Context<'_>, o: &mut Value, old: &Value) {
        match ctx.subresource {
            "status" => {
                o.copy_at("spec", old);
                o.copy_at("metadata.ownerReferences", old);
                if o.text("status.qosClass").is_empty() {
                    o.copy_at("status.qosClass", old);
                }
                keep_observed_generation(o, old);
            }
            "ephemeralcontainers" => {
                only(o, old, |o, new| o.copy_at("spec.ephemeralContainers", new));
            }
            "resize" => only_resize(o, old),
            // Written by the actions below, which change what they may.
            "binding" | "eviction" => {}
            _ => o.copy_at("status", old),
        }
    }

    fn has_generation(&self) -> bool {
        true
    }

    fn generation_changed(&self, o: &Value, old: &Value) -> bool {
        let (mut now, was) = (o.at("spec").clone(), old.at("spec"));
        // A binding is no change of what is wanted.
        if was.text("nodeName").is_empty() {
            now.copy_at("nodeName", was);
        }
        !same(&now, was)
    }

    fn validate_create(&self, _: &Context<'_>, o: &Value) -> Errors {
        let mut e = pod::create(o);
        self.privileged(&mut e, o);
        e
    }

    fn validate_update(&self, ctx: &Context<'_>, o: &Value, old: &Value) -> Errors {
        match ctx.subresource {
            "status" => pod_update::status(o, old),
            "ephemeralcontainers" => {
                let mut e = pod_update::ephemeral_containers(o, old);
                self.privileged(&mut e, o);
                e
            }
            "resize" => pod_update::resize(o, old),
            "binding" | "eviction" => Errors::new(),
            _ => pod_update::update(o, old),
        }
    }

    fn field_values(&self, o: &Value) -> Vec<(&'static str, String)> {
        let value = |name: &str| match name {
            "spec.hostNetwork" => o.flag(name).to_string(),
            "status.podIPs" => String::new(),
            "status.podIP" => match o.list("status.podIPs").first() {
                Some(ip) => ip.text("ip").to_owned(),
                None => o.text(name).to_owned(),
            },
            _ => o.text(name).to_owned(),
        };
        FIELDS.iter().map(|f| (*f, value(f))).collect()
    }

    fn graceful_delete_seconds(&self, o: &Value, requested: Option<i64>) -> Option<i64> {
        let mut period = requested
            .or(o.int_opt("spec.terminationGracePeriodSeconds"))
            .unwrap_or_default();
        let ended = ["Failed", "Succeeded"].contains(&o.text("status.phase"));
        if o.text("spec.nodeName").is_empty() || ended {
            period = 0;
        }
        Some(if period < 0 { 1 } else { period })
    }

    /// Other updates of pods are no work of humans.
    fn warnings(&self, ctx: &Context<'_>, o: &Value, old: Option<&Value>) -> Vec<String> {
        let mut out = vec![];
        if ctx.subresource == "status" {
            for key in ["podIPs", "hostIPs"] {
                let path = Path::new("status").child(key);
                for (i, ip) in o.at("status").list(key).iter().enumerate() {
                    warn::ip(&mut out, &path.index(i).child("ip"), ip.text("ip"));
                }
            }
        } else if old.is_none() {
            warn::name(&mut out, o, "the Pod's hostname");
            out.extend(warn::pod::pod(&Path::root(), o));
        }
        out
    }

    fn validate_name(&self, name: &str, prefix: bool) -> Option<Vec<String>> {
        Some(dns1123_subdomain(&masked(name, prefix)))
    }
}

/// Assigns a pod to a node.
struct Binding {
    /// `/bindings`, where only the body names the pod.
    legacy: bool,
}

#[async_trait]
impl ActionSubresource for Binding {
    async fn post(
        &self,
        ctx: &Context<'_>,
        writer: &dyn ObjectWriter,
        body: Value,
    ) -> Result<(u16, Value), Status> {
        let name = body.name().to_owned();
        if !self.legacy && name != ctx.name {
            return Err(Status::bad_request(
                "name in URL does not match name in Binding object",
            ));
        }
        let errors = pod_update::binding(&body);
        if !errors.is_empty() {
            return Err(Status::failure(500, "", errors.aggregate()));
        }
        let conflict = |why: String| Status::conflict("", "pods/binding", &name, &why);
        let (uid, version) = (
            body.text("metadata.uid").to_owned(),
            body.text("metadata.resourceVersion").to_owned(),
        );
        let mut change = |pod: &mut Value| {
            if !uid.is_empty() && uid != pod.text("metadata.uid") {
                return Err(precondition(&name, "UID", &uid, pod.text("metadata.uid")));
            }
            if !version.is_empty() && version != pod.text("metadata.resourceVersion") {
                let now = pod.text("metadata.resourceVersion");
                return Err(precondition(&name, "ResourceVersion", &version, now));
            }
            if pod.has("metadata.deletionTimestamp") {
                return Err(conflict(format!(
                    "pod {name} is being deleted, cannot be assigned to a host"
                )));
            }
            let node = pod.text("spec.nodeName");
            if !node.is_empty() {
                return Err(conflict(format!(
                    "pod {name} is already assigned to node {node:?}"
                )));
            }
            if !pod.list("spec.schedulingGates").is_empty() {
                return Err(conflict(format!(
                    "pod {name} has non-empty .spec.schedulingGates"
                )));
            }
            bind(pod, &body, ctx.now);
            Ok(())
        };
        writer
            .update("", "pods", ctx.namespace, &name, &mut change)
            .await?;
        Ok(success())
    }
}

fn precondition(name: &str, what: &str, asked: &str, has: &str) -> Status {
    Status::conflict(
        "",
        "pods",
        name,
        &format!(
            "Precondition failed: {what} in precondition: {asked}, {what} in object meta: {has}"
        ),
    )
}

fn bind(pod: &mut Value, binding: &Value, now: &str) {
    pod.put("spec.nodeName", binding.text("target.name"));
    pod.remove_at("status.nominatedNodeName");
    for key in ["annotations", "labels"] {
        let add = binding.at("metadata").map(key);
        if add.is_empty() {
            continue;
        }
        let mut all = pod.at("metadata").map(key).clone();
        all.extend(add.clone());
        pod.put(&format!("metadata.{key}"), all);
    }
    set_condition(pod, now, "PodScheduled", "True", "", "");
}

/// Pods.
pub fn parts(config: &Config) -> Parts {
    let kubelets = Kubelets {
        preferred: config.kubelet_address_types.clone(),
    };
    let connect = |c: Arc<dyn apiserver::resource::ConnectSubresource>| SubresourceKind::Connect(c);
    Parts::new(Pod {
        allow_privileged: config.allow_privileged,
    })
    .fields(&FIELDS)
    .sub(
        "binding",
        SubresourceKind::Action(Arc::new(Binding { legacy: false })),
    )
    .sub("eviction", SubresourceKind::Action(Arc::new(Eviction)))
    .sub(
        "log",
        connect(Arc::new(Log {
            kubelets: kubelets.clone(),
        })),
    )
    .sub(
        "exec",
        connect(Arc::new(Attachment {
            kubelets: kubelets.clone(),
            exec: true,
        })),
    )
    .sub(
        "attach",
        connect(Arc::new(Attachment {
            kubelets: kubelets.clone(),
            exec: false,
        })),
    )
    .sub("portforward", connect(Arc::new(PortForward { kubelets })))
    .sub("proxy", connect(Arc::new(PodProxy)))
}

/// `/bindings` without a pod in the path.
pub fn bindings(_: &Config) -> Parts {
    Parts::review(Binding { legacy: true })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn binding_assigns_once() {
        let mut pod =
            json!({"metadata": {"name": "a"}, "spec": {}, "status": {"nominatedNodeName": "x"}});
        let b = json!({"metadata": {"annotations": {"k": "v"}}, "target": {"name": "n1"}});
        bind(&mut pod, &b, "2026-01-01T00:00:00Z");
        assert_eq!(pod.text("spec.nodeName"), "n1");
        assert_eq!(pod.annotation("k"), Some("v"));
        assert!(!pod.has("status.nominatedNodeName"));
        assert_eq!(
            pod.at("status.conditions").to_string(),
            "[{\"lastProbeTime\":null,\"lastTransitionTime\":\"2026-01-01T00:00:00Z\",\"status\":\"True\",\"type\":\"PodScheduled\"}]"
        );
    }

    #[test]
    fn grace_periods() {
        let p = Pod {
            allow_privileged: true,
        };
        let on = json!({"spec": {"nodeName": "n", "terminationGracePeriodSeconds": 30}, "status": {"phase": "Running"}});
        assert_eq!(p.graceful_delete_seconds(&on, None), Some(30));
        assert_eq!(p.graceful_delete_seconds(&on, Some(0)), Some(0));
        assert_eq!(p.graceful_delete_seconds(&on, Some(-1)), Some(1));
        let off = json!({"spec": {"terminationGracePeriodSeconds": 30}});
        assert_eq!(p.graceful_delete_seconds(&off, None), Some(0));
    }

    #[test]
    fn label_keys_become_expressions() {
        let mut o = json!({"metadata": {"labels": {"v": "1"}}, "spec": {"topologySpreadConstraints": [
            {"labelSelector": {}, "matchLabelKeys": ["v", "absent"]}]}});
        merge_label_keys(&mut o);
        let c = o.list("spec.topologySpreadConstraints")[0]
            .at("labelSelector.matchExpressions")
            .clone();
        assert_eq!(c, json!([{"key": "v", "operator": "In", "values": ["1"]}]));
    }
}
