//! Pods as controllers make them: of many applications, each with an owner, alike within an application and not beyond.

use serde_json::json;

/// How many applications the pods belong to, in turn.
const APPLICATIONS: usize = 50;

/// Stand for what differs within an application.
const NAME: &str = "@name@";

/// One of a few, in turn.
fn turn(list: &'static [&'static str], i: usize) -> &'static str {
    list.get(i % list.len()).copied().unwrap_or_default()
}

/// What owns the pods.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Owner {
    /// A ReplicaSet per application, which spreading looks at. None of them exists, so nothing may run that collects
    /// garbage or adopts pods.
    ReplicaSet,
    /// An object that exists, where controllers run: its name and uid go into [`Pods::new`].
    ConfigMap,
}

/// Templates of bodies, made once and given names later, so that the load costs little beside what is measured.
#[derive(Clone)]
pub struct Pods(Vec<String>);

impl Pods {
    /// For a scheduler. About 2.3 KB each once stored, from 1.6 to 3.
    pub fn new(scheduler: &str, owner: Owner, uids: &[String]) -> Pods {
        let template = |app: usize| {
            let env: Vec<_> = (0..5 + app % 11)
                .map(|i| json!({"name": format!("SETTING_{i}"), "value": format!("value-{app}-{i}")}))
                .collect();
            let app_name = format!("app-{app}");
            let kind = match owner {
                Owner::ReplicaSet => ("apps/v1", "ReplicaSet"),
                Owner::ConfigMap => ("v1", "ConfigMap"),
            };
            let made_up = format!("5f0c8a52-0000-4000-8000-{app:012}");
            let mut containers = vec![json!({
                "name": "web",
                "image": format!("example.com/{app_name}:1.{}.3", app % 7),
                "args": ["--listen=:8080", format!("--log-level={}", turn(&["info", "debug", "warn"], app))],
                "env": env,
                "ports": [{"name": "http", "containerPort": 8080}],
                "resources": {
                    "requests": {"cpu": format!("{}m", 1 + app % 9), "memory": format!("{}Mi", 1 + app % 5)},
                    "limits": {"memory": "256Mi"},
                },
                "readinessProbe": {"httpGet": {"path": "/healthz", "port": "http"}, "periodSeconds": 5},
                "livenessProbe": {"httpGet": {"path": "/healthz", "port": "http"}, "periodSeconds": 10},
            })];
            if app.is_multiple_of(4) {
                containers.push(json!({"name": "side", "image": "example.com/side:2", "resources": {"requests": {"cpu": "1m"}}}));
            }
            json!({
                "apiVersion": "v1",
                "kind": "Pod",
                "metadata": {
                    "name": NAME,
                    "labels": {"app": app_name, "tier": turn(&["frontend", "backend"], app), "pod-template-hash": format!("{:010x}", app * 7919)},
                    "annotations": {"example.com/checksum": format!("{:040x}", app * 104_729)},
                    "ownerReferences": [{
                        "apiVersion": kind.0,
                        "kind": kind.1,
                        "name": app_name,
                        "uid": uids.get(app).unwrap_or(&made_up),
                        "controller": true,
                        "blockOwnerDeletion": true,
                    }],
                },
                "spec": {"schedulerName": scheduler, "containers": containers},
            })
            .to_string()
        };
        Pods((0..APPLICATIONS).map(template).collect())
    }

    /// The names of the owners, in the order of their uids.
    pub fn owners() -> impl Iterator<Item = String> {
        (0..APPLICATIONS).map(|app| format!("app-{app}"))
    }

    /// The body of one.
    pub fn body(&self, i: usize) -> String {
        let template = self.0.get(i % APPLICATIONS).map_or("", String::as_str);
        template.replace(NAME, &format!("pod-{i}"))
    }
}
