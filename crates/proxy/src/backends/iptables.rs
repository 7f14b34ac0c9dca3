//! The iptables backend: upstream's chains and rules, applied with `iptables-restore --noflush`.
//!
//! KUBE-SERVICES sends each address and port to the service's chain KUBE-SVC-…, that one to an endpoint's KUBE-SEP-… by
//! random choice (or affinity), which translates the destination. External traffic goes through KUBE-EXT-…, to
//! KUBE-SVL-… where it stays on the node, through KUBE-FW-… where its source is limited. Packets marked for it are
//! masqueraded in KUBE-POSTROUTING.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

use ring::digest::{SHA256, digest};

use super::{Backend, Options, Script};
use crate::model::{Changes, Endpoint, Entries, Entry, Family, PortName};

/// The iptables backend of one family.
pub struct Iptables {
    options: Options,
    written: BTreeMap<PortName, Rules>,
}

/// What one service port contributes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Rules {
    /// Rules in shared chains of the filter table: (chain, rule).
    filter: BTreeSet<(&'static str, String)>,
    /// Rules in shared chains of the nat table.
    nat: BTreeSet<(&'static str, String)>,
    /// Chains of its own in the nat table.
    chains: BTreeMap<String, Vec<String>>,
}

const FILTER_CHAINS: [&str; 5] = [
    "KUBE-NODEPORTS",
    "KUBE-SERVICES",
    "KUBE-EXTERNAL-SERVICES",
    "KUBE-FORWARD",
    "KUBE-PROXY-FIREWALL",
];
const NAT_CHAINS: [&str; 4] = [
    "KUBE-SERVICES",
    "KUBE-NODEPORTS",
    "KUBE-POSTROUTING",
    "KUBE-MARK-MASQ",
];

/// Nothing from outside reaches loopback addresses, though `route_localnet` (which CNI's portmap sets) lets it through
/// (CVE-2020-8558); before any translation, so that host ports on loopback are not reached either. Linux itself drops ::1.
/// A chain of the mangle table: the one of this name in the filter table is the kubelet's.
const LOCALNET: &str = "KUBE-FIREWALL";
const LOCALNET_RULE: &str = "-m comment --comment \"block incoming localnet connections\" -d 127.0.0.0/8 ! -i lo -m conntrack ! --ctstate RELATED,ESTABLISHED -j DROP";
const LOCALNET_JUMP: (&str, &str, &str) = (
    "mangle",
    "PREROUTING",
    "-m comment --comment \"kubernetes localnet firewall\" -j KUBE-FIREWALL",
);

/// Jumps from the built-in chains: (table, from, rule).
const JUMPS: [(&str, &str, &str); 12] = [
    (
        "filter",
        "INPUT",
        "-m conntrack --ctstate NEW -m comment --comment \"kubernetes load balancer firewall\" -j KUBE-PROXY-FIREWALL",
    ),
    (
        "filter",
        "INPUT",
        "-m comment --comment \"kubernetes health check service ports\" -j KUBE-NODEPORTS",
    ),
    (
        "filter",
        "INPUT",
        "-m conntrack --ctstate NEW -m comment --comment \"kubernetes externally-visible service portals\" -j KUBE-EXTERNAL-SERVICES",
    ),
    (
        "filter",
        "FORWARD",
        "-m conntrack --ctstate NEW -m comment --comment \"kubernetes load balancer firewall\" -j KUBE-PROXY-FIREWALL",
    ),
    (
        "filter",
        "FORWARD",
        "-m comment --comment \"kubernetes forwarding rules\" -j KUBE-FORWARD",
    ),
    (
        "filter",
        "FORWARD",
        "-m conntrack --ctstate NEW -m comment --comment \"kubernetes service portals\" -j KUBE-SERVICES",
    ),
    (
        "filter",
        "FORWARD",
        "-m conntrack --ctstate NEW -m comment --comment \"kubernetes externally-visible service portals\" -j KUBE-EXTERNAL-SERVICES",
    ),
    (
        "filter",
        "OUTPUT",
        "-m conntrack --ctstate NEW -m comment --comment \"kubernetes load balancer firewall\" -j KUBE-PROXY-FIREWALL",
    ),
    (
        "filter",
        "OUTPUT",
        "-m conntrack --ctstate NEW -m comment --comment \"kubernetes service portals\" -j KUBE-SERVICES",
    ),
    (
        "nat",
        "OUTPUT",
        "-m comment --comment \"kubernetes service portals\" -j KUBE-SERVICES",
    ),
    (
        "nat",
        "PREROUTING",
        "-m comment --comment \"kubernetes service portals\" -j KUBE-SERVICES",
    ),
    (
        "nat",
        "POSTROUTING",
        "-m comment --comment \"kubernetes postrouting rules\" -j KUBE-POSTROUTING",
    ),
];

/// Chains that belong to one service port or endpoint.
const OWN_PREFIXES: [&str; 5] = [
    "KUBE-SVC-",
    "KUBE-SVL-",
    "KUBE-SEP-",
    "KUBE-EXT-",
    "KUBE-FW-",
];

/// The words of a rule; double quotes keep spaces together.
fn words(rule: &str) -> Vec<String> {
    let parts = rule.split('"').enumerate();
    parts
        .flat_map(|(i, part)| {
            if i % 2 == 1 {
                vec![part.to_owned()]
            } else {
                part.split_whitespace().map(str::to_owned).collect()
            }
        })
        .collect()
}

/// The first 16 characters of the base32 of a SHA-256: upstream's chain suffix.
fn suffix(text: &str) -> String {
    const ALPHABET: &[u8; 32] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";
    let hash = digest(&SHA256, text.as_bytes());
    let mut out = String::with_capacity(16);
    let (mut buffer, mut bits) = (0u32, 0);
    for byte in hash.as_ref() {
        buffer = (buffer << 8) | u32::from(*byte);
        bits += 8;
        while bits >= 5 && out.len() < 16 {
            bits -= 5;
            let index = (buffer >> bits) & 31;
            out.push(
                ALPHABET
                    .get(index as usize)
                    .copied()
                    .map_or('A', char::from),
            );
        }
    }
    out
}

/// The service port as a comment, one word with nothing that could end it: a comment has 255 bytes, of which the rest of the text
/// takes less than 60.
fn label(name: &PortName) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:".contains(c);
    name.to_string()
        .chars()
        .map(|c| if plain(c) { c } else { '_' })
        .take(195)
        .collect()
}

fn service_chain(prefix: &str, name: &PortName) -> String {
    format!(
        "{prefix}{}",
        suffix(&format!("{name}{}", name.protocol.lower()))
    )
}

fn endpoint_chain(name: &PortName, endpoint: &Endpoint) -> String {
    format!(
        "KUBE-SEP-{}",
        suffix(&format!(
            "{name}{}{}",
            name.protocol.lower(),
            endpoint.address()
        ))
    )
}

impl Iptables {
    /// For a family; nothing is known of the kernel yet.
    pub fn new(options: Options) -> Iptables {
        Iptables {
            options,
            written: BTreeMap::new(),
        }
    }

    fn mark(&self) -> String {
        format!(
            "{:#010x}",
            1u32.checked_shl(u32::from(self.options.masquerade_bit))
                .unwrap_or(0x4000)
        )
    }

    fn program(&self, name: &str) -> String {
        match self.options.family {
            Family::V4 => name.to_owned(),
            Family::V6 => name.replacen("iptables", "ip6tables", 1),
        }
    }

    fn restore(&self, text: String) -> Script {
        let command = vec![
            self.program("iptables-restore"),
            "-w".into(),
            "5".into(),
            "--noflush".into(),
            "--counters".into(),
        ];
        Script {
            command,
            text,
            ..Script::default()
        }
    }

    fn host(&self, ip: &str) -> String {
        match self.options.family {
            Family::V4 => format!("{ip}/32"),
            Family::V6 => format!("{ip}/128"),
        }
    }

    fn rules(&self, name: &PortName, entry: &Entry) -> Rules {
        let mut out = Rules::default();
        let protocol = name.protocol.lower();
        let label = label(name);
        let to = |what: &str, ip: &str, port: u16| {
            format!(
                "-m comment --comment \"{label} {what}\" -m {protocol} -p {protocol} -d {} --dport {port}",
                self.host(ip)
            )
        };
        let svc = service_chain("KUBE-SVC-", name);
        let svl = service_chain("KUBE-SVL-", name);
        let ext = service_chain("KUBE-EXT-", name);
        let cluster_wide =
            !entry.endpoints.is_empty() && (!entry.internal_local || entry.is_external());
        let node_wide = !entry.local_endpoints.is_empty()
            && (entry.internal_local || (entry.external_local && entry.is_external()));

        // From inside.
        let internal = if entry.internal_local { &svl } else { &svc };
        if let Some(cluster_ip) = &entry.cluster_ip
            && entry.internal().is_empty()
        {
            let (why, action) = if entry.endpoints.is_empty() {
                ("has no endpoints", "REJECT")
            } else {
                ("has no local endpoints", "DROP")
            };
            out.filter.insert((
                "KUBE-SERVICES",
                format!("{} -j {action}", to(why, cluster_ip, entry.port)),
            ));
        } else if let Some(cluster_ip) = &entry.cluster_ip {
            let rule = to("cluster IP", cluster_ip, entry.port);
            out.nat
                .insert(("KUBE-SERVICES", format!("{rule} -j {internal}")));
            let chain = out.chains.entry(internal.clone()).or_default();
            if self.options.masquerade_all {
                chain.push(format!("{rule} -j KUBE-MARK-MASQ"));
            } else {
                for cidr in &self.options.cluster_cidrs {
                    chain.push(format!("{rule} ! -s {cidr} -j KUBE-MARK-MASQ"));
                }
            }
        }

        // From outside.
        let mut external = entry.is_external() && !entry.external().is_empty();
        let vips: Vec<(&str, &String)> = entry
            .external_ips
            .iter()
            .map(|ip| ("external IP", ip))
            .chain(
                entry
                    .load_balancer_ips
                    .iter()
                    .map(|ip| ("loadbalancer IP", ip)),
            )
            .collect();
        if entry.is_external() && entry.external().is_empty() {
            let (why, action) = if entry.endpoints.is_empty() {
                ("has no endpoints", "REJECT")
            } else {
                ("has no local endpoints", "DROP")
            };
            for (_, ip) in &vips {
                out.filter.insert((
                    "KUBE-EXTERNAL-SERVICES",
                    format!("{} -j {action}", to(why, ip, entry.port)),
                ));
            }
            if entry.node_port != 0 {
                out.filter.insert((
                    "KUBE-EXTERNAL-SERVICES",
                    format!(
                        "-m comment --comment \"{label} {why}\" -m addrtype --dst-type LOCAL -m {protocol} -p {protocol} --dport {} -j {action}",
                        entry.node_port
                    ),
                ));
            }
            // Pods and this node still reach the cluster's endpoints over external addresses.
            external = !entry.endpoints.is_empty();
        }
        if external {
            let ranges = entry.source_ranges.as_deref();
            let firewall = ranges.map(|_| service_chain("KUBE-FW-", name));
            for (what, ip) in &vips {
                let target = match &firewall {
                    Some(fw) if *what == "loadbalancer IP" => fw,
                    _ => &ext,
                };
                out.nat.insert((
                    "KUBE-SERVICES",
                    format!("{} -j {target}", to(what, ip, entry.port)),
                ));
            }
            if let Some(fw) = firewall.filter(|_| !entry.load_balancer_ips.is_empty()) {
                let chain = out.chains.entry(fw).or_default();
                for range in ranges.unwrap_or_default() {
                    chain.push(format!(
                        "-m comment --comment \"{label} loadbalancer IP\" -s {range} -j {ext}"
                    ));
                }
                for ip in &entry.load_balancer_ips {
                    out.filter.insert((
                        "KUBE-PROXY-FIREWALL",
                        format!("{} -j DROP", to("traffic not accepted by", ip, entry.port)),
                    ));
                }
            }
            if entry.node_port != 0 {
                out.nat.insert((
                    "KUBE-NODEPORTS",
                    format!(
                        "-m comment --comment {label} -m {protocol} -p {protocol} --dport {} -j {ext}",
                        entry.node_port
                    ),
                ));
            }
            let chain = out.chains.entry(ext).or_default();
            if entry.external_local {
                for cidr in &self.options.cluster_cidrs {
                    chain.push(format!(
                        "-m comment --comment \"pod traffic for {label} external destinations\" -s {cidr} -j {svc}"
                    ));
                }
                chain.push(format!(
                    "-m comment --comment \"masquerade LOCAL traffic for {label} external destinations\" -m addrtype --src-type LOCAL -j KUBE-MARK-MASQ"
                ));
                chain.push(format!(
                    "-m comment --comment \"route LOCAL traffic for {label} external destinations\" -m addrtype --src-type LOCAL -j {svc}"
                ));
                if !entry.local_endpoints.is_empty() {
                    chain.push(format!("-j {svl}"));
                }
            } else {
                chain.push(format!(
                    "-m comment --comment \"masquerade traffic for {label} external destinations\" -j KUBE-MARK-MASQ"
                ));
                chain.push(format!("-j {svc}"));
            }
        }

        if cluster_wide {
            self.balance(name, entry, &svc, &entry.endpoints, &mut out);
        }
        if node_wide {
            self.balance(name, entry, &svl, &entry.local_endpoints, &mut out);
        }
        out
    }

    /// The choice of an endpoint in `chain`, and the endpoints' own chains.
    fn balance(
        &self,
        name: &PortName,
        entry: &Entry,
        chain: &str,
        endpoints: &[Endpoint],
        out: &mut Rules,
    ) {
        let protocol = name.protocol.lower();
        let label = label(name);
        let mut rules = Vec::new();
        if let Some(seconds) = entry.affinity {
            for e in endpoints {
                let sep = endpoint_chain(name, e);
                rules.push(format!(
                    "-m comment --comment \"{label} -> {}\" -m recent --name {sep} --rcheck --seconds {seconds} --reap -j {sep}",
                    e.address()
                ));
            }
        }
        for (i, e) in endpoints.iter().enumerate() {
            let sep = endpoint_chain(name, e);
            let left = endpoints.len() - i;
            let mut rule = format!("-m comment --comment \"{label} -> {}\"", e.address());
            if left > 1 {
                let _ = write!(
                    rule,
                    " -m statistic --mode random --probability {:.10}",
                    1.0 / left as f64
                );
            }
            let _ = write!(rule, " -j {sep}");
            rules.push(rule);
            let mut own = vec![format!(
                "-m comment --comment {label} -s {} -j KUBE-MARK-MASQ",
                self.host(&e.ip)
            )];
            let mut dnat = format!("-m comment --comment {label}");
            if entry.affinity.is_some() {
                let _ = write!(dnat, " -m recent --name {sep} --set");
            }
            let _ = write!(
                dnat,
                " -m {protocol} -p {protocol} -j DNAT --to-destination {}",
                e.address()
            );
            own.push(dnat);
            out.chains.insert(sep, own);
        }
        out.chains
            .entry(chain.to_owned())
            .or_default()
            .extend(rules);
    }

    /// Inserts the jumps that are missing: iptables-restore cannot say "unless it is there".
    fn jumps(&self) -> impl Iterator<Item = Script> {
        let iptables = self.program("iptables");
        let localnet = (self.options.family == Family::V4).then_some(&LOCALNET_JUMP);
        // From the last to the first, so that they stand in order.
        let all = JUMPS.iter().rev().chain(localnet);
        all.map(move |(table, from, rule)| {
            let command = |verb: &[&str]| -> Vec<String> {
                let head = [iptables.as_str(), "-w", "5", "-t", table];
                head.iter()
                    .chain(verb)
                    .map(|s| (*s).to_owned())
                    .chain(words(rule))
                    .collect()
            };
            Script {
                unless: Some(command(&["-C", from])),
                command: command(&["-I", from, "1"]),
                ..Script::default()
            }
        })
    }

    fn last_service_rule(&self) -> String {
        let mut rule = String::from(
            "-m comment --comment \"kubernetes service nodeports; NOTE: this must be the last rule in this chain\"",
        );
        if self.options.node_port_addresses.is_empty() {
            rule.push_str(" -m addrtype --dst-type LOCAL");
            rule.push_str(match self.options.family {
                Family::V4 => " ! -d 127.0.0.0/8",
                Family::V6 => " ! -d ::1/128",
            });
        } else {
            let _ = write!(rule, " -d {}", self.options.node_port_addresses.join(","));
        }
        rule.push_str(" -j KUBE-NODEPORTS");
        rule
    }

    fn fixed(&self, filter: &mut String, nat: &mut String) {
        let mark = self.mark();
        let _ = writeln!(
            filter,
            "-A KUBE-FORWARD -m conntrack --ctstate INVALID -j DROP"
        );
        let _ = writeln!(
            filter,
            "-A KUBE-FORWARD -m comment --comment \"kubernetes forwarding rules\" -m mark --mark {mark}/{mark} -j ACCEPT"
        );
        let _ = writeln!(
            filter,
            "-A KUBE-FORWARD -m comment --comment \"kubernetes forwarding conntrack rule\" -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT"
        );
        let _ = writeln!(
            nat,
            "-A KUBE-POSTROUTING -m mark ! --mark {mark}/{mark} -j RETURN"
        );
        let _ = writeln!(nat, "-A KUBE-POSTROUTING -j MARK --xor-mark {mark}");
        let _ = writeln!(
            nat,
            "-A KUBE-POSTROUTING -m comment --comment \"kubernetes service traffic requiring SNAT\" -j MASQUERADE --random-fully"
        );
        let _ = writeln!(nat, "-A KUBE-MARK-MASQ -j MARK --or-mark {mark}");
    }
}

impl Backend for Iptables {
    fn full(&mut self, entries: &Entries) -> Vec<Script> {
        self.written = entries
            .iter()
            .map(|(n, e)| (n.clone(), self.rules(n, e)))
            .collect();
        let mut filter = String::from("*filter\n");
        let mut nat = String::from("*nat\n");
        for chain in FILTER_CHAINS {
            let _ = writeln!(filter, ":{chain} - [0:0]");
        }
        for chain in NAT_CHAINS {
            let _ = writeln!(nat, ":{chain} - [0:0]");
        }
        for chain in self.written.values().flat_map(|r| r.chains.keys()) {
            let _ = writeln!(nat, ":{chain} - [0:0]");
        }
        self.fixed(&mut filter, &mut nat);
        for r in self.written.values() {
            for (chain, rule) in &r.filter {
                let _ = writeln!(filter, "-A {chain} {rule}");
            }
            for (chain, rule) in &r.nat {
                let _ = writeln!(nat, "-A {chain} {rule}");
            }
            for (chain, rules) in &r.chains {
                for rule in rules {
                    let _ = writeln!(nat, "-A {chain} {rule}");
                }
            }
        }
        let _ = writeln!(nat, "-A KUBE-SERVICES {}", self.last_service_rule());
        filter.push_str("COMMIT\n");
        nat.push_str("COMMIT\n");
        // Chains of services that went while nobody watched are found and removed last.
        let mut known = BTreeSet::new();
        known.extend(self.written.values().flat_map(|r| r.chains.keys().cloned()));
        let mut text = filter + &nat;
        if self.options.family == Family::V4 {
            let _ = write!(
                text,
                "*mangle\n:{LOCALNET} - [0:0]\n-A {LOCALNET} {LOCALNET_RULE}\nCOMMIT\n"
            );
        }
        let mut scripts = vec![self.restore(text)];
        scripts.extend(self.jumps());
        scripts.push(self.sweep(known));
        scripts
    }

    fn delta(&mut self, changes: &Changes) -> Vec<Script> {
        let mut filter = String::new();
        let mut declare = String::new();
        let mut nat = String::new();
        let mut gone = BTreeSet::new();
        let mut kept = BTreeSet::new();
        for (name, entry) in changes {
            let now = entry
                .as_ref()
                .map(|e| self.rules(name, e))
                .unwrap_or_default();
            let before = self.written.remove(name).unwrap_or_default();
            for (chain, rule) in before.filter.difference(&now.filter) {
                let _ = writeln!(filter, "-D {chain} {rule}");
            }
            for (chain, rule) in now.filter.difference(&before.filter) {
                let _ = writeln!(filter, "-A {chain} {rule}");
            }
            for (chain, rule) in before.nat.difference(&now.nat) {
                let _ = writeln!(nat, "-D {chain} {rule}");
            }
            for (chain, rule) in now.nat.difference(&before.nat) {
                // Before the last rule, which must stay the last.
                let _ = writeln!(nat, "-I {chain} 1 {rule}");
            }
            for (chain, rules) in &now.chains {
                kept.insert(chain.clone());
                if before.chains.get(chain) != Some(rules) {
                    let _ = writeln!(declare, ":{chain} - [0:0]");
                    for rule in rules {
                        let _ = writeln!(nat, "-A {chain} {rule}");
                    }
                }
            }
            for chain in before
                .chains
                .keys()
                .filter(|c| !now.chains.contains_key(*c))
            {
                gone.insert(chain.clone());
            }
            if entry.is_some() {
                self.written.insert(name.clone(), now);
            }
        }
        for chain in gone.difference(&kept) {
            let _ = writeln!(declare, ":{chain} - [0:0]");
            let _ = writeln!(nat, "-X {chain}");
        }
        let mut text = String::new();
        if !filter.is_empty() {
            let _ = write!(text, "*filter\n{filter}COMMIT\n");
        }
        if !nat.is_empty() {
            let _ = write!(text, "*nat\n{declare}{nat}COMMIT\n");
        }
        if text.is_empty() {
            Vec::new()
        } else {
            vec![self.restore(text)]
        }
    }

    fn dry_run(&mut self) -> Vec<Script> {
        let full = Iptables::new(self.options.clone()).full(&Entries::new());
        full.into_iter()
            .take(1)
            .map(|mut script| {
                script.command.push("--test".into());
                script
            })
            .collect()
    }

    fn cleanup(&self) -> Vec<Script> {
        let iptables = self.program("iptables");
        let save = self.program("iptables-save");
        let restore = self.program("iptables-restore");
        let mut text = String::new();
        for (table, from, rule) in JUMPS.iter().chain([&LOCALNET_JUMP]) {
            let _ = writeln!(
                text,
                "while {iptables} -w 5 -t {table} -D {from} {rule} 2>/dev/null; do :; done"
            );
        }
        for table in ["filter", "nat"] {
            // Flush all, then delete all: chains refer to each other.
            let _ = writeln!(
                text,
                "{save} -t {table} 2>/dev/null | awk 'BEGIN {{ print \"*{table}\" }} \
                 /^:KUBE-/ {{ c = substr($1, 2); if (c !~ /^KUBE-(KUBELET|IPTABLES|FIREWALL)/) {{ print \":\" c \" - [0:0]\"; n[++i] = c }} }} \
                 END {{ for (k = 1; k <= i; k++) print \"-X \" n[k]; print \"COMMIT\" }}' | {restore} -w 5 --noflush || true"
            );
        }
        let _ = writeln!(
            text,
            "{iptables} -w 5 -t mangle -F {LOCALNET} 2>/dev/null; {iptables} -w 5 -t mangle -X {LOCALNET} 2>/dev/null"
        );
        vec![Script {
            command: vec!["sh".into()],
            text,
            ..Script::default()
        }]
    }

    fn owns(&self) -> fn(&str) -> bool {
        |line| {
            line.contains("flush ruleset")
                || line.contains("KUBE-")
                || line.contains("delete table")
        }
    }
}

impl Iptables {
    /// Removes service chains of the nat table that are not in `known`.
    fn sweep(&self, known: BTreeSet<String>) -> Script {
        let restore = self.restore(String::new());
        let then = move |listing: &str| {
            let stale: Vec<&str> = listing
                .lines()
                .filter_map(|l| l.strip_prefix(':')?.split(' ').next())
                .filter(|c| OWN_PREFIXES.iter().any(|p| c.starts_with(p)) && !known.contains(*c))
                .collect();
            if stale.is_empty() {
                return Vec::new();
            }
            let mut text = "*nat\n".to_owned();
            for chain in &stale {
                let _ = writeln!(text, ":{chain} - [0:0]");
            }
            for chain in &stale {
                let _ = writeln!(text, "-X {chain}");
            }
            text.push_str("COMMIT\n");
            vec![Script {
                text,
                ..restore.clone()
            }]
        };
        Script {
            command: vec![self.program("iptables-save"), "-t".into(), "nat".into()],
            then: Some(super::Then(std::sync::Arc::new(then))),
            // A chain that somebody else's rule leads to cannot be removed.
            may_fail: true,
            ..Script::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Model;
    use crate::model::tests::{ready, service, slice};
    use std::sync::Arc;

    fn backend() -> Iptables {
        Iptables::new(Options {
            family: Family::V4,
            cluster_cidrs: vec!["10.1.0.0/16".into()],
            masquerade_all: false,
            masquerade_bit: 14,
            node_port_addresses: vec![],
        })
    }

    fn model() -> Model {
        let mut m = Model::new("n1", Family::V4);
        m.service(Arc::new(service("web", "10.0.0.1")));
        m.slice(
            Arc::new(slice(
                "web",
                "web-1",
                &[("10.1.0.1", "n1", ready()), ("10.1.1.1", "n2", ready())],
            )),
            false,
        );
        m
    }

    #[test]
    fn chain_names_are_upstreams() {
        let name = PortName {
            namespace: "default".into(),
            name: "kubernetes".into(),
            port: "https".into(),
            protocol: crate::model::Protocol::Tcp,
        };
        assert_eq!(
            service_chain("KUBE-SVC-", &name),
            "KUBE-SVC-NPX46M4PTMTKRN6Y"
        );
    }

    #[test]
    fn a_service_with_two_endpoints() {
        let mut m = model();
        m.take_changes();
        let mut b = backend();
        let text = b.full(m.entries())[0].text.clone();
        let svc = service_chain("KUBE-SVC-", m.entries().keys().next().unwrap());
        for want in [
            format!("-A KUBE-SERVICES -m comment --comment \"ns/web:http cluster IP\" -m tcp -p tcp -d 10.0.0.1/32 --dport 80 -j {svc}\n"),
            format!("-A {svc} -m comment --comment \"ns/web:http cluster IP\" -m tcp -p tcp -d 10.0.0.1/32 --dport 80 ! -s 10.1.0.0/16 -j KUBE-MARK-MASQ\n"),
            "-m comment --comment \"ns/web:http -> 10.1.0.1:8080\" -m statistic --mode random --probability 0.5000000000 -j KUBE-SEP-".into(),
            "-m comment --comment ns/web:http -m tcp -p tcp -j DNAT --to-destination 10.1.1.1:8080\n".into(),
            "-m comment --comment ns/web:http -s 10.1.0.1/32 -j KUBE-MARK-MASQ\n".into(),
            "-A KUBE-POSTROUTING -m mark ! --mark 0x00004000/0x00004000 -j RETURN\n".into(),
        ] {
            assert!(text.contains(&want), "{want}\nin\n{text}");
        }
        let nat = text.split("*nat\n").nth(1).unwrap();
        let last = nat
            .lines()
            .rfind(|l| l.starts_with("-A KUBE-SERVICES"))
            .unwrap();
        assert!(last.ends_with("-j KUBE-NODEPORTS"));
        assert_eq!(b.full(m.entries())[0].text, text);
    }

    #[test]
    fn without_endpoints_it_rejects() {
        let mut m = Model::new("n1", Family::V4);
        m.service(Arc::new(service("web", "10.0.0.1")));
        m.take_changes();
        let text = backend().full(m.entries())[0].text.clone();
        assert!(text.contains(
            "-A KUBE-SERVICES -m comment --comment \"ns/web:http has no endpoints\" -m tcp -p tcp -d 10.0.0.1/32 --dport 80 -j REJECT\n"
        ));
        assert!(!text.contains("KUBE-SVC-"));
    }

    #[test]
    fn a_change_touches_its_own_chains_only() {
        let mut m = model();
        for i in 0..100 {
            m.service(Arc::new(service(&format!("s{i}"), &format!("10.0.1.{i}"))));
        }
        m.take_changes();
        let mut b = backend();
        b.full(m.entries());
        m.slice(
            Arc::new(slice("web", "web-1", &[("10.1.0.1", "n1", ready())])),
            false,
        );
        let scripts = b.delta(&m.take_changes());
        let text = &scripts[0].text;
        assert!(
            text.contains("-X KUBE-SEP-") && !text.contains("KUBE-SERVICES"),
            "{text}"
        );
        assert!(text.lines().count() < 12, "{text}");
        assert!(b.delta(&Changes::new()).is_empty());
    }

    #[test]
    fn local_traffic_policy_and_node_port() {
        let mut m = Model::new("n1", Family::V4);
        let mut s = service("web", "10.0.0.1");
        s.spec.type_ = "NodePort".into();
        s.spec.ports[0].node_port = 30080;
        s.spec.external_traffic_policy = "Local".into();
        m.service(Arc::new(s));
        m.slice(
            Arc::new(slice(
                "web",
                "w",
                &[("10.1.0.1", "n1", ready()), ("10.1.1.1", "n2", ready())],
            )),
            false,
        );
        m.take_changes();
        let text = backend().full(m.entries())[0].text.clone();
        let name = m.entries().keys().next().unwrap().clone();
        let ext = service_chain("KUBE-EXT-", &name);
        let svl = service_chain("KUBE-SVL-", &name);
        assert!(text.contains(&format!("--dport 30080 -j {ext}\n")));
        assert!(text.contains(&format!("-A {ext} -j {svl}\n")));
        assert!(text.contains(&format!(
            "-A {svl} -m comment --comment \"ns/web:http -> 10.1.0.1:8080\" -j KUBE-SEP-"
        )));
    }
}
