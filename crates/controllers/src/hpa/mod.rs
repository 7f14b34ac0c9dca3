//! horizontal-pod-autoscaler-controller: scales what HorizontalPodAutoscalers point at to what their metrics ask for, every
//! `--horizontal-pod-autoscaler-sync-period`.
//!
//! Invariants: what cannot be measured scales nothing down; the replicas are written through the target's scale
//! subresource, over the version that was read; what is remembered of an autoscaler is bounded by its windows. Pods are
//! watched once there is an autoscaler.
//!
//! Not there: scaling to and from zero (the gate HPAScaleToZero is off by default), and metrics of the controller itself.

mod calculate;
mod decide;
mod limits;
mod metrics;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use api::selector::Selector;
use client::resource::{HORIZONTAL_POD_AUTOSCALERS, PODS};
use client::view::SlimMeta;
use client::{
    Change, EventType, Informer, ObjectKey, ObjectMeta, ObjectReference, Resource, Store, Time,
    WorkQueue,
};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::time::Instant;

use crate::Context;
use crate::children::set_status;
use crate::context::rewrite;
use crate::discovery::{ApiResource, discover};
use crate::views::Condition;
use calculate::{Timing, Tolerances};
use decide::{Pass, Scale, Want};
use limits::{Behavior, History};
use metrics::Metrics;

/// The shortest time between two looks at an autoscaler.
const LEAST_PERIOD: Duration = Duration::from_millis(100);
/// How old what is known of the apiserver's resources may be when something is not found.
const FRESH: Duration = Duration::from_secs(30);
/// How often a scale is written anew when others change it.
const RETRIES: usize = 5;

/// A pod, as far as its metrics go.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Pod {
    metadata: SlimMeta,
    #[serde(deserialize_with = "client::view::nullable")]
    spec: PodSpec,
    #[serde(deserialize_with = "client::view::nullable")]
    status: PodStatus,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct PodSpec {
    #[serde(deserialize_with = "client::view::nullable")]
    containers: Vec<Container>,
    #[serde(deserialize_with = "client::view::nullable")]
    init_containers: Vec<Container>,
    #[serde(deserialize_with = "client::view::nullable")]
    resources: Resources,
    #[serde(deserialize_with = "client::view::nullable")]
    overhead: BTreeMap<String, String>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Container {
    name: String,
    #[serde(deserialize_with = "client::view::nullable")]
    restart_policy: String,
    #[serde(deserialize_with = "client::view::nullable")]
    resources: Resources,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct Resources {
    #[serde(deserialize_with = "client::view::nullable")]
    requests: BTreeMap<String, String>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct PodStatus {
    phase: String,
    #[serde(deserialize_with = "client::view::nullable")]
    conditions: Vec<Condition>,
    start_time: Option<Time>,
}

/// `autoscaling/v2.HorizontalPodAutoscaler`
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Autoscaler {
    metadata: ObjectMeta,
    #[serde(deserialize_with = "client::view::nullable")]
    spec: Spec,
    #[serde(deserialize_with = "client::view::nullable")]
    status: Status,
}

client::views!(Pod, Autoscaler);

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Spec {
    scale_target_ref: Reference,
    min_replicas: Option<i32>,
    max_replicas: i32,
    #[serde(deserialize_with = "client::view::nullable")]
    metrics: Vec<Metric>,
    behavior: Option<Behavior>,
}

/// `CrossVersionObjectReference`
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Reference {
    kind: String,
    name: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    api_version: String,
}

/// `MetricSpec`
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Metric {
    #[serde(rename = "type")]
    kind: String,
    #[serde(deserialize_with = "client::view::nullable")]
    resource: OfResource,
    #[serde(deserialize_with = "client::view::nullable")]
    container_resource: OfResource,
    #[serde(deserialize_with = "client::view::nullable")]
    pods: OfMetric,
    #[serde(deserialize_with = "client::view::nullable")]
    object: OfMetric,
    #[serde(deserialize_with = "client::view::nullable")]
    external: OfMetric,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct OfResource {
    name: String,
    #[serde(deserialize_with = "client::view::nullable")]
    container: String,
    target: Target,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct OfMetric {
    metric: Identifier,
    target: Target,
    #[serde(deserialize_with = "client::view::nullable")]
    described_object: Reference,
}

/// `MetricIdentifier`
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
struct Identifier {
    name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    selector: Option<crate::selector::LabelSelector>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Target {
    #[serde(rename = "type")]
    kind: String,
    value: Option<String>,
    average_value: Option<String>,
    average_utilization: Option<i32>,
}

/// `HorizontalPodAutoscalerStatus`
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Status {
    #[serde(skip_serializing_if = "Option::is_none")]
    last_scale_time: Option<Time>,
    current_replicas: i32,
    desired_replicas: i32,
    #[serde(
        skip_serializing_if = "Vec::is_empty",
        deserialize_with = "client::view::nullable"
    )]
    current_metrics: Vec<Value>,
    #[serde(deserialize_with = "client::view::nullable")]
    conditions: Vec<Condition>,
}

impl Autoscaler {
    fn tolerances(&self, otherwise: f64) -> Tolerances {
        let own = |rules: Option<&limits::Rules>| {
            let text = rules.and_then(|r| r.tolerance.as_deref())?;
            Some(api::quantity::Quantity::parse(text).ok()?.as_f64())
        };
        let behavior = self.spec.behavior.as_ref();
        Tolerances {
            down: own(behavior.map(|b| &b.scale_down)).unwrap_or(otherwise),
            up: own(behavior.map(|b| &b.scale_up)).unwrap_or(otherwise),
        }
    }

    /// What it scales, in messages.
    fn target(&self) -> String {
        let to = &self.spec.scale_target_ref;
        format!("{}/{}/{}", to.kind, self.metadata.namespace, to.name)
    }
}

#[derive(Default)]
struct Known {
    resources: Vec<ApiResource>,
    at: Option<Instant>,
}

struct Controller {
    ctx: Context,
    autoscalers: Store<Autoscaler>,
    /// Watched from the first autoscaler on.
    pods: OnceLock<Informer<Pod>>,
    queue: WorkQueue<ObjectKey>,
    history: Mutex<HashMap<ObjectKey, History>>,
    /// What each autoscaler selects.
    selectors: Mutex<BTreeMap<ObjectKey, Selector>>,
    known: tokio::sync::Mutex<Known>,
}

fn lock<T>(m: &Mutex<T>) -> MutexGuard<'_, T> {
    m.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Starts the controller.
pub fn start(ctx: Context) {
    let informer = ctx.informer::<Autoscaler>(&HORIZONTAL_POD_AUTOSCALERS);
    let queue = ctx.queue("horizontalpodautoscaler");
    let it = Arc::new(Controller {
        ctx: ctx.clone(),
        autoscalers: informer.store(),
        pods: OnceLock::new(),
        queue: queue.clone(),
        history: Mutex::default(),
        selectors: Mutex::default(),
        known: tokio::sync::Mutex::default(),
    });
    let period = ctx.config.autoscaler_sync.max(LEAST_PERIOD);
    let seen = it.clone();
    informer.on_change(move |change| {
        let key = ObjectKey::of(&**change.object());
        if let Change::Deleted(_) = change {
            lock(&seen.history).remove(&key);
            lock(&seen.selectors).remove(&key);
        } else {
            // An earlier look that is due stays due.
            seen.queue.add_after(key, period);
        }
    });
    let workers = ctx.config.concurrent("horizontal-pod-autoscaler", 5);
    ctx.run(queue, workers, move |key| {
        let it = it.clone();
        async move {
            let Some(autoscaler) = it.autoscalers.get_key(&key) else {
                return Ok::<_, String>(None);
            };
            if let Err(error) = it.reconcile(&key, &autoscaler).await {
                tracing::info!(autoscaler = %key, %error, "cannot be scaled");
            }
            Ok(Some(period))
        }
    });
}

impl Controller {
    async fn pods(&self, namespace: &str, selector: &Selector) -> Vec<Arc<Pod>> {
        let informer = self.pods.get_or_init(|| {
            let client = self.ctx.informers.client().clone();
            let (informer, work) = Informer::<Pod>::new(
                client,
                PODS.clone(),
                client::Selector::all(),
                self.ctx.shutdown.clone(),
            );
            self.ctx.tasks.spawn(work);
            informer
        });
        informer.synced().await;
        let mut all = informer.store().list_namespace(namespace);
        all.retain(|p| selector.matches(&p.metadata.labels));
        all
    }

    fn event(&self, a: &Autoscaler, kind: EventType, reason: &str, message: String) {
        let object = ObjectReference {
            kind: HORIZONTAL_POD_AUTOSCALERS.kind.to_string(),
            namespace: a.metadata.namespace.clone(),
            name: a.metadata.name.clone(),
            uid: a.metadata.uid.clone(),
            api_version: HORIZONTAL_POD_AUTOSCALERS.api_version(),
            resource_version: a.metadata.resource_version.clone(),
            field_path: String::new(),
        };
        self.ctx.recorder.event(object, kind, reason, message);
    }

    /// What an autoscaler did is kept as long as it is there.
    fn remember(&self, key: &ObjectKey, history: History) {
        if self.autoscalers.get_key(key).is_some() {
            lock(&self.history).insert(key.clone(), history);
        }
    }

    /// The resources of a kind, from what is known or, if there are none and that is old, from the apiserver.
    async fn resources(
        &self,
        fits: impl Fn(&Resource) -> bool,
    ) -> Result<Vec<Resource>, client::Error> {
        let mut known = self.known.lock().await;
        loop {
            let found = known.resources.iter().map(|r| &r.resource);
            let found: Vec<Resource> = found.filter(|r| fits(r)).cloned().collect();
            let fresh = known.at.is_some_and(|at| at.elapsed() < FRESH);
            if !found.is_empty() || fresh {
                return Ok(found);
            }
            known.resources = discover(&self.ctx.client).await?.resources;
            known.at = Some(Instant::now());
        }
    }

    /// The scale of what an autoscaler points at.
    async fn scale(&self, a: &Autoscaler) -> Result<(Resource, Value), (String, String)> {
        let to = &a.spec.scale_target_ref;
        let group = match to.api_version.split('/').collect::<Vec<_>>().as_slice() {
            [_] => "",
            [group, _] => group,
            _ => {
                let why = format!("unexpected GroupVersion string: {}", to.api_version);
                let all = format!("invalid API version in scale target reference: {why}");
                return Err((why, all));
            }
        };
        let unknown = |why: String| {
            let all = format!("unable to determine resource for scale target reference: {why}");
            (why, all)
        };
        let resources = self
            .resources(|r| r.group == group && r.kind == to.kind && r.namespaced)
            .await
            .map_err(|e| unknown(e.to_string()))?;
        if resources.is_empty() {
            let why = format!("no matches for kind {:?} in group {group:?}", to.kind);
            return Err(unknown(why));
        }
        let mut first = None;
        for resource in resources {
            let api = self.ctx.client.namespaced(&resource, &a.metadata.namespace);
            match api.get_subresource::<Value>(&to.name, "scale").await {
                Ok(scale) => return Ok((resource, scale)),
                Err(e) => {
                    first.get_or_insert(e.to_string());
                }
            }
        }
        let why = first.unwrap_or_default();
        let all = format!(
            "failed to query scale subresource for {}: {why}",
            a.target()
        );
        Err((why, all))
    }

    async fn reconcile(&self, key: &ObjectKey, a: &Autoscaler) -> Result<(), String> {
        let mut pass = Pass::new(a, Time::now());
        let (resource, object) = match self.scale(a).await {
            Ok(found) => found,
            Err((why, all)) => {
                pass.unscalable(&why);
                self.finish(a, pass).await?;
                return Err(all);
            }
        };
        let scale = Scale::read(&object);
        let mut history = lock(&self.history).get(key).cloned().unwrap_or_default();
        let want = pass.begin(&scale, &mut history);
        let (desired, reason) = match want {
            Want::Nothing => (scale.replicas, String::new()),
            Want::Limit(n, reason) => (n, reason.to_owned()),
            Want::Metrics => {
                let measured = self.measure(key, a, &scale, &mut pass).await;
                match pass.apply(
                    measured,
                    &scale,
                    &mut history,
                    self.ctx.config.autoscaler_stabilization,
                ) {
                    Ok(wanted) => wanted,
                    Err(why) => {
                        self.remember(key, history);
                        self.finish(a, pass).await?;
                        let target = a.target();
                        return Err(format!(
                            "failed to compute desired number of replicas based on listed metrics for {target}: {why}"
                        ));
                    }
                }
            }
        };
        let rescale = desired != scale.replicas;
        if rescale {
            let written = self.rescale(a, &resource, object, desired).await;
            if let Err(why) = written {
                pass.not_rescaled(desired, &reason, &why, &scale);
                self.remember(key, history);
                self.finish(a, pass).await?;
                return Err(format!("failed to rescale {}: {why}", a.target()));
            }
            pass.rescaled(desired, &reason, &scale, &mut history);
        }
        pass.end(&scale, desired, rescale);
        self.remember(key, history);
        self.finish(a, pass).await
    }

    /// What the metrics ask for, each for itself.
    async fn measure(
        &self,
        key: &ObjectKey,
        a: &Autoscaler,
        scale: &Scale,
        pass: &mut Pass<'_>,
    ) -> Result<Vec<decide::Measured>, String> {
        let selector = pass.selector(scale)?;
        let namespace = &a.metadata.namespace;
        let pods = self.pods(namespace, &selector).await;
        let rivals = self.rivals(key, &selector, &pods);
        if rivals.len() > 1 {
            return Err(pass.ambiguous(&scale.selector, &rivals));
        }
        let config = &self.ctx.config;
        let judge = decide::Judge {
            scale,
            pods: &pods,
            tolerances: a.tolerances(config.autoscaler_tolerance),
            timing: Timing {
                cpu_initialization: config.autoscaler_cpu_initialization,
                initial_readiness: config.autoscaler_initial_readiness,
                now: pass.now,
            },
        };
        let mut out = Vec::new();
        for metric in &a.spec.metrics {
            let fetched = self.fetch(metric, namespace, &selector).await;
            out.push(judge.judge(metric, fetched));
        }
        Ok(out)
    }

    async fn fetch(
        &self,
        metric: &Metric,
        namespace: &str,
        pods: &Selector,
    ) -> Result<decide::Fetched, String> {
        let custom = match metric.kind.as_str() {
            "Pods" | "Object" => self.resources(|r| r.group == "custom.metrics.k8s.io").await,
            _ => Ok(Vec::new()),
        };
        let custom = custom.unwrap_or_default();
        let metrics = Metrics {
            client: &self.ctx.client,
            custom_version: custom.first().map_or("v1beta2", |r| &*r.version),
            namespace,
        };
        let of = |m: &OfMetric| decide::selector(m.metric.selector.as_ref());
        match metric.kind.as_str() {
            "Resource" => metrics
                .resource(&metric.resource.name, "", pods)
                .await
                .map(decide::Fetched::Samples),
            "ContainerResource" => {
                let of = &metric.container_resource;
                let samples = metrics.resource(&of.name, &of.container, pods).await;
                samples.map(decide::Fetched::Samples)
            }
            "Pods" => {
                let of = of(&metric.pods)?;
                let samples = metrics.pods(&metric.pods.metric.name, pods, &of).await;
                samples.map(decide::Fetched::Samples)
            }
            "Object" => {
                let of = of(&metric.object)?;
                let to = &metric.object.described_object;
                let name = &metric.object.metric.name;
                let resource = self.described(to).await;
                let value = match resource {
                    Ok(resource) => metrics.object(&resource, &to.name, name, &of).await,
                    Err(e) => Err(e),
                };
                value.map(decide::Fetched::Value).map_err(|e| {
                    format!(
                        "unable to get metric {name}: {e} on {} {namespace}/{}",
                        to.kind, to.name
                    )
                })
            }
            "External" => {
                let of = of(&metric.external)?;
                let name = &metric.external.metric.name;
                let value = metrics.external(name, &of).await;
                value.map(decide::Fetched::Value).map_err(|e| {
                    let shown = decide::shown(metric.external.metric.selector.as_ref());
                    format!("unable to get external metric {namespace}/{name}/{shown}: {e}")
                })
            }
            _ => Ok(decide::Fetched::Value(0)),
        }
    }

    /// The resource of an object, as the API of custom metrics names it; empty for a namespace.
    async fn described(&self, to: &Reference) -> Result<String, String> {
        let group = to.api_version.split_once('/').map_or("", |g| g.0);
        if to.kind == "Namespace" && group.is_empty() {
            return Ok(String::new());
        }
        let found = self
            .resources(|r| r.group == group && r.kind == to.kind)
            .await
            .map_err(|e| e.to_string())?;
        let resource = found.first().map(Resource::qualified);
        resource.ok_or_else(|| {
            format!(
                "unable to fetch metrics from custom metrics API: no matches for kind {:?} in group {group:?}",
                to.kind
            )
        })
    }

    /// The autoscalers of the namespace that select any of the pods.
    fn rivals(&self, key: &ObjectKey, selector: &Selector, pods: &[Arc<Pod>]) -> Vec<String> {
        // Pods of one template have the same labels, all of them.
        let labels: BTreeSet<_> = pods.iter().map(|p| &p.metadata.labels).collect();
        let mut selectors = lock(&self.selectors);
        selectors.insert(key.clone(), selector.clone());
        let selecting = selectors
            .range(ObjectKey::new(key.namespace.as_str(), "")..)
            .take_while(|(k, _)| k.namespace == key.namespace)
            .filter(|(_, s)| labels.iter().any(|l| s.matches(*l)));
        selecting
            .map(|(k, _)| format!("{{{} {}}}", k.name, k.namespace))
            .collect()
    }

    async fn rescale(
        &self,
        a: &Autoscaler,
        resource: &Resource,
        mut scale: Value,
        desired: i32,
    ) -> Result<(), String> {
        let name = &a.spec.scale_target_ref.name;
        let api = self.ctx.client.namespaced(resource, &a.metadata.namespace);
        for attempt in 1.. {
            decide::set_replicas(&mut scale, desired);
            let written = api.update_subresource::<serde::de::IgnoredAny, _>(name, "scale", &scale);
            match written.await {
                Ok(_) => break,
                Err(e) if e.is_conflict() && attempt < RETRIES => {
                    if let Ok(newest) = api.get_subresource(name, "scale").await {
                        scale = newest;
                    }
                }
                Err(e) => return Err(e.to_string()),
            }
        }
        Ok(())
    }

    /// Tells what happened, and writes the status where it says something else.
    async fn finish(&self, a: &Autoscaler, pass: Pass<'_>) -> Result<(), String> {
        for (kind, reason, message) in pass.events {
            self.event(a, kind, reason, message);
        }
        if pass.status == a.status {
            return Ok(());
        }
        let status = serde_json::to_value(&pass.status).unwrap_or_default();
        let (name, uid) = (&a.metadata.name, &a.metadata.uid);
        let api = self
            .ctx
            .client
            .namespaced(&HORIZONTAL_POD_AUTOSCALERS, &a.metadata.namespace);
        let written = rewrite(&api, name, uid, "status", |o| set_status(o, &status)).await;
        written.map_err(|e| {
            self.event(a, EventType::Warning, "FailedUpdateStatus", e.to_string());
            format!("failed to update status for {name}: {e}")
        })
    }
}
