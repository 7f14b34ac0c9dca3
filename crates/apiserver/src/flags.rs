//! kube-apiserver's command line: how far each of upstream's flags is there, and our own.

use component::CommandLine;
use component::flags::Type;

/// The command line.
pub fn command_line() -> CommandLine {
    CommandLine::new(
        "kube-apiserver",
        "The Kubernetes API server validates and configures data for the api objects which include pods, services, \
         replicationcontrollers, and others. It is the door through which all other components of a cluster meet.",
    )
    .honour(auth::setup::FLAGS)
    .honour(&[
        "admission-control-config-file",
        "advertise-address",
        "allow-privileged",
        "bind-address",
        "cert-dir",
        "default-not-ready-toleration-seconds",
        "default-unreachable-toleration-seconds",
        "disable-admission-plugins",
        "disable-http2-serving",
        "enable-admission-plugins",
        "etcd-cafile",
        "etcd-certfile",
        "etcd-compaction-interval",
        "etcd-keyfile",
        "etcd-prefix",
        "etcd-servers",
        "event-ttl",
        "http2-max-streams-per-connection",
        "kubelet-certificate-authority",
        "kubelet-client-certificate",
        "kubelet-client-key",
        "kubelet-preferred-address-types",
        "max-mutating-requests-inflight",
        "max-requests-inflight",
        "request-timeout",
        "secure-port",
        "service-cluster-ip-range",
        "service-node-port-range",
        "tls-cert-file",
        "tls-cipher-suites",
        "tls-min-version",
        "tls-private-key-file",
        "tls-sni-cert-key",
    ])
    .partial(
        "the address of this server alone; the leases of several servers are not joined",
        &["endpoint-reconciler-type"],
    )
    .only("storage-backend", &["etcd3"])
    .ignore(
        "there is no aggregation and no webhook that would be called with it",
        &[
            "aggregator-reject-forwarding-redirect",
            "authentication-token-webhook-cache-ttl",
            "authorization-webhook-cache-authorized-ttl",
            "authorization-webhook-cache-unauthorized-ttl",
            "enable-aggregator-routing",
            "peer-advertise-ip",
            "peer-advertise-port",
            "peer-ca-file",
            "proxy-client-cert-file",
            "proxy-client-key-file",
        ],
    )
    .ignore(
        "the store's watch cache is always on and sizes itself",
        &[
            "delete-collection-workers",
            "etcd-count-metric-poll-period",
            "etcd-db-metric-poll-interval",
            "etcd-healthcheck-timeout",
            "etcd-readycheck-timeout",
            "lease-reuse-duration-seconds",
            "storage-initialization-timeout",
            "watch-cache",
            "watch-cache-sizes",
        ],
    )
    .ignore("no logs are served below /logs", &["enable-logs-handler"])
    .ignore(
        "requests share what the server can do by its own fixed shares",
        &["enable-priority-and-fairness"],
    )
    .ignore(
        "there is no coordinated leader election",
        &[
            "coordinated-leadership-lease-duration",
            "coordinated-leadership-renew-deadline",
            "coordinated-leadership-retry-period",
        ],
    )
    .ignore(
        "no document that is served names a host",
        &["external-hostname"],
    )
    .ignore(
        "the server chooses its own times and counts",
        &[
            "goaway-chance",
            "kubelet-timeout",
            "livez-grace-period",
            "min-request-timeout",
            "send-retry-after-while-not-ready-once",
            "shutdown-delay-duration",
            "shutdown-send-retry-after",
            "shutdown-watch-termination-grace-period",
        ],
    )
    .ignore(
        "a port that is taken ends the process",
        &["permit-address-sharing", "permit-port-sharing"],
    )
    .refuse(
        "there is no audit log",
        &[
            "audit-log-batch-buffer-size",
            "audit-log-batch-max-size",
            "audit-log-batch-max-wait",
            "audit-log-batch-throttle-burst",
            "audit-log-batch-throttle-enable",
            "audit-log-batch-throttle-qps",
            "audit-log-compress",
            "audit-log-format",
            "audit-log-maxage",
            "audit-log-maxbackup",
            "audit-log-maxsize",
            "audit-log-mode",
            "audit-log-path",
            "audit-log-truncate-enabled",
            "audit-log-truncate-max-batch-size",
            "audit-log-truncate-max-event-size",
            "audit-log-version",
            "audit-policy-file",
            "audit-webhook-batch-buffer-size",
            "audit-webhook-batch-max-size",
            "audit-webhook-batch-max-wait",
            "audit-webhook-batch-throttle-burst",
            "audit-webhook-batch-throttle-enable",
            "audit-webhook-batch-throttle-qps",
            "audit-webhook-config-file",
            "audit-webhook-initial-backoff",
            "audit-webhook-mode",
            "audit-webhook-truncate-enabled",
            "audit-webhook-truncate-max-batch-size",
            "audit-webhook-truncate-max-event-size",
            "audit-webhook-version",
        ],
    )
    .refuse(
        "use --enable-admission-plugins and --disable-admission-plugins",
        &["admission-control"],
    )
    .refuse(
        "authentication by webhook, by OpenID Connect and by a file of structured settings is not there",
        &[
            "authentication-config",
            "authentication-token-webhook-config-file",
            "authentication-token-webhook-version",
            "oidc-ca-file",
            "oidc-client-id",
            "oidc-groups-claim",
            "oidc-groups-prefix",
            "oidc-issuer-url",
            "oidc-required-claim",
            "oidc-signing-algs",
            "oidc-username-claim",
            "oidc-username-prefix",
        ],
    )
    .refuse(
        "the authorization modes are Node, RBAC, AlwaysAllow and AlwaysDeny",
        &[
            "authorization-config",
            "authorization-policy-file",
            "authorization-webhook-config-file",
            "authorization-webhook-version",
        ],
    )
    .refuse(
        "answers carry no such headers",
        &["cors-allowed-origins", "strict-transport-security-directives"],
    )
    .refuse("no profiles are served", &["debug-socket-path"])
    .refuse(
        "every connection is made from this machine directly",
        &["egress-selector-config-file"],
    )
    .refuse(
        "a release behaves as its own version only",
        &[
            "emulation-forward-compatible",
            "runtime-config-emulation-forward-compatible",
        ],
    )
    .refuse(
        "objects are foreground-deleted and orphaned by the garbage collector always",
        &["enable-garbage-collector"],
    )
    .refuse(
        "what is stored is not encrypted",
        &[
            "encryption-provider-config",
            "encryption-provider-config-automatic-reload",
        ],
    )
    .refuse("there is one store", &["etcd-servers-overrides"])
    .refuse(
        "the service kubernetes has no node port",
        &["kubernetes-service-node-port"],
    )
    .refuse(
        "connections are not throttled",
        &["max-connection-bytes-per-sec"],
    )
    .refuse(
        "the versions that are served cannot be switched on or off",
        &["runtime-config"],
    )
    .refuse(
        "keys are read from files; use --service-account-signing-key-file",
        &["service-account-signing-endpoint"],
    )
    .refuse(
        "objects are stored as protobuf",
        &["storage-media-type"],
    )
    .refuse(
        "the TLS library's own order is used",
        &["tls-curve-preferences"],
    )
    .refuse("no traces are written", &["tracing-config-file"])
    .flag(
        "data-dir",
        Type::Text,
        "/var/lib/keelson/apiserver",
        "Storage",
        "The directory of the embedded store, which is used when --etcd-servers is not set.",
    )
}

#[cfg(test)]
mod tests {
    use component::Support;

    #[test]
    fn every_flag_says_how_far_it_is_there() {
        let line = super::command_line();
        let silent: Vec<&str> = line
            .list()
            .filter(|(_, s)| s.is_none())
            .map(|(f, _)| f.name.as_str())
            .collect();
        assert!(silent.is_empty(), "{silent:?}");
    }

    #[test]
    fn what_guards_a_cluster_is_refused_rather_than_dropped() {
        for flag in [
            "--audit-policy-file=f",
            "--audit-log-path=-",
            "--encryption-provider-config=f",
            "--authorization-config=f",
            "--runtime-config=api/all=false",
            "--strict-transport-security-directives=max-age=1",
            "--enable-garbage-collector=false",
            "--tls-curve-preferences=29",
            "--emulated-version=1.36",
        ] {
            let e = super::command_line().parse([flag]).unwrap_err().to_string();
            assert!(e.contains("is not supported: "), "{flag}: {e}");
        }
        let line = super::command_line();
        let (_, support) = line.list().find(|(f, _)| f.name == "secure-port").unwrap();
        assert_eq!(support, Some(Support::Full));
    }
}
