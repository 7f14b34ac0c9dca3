//! Whether a run has come to the end that its objects ask for.

use std::collections::{BTreeMap, BTreeSet};

use client::Client;
use client::resource::{
    CONTROLLER_REVISIONS, CRON_JOBS, DAEMON_SETS, DEPLOYMENTS, ENDPOINT_SLICES, JOBS, NAMESPACES,
    PERSISTENT_VOLUME_CLAIMS, PERSISTENT_VOLUMES, POD_DISRUPTION_BUDGETS, PODS, REPLICA_SETS,
    REPLICATION_CONTROLLERS, RESOURCE_QUOTAS, SERVICES, STATEFUL_SETS,
};
use client::rest::ListOptions;
use serde_json::Value;

use crate::machines;
use crate::truth::{
    QUOTA, Shared, controller, is_leaving, is_ready, is_terminal, lock, number, text,
};

/// All objects of a run, by kind.
struct World(BTreeMap<&'static str, Vec<Value>>);

impl World {
    async fn read(client: &Client) -> World {
        let mut all = BTreeMap::new();
        for resource in [
            &CONTROLLER_REVISIONS,
            &CRON_JOBS,
            &DAEMON_SETS,
            &DEPLOYMENTS,
            &ENDPOINT_SLICES,
            &JOBS,
            &NAMESPACES,
            &PERSISTENT_VOLUME_CLAIMS,
            &PERSISTENT_VOLUMES,
            &POD_DISRUPTION_BUDGETS,
            &PODS,
            &REPLICA_SETS,
            &REPLICATION_CONTROLLERS,
            &RESOURCE_QUOTAS,
            &SERVICES,
            &STATEFUL_SETS,
        ] {
            let list = client
                .api(resource)
                .list_values(&ListOptions::default())
                .await
                .unwrap();
            let kind: &'static str = match &resource.kind {
                std::borrow::Cow::Borrowed(kind) => kind,
                std::borrow::Cow::Owned(_) => "",
            };
            all.insert(kind, list.items);
        }
        World(all)
    }

    fn of(&self, kind: &str) -> &[Value] {
        self.0.get(kind).map(Vec::as_slice).unwrap_or_default()
    }
}

fn id(object: &Value) -> String {
    format!(
        "{}/{}",
        text(object, "/metadata/namespace"),
        text(object, "/metadata/name")
    )
}

/// What is not yet as it should be.
pub async fn problems(client: &Client, truth: &Shared) -> Vec<String> {
    let world = World::read(client).await;
    let mut out = Vec::new();
    let uids: BTreeSet<&str> = world
        .0
        .values()
        .flatten()
        .map(|o| text(o, "/metadata/uid"))
        .collect();
    for (kind, objects) in &world.0 {
        for object in objects {
            if is_leaving(object) {
                out.push(format!("{kind} {} is still leaving", id(object)));
            }
            let owners = object
                .pointer("/metadata/ownerReferences")
                .and_then(Value::as_array);
            for owner in owners.into_iter().flatten() {
                if !uids.contains(text(owner, "/uid")) {
                    out.push(format!(
                        "{kind} {} has an owner that is gone: {owner}",
                        id(object)
                    ));
                }
            }
        }
    }
    let mut owned: BTreeMap<&str, Vec<&Value>> = BTreeMap::new();
    for pod in world.of("Pod").iter().filter(|p| !is_terminal(p)) {
        let owner = controller(pod).map_or("", |c| c.1);
        owned.entry(owner).or_default().push(pod);
    }
    let pods_of = |o: &Value| {
        owned
            .get(text(o, "/metadata/uid"))
            .map(Vec::as_slice)
            .unwrap_or_default()
    };
    replicas(&world, &pods_of, &mut out);
    stateful(&world, &pods_of, &mut out);
    daemons(&world, &pods_of, &mut out);
    jobs(&world, truth, &mut out);
    volumes(&world, &mut out);
    services(&world, &mut out);
    budgets(&world, &mut out);
    let used = world
        .of("ResourceQuota")
        .iter()
        .map(|q| text(q, "/status/used/pods").to_owned());
    let charged = lock(truth).charged().to_string();
    if used.clone().any(|u| u != charged) {
        out.push(format!(
            "the quota says {:?} pods, there are {charged}",
            used.collect::<Vec<_>>()
        ));
    }
    out
}

/// A quota may keep it from what it asks for.
fn limited(object: &Value) -> bool {
    text(object, "/metadata/namespace") == QUOTA.0
}

fn observed(kind: &str, object: &Value, out: &mut Vec<String>) {
    let generation = number(object, "/metadata/generation");
    if number(object, "/status/observedGeneration") != generation {
        out.push(format!(
            "{kind} {}: its generation {generation} was not observed",
            id(object)
        ));
    }
}

fn counts(kind: &str, object: &Value, fields: &[(&str, u64)], out: &mut Vec<String>) {
    for (field, should) in fields {
        let is = number(object, &format!("/status/{field}"));
        if is != *should {
            out.push(format!(
                "{kind} {}: {field} is {is}, not {should}",
                id(object)
            ));
        }
    }
}

fn replicas<'a>(world: &World, pods_of: &dyn Fn(&Value) -> &'a [&'a Value], out: &mut Vec<String>) {
    for kind in ["ReplicaSet", "ReplicationController"] {
        for set in world.of(kind) {
            observed(kind, set, out);
            let pods = pods_of(set);
            let (wanted, there) = (number(set, "/spec/replicas"), pods.len() as u64);
            if there > wanted || (there < wanted && !limited(set)) {
                out.push(format!(
                    "{kind} {} wants {wanted} pods and has {there}",
                    id(set)
                ));
            }
            let ready = pods.iter().filter(|p| is_ready(p)).count() as u64;
            counts(
                kind,
                set,
                &[
                    ("replicas", there),
                    ("readyReplicas", ready),
                    ("availableReplicas", ready),
                ],
                out,
            );
        }
    }
    for deployment in world.of("Deployment") {
        observed("Deployment", deployment, out);
        let wanted = number(deployment, "/spec/replicas");
        if !limited(deployment) {
            let all = [
                "replicas",
                "updatedReplicas",
                "readyReplicas",
                "availableReplicas",
            ];
            counts("Deployment", deployment, &all.map(|f| (f, wanted)), out);
        }
        let uid = text(deployment, "/metadata/uid");
        let sets = world
            .of("ReplicaSet")
            .iter()
            .filter(|s| controller(s).is_some_and(|c| c.1 == uid));
        let old = sets.filter(|s| number(s, "/spec/replicas") == 0).count();
        if old > 3 {
            out.push(format!(
                "Deployment {} keeps {old} old ReplicaSets",
                id(deployment)
            ));
        }
    }
}

fn stateful<'a>(world: &World, pods_of: &dyn Fn(&Value) -> &'a [&'a Value], out: &mut Vec<String>) {
    for set in world.of("StatefulSet") {
        observed("StatefulSet", set, out);
        let (name, start) = (
            text(set, "/metadata/name"),
            number(set, "/spec/ordinals/start"),
        );
        let wanted = number(set, "/spec/replicas");
        let should: BTreeSet<String> = (start..start + wanted)
            .map(|i| format!("{name}-{i}"))
            .collect();
        let is: BTreeSet<String> = pods_of(set)
            .iter()
            .map(|p| text(p, "/metadata/name").to_owned())
            .collect();
        // One in order takes away no pod that has ended before the others that have: two of them stop it, as upstream.
        let uid = text(set, "/metadata/uid");
        let its = |p: &&Value| is_terminal(p) && controller(p).is_some_and(|c| c.1 == uid);
        let ordered = text(set, "/spec/podManagementPolicy") == "OrderedReady";
        let stopped = ordered && world.of("Pod").iter().filter(its).count() > 1;
        if limited(set) || stopped {
            continue;
        }
        if is != should {
            out.push(format!("StatefulSet {} has {is:?}", id(set)));
        }
        counts(
            "StatefulSet",
            set,
            &[("replicas", wanted), ("readyReplicas", wanted)],
            out,
        );
        let update = text(set, "/status/updateRevision");
        if text(set, "/status/currentRevision") != update {
            out.push(format!("StatefulSet {} is not at its revision", id(set)));
        }
        for pod in pods_of(set) {
            if pod
                .pointer("/metadata/labels/controller-revision-hash")
                .and_then(Value::as_str)
                != Some(update)
            {
                out.push(format!("pod {} is of an old revision", id(pod)));
            }
        }
    }
}

fn daemons<'a>(world: &World, pods_of: &dyn Fn(&Value) -> &'a [&'a Value], out: &mut Vec<String>) {
    for set in world.of("DaemonSet").iter().filter(|s| !limited(s)) {
        observed("DaemonSet", set, out);
        let mut nodes: Vec<&str> = pods_of(set)
            .iter()
            .map(|p| text(p, "/spec/nodeName"))
            .collect();
        nodes.sort_unstable();
        let should: Vec<String> = (0..machines::COUNT).map(machines::name).collect();
        if nodes != should {
            out.push(format!("DaemonSet {} is on {nodes:?}", id(set)));
        }
        let all = machines::COUNT as u64;
        let fields = [
            "currentNumberScheduled",
            "desiredNumberScheduled",
            "numberReady",
            "updatedNumberScheduled",
            "numberAvailable",
        ];
        counts("DaemonSet", set, &fields.map(|f| (f, all)), out);
    }
}

fn jobs(world: &World, truth: &Shared, out: &mut Vec<String>) {
    // A Job that is kept from replacing a failed pod keeps that one.
    let ended = world.of("Pod").iter().filter(|p| is_terminal(p));
    for pod in ended.filter(|p| !limited(p)) {
        let finalizers = pod
            .pointer("/metadata/finalizers")
            .and_then(Value::as_array);
        if finalizers.is_some_and(|f| !f.is_empty()) {
            out.push(format!("pod {} ended and was not counted", id(pod)));
        }
    }
    for job in world.of("Job") {
        let conditions = job.pointer("/status/conditions").and_then(Value::as_array);
        let has = |t: &str| {
            conditions.is_some_and(|c| c.iter().any(|c| c["type"] == t && c["status"] == "True"))
        };
        let (complete, failed) = (has("Complete"), has("Failed"));
        if complete == failed {
            if !limited(job) || complete {
                out.push(format!("Job {} has not ended: {}", id(job), job["status"]));
            }
            continue;
        }
        let ends = lock(truth);
        let Some(ends) = ends.ends.get(text(job, "/metadata/uid")) else {
            continue;
        };
        let succeeded = number(job, "/status/succeeded");
        if text(job, "/spec/completionMode") == "Indexed" {
            let completions = number(job, "/spec/completions");
            if complete && succeeded != completions {
                out.push(format!(
                    "Job {} is complete with {succeeded} of {completions}",
                    id(job)
                ));
            }
            continue;
        }
        // One that was deleted while it ended well can be either.
        let ended = ends.succeeded.iter().chain(&ends.failed).chain(&ends.gone);
        let counted = ended.filter(|uid| !ends.given_up.contains(*uid));
        let should = counted.collect::<BTreeSet<_>>().len() as u64;
        let failures = number(job, "/status/failed");
        if succeeded + failures != should {
            out.push(format!(
                "Job {} counts {succeeded} and {failures} of {should} pods: {}",
                id(job),
                job["status"]
            ));
        }
    }
}

fn volumes(world: &World, out: &mut Vec<String>) {
    let claims: BTreeMap<&str, &Value> = world
        .of("PersistentVolumeClaim")
        .iter()
        .map(|c| (text(c, "/metadata/uid"), c))
        .collect();
    for volume in world.of("PersistentVolume") {
        let claim = text(volume, "/spec/claimRef/uid");
        if let Some(claim) = claims.get(claim)
            && text(claim, "/spec/volumeName") != text(volume, "/metadata/name")
        {
            out.push(format!(
                "volume {} is for a claim that has another",
                id(volume)
            ));
        }
    }
    for claim in claims.values() {
        let name = text(claim, "/spec/volumeName");
        let volume = world
            .of("PersistentVolume")
            .iter()
            .find(|v| text(v, "/metadata/name") == name);
        match volume {
            None if name.is_empty() => {
                let free = |v: &&Value| v.pointer("/spec/claimRef").is_none() && fits(v, claim);
                if let Some(free) = world.of("PersistentVolume").iter().find(free) {
                    out.push(format!(
                        "claim {} waits beside volume {}",
                        id(claim),
                        id(free)
                    ));
                }
            }
            Some(v) if text(v, "/spec/claimRef/uid") == text(claim, "/metadata/uid") => {
                if text(v, "/status/phase") != "Bound" || text(claim, "/status/phase") != "Bound" {
                    out.push(format!(
                        "claim {} and its volume do not say that they are bound",
                        id(claim)
                    ));
                }
            }
            _ => out.push(format!(
                "claim {} has volume {name:?}, which is not its own",
                id(claim)
            )),
        }
    }
}

fn fits(volume: &Value, claim: &Value) -> bool {
    let size = |o: &Value, p: &str| {
        text(o, p)
            .trim_end_matches("Gi")
            .parse::<u64>()
            .unwrap_or(0)
    };
    size(volume, "/spec/capacity/storage") >= size(claim, "/spec/resources/requests/storage")
}

fn services(world: &World, out: &mut Vec<String>) {
    for service in world.of("Service") {
        let ns = text(service, "/metadata/namespace");
        let app = text(service, "/spec/selector/app");
        let of = |p: &&Value| {
            text(p, "/metadata/namespace") == ns && text(p, "/metadata/labels/app") == app
        };
        let pods = world.of("Pod").iter().filter(of);
        let should: BTreeSet<&str> = pods
            .filter(|p| is_ready(p) && !is_terminal(p))
            .map(|p| text(p, "/status/podIP"))
            .collect();
        let mut is = BTreeSet::new();
        let slices = world
            .of("EndpointSlice")
            .iter()
            .filter(|s| text(s, "/metadata/namespace") == ns);
        for slice in slices {
            let endpoints = slice["endpoints"].as_array();
            for e in endpoints
                .into_iter()
                .flatten()
                .filter(|e| e["conditions"]["ready"] == true)
            {
                is.extend(
                    e["addresses"]
                        .as_array()
                        .into_iter()
                        .flatten()
                        .filter_map(Value::as_str),
                );
            }
        }
        if is != should {
            out.push(format!(
                "Service {} leads to {is:?}, not to {should:?}",
                id(service)
            ));
        }
    }
}

fn budgets(world: &World, out: &mut Vec<String>) {
    for budget in world.of("PodDisruptionBudget") {
        observed("PodDisruptionBudget", budget, out);
        let app = text(budget, "/spec/selector/matchLabels/app");
        let ns = text(budget, "/metadata/namespace");
        let of = |p: &&Value| {
            text(p, "/metadata/namespace") == ns && text(p, "/metadata/labels/app") == app
        };
        let pods = world.of("Pod").iter().filter(of);
        let healthy = pods.filter(|p| is_ready(p) && !is_terminal(p)).count() as u64;
        let allowed = healthy.saturating_sub(number(budget, "/spec/minAvailable"));
        counts(
            "PodDisruptionBudget",
            budget,
            &[("currentHealthy", healthy), ("disruptionsAllowed", allowed)],
            out,
        );
    }
}
