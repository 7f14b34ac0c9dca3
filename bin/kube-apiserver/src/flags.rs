//! Which of upstream's flags are honoured, which may be ignored, and our own.

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
        "advertise-address",
        "allow-privileged",
        "bind-address",
        "disable-admission-plugins",
        "enable-admission-plugins",
        "endpoint-reconciler-type",
        "etcd-cafile",
        "etcd-certfile",
        "etcd-compaction-interval",
        "etcd-keyfile",
        "etcd-prefix",
        "etcd-servers",
        "event-ttl",
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
        "tls-private-key-file",
    ])
    // Each tunes something that works differently here, or asks for what is always so.
    .ignore(&[
        "aggregator-reject-forwarding-redirect",
        "authentication-token-webhook-cache-ttl",
        "authorization-webhook-cache-authorized-ttl",
        "authorization-webhook-cache-unauthorized-ttl",
        "default-not-ready-toleration-seconds",
        "default-unreachable-toleration-seconds",
        "delete-collection-workers",
        "enable-aggregator-routing",
        "enable-garbage-collector",
        "enable-logs-handler",
        "enable-priority-and-fairness",
        "etcd-count-metric-poll-period",
        "etcd-db-metric-poll-interval",
        "etcd-healthcheck-timeout",
        "etcd-readycheck-timeout",
        "external-hostname",
        "goaway-chance",
        "http2-max-streams-per-connection",
        "kubelet-timeout",
        "lease-reuse-duration-seconds",
        "livez-grace-period",
        "max-connection-bytes-per-sec",
        "min-request-timeout",
        "permit-address-sharing",
        "permit-port-sharing",
        "proxy-client-cert-file",
        "proxy-client-key-file",
        "runtime-config",
        "shutdown-delay-duration",
        "shutdown-send-retry-after",
        "shutdown-watch-termination-grace-period",
        "storage-backend",
        "storage-initialization-timeout",
        "storage-media-type",
        "strict-transport-security-directives",
        "tls-cipher-suites",
        "tls-curve-preferences",
        "tls-min-version",
        "watch-cache",
        "watch-cache-sizes",
        "audit-log-path",
        "audit-policy-file",
        "audit-log-maxage",
        "audit-log-maxbackup",
        "audit-log-maxsize",
    ])
    .flag(
        "data-dir",
        Type::Text,
        "/var/lib/keelson/apiserver",
        "Storage",
        "The directory of the embedded store, which is used when --etcd-servers is not set.",
    )
}
