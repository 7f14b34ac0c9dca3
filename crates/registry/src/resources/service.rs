//! Services: defaults, what an update carries over, and the allocation of addresses and node ports.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;

use api::Status;
use apiserver::resource::{Context, Reservation, Strategy, SubresourceKind};
use async_trait::async_trait;
use serde_json::{Value, json};
use storage::SharedStore;

use super::connect::ServiceProxy;
use crate::alloc::{self, NodePorts, Parent, Range};
use crate::builtin::{Config, Parts};
use crate::check::{dns1123_label, is_ipv6, parse_cidr_sloppy, parse_ip_sloppy};
use crate::resources::namespace::masked;
use crate::validate::service::{self, external, headless, needs_health_check};
use crate::validate::{Errors, Path};
use crate::value::{Tree, same};
use crate::warn;

struct Service {
    store: SharedStore,
    configured: Vec<Range>,
    ports: NodePorts,
}

fn needs_ip(o: &Value) -> bool {
    o.text("spec.type") != "ExternalName"
}

fn needs_node_port(o: &Value) -> bool {
    matches!(o.text("spec.type"), "NodePort" | "LoadBalancer")
}

fn family(ip: &str) -> &'static str {
    if is_ipv6(ip) { "IPv6" } else { "IPv4" }
}

/// `clusterIP` and `clusterIPs` agree, whichever of them the client wrote.
fn normalize_ips(o: &mut Value, old: Option<&Value>) {
    let one = o.text("spec.clusterIP").to_owned();
    match old {
        None => {
            if !one.is_empty() && o.list("spec.clusterIPs").is_empty() {
                o.put("spec.clusterIPs", json!([one]));
            }
        }
        Some(old) => {
            let unchanged = same(o.at("spec.clusterIPs"), old.at("spec.clusterIPs"));
            if one.is_empty() && !old.text("spec.clusterIP").is_empty() && unchanged {
                o.remove_at("spec.clusterIPs");
            } else if one != old.text("spec.clusterIP") && unchanged {
                o.put("spec.clusterIPs", json!([one]));
            }
        }
    }
}

/// What the server allocated before stays when a client leaves it out.
fn carry_over(o: &mut Value, old: &Value) {
    if needs_ip(old) && needs_ip(o) {
        if o.text("spec.clusterIP").is_empty() {
            o.copy_at("spec.clusterIP", old);
        }
        if o.list("spec.clusterIPs").is_empty() {
            o.copy_at("spec.clusterIPs", old);
        }
    }
    let gets_node_ports = |o: &Value| {
        o.text("spec.type") == "NodePort"
            || o.text("spec.type") == "LoadBalancer"
                && o.flag_opt("spec.allocateLoadBalancerNodePorts") != Some(false)
    };
    if gets_node_ports(old) && gets_node_ports(o) {
        let all = |o: &Value| {
            o.list("spec.ports")
                .iter()
                .map(|p| p.int("nodePort"))
                .collect::<Vec<_>>()
        };
        let (mine, theirs) = (all(o), all(old));
        let mine: HashSet<i64> = mine.into_iter().collect();
        let mut used: HashSet<i64> = theirs.into_iter().filter(|p| mine.contains(p)).collect();
        let before: HashMap<&str, i64> = old
            .list("spec.ports")
            .iter()
            .map(|q| (q.text("name"), q.int("nodePort")))
            .collect();
        for p in o.list_mut("spec.ports") {
            if p.int("nodePort") != 0 {
                continue;
            }
            let port = before.get(p.text("name")).copied().unwrap_or_default();
            if port != 0 && used.insert(port) {
                p.put("nodePort", port);
            }
        }
    }
    if needs_health_check(old) && needs_health_check(o) && o.int("spec.healthCheckNodePort") == 0 {
        o.copy_at("spec.healthCheckNodePort", old);
    }
}

/// Fields that belong to the old type go when the type changes and the client did not touch them.
fn drop_by_type(o: &mut Value, old: &Value) {
    let unchanged = |o: &Value, key: &str| same(o.at(key), old.at(key));
    if needs_ip(old) && !needs_ip(o) {
        if unchanged(o, "spec.clusterIP") && unchanged(o, "spec.clusterIPs") {
            o.remove_at("spec.clusterIP");
            o.remove_at("spec.clusterIPs");
        }
        for key in ["spec.ipFamilies", "spec.ipFamilyPolicy"] {
            if unchanged(o, key) {
                o.remove_at(key);
            }
        }
    }
    if needs_node_port(old) && !needs_node_port(o) {
        let before: HashSet<i64> = old
            .list("spec.ports")
            .iter()
            .map(|p| p.int("nodePort"))
            .collect();
        if o.list("spec.ports")
            .iter()
            .all(|p| p.int("nodePort") == 0 || before.contains(&p.int("nodePort")))
        {
            for p in o.list_mut("spec.ports") {
                p.remove_at("nodePort");
            }
        }
    }
    if needs_health_check(old) && !needs_health_check(o) && unchanged(o, "spec.healthCheckNodePort")
    {
        o.remove_at("spec.healthCheckNodePort");
    }
    let balanced = |o: &Value| o.text("spec.type") == "LoadBalancer";
    if balanced(old) && !balanced(o) {
        for key in [
            "spec.allocateLoadBalancerNodePorts",
            "spec.loadBalancerClass",
        ] {
            if unchanged(o, key) {
                o.remove_at(key);
            }
        }
    }
    if external(old) && !external(o) && unchanged(o, "spec.externalTrafficPolicy") {
        o.remove_at("spec.externalTrafficPolicy");
    }
    if !balanced(o) {
        o.put("status.loadBalancer", json!({}));
    }
}

fn invalid(o: &Value, errors: &Errors) -> Status {
    Status::invalid("", "Service", o.name(), errors)
}

fn wrong(o: &Value, path: &Path, value: Value, why: &str) -> Status {
    let mut e = Errors::new();
    e.invalid(path, value, why);
    invalid(o, &e)
}

/// Whether an update leaves everything about addresses of a preferring dual-stack service alone.
fn matching_prefer_dual(o: &Value, old: Option<&Value>) -> bool {
    let Some(old) = old else { return false };
    let prefers = |o: &Value| o.text("spec.ipFamilyPolicy") == "PreferDualStack";
    o.has("spec.ipFamilyPolicy")
        && o.text("spec.type") == old.text("spec.type")
        && ["ClusterIP", "NodePort", "LoadBalancer"].contains(&o.text("spec.type"))
        && prefers(o)
        && (!old.has("spec.ipFamilyPolicy") || prefers(old))
        && same(o.at("spec.clusterIPs"), old.at("spec.clusterIPs"))
        && same(o.at("spec.ipFamilies"), old.at("spec.ipFamilies"))
}

/// What of the ranges decides about families.
struct Families {
    default: &'static str,
    present: Vec<&'static str>,
}

/// Fills in `ipFamilyPolicy` and `ipFamilies`.
fn init_families(o: &mut Value, old: Option<&Value>, families: &Families) -> Result<(), Status> {
    if !needs_ip(o) || matching_prefer_dual(o, old) {
        return Ok(());
    }
    let selectorless = o.text("spec.clusterIP") == "None" && o.map("spec.selector").is_empty();
    if !o.has("spec.ipFamilyPolicy") {
        match old.and_then(|old| old.text_opt("spec.ipFamilyPolicy")) {
            Some(p) => o.put("spec.ipFamilyPolicy", p),
            None if selectorless => o.put("spec.ipFamilyPolicy", "RequireDualStack"),
            None => o.put("spec.ipFamilyPolicy", "SingleStack"),
        }
    }
    let mut e = Errors::new();
    service::cluster_ips(&mut e, o, old);
    if !e.is_empty() {
        return Err(invalid(o, &e));
    }
    families_by_policy(&mut e, o, old);
    families_by_ips(&mut e, o, families);
    if !e.is_empty() {
        return Err(invalid(o, &e));
    }
    let single = o.text("spec.ipFamilyPolicy") == "SingleStack";
    let other = |f: &str| if f == "IPv4" { "IPv6" } else { "IPv4" };
    if selectorless {
        o.put_if_zero("spec.ipFamilies", json!([families.default]));
        let now = o.texts("spec.ipFamilies");
        if let ([only], false) = (now.as_slice(), single) {
            let both = json!([only, other(only)]);
            o.put("spec.ipFamilies", both);
        }
        return Ok(());
    }
    let path = Path::new("spec");
    if o.text("spec.ipFamilyPolicy") == "RequireDualStack" && families.present.len() < 2 {
        e.invalid(
            &path.child("ipFamilyPolicy"),
            "RequireDualStack",
            "this cluster is not configured for dual-stack services",
        );
    }
    for (i, f) in o.texts("spec.ipFamilies").iter().enumerate() {
        if !families.present.contains(f) {
            e.invalid(
                &path.child("ipFamilies").index(i),
                *f,
                "not configured on this cluster",
            );
        }
    }
    if !e.is_empty() {
        return Err(invalid(o, &e));
    }
    o.put_if_zero("spec.ipFamilies", json!([families.default]));
    let now = o.texts("spec.ipFamilies");
    if let ([only], false, 2) = (now.as_slice(), single, families.present.len()) {
        let both = json!([only, other(only)]);
        o.put("spec.ipFamilies", both);
    }
    Ok(())
}

fn families_by_policy(e: &mut Errors, o: &mut Value, old: Option<&Value>) {
    let policy_path = Path::new("spec").child("ipFamilyPolicy");
    let policy = o.at("spec.ipFamilyPolicy").clone();
    let single = policy == "SingleStack";
    let lists = [
        ("spec.clusterIPs", "cluster IP", "cluster IPs"),
        ("spec.ipFamilies", "IP family", "IP families"),
    ];
    if let Some(old) = old {
        for (key, what, _) in lists {
            let (n, was) = (o.list(key).len(), old.list(key).len());
            if single {
                if same(o.at(key), old.at(key)) && n > 1 {
                    let first = o.list(key).first().cloned();
                    o.put(key, Value::from_iter(first));
                }
            } else if n > 0 && n < was {
                e.invalid(
                    &policy_path,
                    policy.clone(),
                    &format!("must be 'SingleStack' to release the secondary {what}"),
                );
            }
        }
    }
    if single {
        for (key, _, plural) in lists {
            if o.list(key).len() == 2 {
                e.invalid(&policy_path, policy.clone(), &format!(
                    "must be 'RequireDualStack' or 'PreferDualStack' when multiple {plural} are specified"
                ));
            }
        }
    }
}

fn families_by_ips(e: &mut Errors, o: &mut Value, families: &Families) {
    let ips: Vec<String> = o
        .texts("spec.clusterIPs")
        .iter()
        .map(|s| (*s).to_owned())
        .collect();
    for (i, ip) in ips.iter().enumerate() {
        if ip == "None" {
            break;
        }
        if i < o.list("spec.ipFamilies").len() {
            continue;
        }
        let f = family(ip);
        if families.present.contains(&f) {
            let mut all = o.list("spec.ipFamilies").to_vec();
            all.push(f.into());
            o.put("spec.ipFamilies", all);
        } else {
            e.invalid(
                &Path::new("spec").child("clusterIPs").index(i),
                o.at("spec.clusterIPs").clone(),
                &format!("{f} is not configured on this cluster"),
            );
        }
    }
}

/// What a write took and what it gives back once it is through.
#[derive(Default)]
struct Taken {
    ips: Vec<IpAddr>,
    ports: Vec<u16>,
    release_ips: Vec<IpAddr>,
    release_ports: Vec<u16>,
}

fn spawn_release(store: SharedStore, ports: NodePorts, ips: Vec<IpAddr>, numbers: Vec<u16>) {
    if ips.is_empty() && numbers.is_empty() {
        return;
    }
    let Ok(runtime) = tokio::runtime::Handle::try_current() else {
        return;
    };
    runtime.spawn(async move {
        for ip in ips {
            if let Err(why) = alloc::release(&store, ip).await {
                tracing::error!(%ip, %why, "cannot release a service address");
            }
        }
        if let Err(why) = ports.release(&numbers).await {
            tracing::error!(?numbers, %why, "cannot release node ports");
        }
    });
}

fn node_ports(o: &Value) -> Vec<u16> {
    let mut all: Vec<u16> = o
        .list("spec.ports")
        .iter()
        .filter_map(|p| u16::try_from(p.int("nodePort")).ok())
        .filter(|p| *p != 0)
        .collect();
    all.sort_unstable();
    all.dedup();
    all
}

/// Every node port a service holds, that of its health check included.
pub fn held_ports(o: &Value) -> Vec<u16> {
    let mut all = node_ports(o);
    if needs_health_check(o)
        && let Ok(p) = u16::try_from(o.int("spec.healthCheckNodePort"))
        && p != 0
    {
        all.push(p);
    }
    all
}

/// The addresses a service holds.
pub fn held_ips(o: &Value) -> Vec<IpAddr> {
    if !needs_ip(o) || headless(o) {
        return vec![];
    }
    o.texts("spec.clusterIPs")
        .iter()
        .filter_map(|ip| parse_ip_sloppy(ip))
        .collect()
}

impl Service {
    /// The ranges to allocate from: those of ready ServiceCIDR objects; those of the flag while there are none yet.
    async fn ranges(&self, ctx: &Context<'_>) -> Result<Vec<Range>, Status> {
        let objects = ctx
            .reader
            .list("networking.k8s.io", "servicecidrs", "")
            .await?;
        let ready = |o: &Value| {
            !o.has("metadata.deletionTimestamp")
                && o.list("status.conditions")
                    .iter()
                    .find(|c| c.text("type") == "Ready")
                    .is_none_or(|c| c.text("status") == "True")
        };
        let mut out = if objects.iter().any(|o| o.name() == "kubernetes") {
            vec![]
        } else {
            self.configured.clone()
        };
        for o in objects.iter().filter(|o| ready(o)) {
            for text in o.texts("spec.cidrs") {
                if let Some((ip, len)) = parse_cidr_sloppy(text) {
                    let r = Range::new(ip, len);
                    if !out.contains(&r) {
                        out.push(r);
                    }
                }
            }
        }
        // The flag's ranges first, so that allocation is predictable.
        out.sort_by_key(|r| {
            self.configured
                .iter()
                .position(|c| c == r)
                .unwrap_or(usize::MAX)
        });
        Ok(out)
    }

    fn families(&self, ranges: &[Range]) -> Families {
        let name = |r: &Range| if r.base.is_ipv4() { "IPv4" } else { "IPv6" };
        let mut present: Vec<&'static str> = vec![];
        for f in self.configured.iter().chain(ranges).map(name) {
            if !present.contains(&f) {
                present.push(f);
            }
        }
        Families {
            default: present.first().copied().unwrap_or("IPv4"),
            present,
        }
    }

    /// Takes the addresses of `ipFamilies` from index `from` on, chosen ones as they are, and writes them.
    async fn take_ips(
        &self,
        ctx: &Context<'_>,
        o: &mut Value,
        ranges: &[Range],
        from: usize,
        taken: &mut Taken,
    ) -> Result<(), Status> {
        let families: Vec<String> = o
            .texts("spec.ipFamilies")
            .iter()
            .map(|s| (*s).to_owned())
            .collect();
        let mut ips: Vec<String> = o
            .texts("spec.clusterIPs")
            .iter()
            .map(|s| (*s).to_owned())
            .collect();
        let name = o.name().to_owned();
        let parent = Parent {
            namespace: ctx.namespace,
            name: &name,
            now: ctx.now,
        };
        let path = Path::new("spec").child("clusterIPs");
        for (i, f) in families.iter().enumerate().skip(from) {
            if ips.len() <= i {
                ips.push(String::new());
            }
            let own: Vec<Range> = ranges
                .iter()
                .filter(|r| r.base.is_ipv4() == (f == "IPv4"))
                .copied()
                .collect();
            let Some(slot) = ips.get_mut(i) else { continue };
            let shown = |asked: &Value| {
                if asked.is_null() {
                    json!([])
                } else {
                    asked.clone()
                }
            };
            if slot.is_empty() {
                if ctx.dry_run {
                    *slot = own.first().map_or(String::new(), |r| r.base.to_string());
                    continue;
                }
                match alloc::take_any(&self.store, &own, parent).await {
                    Ok(ip) => {
                        *slot = ip.to_string();
                        taken.ips.push(ip);
                    }
                    Err(alloc::Error::Full) => {
                        return Err(Status::internal(format!(
                            "failed to allocate a serviceIP for Service {name:?}: range is full"
                        )));
                    }
                    Err(why) => {
                        let asked = shown(o.at("spec.clusterIPs"));
                        return Err(wrong(
                            o,
                            &path,
                            asked,
                            &format!("failed to allocate IP: {why}"),
                        ));
                    }
                }
                continue;
            }
            let Some(ip) = parse_ip_sloppy(slot) else {
                return Err(Status::internal(format!(
                    "failed to parse service IP {slot:?}"
                )));
            };
            let result = if ctx.dry_run {
                if own.iter().any(|r| r.contains(ip)) {
                    Ok(())
                } else {
                    Err(alloc::Error::OtherNetwork)
                }
            } else {
                alloc::take(&self.store, &own, ip, parent).await
            };
            if let Err(why) = result {
                let text = slot.clone();
                let asked = shown(o.at("spec.clusterIPs"));
                return Err(wrong(
                    o,
                    &path,
                    asked,
                    &format!("failed to allocate IP {text}: {why}"),
                ));
            }
            if !ctx.dry_run {
                taken.ips.push(ip);
            }
        }
        if let Some(first) = ips.first() {
            o.put("spec.clusterIP", first.as_str());
        }
        o.put("spec.clusterIPs", ips);
        Ok(())
    }

    async fn ips(
        &self,
        ctx: &Context<'_>,
        o: &mut Value,
        old: Option<&Value>,
        ranges: &[Range],
        taken: &mut Taken,
    ) -> Result<(), Status> {
        if matching_prefer_dual(o, old) {
            return Ok(());
        }
        match old {
            None => {
                if needs_ip(o) && !headless(o) {
                    self.take_ips(ctx, o, ranges, 0, taken).await?;
                }
            }
            Some(old) if !needs_ip(old) => {
                if needs_ip(o) && !headless(o) {
                    self.take_ips(ctx, o, ranges, 0, taken).await?;
                }
            }
            Some(old) if headless(old) => {}
            Some(old) if !needs_ip(o) => taken.release_ips = held_ips(old),
            Some(old) => {
                let (was, now) = (
                    old.list("spec.ipFamilies").len(),
                    o.list("spec.ipFamilies").len(),
                );
                if was == 1 && now == 2 {
                    self.take_ips(ctx, o, ranges, 1, taken).await?;
                } else if was == 2 && now == 1 {
                    taken.release_ips = held_ips(old).into_iter().skip(1).collect();
                }
            }
        }
        Ok(())
    }

    /// Takes node ports that are new and notes those that are no longer used.
    async fn node_ports(
        &self,
        ctx: &Context<'_>,
        o: &mut Value,
        old: Option<&Value>,
        taken: &mut Taken,
    ) -> Result<(), Status> {
        let before = old.map(node_ports).unwrap_or_default();
        let auto = match o.text("spec.type") {
            "NodePort" => true,
            "LoadBalancer" => o.flag_opt("spec.allocateLoadBalancerNodePorts") != Some(false),
            _ => false,
        };
        if needs_node_port(o) {
            self.service_ports(ctx, o, &before, auto, old.is_some(), taken)
                .await?;
        }
        let now = node_ports(o);
        taken
            .release_ports
            .extend(before.iter().filter(|p| !now.contains(p)));
        let checked = old.is_some_and(needs_health_check);
        match (checked, needs_health_check(o)) {
            (false, true) => {
                let asked = o.int("spec.healthCheckNodePort");
                let failed = |why: alloc::Error| {
                    Status::internal(match asked {
                        0 => format!("failed to allocate a HealthCheck NodePort {asked}: {why}"),
                        p => {
                            format!("failed to allocate requested HealthCheck NodePort {p}: {why}")
                        }
                    })
                };
                let number = u16::try_from(asked).map_err(|_| failed(self.outside()))?;
                let got = self.take_ports(ctx, &[number], &now).await;
                let got = got.map_err(|(_, why)| failed(why))?;
                if let Some(p) = got.first() {
                    o.put("spec.healthCheckNodePort", *p);
                }
                if !ctx.dry_run {
                    taken.ports.extend(got);
                }
            }
            (true, false) => {
                let was = old.map_or(0, |o| o.int("spec.healthCheckNodePort"));
                taken
                    .release_ports
                    .extend(u16::try_from(was).ok().filter(|p| *p != 0));
            }
            _ => {}
        }
        Ok(())
    }

    /// What is said of a number that no port can have.
    fn outside(&self) -> alloc::Error {
        let range = &self.ports.range;
        alloc::Error::PortOutside(format!("{}-{}", range.start(), range.end()))
    }

    /// `held` are ports that the request took before.
    async fn take_ports(
        &self,
        ctx: &Context<'_>,
        wanted: &[u16],
        held: &[u16],
    ) -> Result<Vec<u16>, (usize, alloc::Error)> {
        if ctx.dry_run {
            self.ports.try_take(wanted, held).await
        } else {
            self.ports.take(wanted).await
        }
    }

    async fn service_ports(
        &self,
        ctx: &Context<'_>,
        o: &mut Value,
        before: &[u16],
        auto: bool,
        update: bool,
        taken: &mut Taken,
    ) -> Result<(), Status> {
        for (i, p) in o.list("spec.ports").iter().enumerate() {
            let n = p.int("nodePort");
            if u16::try_from(n).is_err() {
                let path = Path::new("spec").child("ports").index(i).child("nodePort");
                return Err(wrong(o, &path, n.into(), &self.outside().to_string()));
            }
        }
        // Ports of the same number (TCP and UDP) share a node port when one of them names it or none does.
        let list = o.list("spec.ports");
        let asked = |p: &Value| u16::try_from(p.int("nodePort")).unwrap_or_default();
        // By port: the first with it; by port and what was asked: the first with both. And a node port that any of them has.
        let mut first: HashMap<i64, usize> = HashMap::new();
        let mut first_asked: HashMap<(i64, u16), usize> = HashMap::new();
        let mut given: HashMap<i64, u16> = HashMap::new();
        for (i, p) in list.iter().enumerate() {
            first.entry(p.int("port")).or_insert(i);
            first_asked.entry((p.int("port"), asked(p))).or_insert(i);
            if asked(p) != 0 {
                given.entry(p.int("port")).or_insert(asked(p));
            }
        }
        let mut wanted: Vec<(usize, u16)> = vec![];
        let mut wanted_at: HashMap<usize, u16> = HashMap::new();
        let mut numbers: HashSet<u16> = HashSet::new();
        let mut shared: Vec<(usize, usize)> = vec![];
        for (i, p) in list.iter().enumerate() {
            let own = asked(p);
            if own == 0 && !auto {
                continue;
            }
            let port = p.int("port");
            let with = |asked| first_asked.get(&(port, asked)).copied();
            let twin = match own {
                0 => first.get(&port).copied(),
                _ if before.is_empty() => with(own).into_iter().chain(with(0)).min(),
                _ => with(own),
            };
            let twin = twin.filter(|t| *t < i);
            let number = match own {
                0 => given.get(&port).copied().unwrap_or(0),
                n => n,
            };
            match twin {
                Some(t) if own == 0 || wanted_at.get(&t) == Some(&own) => shared.push((i, t)),
                _ if number != 0
                    && (before.contains(&number) || update && numbers.contains(&number)) =>
                {
                    shared.push((i, i));
                }
                _ => {
                    wanted.push((i, number));
                    wanted_at.insert(i, number);
                    numbers.insert(number);
                }
            }
        }
        let numbers: Vec<u16> = wanted.iter().map(|(_, n)| *n).collect();
        let got = match self.take_ports(ctx, &numbers, &[]).await {
            Ok(got) => got,
            Err((_, alloc::Error::Full)) => {
                return Err(Status::internal(
                    "failed to allocate a nodePort: range is full",
                ));
            }
            Err((at, why)) => {
                let (i, n) = wanted.get(at).copied().unwrap_or_default();
                let path = Path::new("spec").child("ports").index(i).child("nodePort");
                return Err(wrong(o, &path, n.into(), &why.to_string()));
            }
        };
        if !ctx.dry_run {
            taken.ports.extend(&got);
        }
        let ports = o.list_mut("spec.ports");
        for ((i, _), port) in wanted.iter().zip(&got) {
            if let Some(p) = ports.get_mut(*i) {
                p.put("nodePort", *port);
            }
        }
        for (i, twin) in shared {
            let port = ports.get(twin).map_or(0, |p| p.int("nodePort"));
            if let Some(p) = ports.get_mut(i)
                && p.int("nodePort") == 0
                && port != 0
            {
                p.put("nodePort", port);
            }
        }
        Ok(())
    }
}

fn warnings(o: &Value) -> Vec<String> {
    let (mut out, spec, path) = (vec![], o.at("spec"), Path::new("spec"));
    const HINTS: &str = "service.kubernetes.io/topology-aware-hints";
    if o.annotation(HINTS).is_some() {
        out.push(format!(
            "annotation {HINTS} is deprecated, please use service.kubernetes.io/topology-mode instead"
        ));
    }
    let (ips, kind) = (spec.texts("clusterIPs"), spec.text("type"));
    let headless = kind == "ClusterIP" && spec.text("clusterIP") == "None";
    if !["", "None"].contains(&spec.text("clusterIP")) && kind != "ExternalName" {
        for (i, ip) in ips.iter().enumerate() {
            warn::ip(&mut out, &path.child("clusterIPs").index(i), ip);
        }
    }
    let (balancer, external) = (spec.text("loadBalancerIP"), spec.texts("externalIPs"));
    if headless {
        for (ignored, name) in [
            (!balancer.is_empty(), "loadBalancerIP"),
            (!external.is_empty(), "externalIPs"),
            (spec.text("sessionAffinity") != "None", "SessionAffinity"),
        ] {
            if ignored {
                out.push(format!("spec.{name} is ignored for headless services"));
            }
        }
    }
    for (i, ip) in external.iter().enumerate() {
        warn::ip(&mut out, &path.child("externalIPs").index(i), ip);
    }
    if !external.is_empty() && !headless && kind != "ExternalName" {
        out.push(
            "spec.externalIPs is deprecated and may no longer be implemented in some clusters"
                .into(),
        );
    }
    if !balancer.is_empty() {
        warn::ip(&mut out, &path.child("loadBalancerIP"), balancer);
    }
    for (i, c) in spec.texts("loadBalancerSourceRanges").iter().enumerate() {
        warn::cidr(
            &mut out,
            &path.child("loadBalancerSourceRanges").index(i),
            c,
        );
    }
    if kind == "ExternalName" && !external.is_empty() {
        out.push("spec.externalIPs is ignored when spec.type is \"ExternalName\"".into());
    }
    if kind != "ExternalName" && !spec.text("externalName").is_empty() {
        out.push("spec.externalName is ignored when spec.type is not \"ExternalName\"".into());
    }
    if spec.text("trafficDistribution") == "PreferClose" {
        out.push(
            "spec.trafficDistribution: \"PreferClose\" is deprecated; use \"PreferSameZone\""
                .into(),
        );
    }
    out
}

#[async_trait]
impl Strategy for Service {
    fn validate_name(&self, name: &str, prefix: bool) -> Option<Vec<String>> {
        Some(dns1123_label(&masked(name, prefix)))
    }

    fn default(&self, o: &mut Value) {
        if !o.has("spec") {
            o.put("spec", json!({}));
        }
        o.put_if_zero("spec.sessionAffinity", "None");
        match o.text("spec.sessionAffinity") {
            "None" => {
                o.remove_at("spec.sessionAffinityConfig");
            }
            "ClientIP" => {
                o.put_if_absent("spec.sessionAffinityConfig.clientIP.timeoutSeconds", 10800)
            }
            _ => {}
        }
        o.put_if_zero("spec.type", "ClusterIP");
        for p in o.list_mut("spec.ports") {
            p.put_if_zero("protocol", "TCP");
            let port = p.int("port");
            p.put_if_zero("targetPort", port);
        }
        if external(o) {
            o.put_if_zero("spec.externalTrafficPolicy", "Cluster");
        }
        if ["NodePort", "LoadBalancer", "ClusterIP"].contains(&o.text("spec.type")) {
            o.put_if_absent("spec.internalTrafficPolicy", "Cluster");
        }
        if o.text("spec.type") == "LoadBalancer" {
            o.put_if_absent("spec.allocateLoadBalancerNodePorts", true);
            for i in o.list_mut("status.loadBalancer.ingress") {
                if !i.text("ip").is_empty() {
                    i.put_if_absent("ipMode", "VIP");
                }
            }
        }
        if o.text("spec.type") == "ExternalName" {
            o.remove_at("spec.internalTrafficPolicy");
        }
        o.put_if_absent("status.loadBalancer", json!({}));
    }

    fn prepare_create(&self, _: &Context<'_>, o: &mut Value) {
        o.put("status", json!({"loadBalancer": {}}));
        normalize_ips(o, None);
    }

    fn prepare_update(&self, ctx: &Context<'_>, o: &mut Value, old: &Value) {
        if ctx.subresource == "status" {
            o.copy_at("spec", old);
            return;
        }
        o.copy_at("status", old);
        carry_over(o, old);
        normalize_ips(o, Some(old));
        drop_by_type(o, old);
    }

    fn validate_create(&self, _: &Context<'_>, o: &Value) -> Errors {
        service::validate(o, None)
    }

    fn warnings(&self, ctx: &Context<'_>, o: &Value, _: Option<&Value>) -> Vec<String> {
        if ctx.subresource.is_empty() {
            warnings(o)
        } else {
            warn::load_balancer(o)
        }
    }

    fn validate_update(&self, ctx: &Context<'_>, o: &Value, old: &Value) -> Errors {
        if ctx.subresource == "status" {
            service::status(o, old)
        } else {
            service::validate(o, Some(old))
        }
    }

    fn allow_create_on_update(&self) -> bool {
        true
    }

    fn field_values(&self, o: &Value) -> Vec<(&'static str, String)> {
        ["spec.clusterIP", "spec.type"]
            .iter()
            .map(|f| (*f, o.text(f).to_owned()))
            .collect()
    }

    fn returns_deleted(&self) -> bool {
        true
    }

    async fn begin_write(
        &self,
        ctx: &Context<'_>,
        o: &mut Value,
        old: Option<&Value>,
    ) -> Result<Reservation, Status> {
        if ctx.subresource == "status" {
            return Ok(Reservation::none());
        }
        let ranges = self.ranges(ctx).await?;
        init_families(o, old, &self.families(&ranges))?;
        let mut taken = Taken::default();
        let mut result = self.ips(ctx, o, old, &ranges, &mut taken).await;
        if result.is_ok() {
            result = self.node_ports(ctx, o, old, &mut taken).await;
        }
        let (store, ports) = (self.store.clone(), self.ports.clone());
        if let Err(why) = result {
            spawn_release(store, ports, taken.ips, taken.ports);
            return Err(why);
        }
        let (undo_store, undo_ports) = (store.clone(), ports.clone());
        let undo = move || spawn_release(undo_store, undo_ports, taken.ips, taken.ports);
        let done = move || spawn_release(store, ports, taken.release_ips, taken.release_ports);
        Ok(Reservation::new(undo).and_then(done))
    }

    fn after_delete(&self, o: &Value) {
        spawn_release(
            self.store.clone(),
            self.ports.clone(),
            held_ips(o),
            held_ports(o),
        );
    }
}

/// Services.
pub fn parts(config: &Config) -> Parts {
    let configured = config
        .service_cidrs
        .iter()
        .map(|(ip, len)| Range::new(*ip, *len))
        .collect();
    let ports = NodePorts {
        store: config.store.clone(),
        range: config.node_ports.clone(),
    };
    Parts::new(Service {
        store: config.store.clone(),
        configured,
        ports,
    })
    .fields(&["spec.clusterIP", "spec.type"])
    .sub("proxy", SubresourceKind::Connect(Arc::new(ServiceProxy)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SINGLE: Families = Families {
        default: "IPv4",
        present: vec![],
    };

    fn families(both: bool) -> Families {
        Families {
            present: if both {
                vec!["IPv4", "IPv6"]
            } else {
                vec!["IPv4"]
            },
            ..SINGLE
        }
    }

    #[test]
    fn families_follow_policies() {
        let mut o = json!({"spec": {"type": "ClusterIP", "selector": {"a": "b"}}});
        init_families(&mut o, None, &families(true)).unwrap();
        assert_eq!(o.texts("spec.ipFamilies"), ["IPv4"]);
        let mut o = json!({"spec": {"type": "ClusterIP", "ipFamilyPolicy": "PreferDualStack"}});
        init_families(&mut o, None, &families(true)).unwrap();
        assert_eq!(o.texts("spec.ipFamilies"), ["IPv4", "IPv6"]);
        let mut o = json!({"spec": {"type": "ClusterIP", "ipFamilyPolicy": "PreferDualStack"}});
        init_families(&mut o, None, &families(false)).unwrap();
        assert_eq!(o.texts("spec.ipFamilies"), ["IPv4"]);
        let mut o = json!({"spec": {"type": "ClusterIP", "ipFamilyPolicy": "RequireDualStack"}});
        assert_eq!(
            init_families(&mut o, None, &families(false))
                .unwrap_err()
                .message,
            "Service \"\" is invalid: spec.ipFamilyPolicy: Invalid value: \"RequireDualStack\": this cluster is not configured for dual-stack services"
        );
        let mut o =
            json!({"spec": {"type": "ClusterIP", "clusterIP": "None", "clusterIPs": ["None"]}});
        init_families(&mut o, None, &families(false)).unwrap();
        assert_eq!(o.text("spec.ipFamilyPolicy"), "RequireDualStack");
        assert_eq!(o.texts("spec.ipFamilies"), ["IPv4", "IPv6"]);
    }

    #[test]
    fn updates_carry_over_and_drop() {
        let old = json!({"spec": {"type": "NodePort", "clusterIP": "10.0.0.1", "clusterIPs": ["10.0.0.1"],
            "externalTrafficPolicy": "Cluster", "ports": [{"name": "a", "port": 80, "nodePort": 30001}]}});
        let mut o = json!({"spec": {"type": "NodePort", "ports": [{"name": "a", "port": 81}]}});
        carry_over(&mut o, &old);
        normalize_ips(&mut o, Some(&old));
        assert_eq!(o.text("spec.clusterIP"), "10.0.0.1");
        assert_eq!(held_ports(&o), [30001]);
        let mut o = old.clone();
        o.put("spec.type", "ClusterIP");
        drop_by_type(&mut o, &old);
        assert!(held_ports(&o).is_empty() && !o.has("spec.externalTrafficPolicy"));
        let mut o = old.clone();
        o.put("spec.clusterIP", "10.0.0.2");
        normalize_ips(&mut o, Some(&old));
        assert_eq!(
            service::validate(&o, Some(&old))
                .iter()
                .next()
                .map(ToString::to_string)
                .unwrap(),
            "spec.clusterIPs[0]: Invalid value: [\"10.0.0.2\"]: may not change once set"
        );
    }

    #[test]
    fn validation() {
        let errors = |spec: Value| {
            let mut o = json!({ "spec": spec });
            default_for_test(&mut o);
            service::validate(&o, None).aggregate()
        };
        assert_eq!(
            errors(json!({"ports": [{"port": 80}, {"port": 81}]})),
            "[spec.ports[0].name: Required value, spec.ports[1].name: Required value]"
        );
        assert_eq!(
            errors(json!({"type": "ExternalName"})),
            "spec.externalName: Required value"
        );
        assert_eq!(
            errors(json!({"externalTrafficPolicy": "Local", "ports": [{"port": 80}]})),
            "spec.externalTrafficPolicy: Invalid value: \"Local\": may only be set for externally-accessible services"
        );
        assert_eq!(
            errors(json!({"externalIPs": ["127.0.0.1"], "ports": [{"port": 80}]})),
            "spec.externalIPs[0]: Invalid value: \"127.0.0.1\": may not be in the loopback range (127.0.0.0/8, ::1/128)"
        );
        assert_eq!(
            errors(json!({"ports": [{"port": 80, "protocol": "XYZ"}]})),
            "spec.ports[0].protocol: Unsupported value: \"XYZ\": supported values: \"SCTP\", \"TCP\", \"UDP\""
        );
        assert_eq!(
            errors(json!({"clusterIP": "None", "clusterIPs": ["None"]})),
            "[]"
        );
    }

    fn default_for_test(o: &mut Value) {
        o.put_if_zero("spec.sessionAffinity", "None");
        o.put_if_zero("spec.type", "ClusterIP");
        for p in o.list_mut("spec.ports") {
            p.put_if_zero("protocol", "TCP");
            let port = p.int("port");
            p.put_if_zero("targetPort", port);
        }
        if external(o) {
            o.put_if_zero("spec.externalTrafficPolicy", "Cluster");
        }
        if o.text("spec.type") != "ExternalName" {
            o.put_if_absent("spec.internalTrafficPolicy", "Cluster");
        }
    }
}
