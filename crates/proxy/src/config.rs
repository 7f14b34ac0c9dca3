//! `KubeProxyConfiguration` (kubeproxy.config.k8s.io/v1alpha1) and the flags that stand for it without a file.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// The file, as far as [`crate::fields`] lets it through.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct File {
    /// Gates; read by the daemon's flags.
    pub feature_gates: std::collections::BTreeMap<String, bool>,
    /// How to reach the apiserver.
    pub client_connection: ClientConnection,
    /// What is logged and how; flags go above.
    pub logging: component::logging::Logging,
    /// The node's name.
    pub hostname_override: String,
    /// Listens on all families of this address.
    pub bind_address: String,
    /// `0.0.0.0:10256`
    pub healthz_bind_address: String,
    /// `127.0.0.1:10249`
    pub metrics_bind_address: String,
    /// Whether a taken port ends the process.
    pub bind_address_hard_fail: bool,
    /// Not honoured.
    pub enable_profiling: bool,
    /// Not honoured.
    pub show_hidden_metrics_for_version: String,
    /// `iptables` or `nftables`; empty is `iptables`, as upstream's default on Linux.
    pub mode: String,
    /// Settings of the iptables mode.
    pub iptables: Rules,
    /// Settings of the nftables mode.
    pub nftables: Rules,
    /// Not read.
    pub ipvs: serde_json::Value,
    /// Not read.
    pub winkernel: serde_json::Value,
    /// `ClusterCIDR` or empty.
    pub detect_local_mode: String,
    /// Not read.
    pub detect_local: serde_json::Value,
    /// The ranges of pods, comma-separated.
    #[serde(rename = "clusterCIDR")]
    pub cluster_cidr: String,
    /// The ranges of node addresses for node ports.
    pub node_port_addresses: Vec<String>,
    /// Not honoured.
    pub oom_score_adj: Option<i32>,
    /// Not honoured: the kernel's own limits stay.
    pub conntrack: serde_json::Value,
    /// Not honoured: nothing is polled.
    pub config_sync_period: String,
    /// Obsolete upstream.
    pub port_range: String,
    /// Not read.
    pub windows_run_as_service: bool,
}

/// `ClientConnectionConfiguration`.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct ClientConnection {
    /// The kubeconfig's path; empty: in-cluster.
    pub kubeconfig: String,
    /// Not honoured: protobuf where it is served.
    pub accept_content_types: String,
    /// Not honoured.
    pub content_type: String,
    /// Calls per second.
    pub qps: f32,
    /// Calls at once.
    pub burst: u32,
}

/// Settings of a rules mode.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Rules {
    /// 0 to 31; 14 by default.
    pub masquerade_bit: Option<u8>,
    /// Masquerade all cluster IP traffic.
    pub masquerade_all: bool,
    /// A Go duration.
    pub sync_period: String,
    /// A Go duration.
    pub min_sync_period: String,
}

/// Which backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// `iptables`
    Iptables,
    /// `nftables`
    Nftables,
}

/// What is wrong with a setting.
#[derive(Debug, thiserror::Error)]
#[error("{field}: Invalid value: {value:?}: {detail}")]
pub struct Invalid {
    /// The field.
    pub field: &'static str,
    /// As given.
    pub value: String,
    /// What it should be.
    pub detail: String,
}

fn invalid(field: &'static str, value: &str, detail: impl Into<String>) -> Invalid {
    Invalid {
        field,
        value: value.to_owned(),
        detail: detail.into(),
    }
}

/// The settings that count.
#[derive(Clone, Debug)]
pub struct Config {
    /// Which backend.
    pub mode: Mode,
    /// Pod ranges.
    pub cluster_cidrs: Vec<String>,
    /// Masquerade all cluster IP traffic.
    pub masquerade_all: bool,
    /// The mark's bit.
    pub masquerade_bit: u8,
    /// Node port ranges.
    pub node_port_addresses: Vec<String>,
    /// The least time between writes.
    pub min_sync: Duration,
    /// The time between full writes where tampering cannot be watched.
    pub full_period: Duration,
}

/// The least `syncPeriod` that is kept to: a shorter one would keep the proxy busy with writing everything.
const LEAST_SYNC: Duration = Duration::from_secs(1);

fn duration(field: &'static str, value: &str, default: Duration) -> Result<Duration, Invalid> {
    if value.is_empty() {
        return Ok(default);
    }
    let d = component::duration::parse(value).map_err(|e| invalid(field, value, e))?;
    Ok(if d.is_zero() { default } else { d })
}

fn cidr(field: &'static str, value: &str) -> Result<String, Invalid> {
    let (ip, bits) = value
        .split_once('/')
        .ok_or_else(|| invalid(field, value, "must be a CIDR block"))?;
    let most = match ip.parse() {
        Ok(std::net::IpAddr::V4(_)) => 32,
        Ok(std::net::IpAddr::V6(_)) => 128,
        Err(_) => return Err(invalid(field, value, "must be a CIDR block")),
    };
    if bits.parse::<u8>().is_ok_and(|b| b <= most) {
        Ok(value.to_owned())
    } else {
        Err(invalid(field, value, "must be a CIDR block"))
    }
}

impl Config {
    /// Checks a file's settings.
    ///
    /// # Errors
    /// The first setting that cannot be honoured.
    pub fn new(file: &File) -> Result<Config, Invalid> {
        file.logging.check().map_err(|e| Invalid {
            field: match e.field {
                "format" => "logging.format",
                "verbosity" => "logging.verbosity",
                _ => "logging.vmodule",
            },
            value: e.value,
            detail: e.why.to_owned(),
        })?;
        let mode = match file.mode.as_str() {
            "" | "iptables" => Mode::Iptables,
            "nftables" => Mode::Nftables,
            other => {
                return Err(invalid(
                    "mode",
                    other,
                    "supported modes are iptables and nftables",
                ));
            }
        };
        if !matches!(file.detect_local_mode.as_str(), "" | "ClusterCIDR") {
            return Err(invalid(
                "detectLocalMode",
                &file.detect_local_mode,
                "only ClusterCIDR is supported",
            ));
        }
        let rules = match mode {
            Mode::Iptables => &file.iptables,
            Mode::Nftables => &file.nftables,
        };
        let masquerade_bit = rules.masquerade_bit.unwrap_or(14);
        if masquerade_bit > 31 {
            return Err(invalid(
                "masqueradeBit",
                &masquerade_bit.to_string(),
                "must be within the range [0, 31]",
            ));
        }
        let ranges = file
            .cluster_cidr
            .split(',')
            .map(str::trim)
            .filter(|c| !c.is_empty());
        Ok(Config {
            mode,
            cluster_cidrs: ranges
                .map(|c| cidr("clusterCIDR", c))
                .collect::<Result<_, _>>()?,
            masquerade_all: rules.masquerade_all,
            masquerade_bit,
            node_port_addresses: file
                .node_port_addresses
                .iter()
                .map(|c| cidr("nodePortAddresses", c))
                .collect::<Result<_, _>>()?,
            min_sync: duration(
                "minSyncPeriod",
                &rules.min_sync_period,
                Duration::from_millis(100),
            )?,
            full_period: duration("syncPeriod", &rules.sync_period, Duration::from_secs(30))?
                .max(LEAST_SYNC),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_are_checked() {
        let parse = |text: &str| serde_yaml::from_str::<File>(text).map_err(|e| e.to_string());
        let file = parse(
            "mode: nftables\nclusterCIDR: 10.1.0.0/16, fd00::/48\nnftables: {masqueradeAll: true}",
        )
        .unwrap();
        let c = Config::new(&file).unwrap();
        assert_eq!(
            (c.mode, c.masquerade_all, c.cluster_cidrs.len()),
            (Mode::Nftables, true, 2)
        );
        for (text, part) in [
            ("mode: ipvs", "supported modes"),
            ("clusterCIDR: 10.1.0.0", "CIDR block"),
            ("clusterCIDR: 10.1.0.0/33", "CIDR block"),
            ("iptables: {masqueradeBit: 32}", "[0, 31]"),
            ("iptables: {syncPeriod: x}", "syncPeriod"),
            ("detectLocalMode: BridgeInterface", "only ClusterCIDR"),
            ("logging: {format: xml}", "logging.format: Invalid value"),
        ] {
            let e = Config::new(&parse(text).unwrap()).unwrap_err().to_string();
            assert!(e.contains(part), "{text}: {e}");
        }
        assert!(parse("bogus: 1").is_err());
    }
}
