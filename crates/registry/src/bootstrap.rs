//! What the apiserver creates by itself after start: system namespaces, RBAC policy, priority classes, flow control
//! objects, API services, the default service range, and the `kubernetes` service with its endpoints.
//!
//! Everything is a hook of the generic server and goes through the whole write path as `system:apiserver`. Objects that
//! exist are kept; RBAC policy is only added to, and not even that where its `autoupdate` annotation is `false`.
//! The objects themselves are data (`data/bootstrap.json`, imported by a script).

use std::collections::{BTreeMap, HashSet};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use api::Status;
use apiserver::chain::{Hook, HookContext};
use apiserver::resource::ObjectWriter;
use auth::authn::service_account::{LAST_USED, Used, days};
use auth::authz::rules;
use futures::FutureExt;
use serde_json::{Value, json};
use storage::{Expect, ListOptions, SharedStore, Written};
use tokio::sync::mpsc::Receiver;

use crate::alloc::{NodePorts, Range};
use crate::resources::rbac::GROUP as RBAC;
use crate::resources::service::{held_ips, held_ports};
use crate::value::{Tree, same};

/// What the hooks need to know.
#[derive(Clone)]
pub struct Config {
    /// The store, for the leases of apiservers and the repair of allocations.
    pub store: SharedStore,
    /// The service ranges, primary first.
    pub service_cidrs: Vec<(IpAddr, u8)>,
    /// The node port range.
    pub node_ports: std::ops::RangeInclusive<u16>,
    /// This server's address as other members of the cluster reach it; `None` leaves the endpoints alone.
    pub advertise: Option<IpAddr>,
    /// The port this server listens on.
    pub secure_port: u16,
    /// `extension-apiserver-authentication` in kube-system: CAs and header names for aggregated servers; empty for none.
    pub authentication_info: BTreeMap<String, String>,
    /// Legacy tokens of service accounts that are used, for the first who takes them.
    pub used_tokens: Arc<Mutex<Option<Receiver<Used>>>>,
}

static DATA: &str = include_str!("../data/bootstrap.json");

/// The imported objects of a resource, or nothing if the data is damaged (a test reads it).
fn objects(resource: &str) -> Vec<Value> {
    let all: Vec<Value> = serde_json::from_str(DATA).unwrap_or_default();
    all.into_iter()
        .filter(|o| o.text("resource") == resource)
        .map(|mut o| {
            o.remove_at("resource");
            o
        })
        .collect()
}

/// The hooks, in order.
pub fn hooks(config: &Config) -> Vec<Hook> {
    type Step = fn(HookContext, Config) -> futures::future::BoxFuture<'static, Result<(), String>>;
    let steps: [(&'static str, Step); 9] = [
        ("start-system-namespaces-controller", |c, _| {
            namespaces(c).boxed()
        }),
        ("rbac/bootstrap-roles", |c, _| rbac(c).boxed()),
        ("scheduling/bootstrap-system-priority-classes", |c, _| {
            priority_classes(c).boxed()
        }),
        ("priority-and-fairness-config-producer", |c, _| {
            flow_control(c).boxed()
        }),
        ("start-kubernetes-service-cidr-controller", |c, k| {
            service_cidr(c, k).boxed()
        }),
        ("start-service-ip-repair-controllers", |c, k| {
            repair(c, k).boxed()
        }),
        ("start-legacy-token-tracking-controller", |c, k| {
            token_tracking(c, k).boxed()
        }),
        ("bootstrap-controller", |c, k| {
            kubernetes_service(c, k).boxed()
        }),
        ("kube-apiserver-autoregistration", |c, k| {
            api_services(c, k).boxed()
        }),
    ];
    steps
        .into_iter()
        .map(|(name, step)| {
            let config = config.clone();
            Hook {
                name,
                run: Box::new(move |ctx| step(ctx, config)),
            }
        })
        .collect()
}

fn text(s: Status) -> String {
    s.message
}

fn absent(s: &Status) -> bool {
    s.is_not_found()
}

/// Creates an object unless it exists. Whether it was created.
async fn ensure(ctx: &HookContext, group: &str, resource: &str, o: Value) -> Result<bool, Status> {
    let ns = o.namespace().to_owned();
    match ctx.writer().read(group, resource, &ns, o.name()).await {
        Ok(_) => return Ok(false),
        Err(s) if absent(&s) => {}
        Err(s) => return Err(s),
    }
    match ctx.writer().create(group, resource, &ns, o).await {
        Ok(_) => Ok(true),
        Err(s) if s.is_already_exists() => Ok(false),
        Err(s) => Err(s),
    }
}

async fn namespaces(ctx: HookContext) -> Result<(), String> {
    for o in objects("namespaces") {
        ensure(&ctx, "", "namespaces", o).await.map_err(text)?;
    }
    Ok(())
}

async fn priority_classes(ctx: HookContext) -> Result<(), String> {
    for o in objects("priorityclasses") {
        ensure(&ctx, "scheduling.k8s.io", "priorityclasses", o)
            .await
            .map_err(text)?;
    }
    Ok(())
}

/// Flow control objects follow the server's own while their annotation says so.
async fn flow_control(ctx: HookContext) -> Result<(), String> {
    const GROUP: &str = "flowcontrol.apiserver.k8s.io";
    for resource in ["prioritylevelconfigurations", "flowschemas"] {
        for o in objects(resource) {
            if ensure(&ctx, GROUP, resource, o.clone())
                .await
                .map_err(text)?
            {
                continue;
            }
            let now = ctx
                .writer()
                .read(GROUP, resource, "", o.name())
                .await
                .map_err(text)?;
            let auto = now.annotation("apf.kubernetes.io/autoupdate-spec") == Some("true");
            if auto && !same(now.at("spec"), o.at("spec")) {
                let mut change = |v: &mut Value| {
                    v.put("spec", o.at("spec").clone());
                    Ok(())
                };
                ctx.writer()
                    .update(GROUP, resource, "", o.name(), &mut change)
                    .await
                    .map_err(text)?;
            }
        }
    }
    Ok(())
}

const AUTOUPDATE: &str = "rbac.authorization.kubernetes.io/autoupdate";

fn kept_by_hand(o: &Value) -> bool {
    o.annotation(AUTOUPDATE) == Some("false")
}

/// Adds what `expected` has in labels and annotations.
fn add_metadata(o: &mut Value, expected: &Value) {
    for key in ["labels", "annotations"] {
        let mut all = o.at("metadata").map(key).clone();
        for (k, v) in expected.at("metadata").map(key) {
            all.entry(k.clone()).or_insert_with(|| v.clone());
        }
        if !all.is_empty() {
            o.put(&format!("metadata.{key}"), all);
        }
    }
}

/// Adds the rules of a role that it lacks.
fn reconcile_role(o: &mut Value, expected: &Value) {
    add_metadata(o, expected);
    if expected.has("aggregationRule") {
        // The rules of an aggregated role are made from those it selects.
        let mut all = o.list("aggregationRule.clusterRoleSelectors").to_vec();
        let lacking: Vec<Value> = expected
            .list("aggregationRule.clusterRoleSelectors")
            .iter()
            .filter(|s| !all.iter().any(|a| same(a, s)))
            .cloned()
            .collect();
        all.extend(lacking);
        o.put("aggregationRule.clusterRoleSelectors", all);
        return;
    }
    let owned = rules::of_role(o);
    let mut rules = o.list("rules").to_vec();
    for (rule, wanted) in expected.list("rules").iter().zip(rules::of_role(expected)) {
        if !rules::covers(&owned, std::slice::from_ref(&wanted)).is_empty() {
            rules.push(rule.clone());
        }
    }
    o.put("rules", rules);
}

fn reconcile_binding(o: &mut Value, expected: &Value) {
    add_metadata(o, expected);
    let mut subjects = o.list("subjects").to_vec();
    for s in expected.list("subjects") {
        if !subjects.iter().any(|x| same(x, s)) {
            subjects.push(s.clone());
        }
    }
    o.put("subjects", subjects);
}

async fn rbac(ctx: HookContext) -> Result<(), String> {
    for resource in [
        "clusterroles",
        "clusterrolebindings",
        "roles",
        "rolebindings",
    ] {
        let binding = resource.ends_with("bindings");
        for expected in objects(resource) {
            let (ns, name) = (expected.namespace().to_owned(), expected.name().to_owned());
            if ensure(&ctx, RBAC, resource, expected.clone())
                .await
                .map_err(text)?
            {
                continue;
            }
            let now = ctx
                .writer()
                .read(RBAC, resource, &ns, &name)
                .await
                .map_err(text)?;
            if kept_by_hand(&now) {
                continue;
            }
            if binding && !same(now.at("roleRef"), expected.at("roleRef")) {
                replace_binding(&ctx, resource, &now, &expected)
                    .await
                    .map_err(text)?;
                continue;
            }
            let reconcile = if binding {
                reconcile_binding
            } else {
                reconcile_role
            };
            let mut new = now.clone();
            reconcile(&mut new, &expected);
            if same(&new, &now) {
                continue;
            }
            let mut change = |v: &mut Value| {
                reconcile(v, &expected);
                Ok(())
            };
            ctx.writer()
                .update(RBAC, resource, &ns, &name, &mut change)
                .await
                .map_err(text)?;
        }
    }
    Ok(())
}

/// `roleRef` cannot change, so a binding to the wrong role is made anew.
async fn replace_binding(
    ctx: &HookContext,
    resource: &str,
    now: &Value,
    expected: &Value,
) -> Result<(), Status> {
    let mut new = expected.clone();
    reconcile_binding(&mut new, now);
    let reader = ctx.engine.core.reader();
    let stamp = jiff::Timestamp::now()
        .strftime("%Y-%m-%dT%H:%M:%SZ")
        .to_string();
    let warnings = apiserver::warnings::Warnings::default();
    let hook = apiserver::resource::Context {
        user: &ctx.user,
        namespace: now.namespace(),
        name: now.name(),
        asked: now.name(),
        subresource: "",
        dry_run: false,
        now: &stamp,
        reader: reader.as_ref(),
        authorizer: ctx.engine.authorizer.as_ref(),
        warnings: &warnings,
    };
    let options = json!({"preconditions": {"uid": now.text("metadata.uid")}});
    ctx.writer()
        .delete(&hook, RBAC, resource, now.namespace(), now.name(), &options)
        .await?;
    ensure(ctx, RBAC, resource, new).await.map(|_| ())
}

async fn service_cidr(ctx: HookContext, config: Config) -> Result<(), String> {
    const GROUP: &str = "networking.k8s.io";
    let cidrs: Vec<String> = config
        .service_cidrs
        .iter()
        .map(|(ip, len)| Range::new(*ip, *len).text())
        .collect();
    if cidrs.is_empty() {
        return Ok(());
    }
    let o = json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "ServiceCIDR",
        "metadata": {"name": "kubernetes"}, "spec": {"cidrs": cidrs},
    });
    ensure(&ctx, GROUP, "servicecidrs", o).await.map_err(text)?;
    let mut ready =
        |o: &mut Value| {
            let known = o
                .list("status.conditions")
                .iter()
                .any(|c| c.text("type") == "Ready");
            if !known && same(o.at("spec.cidrs"), &json!(cidrs)) {
                let since = o.text("metadata.creationTimestamp").to_owned();
                o.put("status.conditions", json!([{
                "type": "Ready", "status": "True", "lastTransitionTime": since, "reason": "",
                "message": "Kubernetes default Service CIDR is ready",
            }]));
            }
            Ok(())
        };
    let mut writer = ctx.writer();
    writer.subresource = "status";
    writer
        .update(GROUP, "servicecidrs", "", "kubernetes", &mut ready)
        .await
        .map(|_| ())
        .map_err(text)
}

/// How often addresses are compared with the services that have them.
const REPAIR: Duration = Duration::from_secs(3 * 60);
/// How old an address is at least before it can be nobody's: a service is written after its address.
const UNCLAIMED: i64 = 60;

/// Node ports and addresses of services that an interrupted write left unmarked, and marks that no service has. Later only
/// addresses are compared: a map of ports does not tell which marks are too new to have a service.
async fn repair(ctx: HookContext, config: Config) -> Result<(), String> {
    let reader = ctx.engine.core.reader();
    let services = reader.list("", "services", "").await.map_err(text)?;
    let ports: Vec<u16> = services.iter().flat_map(|s| held_ports(s)).collect();
    let map = NodePorts {
        store: config.store.clone(),
        range: config.node_ports.clone(),
    };
    map.repair(&ports).await.map_err(|e| e.to_string())?;
    repair_addresses(&ctx, &config).await?;
    tokio::spawn(async move {
        loop {
            tokio::select! {
                () = ctx.stop.cancelled() => return,
                () = tokio::time::sleep(REPAIR) => {}
            }
            if let Err(why) = repair_addresses(&ctx, &config).await {
                tracing::warn!(%why, "cannot compare addresses with services");
            }
        }
    });
    Ok(())
}

async fn repair_addresses(ctx: &HookContext, config: &Config) -> Result<(), String> {
    let reader = ctx.engine.core.reader();
    let addresses = reader.list("networking.k8s.io", "ipaddresses", "");
    let addresses = addresses.await.map_err(text)?;
    let services = reader.list("", "services", "").await.map_err(text)?;
    let known: HashSet<&str> = addresses.iter().map(|a| a.name()).collect();
    let ranges: Vec<Range> = config
        .service_cidrs
        .iter()
        .map(|(ip, len)| Range::new(*ip, *len))
        .collect();
    let mut held: HashSet<(IpAddr, &str, &str)> = HashSet::new();
    for s in &services {
        for ip in held_ips(s) {
            held.insert((ip, s.namespace(), s.name()));
            if known.contains(ip.to_string().as_str()) {
                continue;
            }
            let stamp = s.text("metadata.creationTimestamp").to_owned();
            let parent = crate::alloc::Parent {
                namespace: s.namespace(),
                name: s.name(),
                now: &stamp,
            };
            match crate::alloc::take(&config.store, &ranges, ip, parent).await {
                Ok(()) => {
                    tracing::warn!(%ip, service = s.name(), "service address was not marked as taken")
                }
                Err(crate::alloc::Error::Store(why)) => return Err(why),
                Err(_) => {}
            }
        }
    }
    let now = jiff::Timestamp::now().as_second();
    for (ip, revision) in addresses.iter().filter_map(|a| leaked(a, &held, now)) {
        tracing::warn!(%ip, "service address is marked as taken, and no service has it");
        let released = crate::alloc::release_at(&config.store, ip, revision).await;
        released.map_err(|e| e.to_string())?;
    }
    Ok(())
}

/// An address that was allocated to a service, which does not have it, and the revision that says so.
fn leaked(
    address: &Value,
    held: &HashSet<(IpAddr, &str, &str)>,
    now: i64,
) -> Option<(IpAddr, i64)> {
    let label = address
        .at("metadata.labels")
        .get("ipaddress.kubernetes.io/managed-by");
    let ours = label.and_then(Value::as_str) == Some("ipallocator.k8s.io");
    let parent = address.at("spec.parentRef");
    let ip: IpAddr = address.name().parse().ok()?;
    let has = held.contains(&(ip, parent.text("namespace"), parent.text("name")));
    let made = api::time::seconds(address.text("metadata.creationTimestamp"))?;
    let old = now.saturating_sub(made) > UNCLAIMED;
    let revision = address.text("metadata.resourceVersion").parse().ok()?;
    (ours && parent.text("resource") == "services" && !has && old).then_some((ip, revision))
}

/// The ConfigMap in kube-system that says since when the use of legacy tokens is noted.
const TRACKING: &str = "kube-apiserver-legacy-service-account-token-tracking";
/// How often it is looked whether somebody took it away.
const TRACKING_INTERVAL: Duration = Duration::from_secs(30 * 60);

/// Says since when the use of legacy tokens is noted, and notes it.
async fn token_tracking(ctx: HookContext, config: Config) -> Result<(), String> {
    tracked_since(&ctx).await.map_err(text)?;
    let used = config.used_tokens.lock();
    let used = used.unwrap_or_else(PoisonError::into_inner).take();
    if let Some(used) = used {
        tokio::spawn(note_used(ctx, used));
    }
    Ok(())
}

/// Keeps the day that is there, if it is one.
async fn tracked_since(ctx: &HookContext) -> Result<(), Status> {
    let (today, _) = days(jiff::Timestamp::now().as_second());
    let o = json!({
        "apiVersion": "v1", "kind": "ConfigMap",
        "metadata": {"name": TRACKING, "namespace": "kube-system"}, "data": {"since": today},
    });
    if ensure(ctx, "", "configmaps", o).await? {
        return Ok(());
    }
    let writer = ctx.writer();
    let now = writer
        .read("", "configmaps", "kube-system", TRACKING)
        .await?;
    if is_day(now.text("data.since")) {
        return Ok(());
    }
    let mut change = |o: &mut Value| {
        o.put("data.since", today.as_str());
        Ok(())
    };
    let changed = writer.update("", "configmaps", "kube-system", TRACKING, &mut change);
    changed.await.map(drop)
}

fn is_day(text: &str) -> bool {
    text.len() == 10 && text.parse::<jiff::civil::Date>().is_ok()
}

async fn note_used(ctx: HookContext, mut used: Receiver<Used>) {
    let mut again = tokio::time::interval(TRACKING_INTERVAL);
    again.reset();
    loop {
        let one = tokio::select! {
            () = ctx.stop.cancelled() => return,
            one = used.recv() => one,
            _ = again.tick() => {
                if let Err(why) = tracked_since(&ctx).await {
                    tracing::warn!(why = why.message, "cannot say since when tokens are tracked");
                }
                continue;
            }
        };
        let Some(one) = one else { return };
        let (today, _) = days(jiff::Timestamp::now().as_second());
        let mut change = |o: &mut Value| {
            if o.text("metadata.uid") == one.uid {
                let mut labels = o.at("metadata.labels").clone();
                if !labels.is_object() {
                    labels = json!({});
                }
                if let Some(labels) = labels.as_object_mut() {
                    labels.insert(LAST_USED.into(), today.as_str().into());
                }
                o.put("metadata.labels", labels);
            }
            Ok(())
        };
        let writer = ctx.writer();
        let noted = writer.update("", "secrets", &one.namespace, &one.secret, &mut change);
        match noted.await {
            Ok(_) => {}
            Err(s) if s.is_not_found() => {}
            Err(why) => tracing::warn!(
                why = why.message,
                namespace = one.namespace,
                secret = one.secret,
                "cannot note the use of a token"
            ),
        }
    }
}

async fn kubernetes_service(ctx: HookContext, config: Config) -> Result<(), String> {
    let Some((ip, len)) = config.service_cidrs.first().copied() else {
        return Ok(());
    };
    let first = first_address(ip, len);
    let o = json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {
            "name": "kubernetes", "namespace": "default",
            "labels": {"component": "apiserver", "provider": "kubernetes"},
        },
        "spec": {
            "clusterIP": first.to_string(), "type": "ClusterIP", "sessionAffinity": "None",
            "ports": [{"name": "https", "protocol": "TCP", "port": 443, "targetPort": config.secure_port}],
        },
    });
    ensure(&ctx, "", "services", o).await.map_err(text)?;
    if !config.authentication_info.is_empty() {
        authentication_info(&ctx, &config.authentication_info)
            .await
            .map_err(text)?;
    }
    if let Some(advertise) = config.advertise {
        let leases = MasterLeases {
            store: config.store.clone(),
            own: advertise,
            port: config.secure_port,
        };
        leases.renew().await?;
        leases.publish(&ctx).await.map_err(text)?;
        tokio::spawn(leases.keep(ctx));
    }
    Ok(())
}

/// The first address of a network, which is that of the Service `kubernetes`.
pub fn first_address(ip: IpAddr, len: u8) -> IpAddr {
    match crate::check::masked(ip, len) {
        IpAddr::V4(v) => IpAddr::from((u32::from(v).saturating_add(1)).to_be_bytes()),
        IpAddr::V6(v) => IpAddr::from((u128::from(v).saturating_add(1)).to_be_bytes()),
    }
}

async fn authentication_info(
    ctx: &HookContext,
    data: &BTreeMap<String, String>,
) -> Result<(), Status> {
    let name = "extension-apiserver-authentication";
    let o = json!({
        "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "namespace": "kube-system"}, "data": data,
    });
    if ensure(ctx, "", "configmaps", o).await? {
        return Ok(());
    }
    let mut change = |o: &mut Value| {
        let mut all = o.map("data").clone();
        all.extend(data.iter().map(|(k, v)| (k.clone(), v.as_str().into())));
        o.put("data", all);
        Ok(())
    };
    ctx.writer()
        .update("", "configmaps", "kube-system", name, &mut change)
        .await
        .map(|_| ())
}

/// Which apiservers live: one key per address, each ending with its lease.
struct MasterLeases {
    store: SharedStore,
    own: IpAddr,
    port: u16,
}

const MASTERS: &str = "/registry/masterleases/";
/// Upstream's values: a lease outlives one missed renewal.
const LEASE_SECONDS: i64 = 15;
const RENEW: Duration = Duration::from_secs(10);

impl MasterLeases {
    fn key(&self) -> String {
        format!("{MASTERS}{}", self.own)
    }

    async fn renew(&self) -> Result<(), String> {
        let fail = |e: storage::Error| e.to_string();
        let lease = self.store.grant(LEASE_SECONDS).await.map_err(fail)?;
        let o = json!({
            "apiVersion": "v1", "kind": "Endpoints", "metadata": {},
            "subsets": [{"addresses": [{"ip": self.own.to_string()}]}],
        });
        let schema = api::schema::message("v1", "Endpoints").ok_or("no schema of Endpoints")?;
        let raw = wire::proto::value_to_vec(&o, schema).map_err(|e| e.to_string())?;
        let value: bytes::Bytes = wire::envelope::wrap("v1", "Endpoints", &raw).into();
        let key = self.key();
        for _ in 0..8 {
            let expect = match self.store.get(key.as_bytes(), 0).await.map_err(fail)?.kv {
                Some(kv) => Expect::Revision(kv.mod_revision),
                None => Expect::Absent,
            };
            let written = self
                .store
                .put(key.as_bytes(), value.clone(), expect, lease)
                .await
                .map_err(fail)?;
            if matches!(written, Written::Done { .. }) {
                return Ok(());
            }
        }
        Err("the lease of this apiserver changes too often".into())
    }

    async fn addresses(&self) -> Result<Vec<String>, String> {
        let listed = self
            .store
            .list(MASTERS.as_bytes(), ListOptions::default())
            .await
            .map_err(|e| e.to_string())?;
        let mut all: Vec<String> = listed
            .items
            .iter()
            .filter_map(|kv| std::str::from_utf8(kv.key.get(MASTERS.len()..)?).ok())
            .map(str::to_owned)
            .collect();
        all.sort();
        Ok(all)
    }

    /// Makes Endpoints and EndpointSlice of the `kubernetes` service say which apiservers live.
    async fn publish(&self, ctx: &HookContext) -> Result<(), Status> {
        let ips = self.addresses().await.map_err(Status::internal)?;
        if ips.is_empty() {
            return Ok(());
        }
        let subsets = json!([{
            "addresses": ips.iter().map(|ip| json!({ "ip": ip })).collect::<Vec<_>>(),
            "ports": [{"name": "https", "port": self.port, "protocol": "TCP"}],
        }]);
        let endpoints = json!({
            "apiVersion": "v1", "kind": "Endpoints",
            "metadata": {
                "name": "kubernetes", "namespace": "default",
                "labels": {"endpointslice.kubernetes.io/skip-mirror": "true"},
            },
            "subsets": subsets,
        });
        put(
            ctx,
            "",
            "endpoints",
            &endpoints,
            &["subsets", "metadata.labels"],
        )
        .await?;
        let slice = json!({
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
            "metadata": {
                "name": "kubernetes", "namespace": "default",
                "labels": {"kubernetes.io/service-name": "kubernetes"},
            },
            "addressType": if self.own.is_ipv4() { "IPv4" } else { "IPv6" },
            "ports": [{"name": "https", "port": self.port, "protocol": "TCP"}],
            "endpoints": ips.iter().map(|ip| json!({
                "addresses": [ip], "conditions": {"ready": true},
            })).collect::<Vec<_>>(),
        });
        put(
            ctx,
            "discovery.k8s.io",
            "endpointslices",
            &slice,
            &["ports", "endpoints"],
        )
        .await
    }

    /// Renews until the server stops, then leaves.
    async fn keep(self, ctx: HookContext) {
        let leases = Arc::new(self);
        loop {
            tokio::select! {
                () = ctx.stop.cancelled() => break,
                () = tokio::time::sleep(RENEW) => {}
            }
            if let Err(why) = leases.renew().await {
                tracing::warn!(%why, "cannot renew this apiserver's lease");
                continue;
            }
            if let Err(why) = leases.publish(&ctx).await {
                tracing::warn!(%why, "cannot publish the endpoints of the kubernetes service");
            }
        }
        if let Err(why) = leases
            .store
            .delete(leases.key().as_bytes(), Expect::Any)
            .await
        {
            tracing::warn!(%why, "cannot give up this apiserver's lease");
        }
        let _ = leases.publish(&ctx).await;
    }
}

/// Creates an object or makes some of its fields equal; writes only what differs.
async fn put(
    ctx: &HookContext,
    group: &str,
    resource: &str,
    o: &Value,
    fields: &[&str],
) -> Result<(), Status> {
    if ensure(ctx, group, resource, o.clone()).await? {
        return Ok(());
    }
    let now = ctx
        .writer()
        .read(group, resource, o.namespace(), o.name())
        .await?;
    if fields.iter().all(|f| same(now.at(f), o.at(f))) {
        return Ok(());
    }
    let mut change = |v: &mut Value| {
        for f in fields {
            v.copy_at(f, o);
        }
        Ok(())
    };
    ctx.writer()
        .update(group, resource, o.namespace(), o.name(), &mut change)
        .await
        .map(|_| ())
}

/// One APIService per group and version that this server has.
async fn api_services(ctx: HookContext, _: Config) -> Result<(), String> {
    const GROUP: &str = "apiregistration.k8s.io";
    let known = objects("apiservices");
    let mut seen = std::collections::BTreeSet::new();
    for r in api::resources::ALL {
        let name = format!("{}.{}", r.version, r.group);
        if r.group == GROUP || !seen.insert(name.clone()) {
            continue;
        }
        let o = known.iter().find(|o| o.name() == name).cloned().unwrap_or_else(|| {
            json!({
                "apiVersion": "apiregistration.k8s.io/v1", "kind": "APIService",
                "metadata": {"name": name, "labels": {"kube-aggregator.kubernetes.io/automanaged": "onstart"}},
                "spec": {
                    "group": r.group, "version": r.version, "groupPriorityMinimum": 16000, "versionPriority": 15,
                },
            })
        });
        if !ensure(&ctx, GROUP, "apiservices", o).await.map_err(text)? {
            continue;
        }
        let mut available = |o: &mut Value| {
            let since = o.text("metadata.creationTimestamp").to_owned();
            o.put("status.conditions", json!([{
                "type": "Available", "status": "True", "lastTransitionTime": since, "reason": "Local",
                "message": "Local APIServices are always available",
            }]));
            Ok(())
        };
        let mut writer = ctx.writer();
        writer.subresource = "status";
        writer
            .update(GROUP, "apiservices", "", &name, &mut available)
            .await
            .map_err(text)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_given_back_that_no_service_has() {
        let now = api::time::seconds("2025-01-01T01:00:00Z").unwrap();
        let address = |name: &str, manager: &str, resource: &str, made: &str| {
            json!({"metadata": {"name": name, "resourceVersion": "7", "creationTimestamp": made,
                    "labels": {"ipaddress.kubernetes.io/managed-by": manager}},
                "spec": {"parentRef": {"group": "", "resource": resource, "namespace": "ns", "name": "s"}}})
        };
        let (ours, old) = ("ipallocator.k8s.io", "2025-01-01T00:58:59Z");
        let ip: IpAddr = "10.0.0.1".parse().unwrap();
        let of = |name: &'static str| HashSet::from([(ip, "ns", name)]);
        for (what, address, held, want) in [
            (
                "has it",
                address("10.0.0.1", ours, "services", old),
                of("s"),
                false,
            ),
            (
                "nobody",
                address("10.0.0.1", ours, "services", old),
                HashSet::new(),
                true,
            ),
            (
                "another service",
                address("10.0.0.1", ours, "services", old),
                of("t"),
                true,
            ),
            (
                "another address",
                address("10.0.0.2", ours, "services", old),
                of("s"),
                true,
            ),
            (
                "too new",
                address("10.0.0.1", ours, "services", "2025-01-01T00:59:00Z"),
                HashSet::new(),
                false,
            ),
            (
                "somebody's own",
                address("10.0.0.1", "me", "services", old),
                HashSet::new(),
                false,
            ),
            (
                "of a gateway",
                address("10.0.0.1", ours, "gateways", old),
                HashSet::new(),
                false,
            ),
            (
                "no time",
                address("10.0.0.1", ours, "services", ""),
                HashSet::new(),
                false,
            ),
        ] {
            let got = leaked(&address, &held, now);
            assert_eq!(
                got.map(|(_, revision)| revision),
                want.then_some(7),
                "{what}"
            );
        }
    }

    #[test]
    fn the_data_holds_what_a_cluster_needs() {
        let names = |r: &str| {
            objects(r)
                .iter()
                .map(|o| o.name().to_owned())
                .collect::<Vec<_>>()
        };
        assert_eq!(
            names("namespaces"),
            ["default", "kube-node-lease", "kube-public", "kube-system"]
        );
        for role in [
            "cluster-admin",
            "system:node",
            "system:kube-scheduler",
            "system:controller:job-controller",
        ] {
            assert!(names("clusterroles").iter().any(|n| n == role), "{role}");
        }
        assert_eq!(
            names("priorityclasses"),
            ["system-cluster-critical", "system-node-critical"]
        );
        assert!(names("apiservices").iter().any(|n| n == "v1.apps"));
        assert!(!DATA.contains("openshift"));
    }

    #[test]
    fn roles_are_only_added_to() {
        let expected = json!({"rules": [
            {"apiGroups": [""], "resources": ["pods"], "verbs": ["get"]},
            {"apiGroups": [""], "resources": ["secrets"], "verbs": ["get"]},
        ], "metadata": {"labels": {"a": "b"}}});
        let mut o = json!({"rules": [{"apiGroups": ["*"], "resources": ["pods"], "verbs": ["*"]}]});
        reconcile_role(&mut o, &expected);
        // What the first rule covers is not said again.
        assert_eq!(
            o.at("rules"),
            &json!([
                {"apiGroups": ["*"], "resources": ["pods"], "verbs": ["*"]},
                {"apiGroups": [""], "resources": ["secrets"], "verbs": ["get"]},
            ])
        );
        assert_eq!(o.label("a"), Some("b"));
        let again = o.clone();
        reconcile_role(&mut o, &expected);
        assert_eq!(o, again);
    }

    #[test]
    fn bindings_keep_their_own_subjects() {
        let mut o = json!({"subjects": [{"kind": "User", "name": "x"}]});
        reconcile_binding(
            &mut o,
            &json!({"subjects": [{"kind": "Group", "name": "g"}]}),
        );
        let both = json!([{"kind": "User", "name": "x"}, {"kind": "Group", "name": "g"}]);
        assert_eq!(o.at("subjects"), &both);
        reconcile_binding(
            &mut o,
            &json!({"subjects": [{"kind": "Group", "name": "g"}]}),
        );
        assert_eq!(o.at("subjects"), &both);
        let annotated = |value: &str| json!({"metadata": {"annotations": {AUTOUPDATE: value}}});
        assert!(kept_by_hand(&annotated("false")));
        assert!(!kept_by_hand(&annotated("true")) && !kept_by_hand(&json!({})));
    }
}
