//! LimitRanger: the ranges of a namespace fill in what containers leave open, and refuse pods and claims outside of them.

use std::collections::BTreeMap;

use api::Status;
use api::quant::{self, Quant};
use async_trait::async_trait;
use serde_json::{Map, Value};

use crate::json::{at, forbidden, list, object};
use crate::{Attributes, Operation, Plugin};

const ANNOTATION: &str = "kubernetes.io/limit-ranger";

/// See the module.
pub struct LimitRanger;

type Amounts = BTreeMap<String, Quant>;

fn amounts(v: &Value, pointer: &str) -> Amounts {
    let all = v.pointer(pointer).and_then(Value::as_object);
    all.into_iter()
        .flatten()
        .map(|(k, q)| (k.clone(), quant::of(q)))
        .collect()
}

fn add(sum: &mut Amounts, more: &Amounts) {
    for (k, q) in more {
        sum.entry(k.clone())
            .and_modify(|s| *s = s.add(q))
            .or_insert_with(|| q.clone());
    }
}

fn raise(sum: &mut Amounts, more: Amounts) {
    for (k, q) in more {
        if sum.get(&k).is_none_or(|s| *s < q) {
            sum.insert(k, q);
        }
    }
}

/// What a pod requests, or its limits, as a whole: its containers and sidecars together, or its largest init container
/// with the sidecars before it; what the pod says for itself counts instead.
fn of_pod(pod: &Value, key: &str) -> Amounts {
    let own = |c: &Value| amounts(c, &format!("/resources/{key}"));
    let mut sum = Amounts::new();
    for c in list(pod, "/spec/containers") {
        add(&mut sum, &own(c));
    }
    let (mut sidecars, mut init) = (Amounts::new(), Amounts::new());
    for c in list(pod, "/spec/initContainers") {
        let own = own(c);
        // What only the sidecars before it ask for was looked at when they came.
        let mut here = own.clone();
        for (k, q) in &mut here {
            if let Some(before) = sidecars.get(k) {
                *q = before.add(q);
            }
        }
        if at(c, "/restartPolicy") == "Always" {
            add(&mut sum, &own);
            sidecars.extend(here.clone());
        }
        raise(&mut init, here);
    }
    raise(&mut sum, init);
    for (k, q) in amounts(pod, &format!("/spec/resources/{key}")) {
        if k == "cpu" || k == "memory" || k.starts_with("hugepages-") {
            sum.insert(k, q);
        }
    }
    sum
}

/// One limit of a range against requests and limits.
struct Measured<'a> {
    kind: &'a str,
    requests: Amounts,
    limits: Amounts,
}

impl Measured<'_> {
    fn min(&self, name: &str, least: &Quant) -> Option<String> {
        let start = format!("minimum {name} usage per {} is {least}", self.kind);
        match (self.requests.get(name), self.limits.get(name)) {
            (None, _) => Some(format!("{start}.  No request is specified")),
            (Some(r), _) if r.milli() < least.milli() => {
                Some(format!("{start}, but request is {r}"))
            }
            (_, Some(l)) if l.milli() < least.milli() => Some(format!("{start}, but limit is {l}")),
            _ => None,
        }
    }

    fn max(&self, name: &str, most: &Quant) -> Option<String> {
        let start = format!("maximum {name} usage per {} is {most}", self.kind);
        match (self.requests.get(name), self.limits.get(name)) {
            (_, None) => Some(format!("{start}.  No limit is specified")),
            (_, Some(l)) if l.milli() > most.milli() => Some(format!("{start}, but limit is {l}")),
            (Some(r), _) if r.milli() > most.milli() => {
                Some(format!("{start}, but request is {r}"))
            }
            _ => None,
        }
    }

    fn max_request(&self, name: &str, most: &Quant) -> Option<String> {
        let start = format!("maximum {name} usage per {} is {most}", self.kind);
        match self.requests.get(name) {
            None => Some(format!("{start}.  No request is specified")),
            Some(r) if r.milli() > most.milli() => Some(format!("{start}, but request is {r}")),
            Some(_) => None,
        }
    }

    fn ratio(&self, name: &str, most: &Quant) -> Option<String> {
        let start = format!(
            "{name} max limit to request ratio per {} is {most}",
            self.kind
        );
        let given = |all: &Amounts| all.get(name).map(Quant::milli).filter(|n| *n != 0);
        let Some(request) = given(&self.requests) else {
            return Some(format!(
                "{start}, but no request is specified or request is 0"
            ));
        };
        let Some(limit) = given(&self.limits) else {
            return Some(format!("{start}, but no limit is specified or limit is 0"));
        };
        let ratio = limit as f64 / request as f64;
        (ratio * 1000.0 > most.milli() as f64)
            .then(|| format!("{start}, but provided ratio is {ratio:.6}"))
    }

    fn check(&self, limit: &Value, out: &mut Vec<String>) {
        type Rule = for<'m> fn(&'m Measured<'_>, &str, &Quant) -> Option<String>;
        let rules: [(&str, Rule); 3] = [
            ("/min", |m, name, q| m.min(name, q)),
            ("/max", |m, name, q| m.max(name, q)),
            ("/maxLimitRequestRatio", |m, name, q| m.ratio(name, q)),
        ];
        for (pointer, rule) in rules {
            for (name, q) in amounts(limit, pointer) {
                out.extend(rule(self, &name, &q));
            }
        }
    }
}

fn pod_errors(range: &Value, pod: &Value) -> Vec<String> {
    let mut out = vec![];
    for limit in list(range, "/spec/limits") {
        match at(limit, "/type") {
            "Container" => {
                for key in ["/spec/containers", "/spec/initContainers"] {
                    for c in list(pod, key) {
                        let measured = Measured {
                            kind: "Container",
                            requests: amounts(c, "/resources/requests"),
                            limits: amounts(c, "/resources/limits"),
                        };
                        measured.check(limit, &mut out);
                    }
                }
            }
            "Pod" => {
                let measured = Measured {
                    kind: "Pod",
                    requests: of_pod(pod, "requests"),
                    limits: of_pod(pod, "limits"),
                };
                measured.check(limit, &mut out);
            }
            _ => {}
        }
    }
    out
}

fn claim_errors(range: &Value, claim: &Value) -> Vec<String> {
    const KIND: &str = "PersistentVolumeClaim";
    let mut out = vec![];
    let measured = Measured {
        kind: KIND,
        requests: amounts(claim, "/spec/resources/requests"),
        limits: Amounts::new(),
    };
    for limit in list(range, "/spec/limits") {
        if at(limit, "/type") != KIND {
            continue;
        }
        for (name, q) in amounts(limit, "/min") {
            out.extend(measured.min(&name, &q));
        }
        for (name, q) in amounts(limit, "/max") {
            out.extend(measured.max_request(&name, &q));
        }
    }
    out
}

/// What the container limits of a range say for containers that say nothing.
fn defaults(range: &Value, key: &str) -> Map<String, Value> {
    let mut out = Map::new();
    for limit in list(range, "/spec/limits") {
        if at(limit, "/type") == "Container"
            && let Some(all) = limit.get(key).and_then(Value::as_object)
        {
            out.extend(all.clone());
        }
    }
    out
}

fn fill(pod: &mut Value, range: &Value) {
    let given = [
        ("requests", "request", defaults(range, "defaultRequest")),
        ("limits", "limit", defaults(range, "default")),
    ];
    let mut told = vec![];
    for (pointer, what) in [
        ("/spec/containers", "container"),
        ("/spec/initContainers", "init container"),
    ] {
        let containers = pod.pointer_mut(pointer).and_then(Value::as_array_mut);
        for c in containers.into_iter().flatten() {
            let name = at(c, "/name").to_owned();
            for (key, noun, all) in &given {
                let set: Vec<&str> = all
                    .keys()
                    .map(String::as_str)
                    .filter(|k| {
                        let own = c.pointer(&format!("/resources/{key}"));
                        own.and_then(|o| o.get(*k)).is_none()
                    })
                    .collect();
                if set.is_empty() {
                    continue;
                }
                told.push(format!("{} {noun} for {what} {name}", set.join(", ")));
                if let Some(own) = object(c, &["resources", key]) {
                    for k in set {
                        own.insert(k.to_owned(), all.get(k).cloned().unwrap_or_default());
                    }
                }
            }
        }
    }
    if !told.is_empty()
        && let Some(annotations) = object(pod, &["metadata", "annotations"])
    {
        let text = format!("LimitRanger plugin set: {}", told.join("; "));
        annotations.insert(ANNOTATION.into(), text.into());
    }
}

fn aggregate(errors: &[String]) -> String {
    match errors {
        [one] => one.clone(),
        more => format!("[{}]", more.join(", ")),
    }
}

fn deleting(old: Option<&Value>) -> bool {
    old.is_some_and(|o| !at(o, "/metadata/deletionTimestamp").is_empty())
}

#[async_trait]
impl Plugin for LimitRanger {
    fn name(&self) -> &'static str {
        "LimitRanger"
    }

    fn handles(&self, a: &Attributes<'_>) -> bool {
        if !a.group.is_empty() {
            return false;
        }
        match (a.resource, a.operation) {
            ("pods", Operation::Create) => a.subresource.is_empty(),
            ("pods", Operation::Update) => a.subresource == "resize",
            ("persistentvolumeclaims", Operation::Create | Operation::Update) => {
                a.subresource.is_empty()
            }
            _ => false,
        }
    }

    async fn admit(
        &self,
        a: &Attributes<'_>,
        pod: Option<&mut Value>,
        old: Option<&Value>,
    ) -> Result<(), Status> {
        let Some(pod) = pod.filter(|_| a.resource == "pods" && !deleting(old)) else {
            return Ok(());
        };
        for range in a.reader.list("", "limitranges", a.namespace).await? {
            fill(pod, &range);
        }
        Ok(())
    }

    async fn validate(
        &self,
        a: &Attributes<'_>,
        o: Option<&Value>,
        old: Option<&Value>,
    ) -> Result<(), Status> {
        let Some(o) = o.filter(|_| !deleting(old)) else {
            return Ok(());
        };
        let check = if a.resource == "pods" {
            pod_errors
        } else {
            claim_errors
        };
        for range in a.reader.list("", "limitranges", a.namespace).await? {
            let errors = check(&range, o);
            if !errors.is_empty() {
                return Err(forbidden(a, Some(o), &aggregate(&errors)));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn range(limit: Value) -> Value {
        json!({"spec": {"limits": [limit]}})
    }

    #[test]
    fn open_resources_are_filled_in() {
        let r = range(
            json!({"type": "Container", "default": {"cpu": "1", "memory": "1Gi"},
            "defaultRequest": {"cpu": "500m"}}),
        );
        let mut pod = json!({"metadata": {}, "spec": {"containers": [
            {"name": "c", "resources": {"limits": {"cpu": "2"}}}]}});
        fill(&mut pod, &r);
        assert_eq!(
            pod,
            json!({"metadata": {"annotations": {ANNOTATION:
                "LimitRanger plugin set: cpu request for container c; memory limit for container c"}},
                "spec": {"containers": [{"name": "c", "resources": {
                    "limits": {"cpu": "2", "memory": "1Gi"}, "requests": {"cpu": "500m"}}}]}})
        );
    }

    #[test]
    fn what_is_outside_is_told() {
        let pod = json!({"spec": {"containers": [{"resources": {
            "requests": {"cpu": "100m"}, "limits": {"cpu": "2"}}}]}});
        let errors = |limit| pod_errors(&range(limit), &pod);
        assert_eq!(
            errors(json!({"type": "Container", "max": {"cpu": "1"}, "min": {"cpu": "200m"}})),
            [
                "minimum cpu usage per Container is 200m, but request is 100m",
                "maximum cpu usage per Container is 1, but limit is 2"
            ]
        );
        assert_eq!(
            errors(
                json!({"type": "Pod", "min": {"memory": "1"}, "maxLimitRequestRatio": {"cpu": "4"}})
            ),
            [
                "minimum memory usage per Pod is 1.  No request is specified",
                "cpu max limit to request ratio per Pod is 4, but provided ratio is 20.000000"
            ]
        );
        let claim = json!({"spec": {"resources": {"requests": {"storage": "2Gi"}}}});
        assert_eq!(
            claim_errors(
                &range(json!({"type": "PersistentVolumeClaim", "max": {"storage": "1Gi"}})),
                &claim
            ),
            ["maximum storage usage per PersistentVolumeClaim is 1Gi, but request is 2Gi"]
        );
    }

    /// Nothing quadratic: each sidecar asks for something else.
    #[test]
    fn many_sidecars_of_many_resources() {
        let sidecar = |i: usize| json!({"restartPolicy": "Always", "resources": {"requests": {format!("x/{i}"): (i + 1).to_string()}}});
        let mut init: Vec<Value> = (0..20_000).map(sidecar).collect();
        init.push(sidecar(7));
        init.push(json!({"resources": {"requests": {"x/9": "10"}}}));
        let all = of_pod(&json!({"spec": {"initContainers": init}}), "requests");
        assert_eq!(all.len(), 20_000);
        let amount = |name: &str| all[name].to_string();
        assert_eq!([amount("x/7"), amount("x/8")], ["16", "9"]);
        assert_eq!(amount("x/9"), "20");
    }
}
