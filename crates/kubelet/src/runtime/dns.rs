//! The resolver configuration of pods. Pure; the node's resolv.conf comes in parsed.

use crate::cri::proto;
use crate::pod::Pod;

/// Most name servers a resolver reads.
const MAX_SERVERS: usize = 3;
/// Most search domains (32, 2048 characters: upstream's limits).
const MAX_SEARCHES: usize = 32;
const MAX_SEARCH_CHARS: usize = 2048;

/// A resolver configuration.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[expect(missing_docs, reason = "plain data")]
pub struct Resolv {
    pub servers: Vec<String>,
    pub searches: Vec<String>,
    pub options: Vec<String>,
}

/// Parses resolv.conf; the last `search` and `options` lines win.
pub fn parse(text: &str) -> Resolv {
    let mut r = Resolv::default();
    for line in text.lines() {
        let line = line.trim();
        let line = line.split(['#', ';']).next().unwrap_or_default();
        let mut words = line.split_whitespace();
        match words.next() {
            Some("nameserver") => r.servers.extend(words.next().map(str::to_string)),
            Some("search") => {
                r.searches = words
                    .map(|w| {
                        if w == "." {
                            w.to_string()
                        } else {
                            w.trim_end_matches('.').to_string()
                        }
                    })
                    .collect()
            }
            Some("options") => r.options = words.map(str::to_string).collect(),
            _ => {}
        }
    }
    r
}

/// What the cluster's settings say.
#[derive(Clone, Debug, Default)]
#[expect(missing_docs, reason = "plain data")]
pub struct ClusterDns {
    pub servers: Vec<String>,
    pub domain: String,
}

/// The configuration of a pod by its dnsPolicy and dnsConfig; `host` is the node's, `None` when `--resolv-conf` is empty.
pub fn for_pod(pod: &Pod, cluster: &ClusterDns, host: Option<&Resolv>) -> proto::DnsConfig {
    let policy = match pod.spec.dns_policy.as_str() {
        "ClusterFirst" if pod.spec.host_network => "Default",
        "ClusterFirst" | "ClusterFirstWithHostNet" if cluster.servers.is_empty() => "Default",
        other => other,
    };
    let mut r = match policy {
        "None" => Resolv::default(),
        "ClusterFirst" | "ClusterFirstWithHostNet" => {
            let mut searches = Vec::new();
            if !cluster.domain.is_empty() {
                let d = &cluster.domain;
                searches = vec![
                    format!("{}.svc.{d}", pod.metadata.namespace),
                    format!("svc.{d}"),
                    d.clone(),
                ];
            }
            for s in host.map(|h| h.searches.as_slice()).unwrap_or_default() {
                if !searches.contains(s) {
                    searches.push(s.clone());
                }
            }
            Resolv {
                servers: cluster.servers.clone(),
                searches,
                options: vec!["ndots:5".into()],
            }
        }
        _ => match host {
            Some(h) => h.clone(),
            None => Resolv {
                servers: vec!["127.0.0.1".into()],
                searches: vec![".".into()],
                options: Vec::new(),
            },
        },
    };
    if let Some(extra) = &pod.spec.dns_config {
        merge(&mut r.servers, &extra.nameservers);
        merge(&mut r.searches, &extra.searches);
        for o in &extra.options {
            let prefix = format!("{}:", o.name);
            r.options
                .retain(|x| x != &o.name && !x.starts_with(&prefix));
            r.options.push(match o.value.as_deref() {
                Some(v) if !v.is_empty() => format!("{}:{v}", o.name),
                _ => o.name.clone(),
            });
        }
    }
    r.servers.truncate(MAX_SERVERS);
    r.searches.truncate(MAX_SEARCHES);
    while r.searches.join(" ").len() > MAX_SEARCH_CHARS {
        r.searches.pop();
    }
    proto::DnsConfig {
        servers: r.servers,
        searches: r.searches,
        options: r.options,
    }
}

fn merge(into: &mut Vec<String>, more: &[String]) {
    for m in more {
        if !into.contains(m) {
            into.push(m.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(spec: &str) -> Pod {
        serde_json::from_str(&format!(
            r#"{{"metadata":{{"namespace":"ns"}},"spec":{spec}}}"#
        ))
        .unwrap()
    }

    #[test]
    fn policies() {
        let host = parse("# c\nnameserver 1.1.1.1\nsearch corp.example.\noptions ndots:2\n");
        let cluster = ClusterDns {
            servers: vec!["10.96.0.10".into()],
            domain: "cluster.local".into(),
        };
        let d = for_pod(&pod("{}"), &cluster, Some(&host));
        assert_eq!(d.servers, ["10.96.0.10"]);
        assert_eq!(
            d.searches,
            [
                "ns.svc.cluster.local",
                "svc.cluster.local",
                "cluster.local",
                "corp.example"
            ]
        );
        assert_eq!(d.options, ["ndots:5"]);
        let d = for_pod(&pod(r#"{"hostNetwork":true}"#), &cluster, Some(&host));
        assert_eq!(
            (d.servers, d.options),
            (vec!["1.1.1.1".to_string()], vec!["ndots:2".to_string()])
        );
        let d = for_pod(
            &pod(r#"{"hostNetwork":true,"dnsPolicy":"ClusterFirstWithHostNet"}"#),
            &cluster,
            None,
        );
        assert_eq!(d.servers, ["10.96.0.10"]);
        let d = for_pod(
            &pod(
                r#"{"dnsPolicy":"None","dnsConfig":{"nameservers":["9.9.9.9"],"options":[{"name":"ndots","value":"3"},{"name":"edns0"}]}}"#,
            ),
            &cluster,
            Some(&host),
        );
        assert_eq!(
            (d.servers, d.options),
            (
                vec!["9.9.9.9".to_string()],
                vec!["ndots:3".to_string(), "edns0".to_string()]
            )
        );
        let d = for_pod(&pod("{}"), &ClusterDns::default(), None);
        assert_eq!(
            (d.servers, d.searches),
            (vec!["127.0.0.1".to_string()], vec![".".to_string()])
        );
    }
}
