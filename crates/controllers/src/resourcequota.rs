//! resourcequota-controller: keeps what quotas say is used. Admission adds what comes; this counts anew what is there when a
//! quota is new or changed, when something that it counts has gone, ended or come under another scope, and in full every
//! `--resource-quota-sync-period`.
//!
//! Only what some quota counts is watched: pods, services and claims as far as they are measured, all else by its metadata. New
//! custom resources are followed by the changes of CustomResourceDefinitions and APIServices. Invariants: what cannot be
//! counted now keeps the number it had, and holds up nothing else of the quota; a status is written over the very
//! quota that was counted for. What was charged a moment ago may not be there yet, so less is written only when nothing was
//! charged for a second, or ten seconds after it was first known; and what is there then is asked for, since caches may
//! be late: a list of the namespace, in pages, each time.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::marker::PhantomData;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use api::quota::{
    Amounts, Countable, Evaluator, Identity, Life, Measured, Texts, add, claim, counted_by, device,
    growth, pod, read, same, service, usage,
};
use client::resource::RESOURCE_QUOTAS;
use client::rest::ListOptions;
use client::{
    Change, Client, Informer, ObjectKey, Resource, Selector, Store, Time, View, WorkQueue,
};
use futures::future::BoxFuture;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::Context;
use crate::discovery::{ApiResource, discover};

/// How long the objects of a resource are waited for before the rest of a quota is told without them.
const FIRST_SYNC: Duration = Duration::from_secs(30);
/// How long what was charged may take to be seen.
const SETTLES: Duration = Duration::from_secs(1);
/// Objects asked for at once.
const PAGE: u32 = 500;
/// How long charges can put off that less is written.
const PUT_OFF: Duration = Duration::from_secs(10);
/// The shortest time between two counts of everything.
const LEAST_PERIOD: Duration = Duration::from_secs(1);
/// After a change of CustomResourceDefinitions, so that a new one is served when it is asked for.
const RESYNC_AFTER: Duration = Duration::from_secs(1);
/// Keys of the queue that are no quotas: these have namespaces.
const EVERYTHING: &str = "everything";
const RESOURCES: &str = "resources";

/// Group and plural.
type At = (String, String);

/// A quota with all that is stored of it: the controller may not read single quotas, and must not drop what others wrote.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(try_from = "Value")]
struct Quota {
    object: Value,
    metadata: Identity,
    quota: api::quota::Quota,
}

impl TryFrom<Value> for Quota {
    type Error = serde_json::Error;

    fn try_from(mut object: Value) -> Result<Quota, serde_json::Error> {
        let quota = api::quota::Quota::deserialize(&object)?;
        let text = |key: &str| {
            let value = object.pointer(&format!("/metadata/{key}"));
            value.and_then(Value::as_str).unwrap_or_default().to_owned()
        };
        let metadata = Identity {
            name: text("name"),
            namespace: text("namespace"),
            uid: text("uid"),
            resource_version: text("resourceVersion"),
        };
        if let Some(o) = object.as_object_mut() {
            o.insert("apiVersion".into(), "v1".into());
            o.insert("kind".into(), "ResourceQuota".into());
            if let Some(meta) = o.get_mut("metadata").and_then(Value::as_object_mut) {
                // The apiserver keeps it.
                meta.remove("managedFields");
            }
        }
        Ok(Quota {
            object,
            metadata,
            quota,
        })
    }
}

/// An object of which only what it counts for is kept.
#[derive(Debug, Deserialize)]
#[serde(from = "R", bound(deserialize = "R: Countable"))]
struct Counted<R> {
    id: Identity,
    measured: Arc<Measured>,
    of: PhantomData<fn() -> R>,
}

impl<R: Countable> From<R> for Counted<R> {
    fn from(raw: R) -> Counted<R> {
        Counted {
            id: raw.identity(),
            measured: Arc::new(raw.measure()),
            of: PhantomData,
        }
    }
}

/// An object of which only is known that it is there.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct Thing {
    metadata: ThingMeta,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct ThingMeta {
    name: String,
    namespace: String,
    uid: String,
    resource_version: String,
}

client::views!(Quota, Thing);

impl<R: Countable> View for Counted<R> {
    fn name(&self) -> &str {
        &self.id.name
    }

    fn namespace(&self) -> &str {
        &self.id.namespace
    }

    fn resource_version(&self) -> &str {
        &self.id.resource_version
    }

    fn uid(&self) -> &str {
        &self.id.uid
    }
}

/// What a resource holds in a namespace.
pub struct Holding {
    /// How it is measured.
    pub evaluator: Evaluator,
    /// `None` when that is not known now.
    pub objects: Option<Vec<Arc<Measured>>>,
}

/// What is to be done about a quota.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// `status.hard` and `status.used` to write.
    pub status: Option<(Texts, Texts)>,
    /// Whether less is used than the quota says.
    pub lowers: bool,
    /// The second after which something stops counting by itself.
    pub until: Option<i64>,
}

/// Counts what a quota limits.
pub fn decide(quota: &api::quota::Quota, holdings: &[Holding], now: i64) -> Plan {
    let hard = &quota.spec.hard;
    let scopes = quota.scopes();
    let (mut counted, mut unknown) = (Amounts::new(), BTreeSet::new());
    let mut until: Option<i64> = None;
    for holding in holdings {
        let names = hard.keys().map(String::as_str);
        let names: BTreeSet<&str> = names.filter(|n| holding.evaluator.tracks(n)).collect();
        let Some(objects) = &holding.objects else {
            unknown.extend(names);
            continue;
        };
        let objects = || objects.iter().map(|o| &**o);
        add(&mut counted, &usage(objects(), &names, &scopes, now));
        let ends = objects().filter_map(|o| match o.life {
            Life::Until(second) if o.is_alive(now) => Some(second),
            _ => None,
        });
        until = until.into_iter().chain(ends).min();
    }
    counted.retain(|name, _| !unknown.contains(name.as_str()));
    let said = &quota.status.used;
    let mut used: Texts = said
        .iter()
        .filter(|(name, _)| hard.contains_key(*name))
        .map(|(name, q)| (name.clone(), q.clone()))
        .collect();
    let mut lowers = false;
    let before = read(said);
    for (name, q) in counted {
        let old = before.get(&name);
        lowers |= old.is_some_and(|old| q < *old);
        if old != Some(&q) {
            used.insert(name, q.to_string());
        }
    }
    let status = &quota.status;
    let dirty = !same(hard, &status.hard) || !same(&used, said);
    Plan {
        status: dirty.then(|| (hard.clone(), used)),
        lowers,
        until,
    }
}

/// Whether a quota says nothing yet of something that is counted, and so refuses it.
fn is_urgent(quota: &api::quota::Quota, is_known: impl Fn(&At) -> bool) -> bool {
    let (spec, status) = (&quota.spec, &quota.status);
    let mut silent = status.hard.keys().filter(|n| !status.used.contains_key(*n));
    !same(&spec.hard, &status.hard) || silent.any(|n| counted_by(n).iter().any(&is_known))
}

/// The resources that a quota counts.
fn counts<'a>(hard: impl IntoIterator<Item = &'a String>) -> BTreeSet<At> {
    hard.into_iter().flat_map(|n| counted_by(n)).collect()
}

fn is_quotable(r: &ApiResource) -> bool {
    let verbs = ["create", "list", "watch", "delete"];
    r.resource.namespaced
        && verbs.iter().all(|v| r.can(v))
        && Evaluator::of(&r.resource.group, &r.resource.plural).is_some()
}

struct Monitor {
    stop: CancellationToken,
    since: Instant,
    synced: Box<dyn Fn() -> bool + Send + Sync>,
    /// The objects of a namespace.
    objects: Box<dyn Fn(&str) -> Vec<Arc<Measured>> + Send + Sync>,
    /// The same from the apiserver.
    asked: Arc<dyn Fn(String) -> Asked + Send + Sync>,
}

type Asked = BoxFuture<'static, Result<Vec<Arc<Measured>>, client::Error>>;

/// Charges of a quota that were seen.
#[derive(Clone, Copy)]
struct Charges {
    last: Instant,
    /// When less was to be written and was put off.
    put_off: Option<Instant>,
}

struct Keeper {
    ctx: Context,
    quotas: Store<Quota>,
    queue: WorkQueue<ObjectKey>,
    /// What can be counted.
    known: Mutex<BTreeMap<At, Resource>>,
    monitors: Mutex<HashMap<At, Monitor>>,
    charges: Mutex<HashMap<ObjectKey, Charges>>,
    /// Watches over what brings new resources.
    bringers: Mutex<HashSet<Resource>>,
}

fn lock<T>(m: &Mutex<T>) -> MutexGuard<'_, T> {
    m.lock().unwrap_or_else(PoisonError::into_inner)
}

/// All objects of a namespace, in pages.
async fn list<V: View>(
    client: &Client,
    resource: &Resource,
    namespace: &str,
    metadata_only: bool,
) -> Result<Vec<V>, client::Error> {
    let api = client.namespaced(resource, namespace);
    let mut options = ListOptions {
        limit: PAGE,
        ..ListOptions::default()
    };
    let mut all = Vec::new();
    loop {
        let page = if metadata_only {
            api.list_metadata::<V>(&options).await?
        } else {
            api.list::<V>(&options).await?
        };
        all.extend(page.items);
        if page.continue_.is_empty() {
            return Ok(all);
        }
        options.continue_ = page.continue_;
    }
}

/// Starts the controller.
pub fn start(ctx: Context) {
    let informer = ctx.informer::<Quota>(&RESOURCE_QUOTAS);
    let queue = ctx.queue("resourcequota_primary");
    let urgent = ctx.queue("resourcequota_priority");
    let it = Arc::new(Keeper {
        ctx: ctx.clone(),
        quotas: informer.store(),
        queue: queue.clone(),
        known: Mutex::default(),
        monitors: Mutex::default(),
        charges: Mutex::default(),
        bringers: Mutex::default(),
    });
    let starting = ctx.clone();
    ctx.spawn(async move {
        let mut wait = Duration::from_secs(1);
        while let Err(error) = it.discover().await {
            tracing::info!(%error, "resources cannot be discovered yet");
            tokio::time::sleep(wait).await;
            wait = (wait * 2).min(FIRST_SYNC);
        }
        let (keeper, first) = (it.clone(), urgent.clone());
        informer.on_change(move |change| keeper.observe(change, &first));
        it.queue.add(ObjectKey::new("", EVERYTHING));
        let workers = starting.config.concurrent("resource-quota", 5);
        for queue in [queue, urgent] {
            let keeper = it.clone();
            starting.run(queue, workers, move |key| {
                let it = keeper.clone();
                async move { it.work(&key).await }
            });
        }
    });
}

impl Keeper {
    /// A quota came or changed. What only its status says is written here or by admission, and changes nothing.
    fn observe(&self, change: Change<'_, Quota>, urgent: &WorkQueue<ObjectKey>) {
        let quota = change.object();
        let key = ObjectKey::of(&**quota);
        match change {
            Change::Deleted(_) => {
                lock(&self.charges).remove(&key);
                return;
            }
            Change::Updated { old, new } => {
                let used = |q: &Quota| read(&q.quota.status.used);
                if !growth(&used(new), &used(old)).is_empty() {
                    let mut charges = lock(&self.charges);
                    let now = Instant::now();
                    let c = charges.entry(key.clone()).or_insert(Charges {
                        last: now,
                        put_off: None,
                    });
                    c.last = now;
                }
                if same(&old.quota.spec.hard, &new.quota.spec.hard) {
                    return;
                }
            }
            Change::Added(_) => {}
        }
        if is_urgent(&quota.quota, |at| lock(&self.known).contains_key(at)) {
            urgent.add(key);
        } else {
            self.queue.add(key);
        }
    }

    /// How long to wait before less can be written.
    fn settles(&self, key: &ObjectKey, lowers: bool) -> Option<Duration> {
        let mut charges = lock(&self.charges);
        let c = charges.get_mut(key)?;
        if !lowers {
            c.put_off = None;
            return None;
        }
        let since = *c.put_off.get_or_insert_with(Instant::now);
        let wait = SETTLES.saturating_sub(c.last.elapsed());
        if wait.is_zero() || since.elapsed() >= PUT_OFF {
            charges.remove(key);
            return None;
        }
        Some(wait)
    }

    /// Something that a resource held in a namespace is no more what it was.
    fn replenish(&self, at: &At, namespace: &str) {
        let Some(evaluator) = Evaluator::of(&at.0, &at.1) else {
            return;
        };
        for quota in self.quotas.list_namespace(namespace) {
            let mut names = quota.quota.status.hard.keys();
            if names.any(|n| evaluator.tracks(n)) {
                self.queue.add(ObjectKey::of(&*quota));
            }
        }
    }

    /// The quotas that count a resource have their turn.
    fn recount(&self, at: &At) {
        for quota in self.quotas.list() {
            if counts(quota.quota.spec.hard.keys()).contains(at) {
                self.queue.add(ObjectKey::of(&*quota));
            }
        }
    }

    async fn work(self: &Arc<Self>, key: &ObjectKey) -> Result<Option<Duration>, client::Error> {
        if !key.namespace.is_empty() {
            return self.sync(key).await;
        }
        if key.name == EVERYTHING {
            self.watch_no_more();
            for quota in self.quotas.list() {
                self.queue.add(ObjectKey::of(&*quota));
            }
        }
        let period = self.ctx.config.resource_quota_sync;
        let again = key.name == EVERYTHING && !period.is_zero();
        let again = again.then_some(period.max(LEAST_PERIOD));
        match self.discover().await {
            // The turn of everything comes again in any case.
            Err(error) if again.is_some() => {
                tracing::info!(%error, "resources cannot be discovered");
                Ok(again)
            }
            found => found.map(|()| again),
        }
    }

    async fn sync(self: &Arc<Self>, key: &ObjectKey) -> Result<Option<Duration>, client::Error> {
        let Some(quota) = self.quotas.get_key(key) else {
            return Ok(None);
        };
        let Some(holdings) = self.holdings(&quota) else {
            return Ok(Some(FIRST_SYNC));
        };
        let now = Time::now().as_second();
        let mut plan = decide(&quota.quota, &holdings, now);
        if let Some(wait) = self.settles(key, plan.lowers) {
            return Ok(Some(wait));
        }
        if plan.lowers {
            let asked = self.ask(&quota).await?;
            plan = decide(&quota.quota, &asked, now);
        }
        if let Some((hard, used)) = plan.status {
            let mut object = quota.object.clone();
            if let Some(o) = object.as_object_mut() {
                o.insert("status".into(), json!({"hard": hard, "used": used}));
            }
            let api = self.ctx.client.namespaced(&RESOURCE_QUOTAS, &key.namespace);
            let written = api.update_status::<serde::de::IgnoredAny, _>(&key.name, &object);
            match written.await {
                Ok(_) => {}
                Err(e) if e.is_not_found() => return Ok(None),
                Err(e) => return Err(e),
            }
        }
        let wait = |second: i64| component::duration::seconds(second.saturating_sub(now) + 1);
        Ok(plan.until.map(wait))
    }

    /// What a quota counts. `None` while some of it is still awaited.
    fn holdings(self: &Arc<Self>, quota: &Quota) -> Option<Vec<Holding>> {
        let known = lock(&self.known).clone();
        let mut monitors = lock(&self.monitors);
        let (mut out, mut awaited) = (Vec::new(), false);
        for at in counts(quota.quota.spec.hard.keys()) {
            let Some(evaluator) = Evaluator::of(&at.0, &at.1) else {
                continue;
            };
            let objects = known.get(&at).and_then(|resource| {
                let monitor = monitors
                    .entry(at.clone())
                    .or_insert_with(|| self.monitor(&at, resource.clone(), &evaluator));
                let synced = (monitor.synced)();
                awaited |= !synced && monitor.since.elapsed() < FIRST_SYNC;
                synced.then(|| (monitor.objects)(&quota.metadata.namespace))
            });
            out.push(Holding { evaluator, objects });
        }
        (!awaited).then_some(out)
    }

    /// [`Keeper::holdings`], as they are now.
    async fn ask(&self, quota: &Quota) -> Result<Vec<Holding>, client::Error> {
        let mut out = Vec::new();
        for at in counts(quota.quota.spec.hard.keys()) {
            let Some(evaluator) = Evaluator::of(&at.0, &at.1) else {
                continue;
            };
            let asked = lock(&self.monitors)
                .get(&at)
                .filter(|m| (m.synced)())
                .map(|m| m.asked.clone());
            let objects = match asked {
                None => None,
                Some(ask) => match ask(quota.metadata.namespace.clone()).await {
                    // One that cannot be read keeps the number as it is.
                    Err(error @ client::Error::Decode { .. }) => {
                        tracing::warn!(resource = at.1, %error, "A namespace cannot be counted");
                        None
                    }
                    objects => Some(objects?),
                },
            };
            out.push(Holding { evaluator, objects });
        }
        Ok(out)
    }

    fn monitor(self: &Arc<Self>, at: &At, resource: Resource, evaluator: &Evaluator) -> Monitor {
        match evaluator {
            Evaluator::Pods => self.measure::<pod::Pod>(at, resource),
            Evaluator::Services => self.measure::<service::Service>(at, resource),
            Evaluator::Claims => self.measure::<claim::Claim>(at, resource),
            Evaluator::Devices => self.measure::<device::ResourceClaim>(at, resource),
            Evaluator::Count { .. } => {
                let one = Arc::new(evaluator.one());
                let every = Selector::metadata();
                self.follow(at, resource, every, move |_: &Thing| one.clone())
            }
        }
    }

    fn measure<R: Countable>(self: &Arc<Self>, at: &At, resource: Resource) -> Monitor {
        let measured = |o: &Counted<R>| o.measured.clone();
        self.follow(at, resource, Selector::all(), measured)
    }

    /// Watches a resource. A change counts when something is measured otherwise than before.
    fn follow<V: View>(
        self: &Arc<Self>,
        at: &At,
        resource: Resource,
        selector: Selector,
        measured: impl Fn(&V) -> Arc<Measured> + Clone + Send + Sync + 'static,
    ) -> Monitor {
        let stop = self.ctx.shutdown.child_token();
        let client = self.ctx.informers.client().clone();
        let asked = {
            let (measured, client, resource) =
                (measured.clone(), self.ctx.client.clone(), resource.clone());
            let metadata = selector.metadata_only;
            move |namespace: String| -> Asked {
                let (measured, client, resource) =
                    (measured.clone(), client.clone(), resource.clone());
                Box::pin(async move {
                    let all = list::<V>(&client, &resource, &namespace, metadata).await?;
                    Ok(all.iter().map(measured).collect())
                })
            }
        };
        let (informer, work) = Informer::<V>::new(client, resource, selector, stop.clone());
        let (it, of, measure) = (self.clone(), at.clone(), measured.clone());
        informer.on_change(move |change| {
            let concerns = match change {
                Change::Added(_) => false,
                Change::Updated { old, new } => measure(old) != measure(new),
                Change::Deleted(_) => true,
            };
            if concerns {
                it.replenish(&of, change.object().namespace());
            }
        });
        self.ctx.tasks.spawn(work);
        let (it, of, filled, stopped) = (self.clone(), at.clone(), informer.clone(), stop.clone());
        self.ctx.tasks.spawn(async move {
            tokio::select! {
                () = stopped.cancelled() => {}
                () = filled.synced() => it.recount(&of),
            }
        });
        let store = informer.store();
        Monitor {
            stop,
            since: Instant::now(),
            synced: Box::new(move || informer.has_synced()),
            objects: Box::new(move |namespace| {
                let all = store.list_namespace(namespace);
                all.iter().map(|o| measured(o)).collect()
            }),
            asked: Arc::new(asked),
        }
    }

    /// Ends the watches that no quota needs.
    fn watch_no_more(&self) {
        let quotas = self.quotas.list();
        let hard = quotas.iter().flat_map(|q| q.quota.spec.hard.keys());
        let needed = counts(hard);
        let known = lock(&self.known).clone();
        lock(&self.monitors).retain(|at, monitor| {
            let stays = needed.contains(at) && known.contains_key(at);
            if !stays {
                monitor.stop.cancel();
            }
            stays
        });
    }

    /// Learns what can be counted.
    async fn discover(self: &Arc<Self>) -> Result<(), client::Error> {
        let found = discover(&self.ctx.client).await?;
        let dead: HashSet<String> = found.failed.into_iter().collect();
        self.follow_bringers(&found.resources);
        let quotable = found.resources.into_iter().filter(is_quotable).map(|r| {
            let at = (r.resource.group.to_string(), r.resource.plural.to_string());
            (at, r.resource)
        });
        let new: Vec<At> = {
            let mut known = lock(&self.known);
            let mut now: BTreeMap<At, Resource> = quotable.collect();
            for (at, resource) in &*known {
                if dead.contains(&resource.api_version()) {
                    now.entry(at.clone()).or_insert_with(|| resource.clone());
                }
            }
            let old = std::mem::replace(&mut *known, now);
            let new = known.keys().filter(|at| !old.contains_key(*at));
            new.cloned().collect()
        };
        for at in &new {
            self.recount(at);
        }
        Ok(())
    }

    fn follow_bringers(self: &Arc<Self>, resources: &[ApiResource]) {
        let bring = |r: &&ApiResource| {
            let kind = (&*r.resource.group, &*r.resource.kind);
            [
                ("apiextensions.k8s.io", "CustomResourceDefinition"),
                ("apiregistration.k8s.io", "APIService"),
            ]
            .contains(&kind)
                && r.can("list")
                && r.can("watch")
        };
        for r in resources.iter().filter(bring) {
            if !lock(&self.bringers).insert(r.resource.clone()) {
                continue;
            }
            let (client, stop) = (
                self.ctx.informers.client().clone(),
                self.ctx.shutdown.clone(),
            );
            let (informer, work) =
                Informer::<Thing>::new(client, r.resource.clone(), Selector::metadata(), stop);
            let queue = self.queue.clone();
            informer.on_change(move |_| {
                queue.add_after(ObjectKey::new("", RESOURCES), RESYNC_AFTER);
            });
            self.ctx.tasks.spawn(work);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: i64 = 1_000_000;

    fn quota(spec: Value, status: Value) -> api::quota::Quota {
        serde_json::from_value(json!({"spec": spec, "status": status})).unwrap()
    }

    fn pod(class: &str, cpu: &str, memory: &str, phase: &str) -> Value {
        let requests = if cpu.is_empty() {
            json!({})
        } else {
            json!({"cpu": cpu, "memory": memory})
        };
        json!({"spec": {"priorityClassName": class, "containers": [{"resources": {"requests": requests}}]}, "status": {"phase": phase}})
    }

    fn pods(all: &[Value]) -> Vec<Holding> {
        let measure = |p: &Value| Arc::new(Evaluator::Pods.measure(p).unwrap());
        vec![Holding {
            evaluator: Evaluator::Pods,
            objects: Some(all.iter().map(measure).collect()),
        }]
    }

    fn selector(operator: &str, values: &[&str]) -> Value {
        json!({"matchExpressions": [{"scopeName": "PriorityClass", "operator": operator, "values": values}]})
    }

    /// `status.used` that is to be written, by the names of `hard`.
    fn used(plan: &Plan, names: &[&str]) -> Vec<String> {
        let (_, used) = plan.status.as_ref().expect("nothing to write");
        assert_eq!(used.len(), names.len(), "{used:?}");
        names.iter().map(|n| used[*n].clone()).collect()
    }

    #[test]
    fn pods_are_counted_under_the_scopes() {
        let plain = [
            pod("", "100m", "1Gi", "Running"),
            pod("", "100m", "1Gi", "Running"),
            pod("", "100m", "1Gi", "Failed"),
        ];
        let best_effort = [
            pod("", "", "", "Running"),
            pod("", "", "", "Running"),
            pod("", "100m", "1Gi", "Running"),
        ];
        let classes = [
            pod("high", "500m", "50Gi", "Running"),
            pod("low", "100m", "1Gi", "Running"),
            pod("high", "500m", "50Gi", "Failed"),
        ];
        let (zero, both, plain_used) =
            (["0", "0", "0"], ["600m", "51Gi", "2"], ["200m", "2Gi", "2"]);
        let (high, low) = (["500m", "50Gi", "1"], ["100m", "1Gi", "1"]);
        let best = json!({"scopes": ["BestEffort"]});
        let by =
            |operator: &str, values: &[&str]| json!({"scopeSelector": selector(operator, values)});
        for (scope, objects, wanted) in [
            (best.clone(), &plain, zero),
            (best, &best_effort, ["0", "0", "2"]),
            (by("Exists", &[]), &plain, zero),
            (by("Exists", &[]), &classes, both),
            (by("In", &["high", "low"]), &classes, both),
            (by("In", &["high"]), &classes, high),
            (by("In", &["low"]), &classes, low),
            (by("NotIn", &["high"]), &classes, low),
            (by("In", &["random"]), &classes, zero),
            (by("NotIn", &["random"]), &plain, plain_used),
            (by("DoesNotExist", &[]), &plain, plain_used),
            (json!({}), &plain, plain_used),
        ] {
            let mut spec = scope.clone();
            let hard = json!({"cpu": "3", "memory": "100Gi", "pods": "5"});
            spec["hard"] = hard.clone();
            let plan = decide(&quota(spec, json!({})), &pods(objects), NOW);
            assert_eq!(used(&plan, &["cpu", "memory", "pods"]), wanted, "{scope}");
            let written = plan.status.unwrap().0;
            assert_eq!(written, serde_json::from_value::<Texts>(hard).unwrap());
        }
    }

    #[test]
    fn a_status_is_written_when_it_says_something_else() {
        let spec = |cpu: &str| json!({"hard": {"cpu": cpu}});
        for (what, spec, status, wanted) in [
            ("it is new", spec("4"), json!({}), Some("0")),
            (
                "the limit is another",
                spec("4"),
                json!({"hard": {"cpu": "3"}, "used": {"cpu": "0"}}),
                Some("0"),
            ),
            (
                "nothing is said of what is used",
                spec("4"),
                json!({"hard": {"cpu": "4"}}),
                Some("0"),
            ),
            (
                "something is no more limited",
                spec("4"),
                json!({"hard": {"cpu": "4"}, "used": {"cpu": "0", "memory": "1"}}),
                Some("0"),
            ),
            (
                "less is used",
                spec("4"),
                json!({"hard": {"cpu": "4"}, "used": {"cpu": "2"}}),
                Some("0"),
            ),
            (
                "all is said",
                spec("4"),
                json!({"hard": {"cpu": "4000m"}, "used": {"cpu": "0"}}),
                None,
            ),
            ("nothing is limited", json!({}), json!({}), None),
        ] {
            let plan = decide(&quota(spec, status), &pods(&[]), NOW);
            let told = plan
                .status
                .as_ref()
                .map(|_| used(&plan, &["cpu"])[0].clone());
            assert_eq!(told.as_deref(), wanted, "{what}");
            assert_eq!(plan.lowers, what == "less is used", "{what}");
        }
        // The same amount keeps its text, and nothing is written for it.
        let said = json!({"hard": {"pods": "5", "memory": "1Gi"}, "used": {"pods": "1", "memory": "1024Mi"}});
        let counted = quota(json!({"hard": {"pods": "5", "memory": "1Gi"}}), said);
        let plan = decide(&counted, &pods(&[pod("", "1", "1Gi", "")]), NOW);
        assert_eq!(plan, Plan::default());
    }

    #[test]
    fn what_cannot_be_counted_keeps_its_number_and_nothing_else() {
        let unknown = |group: &str, resource: &str| Holding {
            evaluator: Evaluator::of(group, resource).unwrap(),
            objects: None,
        };
        let maps = || Holding {
            evaluator: Evaluator::of("", "configmaps").unwrap(),
            objects: Some(Vec::new()),
        };
        let hard = json!({"hard": {"pods": "1", "configmaps": "1"}});
        let plan = decide(
            &quota(hard.clone(), json!({})),
            &[unknown("", "pods"), maps()],
            NOW,
        );
        assert_eq!(used(&plan, &["configmaps"]), ["0"]);
        let alone = quota(json!({"hard": {"pods": "1"}}), json!({}));
        let plan = decide(&alone, &[unknown("", "pods")], NOW);
        assert_eq!(used(&plan, &[]), [""; 0]);
        let said = json!({"hard": {"pods": "1", "configmaps": "1"}, "used": {"pods": "7", "configmaps": "1"}});
        let plan = decide(&quota(hard, said), &[unknown("", "pods"), maps()], NOW);
        assert_eq!(used(&plan, &["pods", "configmaps"]), ["7", "0"]);
        // A name that nothing counts stays as somebody else wrote it.
        let other = json!({"hard": {"foobars.example.com": "4"}});
        let said =
            json!({"hard": {"foobars.example.com": "4"}, "used": {"foobars.example.com": "2"}});
        assert_eq!(decide(&quota(other, said), &[], NOW), Plan::default());
    }

    #[test]
    fn a_pod_that_is_stuck_counts_until_its_time() {
        let mut stuck = pod("", "1", "1Gi", "Running");
        stuck["metadata"] = json!({"deletionGracePeriodSeconds": 30,
            "deletionTimestamp": api::time::Moment { seconds: NOW, nanos: 0 }.rfc3339()});
        let q = quota(json!({"hard": {"pods": "5"}}), json!({}));
        let both = [stuck, pod("", "1", "1Gi", "Running")];
        let plan = decide(&q, &pods(&both), NOW);
        assert_eq!(
            (used(&plan, &["pods"]), plan.until),
            (vec!["2".to_owned()], Some(NOW + 30))
        );
        let plan = decide(&q, &pods(&both), NOW + 31);
        assert_eq!(
            (used(&plan, &["pods"]), plan.until),
            (vec!["1".to_owned()], None)
        );
    }

    #[test]
    fn quotas_that_refuse_for_want_of_numbers_are_urgent() {
        let known = |at: &At| ["pods", "foos"].contains(&at.1.as_str());
        let cpu = |q: &str| json!({"cpu": q});
        let odd = json!({"foobars.example.com": "4"});
        let extended = json!({"requests.example/foobars.example.com": "4"});
        let (custom, gone) = (
            json!({"count/foos.example.com": "4"}),
            json!({"count/bars.example.com": "4"}),
        );
        for (what, hard, status, urgent) in [
            ("no status", cpu("4"), json!({}), true),
            ("no usage", cpu("4"), json!({"hard": cpu("4")}), true),
            (
                "no usage of an extended resource",
                extended.clone(),
                json!({"hard": extended}),
                true,
            ),
            (
                "another limit",
                cpu("4"),
                json!({"hard": cpu("6"), "used": cpu("0")}),
                true,
            ),
            ("nobody counts it", odd.clone(), json!({"hard": odd}), false),
            (
                "a custom resource",
                custom.clone(),
                json!({"hard": custom}),
                true,
            ),
            (
                "one that is not there",
                gone.clone(),
                json!({"hard": gone}),
                false,
            ),
            (
                "all is said",
                cpu("4"),
                json!({"hard": cpu("4"), "used": cpu("0")}),
                false,
            ),
        ] {
            let quota = quota(json!({"hard": hard}), status);
            assert_eq!(is_urgent(&quota, known), urgent, "{what}");
        }
    }

    #[test]
    fn what_cannot_be_made_listed_or_deleted_is_not_counted() {
        let resource = |group: &'static str,
                        plural: &'static str,
                        namespaced: bool,
                        verbs: &[&str]| ApiResource {
            resource: Resource::new(group, "v1", plural, "Kind", namespaced),
            verbs: verbs.iter().map(|v| (*v).to_owned()).collect(),
        };
        let all = &["create", "delete", "list", "watch", "get"][..];
        for (r, wanted) in [
            (resource("", "pods", true, all), true),
            (resource("example.com", "foos", true, all), true),
            (resource("", "nodes", false, all), false),
            (
                resource("example.com", "foos", true, &["list", "watch", "delete"]),
                false,
            ),
            (
                resource("example.com", "foos", true, &["create", "list", "delete"]),
                false,
            ),
            (resource("", "events", true, all), false),
            (resource("events.k8s.io", "events", true, all), false),
        ] {
            assert_eq!(is_quotable(&r), wanted, "{}", r.resource.plural);
        }
        let names = [
            "cpu",
            "pods",
            "count/foos.example.com",
            "odd",
            "requests.storage",
        ]
        .map(str::to_owned);
        let at = |g: &str, r: &str| (g.to_owned(), r.to_owned());
        assert_eq!(
            counts(&names),
            BTreeSet::from([
                at("", "pods"),
                at("", "persistentvolumeclaims"),
                at("example.com", "foos")
            ])
        );
    }

    #[test]
    fn a_quota_is_written_back_with_all_that_was_stored() {
        let stored = json!({"metadata": {"name": "q", "namespace": "n", "uid": "u", "resourceVersion": "7",
            "generateName": "q-", "labels": {"a": "b"}, "managedFields": [{"manager": "m"}]},
            "spec": {"hard": {"pods": "1"}, "scopes": ["BestEffort"]}, "status": {"used": {"pods": "0"}}});
        let schema = api::schema::message("v1", "ResourceQuota").unwrap();
        let bytes = wire::proto::value_to_vec(&stored, schema).unwrap();
        let mut wanted = stored.clone();
        wanted["apiVersion"] = json!("v1");
        wanted["kind"] = json!("ResourceQuota");
        wanted["metadata"]
            .as_object_mut()
            .unwrap()
            .remove("managedFields");
        for quota in [
            wire::proto::from_slice::<Quota>(&bytes, schema).unwrap(),
            serde_json::from_value(stored).unwrap(),
        ] {
            assert_eq!(quota.object, wanted);
            assert_eq!(
                (quota.name(), quota.namespace(), quota.resource_version()),
                ("q", "n", "7")
            );
            assert_eq!(quota.quota.spec.scopes, ["BestEffort"]);
        }
    }
}
