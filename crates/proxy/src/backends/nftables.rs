//! The nftables backend: one table `kube-proxy`, verdict maps shared by all services.
//!
//! `service-ips` maps address, protocol and port to a verdict, `service-nodeports` protocol and port. The usual verdict is
//! `goto pick-N`, a chain shared by all services with N endpoints: it looks up one of N elements of the map `endpoints`
//! and translates to it. So a service is one element plus one per endpoint, and a change is a few elements; only
//! services with affinity, a Local external policy or source ranges have a chain of their own. `no-endpoint-services` and
//! `no-endpoint-nodeports` refuse what leads nowhere. Connections of a pod to itself are found by the set `hairpin`.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

use ring::digest::{SHA256, digest};

use super::{Backend, Options, Script};
use crate::model::{Changes, Endpoint, Entries, Entry, Family, PortName};

/// The nftables backend of one family.
pub struct Nftables {
    options: Options,
    written: BTreeMap<PortName, Items>,
    picks: BTreeSet<String>,
    /// How many services need an element: hairpin pairs are shared.
    shared: BTreeMap<(&'static str, String), usize>,
}

/// What one service port contributes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Items {
    /// Elements by (map, key), with their value; empty for sets.
    elements: BTreeMap<(&'static str, String), String>,
    /// Elements that other services may need too.
    shared: BTreeSet<(&'static str, String)>,
    /// Own chains with their rules, in the order in which they must be made.
    chains: BTreeMap<String, Vec<String>>,
    /// Own sets of clients with affinity, with their timeout in seconds.
    sets: BTreeMap<String, u32>,
    /// Shared chains that elements go to.
    picks: BTreeSet<String>,
}

fn short_hash(text: &str) -> String {
    digest(&SHA256, text.as_bytes())
        .as_ref()
        .iter()
        .take(8)
        .fold(String::new(), |mut s, b| {
            let _ = write!(s, "{b:02x}");
            s
        })
}

/// A chain name: a hash to be unique, the service to be read, as far as its characters are allowed. nft allows 128.
fn chain_name(kind: &str, name: &PortName, extra: &str) -> String {
    let protocol = name.protocol.lower();
    let plain = format!(
        "{}/{}/{protocol}/{}{extra}",
        name.namespace, name.name, name.port
    );
    let hash = short_hash(&plain);
    let mut out = format!("{kind}-{hash}-{plain}");
    out.retain(|c| c.is_ascii_alphanumeric() || "-_/.".contains(c));
    out.truncate(120);
    out
}

impl Nftables {
    /// For a family; nothing is known of the kernel yet.
    pub fn new(options: Options) -> Nftables {
        Nftables {
            options,
            written: BTreeMap::new(),
            picks: BTreeSet::new(),
            shared: BTreeMap::new(),
        }
    }

    fn ip(&self) -> &'static str {
        match self.options.family {
            Family::V4 => "ip",
            Family::V6 => "ip6",
        }
    }

    fn script(text: String) -> Script {
        Script {
            command: vec!["nft".into(), "-f".into(), "-".into()],
            text,
            ..Script::default()
        }
    }

    fn cluster_sources(&self) -> Option<String> {
        let cidrs = &self.options.cluster_cidrs;
        (!cidrs.is_empty()).then(|| format!("{} saddr {{ {} }}", self.ip(), cidrs.join(", ")))
    }

    /// `dnat` to one of some endpoints, chosen by chance.
    fn dnat(&self, endpoints: &[Endpoint]) -> String {
        let ip = self.ip();
        match endpoints {
            [one] => format!("dnat {ip} to {}", one.address()),
            many => {
                let list: Vec<String> = many
                    .iter()
                    .enumerate()
                    .map(|(i, e)| format!("{i} : {} . {}", e.ip, e.port))
                    .collect();
                format!(
                    "dnat {ip} to numgen random mod {} map {{ {} }}",
                    many.len(),
                    list.join(", ")
                )
            }
        }
    }

    /// The rules that pick an endpoint with affinity, or plainly.
    fn pick(
        &self,
        name: &PortName,
        entry: &Entry,
        endpoints: &[Endpoint],
        out: &mut Items,
    ) -> Vec<String> {
        let ip = self.ip();
        let protocol = name.protocol.lower();
        let Some(seconds) = entry.affinity else {
            return vec![format!("meta l4proto {protocol} {}", self.dnat(endpoints))];
        };
        let mut rules = Vec::new();
        let mut targets = Vec::new();
        for (i, e) in endpoints.iter().enumerate() {
            let extra = format!("__{}/{}", e.ip.replace(':', "."), e.port);
            // A set keeps its timeout for life, so another one has another name.
            let set = chain_name("affinity", name, &format!("{extra}/{seconds}"));
            let chain = chain_name("endpoint", name, &extra);
            rules.push(format!("{ip} saddr @{set} goto {chain}"));
            out.chains.insert(
                chain.clone(),
                vec![
                    format!("update @{set} {{ {ip} saddr }}"),
                    format!("meta l4proto {protocol} dnat {ip} to {}", e.address()),
                ],
            );
            out.sets.insert(set, seconds);
            targets.push(format!("{i} : goto {chain}"));
        }
        rules.push(format!(
            "numgen random mod {} vmap {{ {} }}",
            endpoints.len(),
            targets.join(", ")
        ));
        rules
    }

    fn items(&self, name: &PortName, entry: &Entry) -> Items {
        let mut out = Items::default();
        let protocol = name.protocol.lower();
        let key = |ip: &str, port: u16| format!("{ip} . {protocol} . {port}");
        let refuse = |local: bool| {
            if entry.endpoints.is_empty() {
                "goto reject-chain"
            } else {
                debug_assert!(
                    local,
                    "only a Local policy leaves no endpoint while there are some"
                );
                "drop"
            }
        };
        for e in entry.endpoints.iter().chain(&entry.local_endpoints) {
            out.shared
                .insert(("hairpin", format!("{} . {}", e.ip, e.ip)));
        }

        // From inside.
        if let Some(cluster_ip) = &entry.cluster_ip {
            out.shared.insert(("cluster-ips", cluster_ip.clone()));
            let internal = entry.internal();
            let cluster_key = key(cluster_ip, entry.port);
            if internal.is_empty() {
                out.elements.insert(
                    ("no-endpoint-services", cluster_key),
                    refuse(entry.internal_local).into(),
                );
            } else if entry.affinity.is_some() {
                let chain = chain_name("service", name, "");
                let rules = self.pick(name, entry, internal, &mut out);
                out.chains.insert(chain.clone(), rules);
                out.elements
                    .insert(("service-ips", cluster_key), format!("goto {chain}"));
            } else {
                self.spread("endpoints", &cluster_key, internal, "pick", &mut out);
                let n = internal.len();
                out.elements
                    .insert(("service-ips", cluster_key), format!("goto pick-{n}"));
            }
        }

        // From outside.
        if !entry.is_external() {
            return out;
        }
        let vips = || entry.external_ips.iter().chain(&entry.load_balancer_ips);
        if entry.external().is_empty() {
            for ip in vips() {
                out.elements.insert(
                    ("no-endpoint-services", key(ip, entry.port)),
                    refuse(entry.external_local).into(),
                );
            }
            if entry.node_port != 0 {
                let k = format!("{protocol} . {}", entry.node_port);
                out.elements.insert(
                    ("no-endpoint-nodeports", k),
                    refuse(entry.external_local).into(),
                );
            }
            return out;
        }
        let own = entry.affinity.is_some() || entry.external_local;
        if own {
            let chain = chain_name("external", name, "");
            let mut rules = Vec::new();
            if entry.external_local {
                let cluster_wide =
                    format!("meta l4proto {protocol} {}", self.dnat(&entry.endpoints));
                if let Some(from) = self.cluster_sources() {
                    rules.push(format!("{from} {cluster_wide}"));
                }
                rules.push("fib saddr type local jump mark-for-masquerade".into());
                rules.push(format!("fib saddr type local {cluster_wide}"));
            } else {
                rules.push("jump mark-for-masquerade".into());
            }
            rules.extend(self.pick(name, entry, entry.external(), &mut out));
            out.chains.insert(chain.clone(), rules);
            for ip in vips() {
                out.elements.insert(
                    ("service-ips", key(ip, entry.port)),
                    format!("goto {chain}"),
                );
            }
            if entry.node_port != 0 {
                let k = format!("{protocol} . {}", entry.node_port);
                out.elements
                    .insert(("service-nodeports", k), format!("goto {chain}"));
            }
        } else {
            let n = entry.external().len();
            for ip in vips() {
                let k = key(ip, entry.port);
                self.spread("endpoints", &k, entry.external(), "external-pick", &mut out);
                out.elements
                    .insert(("service-ips", k), format!("goto external-pick-{n}"));
            }
            if entry.node_port != 0 {
                let k = format!("{protocol} . {}", entry.node_port);
                self.spread(
                    "nodeport-endpoints",
                    &k,
                    entry.external(),
                    "nodeport-pick",
                    &mut out,
                );
                out.elements
                    .insert(("service-nodeports", k), format!("goto nodeport-pick-{n}"));
            }
        }
        if let Some(ranges) = &entry.source_ranges
            && !entry.load_balancer_ips.is_empty()
        {
            let chain = chain_name("firewall", name, "");
            let rule = if ranges.is_empty() {
                "drop".to_owned()
            } else {
                format!("{} saddr != {{ {} }} drop", self.ip(), ranges.join(", "))
            };
            out.chains.insert(chain.clone(), vec![rule]);
            for ip in &entry.load_balancer_ips {
                out.elements.insert(
                    ("firewall-ips", key(ip, entry.port)),
                    format!("goto {chain}"),
                );
            }
        }
        out
    }

    fn spread(
        &self,
        map: &'static str,
        key: &str,
        endpoints: &[Endpoint],
        pick: &str,
        out: &mut Items,
    ) {
        for (i, e) in endpoints.iter().enumerate() {
            out.elements.insert(
                (map, format!("{key} . {i}")),
                format!("{} . {}", e.ip, e.port),
            );
        }
        out.picks.insert(format!("{pick}-{}", endpoints.len()));
    }

    fn pick_chain(&self, chain: &str) -> Vec<String> {
        let ip = self.ip();
        let n = chain.rsplit('-').next().unwrap_or("1");
        let by_address = format!(
            "dnat {ip} to {ip} daddr . meta l4proto . th dport . numgen random mod {n} map @endpoints"
        );
        if chain.starts_with("nodeport-") {
            vec![
                "jump mark-for-masquerade".into(),
                format!(
                    "dnat {ip} to meta l4proto . th dport . numgen random mod {n} map @nodeport-endpoints"
                ),
            ]
        } else if chain.starts_with("external-") {
            vec!["jump mark-for-masquerade".into(), by_address]
        } else {
            vec![by_address]
        }
    }

    fn make_chain(text: &mut String, ip: &str, chain: &str, rules: &[String]) {
        let _ = writeln!(text, "add chain {ip} kube-proxy {chain}");
        let _ = writeln!(text, "flush chain {ip} kube-proxy {chain}");
        for rule in rules {
            let _ = writeln!(text, "add rule {ip} kube-proxy {chain} {rule}");
        }
    }

    fn make_set(&self, text: &mut String, set: &str, seconds: u32) {
        let ip = self.ip();
        let _ = writeln!(
            text,
            "add set {ip} kube-proxy {set} {{ typeof {ip} saddr ; flags dynamic,timeout ; timeout {seconds}s ; }}"
        );
    }

    fn skeleton(&self, text: &mut String) {
        let ip = self.ip();
        let bit = 1u32
            .checked_shl(u32::from(self.options.masquerade_bit))
            .unwrap_or(0x4000);
        let service = format!("{ip} daddr . meta l4proto . th dport");
        let port = "meta l4proto . th dport";
        // Not `th dport`, though it means the same bits: nft 1.0.6 reads that type back from the kernel and then refuses
        // every new rule that uses the map ("conflicting protocols specified: ip vs. th").
        let target = format!("{ip} daddr . tcp dport");
        let t = format!("{ip} kube-proxy");
        for (map, key) in [
            ("service-ips", service.as_str()),
            ("service-nodeports", port),
            ("no-endpoint-services", &service),
            ("no-endpoint-nodeports", port),
            ("firewall-ips", &service),
        ] {
            let _ = writeln!(text, "add map {t} {map} {{ typeof {key} : verdict ; }}");
        }
        let _ = writeln!(
            text,
            "add map {t} endpoints {{ typeof {service} . numgen random mod 65536 : {target} ; }}\n\
             add map {t} nodeport-endpoints {{ typeof {port} . numgen random mod 65536 : {target} ; }}\n\
             add set {t} cluster-ips {{ typeof {ip} daddr ; }}\n\
             add set {t} hairpin {{ typeof {ip} saddr . {ip} daddr ; }}"
        );
        let masquerade = if self.options.masquerade_all {
            Some(format!("{ip} daddr @cluster-ips jump mark-for-masquerade"))
        } else {
            let cidrs = &self.options.cluster_cidrs;
            (!cidrs.is_empty()).then(|| {
                format!(
                    "{ip} daddr @cluster-ips {ip} saddr != {{ {} }} jump mark-for-masquerade",
                    cidrs.join(", ")
                )
            })
        };
        let local = if self.options.node_port_addresses.is_empty() {
            let loopback = match self.options.family {
                Family::V4 => "ip daddr != 127.0.0.0/8 ",
                Family::V6 => "ip6 daddr != ::1 ",
            };
            format!("{loopback}fib daddr type local")
        } else {
            format!(
                "{ip} daddr {{ {} }}",
                self.options.node_port_addresses.join(", ")
            )
        };
        let mut services: Vec<String> = masquerade.into_iter().collect();
        services.push(format!("{service} vmap @service-ips"));
        services.push(format!("{local} {port} vmap @service-nodeports"));
        let refuse = format!("{service} vmap @no-endpoint-services");
        let refuse_port = format!("{local} {port} vmap @no-endpoint-nodeports");
        let firewall = format!("{service} vmap @firewall-ips");
        let chains: [(&str, Vec<String>); 6] = [
            (
                "mark-for-masquerade",
                vec![format!("meta mark set meta mark | {bit:#x}")],
            ),
            ("reject-chain", vec!["reject".into()]),
            ("services", services),
            ("firewall-check", vec![firewall]),
            ("endpoints-check", vec![refuse, refuse_port]),
            (
                "masquerading",
                vec![
                    format!(
                        "ct status dnat {ip} saddr . {ip} daddr @hairpin masquerade fully-random"
                    ),
                    format!("meta mark & {bit:#x} == 0 return"),
                    format!("meta mark set meta mark ^ {bit:#x}"),
                    "masquerade fully-random".into(),
                ],
            ),
        ];
        for (chain, rules) in &chains {
            Self::make_chain(text, &t.replace(" kube-proxy", ""), chain, rules);
        }
        // Nothing from outside reaches loopback addresses, though `route_localnet` (which CNI's portmap sets) lets it through
        // (CVE-2020-8558); before any translation, so that host ports on loopback are not reached either. Linux itself
        // drops ::1.
        let localnet =
            "iifname != \"lo\" ip daddr 127.0.0.0/8 ct state & (established | related) == 0 drop";
        let check = "ct state new jump firewall-check";
        let prerouting: &[&str] = match self.options.family {
            Family::V4 => &[localnet, check],
            Family::V6 => &[check],
        };
        let hooks: [(&str, &str, &[&str]); 7] = [
            (
                "filter-prerouting",
                "type filter hook prerouting priority -110",
                prerouting,
            ),
            (
                "filter-input",
                "type filter hook input priority -110",
                &["ct state new jump endpoints-check"],
            ),
            (
                "filter-forward",
                "type filter hook forward priority -110",
                &["ct state new jump endpoints-check"],
            ),
            (
                "filter-output",
                "type filter hook output priority -110",
                &[
                    "ct state new jump endpoints-check",
                    "ct state new jump firewall-check",
                ],
            ),
            (
                "nat-prerouting",
                "type nat hook prerouting priority dstnat",
                &["jump services"],
            ),
            (
                "nat-output",
                "type nat hook output priority -100",
                &["jump services"],
            ),
            (
                "nat-postrouting",
                "type nat hook postrouting priority srcnat",
                &["jump masquerading"],
            ),
        ];
        for (chain, hook, rules) in hooks {
            let _ = writeln!(text, "add chain {t} {chain} {{ {hook} ; }}");
            for rule in rules {
                let _ = writeln!(text, "add rule {t} {chain} {rule}");
            }
        }
    }

    /// Adds and deletes elements, many per command: nft's cost is per command, too.
    fn elements<'a>(
        text: &mut String,
        verb: &str,
        ip: &str,
        elements: impl Iterator<Item = (&'static str, &'a str, &'a str)>,
    ) {
        let mut by_map: BTreeMap<&str, Vec<String>> = BTreeMap::new();
        for (map, key, value) in elements {
            let item = if value.is_empty() || verb == "delete" {
                key.to_owned()
            } else {
                format!("{key} : {value}")
            };
            by_map.entry(map).or_default().push(item);
        }
        for (map, items) in by_map {
            for chunk in items.chunks(500) {
                let _ = writeln!(
                    text,
                    "{verb} element {ip} kube-proxy {map} {{ {} }}",
                    chunk.join(", ")
                );
            }
        }
    }
}

impl Backend for Nftables {
    fn full(&mut self, entries: &Entries) -> Vec<Script> {
        let ip = self.ip();
        self.written = entries
            .iter()
            .map(|(n, e)| (n.clone(), self.items(n, e)))
            .collect();
        self.picks = self
            .written
            .values()
            .flat_map(|i| i.picks.iter().cloned())
            .collect();
        self.shared.clear();
        for key in self.written.values().flat_map(|i| i.shared.iter()) {
            *self.shared.entry(key.clone()).or_default() += 1;
        }
        let mut text = format!(
            "add table {ip} kube-proxy\ndelete table {ip} kube-proxy\nadd table {ip} kube-proxy\n"
        );
        self.skeleton(&mut text);
        for chain in &self.picks {
            Self::make_chain(&mut text, ip, chain, &self.pick_chain(chain));
        }
        for items in self.written.values() {
            for (set, seconds) in &items.sets {
                self.make_set(&mut text, set, *seconds);
            }
            for chain in items.chains.keys() {
                let _ = writeln!(text, "add chain {ip} kube-proxy {chain}");
            }
            for (chain, rules) in &items.chains {
                Self::make_chain(&mut text, ip, chain, rules);
            }
        }
        let all = self
            .written
            .values()
            .flat_map(|i| &i.elements)
            .map(|((m, k), v)| (*m, k.as_str(), v.as_str()));
        Self::elements(&mut text, "add", ip, all);
        Self::elements(
            &mut text,
            "add",
            ip,
            self.shared.keys().map(|(m, k)| (*m, k.as_str(), "")),
        );
        vec![Self::script(text)]
    }

    fn delta(&mut self, changes: &Changes) -> Vec<Script> {
        let ip = self.ip();
        let mut make = String::new();
        let mut unmake = String::new();
        let mut removed: BTreeMap<(&'static str, String), String> = BTreeMap::new();
        let mut added: BTreeMap<(&'static str, String), String> = BTreeMap::new();
        for (name, entry) in changes {
            let now = entry
                .as_ref()
                .map(|e| self.items(name, e))
                .unwrap_or_default();
            let before = self.written.remove(name).unwrap_or_default();
            for (k, v) in &before.elements {
                if now.elements.get(k) != Some(v) {
                    removed.insert(k.clone(), v.clone());
                }
            }
            for (k, v) in &now.elements {
                if before.elements.get(k) != Some(v) {
                    added.insert(k.clone(), v.clone());
                }
            }
            for k in before.shared.difference(&now.shared) {
                if let Some(n) = self.shared.get_mut(k) {
                    *n -= 1;
                    if *n == 0 {
                        self.shared.remove(k);
                        removed.insert(k.clone(), String::new());
                    }
                }
            }
            for k in now.shared.difference(&before.shared) {
                let n = self.shared.entry(k.clone()).or_default();
                *n += 1;
                if *n == 1 && removed.remove(k).is_none() {
                    added.insert(k.clone(), String::new());
                }
            }
            for pick in &now.picks {
                if self.picks.insert(pick.clone()) {
                    Self::make_chain(&mut make, ip, pick, &self.pick_chain(pick));
                }
            }
            for (set, seconds) in &now.sets {
                if !before.sets.contains_key(set) {
                    self.make_set(&mut make, set, *seconds);
                }
            }
            for chain in now
                .chains
                .keys()
                .filter(|c| !before.chains.contains_key(*c))
            {
                let _ = writeln!(make, "add chain {ip} kube-proxy {chain}");
            }
            for (chain, rules) in &now.chains {
                if before.chains.get(chain) != Some(rules) {
                    Self::make_chain(&mut make, ip, chain, rules);
                }
            }
            let gone: Vec<_> = before
                .chains
                .keys()
                .filter(|c| !now.chains.contains_key(*c))
                .collect();
            for chain in &gone {
                let _ = writeln!(unmake, "flush chain {ip} kube-proxy {chain}");
            }
            for chain in &gone {
                let _ = writeln!(unmake, "delete chain {ip} kube-proxy {chain}");
            }
            for set in before.sets.keys().filter(|s| !now.sets.contains_key(*s)) {
                let _ = writeln!(unmake, "delete set {ip} kube-proxy {set}");
            }
            if entry.is_some() {
                self.written.insert(name.clone(), now);
            }
        }
        let mut text = make;
        Self::elements(
            &mut text,
            "delete",
            ip,
            removed
                .iter()
                .map(|((m, k), v)| (*m, k.as_str(), v.as_str())),
        );
        Self::elements(
            &mut text,
            "add",
            ip,
            added.iter().map(|((m, k), v)| (*m, k.as_str(), v.as_str())),
        );
        text.push_str(&unmake);
        if text.is_empty() {
            Vec::new()
        } else {
            vec![Self::script(text)]
        }
    }

    fn dry_run(&mut self) -> Vec<Script> {
        let full = Nftables::new(self.options.clone()).full(&Entries::new());
        full.into_iter()
            .map(|mut script| {
                script.command.insert(1, "-c".into());
                script
            })
            .collect()
    }

    fn cleanup(&self) -> Vec<Script> {
        let ip = self.ip();
        vec![Self::script(format!(
            "add table {ip} kube-proxy\ndelete table {ip} kube-proxy\n"
        ))]
    }

    fn owns(&self) -> fn(&str) -> bool {
        |line| line.contains("flush ruleset") || line.contains("kube-proxy")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Model;
    use crate::model::tests::{ready, service, slice};
    use std::sync::Arc;

    fn backend() -> Nftables {
        Nftables::new(Options {
            family: Family::V4,
            cluster_cidrs: vec!["10.1.0.0/16".into()],
            masquerade_all: false,
            masquerade_bit: 14,
            node_port_addresses: vec![],
        })
    }

    #[test]
    fn a_scaled_service_is_a_few_elements() {
        let mut m = Model::new("n1", Family::V4);
        for i in 0..100 {
            m.service(Arc::new(service(&format!("s{i}"), &format!("10.0.1.{i}"))));
        }
        let two = [("10.1.0.1", "n1", ready()), ("10.1.1.1", "n2", ready())];
        m.slice(Arc::new(slice("s1", "a", &two[..1])), false);
        m.take_changes();
        let mut b = backend();
        b.full(m.entries());
        m.slice(Arc::new(slice("s1", "a", &two)), false);
        let text = b.delta(&m.take_changes())[0].text.clone();
        assert!(text.contains("add chain ip kube-proxy pick-2\n"), "{text}");
        assert!(
            text.contains("delete element ip kube-proxy service-ips { 10.0.1.1 . tcp . 80 }\n"),
            "{text}"
        );
        assert!(
            text.contains(
                "add element ip kube-proxy service-ips { 10.0.1.1 . tcp . 80 : goto pick-2 }\n"
            ),
            "{text}"
        );
        assert!(
            text.contains("endpoints { 10.0.1.1 . tcp . 80 . 1 : 10.1.1.1 . 8080 }"),
            "{text}"
        );
        assert!(text.lines().count() < 12, "{text}");
    }

    #[test]
    fn hairpin_pairs_live_as_long_as_one_service_needs_them() {
        let mut m = Model::new("n1", Family::V4);
        let pod = [("10.1.0.1", "n1", ready())];
        for s in ["a", "b"] {
            m.service(Arc::new(service(
                s,
                if s == "a" { "10.0.0.1" } else { "10.0.0.2" },
            )));
            m.slice(Arc::new(slice(s, s, &pod)), false);
        }
        m.take_changes();
        let mut b = backend();
        b.full(m.entries());
        m.service_gone("ns", "a");
        assert!(!b.delta(&m.take_changes())[0].text.contains("hairpin"));
        m.service_gone("ns", "b");
        let text = b.delta(&m.take_changes())[0].text.clone();
        assert!(
            text.contains("delete element ip kube-proxy hairpin { 10.1.0.1 . 10.1.0.1 }"),
            "{text}"
        );
    }

    #[test]
    fn without_endpoints_it_rejects() {
        let mut m = Model::new("n1", Family::V4);
        m.service(Arc::new(service("a", "10.0.0.1")));
        m.take_changes();
        let text = &backend().full(m.entries())[0].text;
        assert!(
            text.contains("no-endpoint-services { 10.0.0.1 . tcp . 80 : goto reject-chain }"),
            "{text}"
        );
        assert!(!text.contains(" service-ips { 10.0.0.1 "), "{text}");
    }
}
