//! `KubeProxyConfiguration`: its fields, and how far each is there.

use component::config::{Field, Kind};
use component::support::{refused, warned};

/// The kind.
pub static KIND: Kind = Kind {
    kind: "KubeProxyConfiguration",
    versions: &["kubeproxy.config.k8s.io/v1alpha1"],
    fields: FIELDS,
};

const fn full(path: &'static str) -> Field {
    Field::full(path)
}

const fn none(path: &'static str, default: &'static str, why: &'static str) -> Field {
    Field::new(path, warned(why)).default(default)
}

const ONE_LOG: &str = "each line is written to stderr at once";
const PROTOBUF: &str = "protobuf is spoken where the apiserver does";
const WINDOWS: &str = "nodes run Linux";

/// Every field.
#[rustfmt::skip]
pub static FIELDS: &[Field] = &[
    none("bindAddress", "\"0.0.0.0\"", "both address families that the kernel has are served"),
    none("bindAddressHardFail", "", "a port that is taken ends the process"),
    none("clientConnection.acceptContentTypes", "", PROTOBUF),
    full("clientConnection.burst"),
    none("clientConnection.contentType", "\"application/vnd.kubernetes.protobuf\"", PROTOBUF),
    full("clientConnection.kubeconfig"),
    full("clientConnection.qps"),
    full("clusterCIDR"),
    none("configSyncPeriod", "\"15m0s\"", "nothing is polled"),
    none("conntrack", "", "the kernel's own limits of connection tracking stay"),
    Field::new("detectLocal", refused("local traffic is told by clusterCIDR only")),
    full("detectLocalMode"),
    none("enableProfiling", "", "no daemon serves profiles"),
    full("featureGates"),
    full("healthzBindAddress"),
    full("hostnameOverride"),
    none("iptables.localhostNodePorts", "false", "node ports are not served on loopback"),
    full("iptables.masqueradeAll"),
    full("iptables.masqueradeBit"),
    full("iptables.minSyncPeriod"),
    full("iptables.syncPeriod"),
    none("ipvs", "", "there is no ipvs mode, which alone reads it"),
    none("logging.flushFrequency", "\"5s\"", ONE_LOG),
    full("logging.format"),
    none("logging.options", "", ONE_LOG),
    full("logging.verbosity"),
    full("logging.vmodule[].filePattern"),
    full("logging.vmodule[].verbosity"),
    full("metricsBindAddress"),
    full("mode"),
    full("nftables.masqueradeAll"),
    full("nftables.masqueradeBit"),
    full("nftables.minSyncPeriod"),
    full("nftables.syncPeriod"),
    full("nodePortAddresses"),
    none("oomScoreAdj", "-999", "the process keeps the score it was started with"),
    none("portRange", "", "upstream does not read it either"),
    none("showHiddenMetricsForVersion", "", "every metric is served"),
    none("windowsRunAsService", "", WINDOWS),
    none("winkernel", "", WINDOWS),
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::File;

    #[test]
    fn every_field_that_is_there_is_read() {
        assert_eq!(
            component::config::not_decoded::<File>(FIELDS),
            [] as [&str; 0]
        );
    }

    #[test]
    fn what_is_absent_is_refused_or_told_once() {
        let read = |text: &str| {
            let head =
                "apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\n";
            KIND.parse::<File>("f", &format!("{head}{text}"))
                .map_err(|e| e.to_string())
        };
        let kubeadms = "bindAddress: 0.0.0.0\nbindAddressHardFail: false\nclientConnection: {acceptContentTypes: \"\", burst: 0, contentType: \"\", kubeconfig: /k, qps: 0}\n\
            clusterCIDR: 10.244.0.0/16\nconfigSyncPeriod: 0s\nconntrack: {maxPerCore: null, min: null, tcpBeLiberal: false, tcpCloseWaitTimeout: null, udpTimeout: 0s}\n\
            detectLocal: {bridgeInterface: \"\", interfaceNamePrefix: \"\"}\ndetectLocalMode: \"\"\nenableProfiling: false\nhealthzBindAddress: \"\"\nhostnameOverride: \"\"\n\
            iptables: {localhostNodePorts: null, masqueradeAll: false, masqueradeBit: null, minSyncPeriod: 0s, syncPeriod: 0s}\nipvs: {excludeCIDRs: null, scheduler: \"\", strictARP: false}\n\
            logging: {flushFrequency: 0, options: {json: {infoBufferSize: \"0\"}}, verbosity: 0}\nmetricsBindAddress: \"\"\nmode: \"\"\nnodePortAddresses: null\noomScoreAdj: null\nportRange: \"\"\n";
        assert_eq!(read(kubeadms).unwrap().warnings, [] as [&str; 0]);
        let told = read("conntrack: {min: 1}\niptables: {localhostNodePorts: true}\n").unwrap();
        assert_eq!(told.warnings.len(), 2, "{:?}", told.warnings);
        assert!(
            read("detectLocal: {bridgeInterface: br0}\n")
                .unwrap_err()
                .contains("clusterCIDR only")
        );
        assert!(
            read("bogus: 1\n")
                .unwrap_err()
                .contains("unknown field \"bogus\"")
        );
    }
}
