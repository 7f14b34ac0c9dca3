//! People: they make, change and delete what controllers act on.

use client::resource::{
    CRON_JOBS, DAEMON_SETS, DEPLOYMENTS, JOBS, NAMESPACES, NODES, PERSISTENT_VOLUME_CLAIMS,
    PERSISTENT_VOLUMES, POD_DISRUPTION_BUDGETS, PODS, REPLICA_SETS, REPLICATION_CONTROLLERS,
    RESOURCE_QUOTAS, SERVICES, STATEFUL_SETS,
};
use client::rest::{DeleteOptions, Patch, Propagation};
use client::{Client, Resource};
use rand::Rng as _;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use serde::de::IgnoredAny;
use serde_json::{Value, json};

use crate::machines;
use crate::truth::{QUOTA, Shared, controller, lock, text};

/// See the module.
pub struct Users {
    client: Client,
    truth: Shared,
    images: u32,
    foreign: u32,
    /// What was done, for who reads a failure.
    pub diary: Vec<String>,
}

const PROPAGATIONS: [Propagation; 3] = [
    Propagation::Background,
    Propagation::Foreground,
    Propagation::Orphan,
];

fn template(app: &str, image: &str) -> Value {
    json!({
        "metadata": {"labels": {"app": app}},
        "spec": {"containers": [{"name": "c", "image": image}]},
    })
}

fn object(resource: &Resource, name: &str, spec: &Value) -> Value {
    json!({
        "apiVersion": resource.api_version(), "kind": resource.kind,
        "metadata": {"name": name, "labels": {"app": name}}, "spec": spec,
    })
}

impl Users {
    /// What there is before anything happens: namespaces, a quota, volumes, a service, a budget.
    pub async fn new(client: Client, truth: Shared) -> Users {
        let users = Users {
            client,
            truth,
            images: 0,
            foreign: 0,
            diary: Vec::new(),
        };
        for name in [
            "default",
            "kube-system",
            "kube-node-lease",
            "a",
            "b",
            QUOTA.0,
        ] {
            users.make(&NAMESPACES, "", name, &json!({})).await;
        }
        let hard = json!({"hard": {"pods": QUOTA.1.to_string(), "count/jobs.batch": "2"}});
        users.make(&RESOURCE_QUOTAS, QUOTA.0, "quota", &hard).await;
        for i in 0..4 {
            let volume = json!({
                "capacity": {"storage": format!("{}Gi", i + 1)}, "accessModes": ["ReadWriteOnce"],
                "storageClassName": "manual", "hostPath": {"path": "/data"},
                "persistentVolumeReclaimPolicy": "Retain",
            });
            users
                .make(&PERSISTENT_VOLUMES, "", &format!("v{i}"), &volume)
                .await;
        }
        for ns in ["a", "b", QUOTA.0] {
            let service = json!({"selector": {"app": "d0"}, "ports": [{"port": 80}]});
            users.make(&SERVICES, ns, "d0", &service).await;
        }
        let budget = json!({"minAvailable": 1, "selector": {"matchLabels": {"app": "d1"}}});
        users
            .make(&POD_DISRUPTION_BUDGETS, "a", "d1", &budget)
            .await;
        users
    }

    async fn make(&self, resource: &Resource, ns: &str, name: &str, spec: &Value) -> bool {
        let api = self.client.namespaced(resource, ns);
        let made = api
            .create::<IgnoredAny, _>(&object(resource, name, spec))
            .await;
        if let Err(e) = &made
            && !e.is_already_exists()
            && ns == "a"
        {
            panic!("what users make is refused: {} {name}: {e}", resource.kind);
        }
        made.is_ok()
    }

    async fn change(&self, resource: &Resource, ns: &str, name: &str, change: Value) {
        let patch = Patch::Merge(change);
        let _ = self
            .client
            .namespaced(resource, ns)
            .patch::<IgnoredAny>(name, &patch)
            .await;
    }

    fn workload(&mut self, chance: &mut StdRng) -> (&'static Resource, String, Value) {
        let image = format!("i{}", chance.random_range(0..=self.images));
        let replicas = chance.random_range(0..5);
        let n = chance.random_range(0..3);
        match chance.random_range(0..12) {
            0..=2 => {
                let app = format!("d{n}");
                let strategy = if chance.random_bool(0.2) {
                    json!({"type": "Recreate"})
                } else {
                    let (surge, unavailable) = [(1, 0), (0, 1), (2, 1)]
                        .choose(chance)
                        .copied()
                        .unwrap_or((1, 0));
                    json!({"type": "RollingUpdate", "rollingUpdate": {"maxSurge": surge, "maxUnavailable": unavailable}})
                };
                let spec = json!({
                    "replicas": replicas, "selector": {"matchLabels": {"app": app}}, "strategy": strategy,
                    "template": template(&app, &image), "minReadySeconds": chance.random_range(0..5),
                    "revisionHistoryLimit": 2, "progressDeadlineSeconds": 600,
                });
                (&DEPLOYMENTS, app, spec)
            }
            3 => {
                let app = format!("r{n}");
                let spec = json!({
                    "replicas": replicas, "selector": {"matchLabels": {"app": app}},
                    "template": template(&app, &image),
                });
                (&REPLICA_SETS, app, spec)
            }
            4 => {
                let app = format!("c{n}");
                let spec = json!({"replicas": replicas, "selector": {"app": app}, "template": template(&app, &image)});
                (&REPLICATION_CONTROLLERS, app, spec)
            }
            5..=6 => {
                let app = format!("s{n}");
                let policy = if chance.random_bool(0.5) {
                    "OrderedReady"
                } else {
                    "Parallel"
                };
                let spec = json!({
                    "replicas": replicas, "selector": {"matchLabels": {"app": app}}, "serviceName": app,
                    "podManagementPolicy": policy, "template": template(&app, &image),
                    "ordinals": {"start": chance.random_range(0..2)},
                });
                (&STATEFUL_SETS, app, spec)
            }
            7 => {
                let app = format!("m{}", n % 2);
                let rolling = if chance.random_bool(0.5) {
                    json!({"maxSurge": 1, "maxUnavailable": 0})
                } else {
                    json!({"maxUnavailable": 1})
                };
                let spec = json!({
                    "selector": {"matchLabels": {"app": app}}, "template": template(&app, &image),
                    "updateStrategy": {"type": "RollingUpdate", "rollingUpdate": rolling},
                });
                (&DAEMON_SETS, app, spec)
            }
            8 => {
                let mut template = job(chance, &image);
                template["suspend"] = json!(false);
                let concurrency = ["Allow", "Forbid", "Replace"].choose(chance);
                let spec = json!({
                    "schedule": "* * * * *", "concurrencyPolicy": concurrency,
                    "successfulJobsHistoryLimit": 1, "failedJobsHistoryLimit": 1,
                    "jobTemplate": {"spec": template},
                });
                (&CRON_JOBS, format!("t{}", n % 2), spec)
            }
            9 => {
                let spec = json!({
                    "storageClassName": "manual", "accessModes": ["ReadWriteOnce"],
                    "resources": {"requests": {"storage": format!("{}Gi", n + 1)}},
                });
                (&PERSISTENT_VOLUME_CLAIMS, format!("p{n}"), spec)
            }
            _ => (&JOBS, format!("j{n}"), job(chance, &image)),
        }
    }

    /// Notes it in the diary.
    pub fn say(&mut self, what: String) {
        self.diary
            .push(format!("{:8.1} {what}", crate::fate::elapsed()));
    }

    /// Somebody does something.
    pub async fn act(&mut self, chance: &mut StdRng) {
        let ns = *["a", "a", "a", "b", QUOTA.0].choose(chance).unwrap_or(&"a");
        match chance.random_range(0..20) {
            0..=8 => {
                let (resource, name, spec) = self.workload(chance);
                let made = self.make(resource, ns, &name, &spec).await;
                let what = if made { "makes" } else { "changes" };
                self.say(format!("{what} {} {ns}/{name} {spec}", resource.plural));
                if made {
                    return;
                }
                // It is there: another number, another image.
                let change = match &*resource.kind {
                    "Job" => json!({"spec": {"suspend": chance.random_bool(0.5)}}),
                    "CronJob" => json!({"spec": {"suspend": chance.random_bool(0.3)}}),
                    "PersistentVolumeClaim" => return,
                    "DaemonSet" => json!({"spec": {"template": spec["template"]}}),
                    "Deployment" => json!({"spec": {
                        "replicas": spec["replicas"], "template": spec["template"],
                        "paused": chance.random_bool(0.1),
                    }}),
                    _ => {
                        json!({"spec": {"replicas": spec["replicas"], "template": spec["template"]}})
                    }
                };
                self.change(resource, ns, &name, change).await;
            }
            9..=11 => {
                self.images += 1;
                let (resource, name, _) = self.workload(chance);
                let propagation = PROPAGATIONS.choose(chance).copied();
                self.say(format!(
                    "deletes {} {ns}/{name} {propagation:?}",
                    resource.plural
                ));
                let options = DeleteOptions {
                    propagation,
                    ..DeleteOptions::default()
                };
                let _ = self
                    .client
                    .namespaced(resource, ns)
                    .delete(&name, &options)
                    .await;
            }
            12..=15 => {
                let pods: Vec<Value> = lock(&self.truth).pods.values().cloned().collect();
                let Some(pod) = pods.choose(chance) else {
                    return;
                };
                let (ns, name) = (
                    text(pod, "/metadata/namespace"),
                    text(pod, "/metadata/name"),
                );
                let client = self.client.clone();
                let api = client.namespaced(&PODS, ns);
                let identity = matches!(controller(pod), Some(("StatefulSet", _)));
                if chance.random_bool(0.3) && !identity {
                    self.say(format!("forces pod {ns}/{name} away"));
                    lock(&self.truth)
                        .forced
                        .insert(text(pod, "/metadata/uid").into());
                    let options = DeleteOptions {
                        grace_period_seconds: Some(0),
                        ..DeleteOptions::uid(text(pod, "/metadata/uid"))
                    };
                    let _ = api.delete(name, &options).await;
                } else if chance.random_bool(0.4) {
                    self.say(format!("evicts pod {ns}/{name}"));
                    let eviction = json!({"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": name}});
                    let _ = api
                        .create_subresource::<IgnoredAny, _>(name, "eviction", &eviction)
                        .await;
                } else {
                    self.say(format!("deletes pod {ns}/{name}"));
                    let _ = api.delete(name, &DeleteOptions::default()).await;
                }
            }
            16 => {
                self.foreign += 1;
                let name = format!("foreign-{}", self.foreign);
                let app = format!(
                    "{}{}",
                    ["d", "s", "r", "c"].choose(chance).unwrap_or(&"r"),
                    chance.random_range(0..3)
                );
                self.say(format!("makes pod {ns}/{name} of app {app}"));
                let pod = json!({
                    "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": {"app": app}},
                    "spec": template("", "i")["spec"],
                });
                let _ = self
                    .client
                    .namespaced(&PODS, ns)
                    .create::<IgnoredAny, _>(&pod)
                    .await;
            }
            17 => {
                let node = machines::name(chance.random_range(0..machines::COUNT));
                let cordoned = chance.random_bool(0.5);
                self.say(format!("cordons {node}: {cordoned}"));
                let patch = Patch::Merge(json!({"spec": {"unschedulable": cordoned}}));
                let _ = self
                    .client
                    .api(&NODES)
                    .patch::<IgnoredAny>(&node, &patch)
                    .await;
            }
            18 if ns == "b" && chance.random_bool(0.5) => {
                self.say("deletes namespace b".into());
                let _ = self
                    .client
                    .api(&NAMESPACES)
                    .delete("b", &DeleteOptions::default())
                    .await;
            }
            _ => {}
        }
    }

    /// What people stopped goes on; what would never end stops.
    pub async fn settle(&self) {
        let options = client::rest::ListOptions::default();
        for (resource, change) in [
            (&DEPLOYMENTS, json!({"spec": {"paused": false}})),
            (&JOBS, json!({"spec": {"suspend": false}})),
            (&CRON_JOBS, json!({"spec": {"suspend": true}})),
        ] {
            let all = self
                .client
                .api(resource)
                .list_values(&options)
                .await
                .unwrap();
            for object in all.items {
                let (ns, name) = (
                    text(&object, "/metadata/namespace"),
                    text(&object, "/metadata/name"),
                );
                self.change(resource, ns, name, change.clone()).await;
            }
        }
    }
}

fn job(chance: &mut StdRng, image: &str) -> Value {
    let mut template = template("job", image);
    template["spec"]["restartPolicy"] = json!("Never");
    let completions = chance.random_range(1..5);
    let mut spec = json!({
        "completions": completions, "parallelism": chance.random_range(1..4), "backoffLimit": chance.random_range(0..4),
        "template": template,
    });
    if chance.random_bool(0.4) {
        spec["completionMode"] = json!("Indexed");
        if chance.random_bool(0.5) {
            spec["backoffLimitPerIndex"] = json!(1);
            spec["maxFailedIndexes"] = json!(completions);
        }
    }
    if chance.random_bool(0.2) {
        spec["podReplacementPolicy"] = json!("Failed");
    }
    if chance.random_bool(0.2) {
        spec["suspend"] = json!(true);
    }
    if chance.random_bool(0.2) {
        spec["ttlSecondsAfterFinished"] = json!(chance.random_range(0..100));
    }
    spec
}
