//! deployment-controller: rolls a Deployment's template out over ReplicaSets.

mod decide;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use client::resource::{DEPLOYMENTS, PODS, REPLICA_SETS};
use client::{
    Change, DeleteOptions, EventType, ObjectKey, ObjectReference, Patch, Store, Time, WorkQueue,
};
use serde_json::{Value, json};

pub use decide::{Action, Plan, World, decide, scaled_value, template_hash};

use crate::children::{Family, set_status};
use crate::context::{BY_CONTROLLER, Context, controller_index, rewrite};
use crate::views::{Deployment, Pod, ReplicaSet};

struct Deployments {
    ctx: Context,
    deployments: Store<Deployment>,
    sets: Store<ReplicaSet>,
    pods: Store<Pod>,
    queue: WorkQueue<ObjectKey>,
}

/// Starts the controller.
pub fn start(ctx: Context) {
    let deployments = ctx.informer::<Deployment>(&DEPLOYMENTS);
    let sets = ctx.informer::<ReplicaSet>(&REPLICA_SETS);
    let pods = ctx.informer::<Pod>(&PODS);
    sets.store().add_index(BY_CONTROLLER, |rs: &ReplicaSet| {
        controller_index(&rs.metadata)
    });
    pods.store()
        .add_index(BY_CONTROLLER, |p: &Pod| controller_index(&p.metadata));
    let queue = ctx.queue("deployment");
    let c = Arc::new(Deployments {
        deployments: deployments.store(),
        sets: sets.store(),
        pods: pods.store(),
        queue: queue.clone(),
        ctx: ctx.clone(),
    });
    let q = queue.clone();
    deployments.on_change(move |change| q.add(ObjectKey::of(&**change.object())));
    let it = c.clone();
    sets.on_change(move |change| it.set_changed(change));
    let it = c.clone();
    pods.on_change(move |change| {
        // Recreate waits for the last pod of the old ReplicaSets to go.
        if let Change::Deleted(pod) = change
            && let Some(rs) = pod.metadata.controller().filter(|o| o.kind == "ReplicaSet")
            && let Some(rs) = it.sets.get(&pod.metadata.namespace, &rs.name)
            && let Some(d) = rs.metadata.controller().filter(|o| o.kind == "Deployment")
        {
            let key = ObjectKey::new(pod.metadata.namespace.as_str(), d.name.as_str());
            if it
                .deployments
                .get_key(&key)
                .is_some_and(|d| d.spec.strategy.kind == "Recreate")
            {
                it.queue.add(key);
            }
        }
    });
    let workers = ctx.config.concurrent("deployment", 5);
    ctx.run(queue, workers, move |key| {
        let c = c.clone();
        async move { c.sync(&key).await }
    });
}

impl Deployments {
    fn set_changed(&self, change: Change<'_, ReplicaSet>) {
        for rs in change.old().into_iter().chain([change.object()]) {
            if let Some(o) = rs.metadata.controller() {
                if o.kind == "Deployment" {
                    self.queue.add(ObjectKey::new(
                        rs.metadata.namespace.as_str(),
                        o.name.as_str(),
                    ));
                }
                continue;
            }
            for d in self.deployments.list_namespace(&rs.metadata.namespace) {
                if !d.spec.selector.is_empty() && d.spec.selector.matches(&rs.metadata.labels) {
                    self.queue.add(ObjectKey::of(&*d));
                }
            }
        }
    }

    async fn sync(&self, key: &ObjectKey) -> Result<Option<Duration>, client::Error> {
        let Some(d) = self.deployments.get_key(key) else {
            return Ok(None);
        };
        if d.spec.selector.is_empty() {
            self.ctx.recorder.event(
                ObjectReference::of(&DEPLOYMENTS, &*d),
                EventType::Warning,
                "SelectingAll",
                "This deployment is selecting all pods. A non-empty selector is required.",
            );
            return Ok(None);
        }
        let family = Family {
            ctx: &self.ctx,
            resource: &DEPLOYMENTS,
            owner: &d.metadata,
            finalizer: None,
        };
        let matches = |rs: &ReplicaSet| d.spec.selector.matches(&rs.metadata.labels);
        let sets = family
            .claim(&REPLICA_SETS, &self.sets, matches, |_| true)
            .await?;
        let pods = if d.spec.strategy.kind == "Recreate" {
            sets.iter()
                .flat_map(|rs| self.pods.by_index(BY_CONTROLLER, &rs.metadata.uid))
                .collect()
        } else {
            Vec::new()
        };
        let plan = decide(&World {
            deployment: &d,
            sets,
            pods,
            now: Time::now(),
        });
        match self.carry_out(&d, &plan).await {
            // The cache is behind; its next event brings this back.
            Err(e) if e.is_conflict() => Ok(Some(Duration::from_millis(200))),
            Err(e) if e.is_namespace_terminating() => Ok(None),
            Err(e) => Err(e),
            Ok(()) => Ok(plan.again),
        }
    }

    fn scaled(&self, d: &Deployment, name: &str, from: i32, to: i32) {
        let direction = if from < to { "up" } else { "down" };
        self.ctx.recorder.event(
            ObjectReference::of(&DEPLOYMENTS, d),
            EventType::Normal,
            "ScalingReplicaSet",
            format!("Scaled {direction} replica set {name} from {from} to {to}"),
        );
    }

    async fn carry_out(&self, d: &Deployment, plan: &Plan) -> Result<(), client::Error> {
        let api = self
            .ctx
            .client
            .namespaced(&REPLICA_SETS, &d.metadata.namespace);
        for action in &plan.actions {
            match action {
                Action::Create { body, replicas } => {
                    let name = body
                        .pointer("/metadata/name")
                        .and_then(Value::as_str)
                        .unwrap_or_default();
                    match api.create::<serde::de::IgnoredAny, _>(body).await {
                        Ok(_) if *replicas > 0 => self.scaled(d, name, 0, *replicas),
                        Ok(_) => {}
                        Err(e) if e.is_already_exists() => {
                            return self.collided(d, name, body).await;
                        }
                        Err(e) if e.is_namespace_terminating() => return Err(e),
                        Err(e) => {
                            self.create_failed(d, name, &e).await?;
                            return Err(e);
                        }
                    }
                }
                Action::Update {
                    name,
                    resource_version,
                    patch,
                    scaled,
                } => {
                    let mut patch = patch.clone();
                    if let Some(m) = patch.get_mut("metadata").and_then(Value::as_object_mut) {
                        m.insert("resourceVersion".into(), resource_version.as_str().into());
                    }
                    api.patch::<serde::de::IgnoredAny>(name, &Patch::Merge(patch))
                        .await?;
                    if let Some((from, to)) = scaled {
                        self.scaled(d, name, *from, *to);
                    }
                }
                Action::Delete { name, uid } => {
                    match api.delete(name, &DeleteOptions::uid(uid.as_str())).await {
                        Ok(()) => {}
                        Err(e) if e.is_not_found() => {}
                        Err(e) => return Err(e),
                    }
                }
            }
        }
        let revision = plan.revision.as_deref().filter(|r| {
            d.metadata
                .annotations
                .get(decide::REVISION)
                .map(String::as_str)
                != Some(r)
        });
        if plan.status == d.status && revision.is_none() {
            return Ok(());
        }
        self.write_status(
            d,
            &serde_json::to_value(&plan.status).unwrap_or_default(),
            revision,
        )
        .await
    }

    async fn write_status(
        &self,
        d: &Deployment,
        status: &Value,
        revision: Option<&str>,
    ) -> Result<(), client::Error> {
        let api = self
            .ctx
            .client
            .namespaced(&DEPLOYMENTS, &d.metadata.namespace);
        rewrite(
            &api,
            &d.metadata.name,
            &d.metadata.uid,
            "status",
            |object| {
                let mut changed = set_status(object, status);
                if let Some(revision) = revision
                    && let Some(m) = object.get_mut("metadata").and_then(Value::as_object_mut)
                    && let Some(a) = m
                        .entry("annotations")
                        .or_insert_with(|| json!({}))
                        .as_object_mut()
                    && a.get(decide::REVISION).and_then(Value::as_str) != Some(revision)
                {
                    a.insert(decide::REVISION.into(), revision.into());
                    changed = true;
                }
                changed
            },
        )
        .await
    }

    /// The name is taken: by the ReplicaSet wanted, which the cache has not shown yet, or by another, which the collision
    /// count moves out of the way.
    async fn collided(
        &self,
        d: &Deployment,
        name: &str,
        body: &Value,
    ) -> Result<(), client::Error> {
        let api = self
            .ctx
            .client
            .namespaced(&REPLICA_SETS, &d.metadata.namespace);
        let there: ReplicaSet = api.get(name).await?;
        let ours = there
            .metadata
            .controller()
            .is_some_and(|o| o.uid == d.metadata.uid);
        let same = there.spec.template.pointer("/metadata/labels")
            == body.pointer("/spec/template/metadata/labels");
        if ours && same {
            return Ok(());
        }
        let mut status = d.status.clone();
        status.collision_count = Some(status.collision_count.unwrap_or(0).saturating_add(1));
        self.write_status(d, &serde_json::to_value(&status).unwrap_or_default(), None)
            .await
    }

    async fn create_failed(
        &self,
        d: &Deployment,
        name: &str,
        error: &client::Error,
    ) -> Result<(), client::Error> {
        let message = format!("Failed to create new replica set {name:?}: {error}");
        let reference = ObjectReference::of(&DEPLOYMENTS, d);
        self.ctx.recorder.event(
            reference,
            EventType::Warning,
            "ReplicaSetCreateError",
            message.as_str(),
        );
        if d.spec
            .progress_deadline_seconds
            .is_none_or(|s| s == i32::MAX)
        {
            return Ok(());
        }
        let mut status = d.status.clone();
        let now = Some(Time::now());
        let condition = crate::views::Condition {
            kind: "Progressing".into(),
            status: "False".into(),
            reason: "ReplicaSetCreateError".into(),
            message,
            last_update_time: now,
            last_transition_time: now,
            last_heartbeat_time: None,
        };
        decide::set_condition(&mut status.conditions, condition);
        if status == d.status {
            return Ok(());
        }
        self.write_status(d, &serde_json::to_value(&status).unwrap_or_default(), None)
            .await
    }
}
