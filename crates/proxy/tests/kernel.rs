//! Both backends on the real kernel, each test in a network namespace of its own: any set of services is taken, and packets
//! from outside never reach loopback addresses.
//!
//! A test calls itself again beneath `unshare --net`. Needs root or user namespaces, `nft`, `iptables-nft` and `ip`.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests"
)]

use std::io::{BufRead, Write};
use std::net::UdpSocket;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use proxy::apply::Writer;
use proxy::backends::iptables::Iptables;
use proxy::backends::nftables::Nftables;
use proxy::backends::{Backend, Options, Script};
use proxy::config::Mode;
use proxy::health::Health;
use proxy::metrics::Metrics;
use proxy::model::{Changes, Entries, Family, Model};
use proxy::runner::{Input, Notice, OwnProcesses, Runner, Times};
use proxy::view::{
    AffinityConfig, ClientIp, Conditions, Ingress, LoadBalancer, Meta, ServicePort, ServiceSpec,
    ServiceStatus, ServiceView, SliceEndpoint, SlicePort, SliceView,
};
use tokio_util::sync::CancellationToken;

/// Whether this process is in its own namespace; if not, runs the test there and fails as it fails.
fn inside(test: &str) -> bool {
    if std::env::var_os("KEELSON_TEST_NAMESPACE").is_some() {
        return true;
    }
    let status = Command::new("unshare")
        .args(["--map-root-user", "--net", "--"])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture"])
        .env("KEELSON_TEST_NAMESPACE", "1")
        .status()
        .expect("unshare, of util-linux");
    assert!(status.success(), "{test} failed in its namespace");
    false
}

fn backend(nft: bool, family: Family) -> Box<dyn Backend> {
    let options = Options {
        family,
        cluster_cidrs: match family {
            Family::V4 => vec!["10.1.0.0/16".into()],
            Family::V6 => vec!["fd01::/64".into()],
        },
        masquerade_all: false,
        masquerade_bit: 14,
        node_port_addresses: vec![],
    };
    if nft {
        Box::new(Nftables::new(options))
    } else {
        Box::new(Iptables::new(options))
    }
}

/// Few values, so that objects collide; odd ones among them.
fn address() -> impl Strategy<Value = String> {
    prop_oneof![
        4 => (1u8..5).prop_map(|n| format!("10.0.0.{n}")),
        2 => (1u8..4).prop_map(|n| format!("fd00::{n}")),
        1 => prop::sample::select(vec![
            "010.0.0.1", "::ffff:10.0.0.2", "FD00:0::1", "127.0.0.1", "0.0.0.0", "224.0.0.1", "::1", "fe80::1",
            "255.255.255.255", "None", "", "10.0.0.1; drop", "10.0.0.1\n-A INPUT -j ACCEPT", "1.2.3.4/8",
        ]).prop_map(str::to_owned),
    ]
}

fn range() -> impl Strategy<Value = String> {
    prop::sample::select(vec![
        "10.0.0.0/8",
        "10.1.2.3/8",
        "10.1.0.0/16",
        " 192.0.2.0/24 ",
        "192.0.2.1/32",
        "0.0.0.0/0",
        "::/0",
        "fd00::/8",
        "fd00::1/128",
        "10.0.0.0/33",
        "x",
        "",
        "1.1.1.1/32 } ; drop",
    ])
    .prop_map(str::to_owned)
}

fn name() -> impl Strategy<Value = String> {
    prop_oneof![
        3 => "[a-d]",
        1 => prop::sample::select(vec![
            "a\" -j ACCEPT #", "x; flush ruleset", "a\nCOMMIT\n*nat", "\u{fc}\u{1f600}", "-j", "", "a b", "$(reboot)", "}",
        ]).prop_map(str::to_owned),
        1 => "[a-z]{63}",
    ]
}

prop_compose! {
    fn port()(
        name in name(),
        protocol in prop::sample::select(vec!["TCP", "UDP", "SCTP", "", "ICMP"]),
        port in prop::sample::select(vec![80u16, 81, 0, 65535]),
        node_port in prop::sample::select(vec![0u16, 30080, 30081]),
    ) -> ServicePort {
        ServicePort { name, protocol: protocol.into(), port, node_port }
    }
}

prop_compose! {
    fn a_service()(
        (namespace, name) in (name(), name()),
        ips in prop::collection::vec(address(), 1..3),
        external_ips in prop::collection::vec(address(), 0..3),
        ingress in prop::collection::vec(address(), 0..3),
        ranges in prop::collection::vec(range(), 0..4),
        ports in prop::collection::vec(port(), 1..4),
        (local, internal_local, affinity) in (any::<bool>(), any::<bool>(), prop::option::of(prop::sample::select(vec![-1i64, 0, 1, 10_800, i64::MAX]))),
        created in 0i64..3,
    ) -> ServiceView {
        let policy = |local| if local { "Local" } else { "Cluster" };
        ServiceView {
            metadata: Meta {
                name,
                namespace,
                creation_timestamp: client::Time::from_second(created).ok(),
                ..Meta::default()
            },
            spec: ServiceSpec {
                type_: "LoadBalancer".into(),
                cluster_ip: ips[0].clone(),
                cluster_ips: ips,
                external_ips,
                ports,
                session_affinity: if affinity.is_some() { "ClientIP" } else { "None" }.into(),
                session_affinity_config: affinity.map(|s| AffinityConfig {
                    client_ip: Some(ClientIp { timeout_seconds: Some(s) }),
                }),
                external_traffic_policy: policy(local).into(),
                internal_traffic_policy: Some(policy(internal_local).into()),
                load_balancer_source_ranges: ranges,
            },
            status: ServiceStatus {
                load_balancer: LoadBalancer {
                    ingress: ingress.into_iter().map(|ip| Ingress { ip, ip_mode: None }).collect(),
                },
            },
        }
    }
}

/// Endpoints for whichever port: names and protocols are those of the service.
fn slices(service: &ServiceView, endpoints: &[(String, bool)]) -> Vec<SliceView> {
    ["IPv4", "IPv6"]
        .iter()
        .map(|family| SliceView {
            metadata: Meta {
                name: format!("{family}-slice"),
                namespace: service.metadata.namespace.clone(),
                labels: [(
                    "kubernetes.io/service-name".to_owned(),
                    service.metadata.name.clone(),
                )]
                .into(),
                ..Meta::default()
            },
            address_type: (*family).into(),
            endpoints: endpoints
                .iter()
                .map(|(ip, local)| SliceEndpoint {
                    addresses: vec![ip.clone()],
                    node_name: Some(if *local { "n1" } else { "n2" }.into()),
                    conditions: Conditions {
                        ready: Some(true),
                        ..Conditions::default()
                    },
                })
                .collect(),
            ports: service
                .spec
                .ports
                .iter()
                .map(|p| SlicePort {
                    name: Some(p.name.clone()),
                    protocol: Some(p.protocol.clone()),
                    port: Some(8080),
                })
                .collect(),
        })
        .collect()
}

type Set = Vec<(ServiceView, Vec<(String, bool)>)>;

fn a_set() -> impl Strategy<Value = Set> {
    let endpoints = prop::collection::vec((address(), any::<bool>()), 0..4);
    prop::collection::vec((a_service(), endpoints), 0..6)
}

fn show(w: &mut Writer, set: &Set) {
    for (service, endpoints) in set {
        w.model.service(Arc::new(service.clone()));
        for slice in slices(service, endpoints) {
            w.model.slice(Arc::new(slice), false);
        }
    }
}

/// Whatever the objects are: everything and the difference to the next set are taken at the first attempt, nobody is left out.
fn takes_any_set(nft: bool) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let mut runner = TestRunner::new(Config {
        cases: 48,
        failure_persistence: None,
        ..Config::default()
    });
    let kernel = OwnProcesses::default();
    runner
        .run(&(a_set(), a_set()), |(first, second)| {
            for family in [Family::V4, Family::V6] {
                let mut w = Writer::new(Model::new("n1", family), backend(nft, family));
                show(&mut w, &first);
                let now = tokio::time::Instant::now;
                let done = runtime.block_on(w.sync(true, &kernel, now())).unwrap();
                prop_assert!(done.refused.is_empty() && !done.unfinished, "{done:?}");
                prop_assert_eq!(w.full_writes(), 1);
                for (gone, _) in first.iter().step_by(2) {
                    let m = &gone.metadata;
                    w.model.service_gone(&m.namespace, &m.name);
                }
                show(&mut w, &second);
                let done = runtime.block_on(w.sync(false, &kernel, now())).unwrap();
                prop_assert!(done.refused.is_empty() && !done.unfinished, "{done:?}");
                prop_assert_eq!(w.full_writes(), 1, "the difference was refused");
                prop_assert_eq!(w.applied(), w.model.entries());
            }
            Ok(())
        })
        .unwrap();
}

#[test]
fn nftables_takes_any_set_of_services() {
    if inside("nftables_takes_any_set_of_services") {
        takes_any_set(true);
    }
}

#[test]
fn iptables_takes_any_set_of_services() {
    if inside("iptables_takes_any_set_of_services") {
        takes_any_set(false);
    }
}

/// A backend with a fault: what it writes for one address the kernel does not take.
struct Faulty(Box<dyn Backend>, &'static str);

impl Faulty {
    fn spoil(&self, mut scripts: Vec<Script>) -> Vec<Script> {
        for script in &mut scripts {
            if script.text.contains("10.0.0.66") {
                script.text = script.text.replace("10.0.0.66", self.1);
            }
        }
        scripts
    }
}

impl Backend for Faulty {
    fn full(&mut self, entries: &Entries) -> Vec<Script> {
        let scripts = self.0.full(entries);
        self.spoil(scripts)
    }

    fn delta(&mut self, changes: &Changes) -> Vec<Script> {
        let scripts = self.0.delta(changes);
        self.spoil(scripts)
    }

    fn dry_run(&mut self) -> Vec<Script> {
        self.0.dry_run()
    }

    fn cleanup(&self) -> Vec<Script> {
        self.0.cleanup()
    }

    fn owns(&self) -> fn(&str) -> bool {
        self.0.owns()
    }
}

fn plain(name: &str, ip: &str) -> ServiceView {
    ServiceView {
        metadata: Meta {
            name: name.into(),
            namespace: "ns".into(),
            ..Meta::default()
        },
        spec: ServiceSpec {
            type_: "ClusterIP".into(),
            cluster_ip: ip.into(),
            ports: vec![ServicePort {
                port: 80,
                ..ServicePort::default()
            }],
            ..ServiceSpec::default()
        },
        ..ServiceView::default()
    }
}

/// `list` shows the rules.
fn one_does_not_spoil_the_rest(nft: bool, list: &str) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let kernel = OwnProcesses::default();
    let faulty = Faulty(backend(nft, Family::V4), "10.0.0.66.77");
    let mut w = Writer::new(Model::new("n1", Family::V4), Box::new(faulty));
    for i in 1..50 {
        w.model
            .service(Arc::new(plain(&format!("s{i}"), &format!("10.0.0.{i}"))));
    }
    w.model.service(Arc::new(plain("bad", "10.0.0.66")));
    let now = tokio::time::Instant::now();
    let done = runtime.block_on(w.sync(true, &kernel, now)).unwrap();
    let refused: Vec<String> = done.refused.iter().map(|(n, _)| n.to_string()).collect();
    assert_eq!(refused, ["ns/bad"]);
    let rules = || {
        let out = Command::new("sh").args(["-c", list]).output().unwrap();
        String::from_utf8_lossy(&out.stdout).into_owned()
    };
    for i in 1..50 {
        assert!(rules().contains(&format!(" 10.0.0.{i}{}", if nft { " ." } else { "/32" })));
    }
    // Among changes, too.
    w.model.service(Arc::new(plain("bad-too", "10.0.0.66")));
    w.model.service(Arc::new(plain("new", "10.0.1.1")));
    w.model.service_gone("ns", "bad");
    let done = runtime.block_on(w.sync(false, &kernel, now)).unwrap();
    assert_eq!(done.refused.len(), 1);
    assert!(rules().contains("10.0.1.1"));
}

#[test]
fn nftables_goes_on_without_what_the_kernel_refuses() {
    if inside("nftables_goes_on_without_what_the_kernel_refuses") {
        one_does_not_spoil_the_rest(true, "nft list ruleset");
    }
}

#[test]
fn iptables_goes_on_without_what_the_kernel_refuses() {
    if inside("iptables_goes_on_without_what_the_kernel_refuses") {
        one_does_not_spoil_the_rest(false, "iptables-save");
    }
}

#[test]
fn a_chain_that_somebody_else_uses_keeps_nothing_from_being_written() {
    let test = "a_chain_that_somebody_else_uses_keeps_nothing_from_being_written";
    if !inside(test) {
        return;
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let kernel = OwnProcesses::default();
    let mut w = Writer::new(Model::new("n1", Family::V4), backend(false, Family::V4));
    let service = plain("a", "10.0.0.1");
    for slice in slices(&service, &[("10.1.0.1".into(), true)]) {
        w.model.slice(Arc::new(slice), false);
    }
    w.model.service(Arc::new(service));
    let now = tokio::time::Instant::now();
    runtime.block_on(w.sync(true, &kernel, now)).unwrap();
    sh(
        "chain=$(iptables-save -t nat | sed -n 's/^:\\(KUBE-SVC-[^ ]*\\).*/\\1/p')
        iptables -t nat -A OUTPUT -j $chain",
    );
    w.model.service_gone("ns", "a");
    w.model.service(Arc::new(plain("b", "10.0.0.2")));
    let done = runtime.block_on(w.sync(false, &kernel, now)).unwrap();
    assert!(done.refused.is_empty() && !done.unfinished);
    let out = Command::new("iptables-save").output().unwrap();
    let rules = String::from_utf8_lossy(&out.stdout);
    let leads_to = |ip: &str| {
        let shared = rules.lines().filter(|l| l.starts_with("-A KUBE-SERVICES"));
        shared.into_iter().any(|l| l.contains(ip))
    };
    assert!(
        leads_to("10.0.0.2/32") && !leads_to("10.0.0.1/32"),
        "{rules}"
    );
}

/// The whole loop: what is shown is written, changes follow, somebody else's change is put right, conflicts are told.
#[test]
fn the_runner_keeps_the_kernel_as_the_watches_say() {
    let test = "the_runner_keeps_the_kernel_as_the_watches_say";
    if !inside(test) {
        return;
    }
    let rules = || {
        let out = Command::new("nft").args(["list", "ruleset"]).output();
        String::from_utf8_lossy(&out.unwrap().stdout).into_owned()
    };
    let wait = async |what: &str, there: bool| {
        let deadline = tokio::time::Instant::now() + Duration::from_secs(30);
        while rules().contains(what) != there {
            assert!(
                tokio::time::Instant::now() < deadline,
                "{what}\n{}",
                rules()
            );
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let (inputs, receiver) = tokio::sync::mpsc::unbounded_channel();
        let (told, mut notices) = tokio::sync::mpsc::unbounded_channel();
        let registry = component::metrics::Registry::new();
        let health = Arc::new(Health::default());
        let runner = Runner {
            families: [Family::V4, Family::V6]
                .map(|f| Writer::new(Model::new("n1", f), backend(true, f)))
                .into(),
            times: Times {
                min_sync: Duration::from_millis(1),
                full_period: Duration::from_secs(3600),
            },
            metrics: Arc::new(Metrics::new(&registry, Mode::Nftables)),
            health: health.clone(),
            tell: Box::new(move |notice| {
                let _ = told.send(notice);
            }),
        };
        let shutdown = CancellationToken::new();
        let running = tokio::spawn(runner.run(receiver, shutdown.clone()));
        let show = |s: ServiceView| inputs.send(Input::Service(Arc::new(s))).unwrap();
        show(plain("a", "10.0.0.1"));
        wait(" 10.0.0.1 .", true).await;
        show(plain("b", "10.0.0.2"));
        wait(" 10.0.0.2 .", true).await;
        inputs
            .send(Input::ServiceGone(Arc::new(plain("a", "10.0.0.1"))))
            .unwrap();
        wait(" 10.0.0.1 .", false).await;
        // The monitor may not listen yet; what it then misses is done again.
        let mut put_right = false;
        for _ in 0..30 {
            sh("nft flush map ip kube-proxy no-endpoint-services");
            let deadline = tokio::time::Instant::now() + Duration::from_secs(1);
            while !put_right && tokio::time::Instant::now() < deadline {
                tokio::time::sleep(Duration::from_millis(10)).await;
                put_right = rules().contains(" 10.0.0.2 .");
            }
            if put_right {
                break;
            }
        }
        assert!(put_right, "{}", rules());
        let mut thief = plain("thief", "10.0.0.3");
        thief.spec.external_ips = vec!["10.0.0.2".into()];
        show(thief);
        match notices.recv().await {
            Some(Notice::Conflict(c)) => assert_eq!(c.owner.name, "b"),
            other => panic!("{other:?}"),
        }
        wait(" 10.0.0.3 .", true).await;
        assert!(health.report(false, client::Time::now()).0);
        shutdown.cancel();
        running.await.unwrap();
    });
}

fn sh(script: &str) {
    let status = Command::new("sh").args(["-ec", script]).status().unwrap();
    assert!(status.success(), "{script}");
}

/// A neighbour in a namespace of its own, which sends what it is told (`ADDRESS TEXT` lines) and echoes what comes to port 7000.
struct Neighbour(Child);

impl Neighbour {
    fn start(test: &str) -> Neighbour {
        let mut child = Command::new("unshare")
            .args(["--net", "--"])
            .arg(std::env::current_exe().unwrap())
            .args(["--exact", test, "--nocapture"])
            .env("KEELSON_TEST_NEIGHBOUR", "1")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        // Its first line tells that it is in its namespace.
        let mut lines = std::io::BufReader::new(child.stdout.take().unwrap()).lines();
        assert!(lines.any(|l| l.unwrap().contains("neighbour is there")));
        let pid = child.id();
        sh(&format!(
            "ip link set lo up
             ip link add v0 type veth peer name v1 netns {pid}
             ip addr add 10.9.0.1/24 dev v0
             ip link set v0 up
             sysctl -qw net.ipv4.conf.v0.route_localnet=1
             nsenter --net=/proc/{pid}/ns/net sh -ec '
               ip addr add 10.9.0.2/24 dev v1
               ip link set v1 up
               sysctl -qw net.ipv4.conf.all.route_localnet=1
               ip route add 127.0.0.0/8 via 10.9.0.1'"
        ));
        Neighbour(child)
    }

    fn run() {
        let socket = UdpSocket::bind("0.0.0.0:7000").unwrap();
        let echo = socket.try_clone().unwrap();
        std::thread::spawn(move || {
            let mut buffer = [0; 100];
            while let Ok((n, from)) = echo.recv_from(&mut buffer) {
                let _ = echo.send_to(&buffer[..n], from);
            }
        });
        println!("neighbour is there");
        for line in std::io::stdin().lines() {
            let line = line.unwrap();
            let (to, text) = line.split_once(' ').unwrap();
            socket.send_to(text.as_bytes(), to).unwrap();
        }
    }

    fn send(&mut self, to: &str, text: &str) {
        let stdin = self.0.stdin.as_mut().unwrap();
        writeln!(stdin, "{to} {text}").unwrap();
    }
}

impl Drop for Neighbour {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// What arrives up to the text `end`.
fn received(socket: &UdpSocket, end: &str) -> Vec<String> {
    let mut out = Vec::new();
    loop {
        let mut buffer = [0; 100];
        let (n, _) = socket
            .recv_from(&mut buffer)
            .expect("the last packet arrives");
        let text = String::from_utf8_lossy(&buffer[..n]).into_owned();
        if text == end {
            return out;
        }
        out.push(text);
    }
}

fn outsiders_do_not_reach_loopback(nft: bool, test: &str) {
    if std::env::var_os("KEELSON_TEST_NEIGHBOUR").is_some() {
        return Neighbour::run();
    }
    if !inside(test) {
        return;
    }
    let mut neighbour = Neighbour::start(test);
    let socket = UdpSocket::bind("0.0.0.0:7000").unwrap();
    let inner = UdpSocket::bind("127.0.0.1:7001").unwrap();
    for s in [&socket, &inner] {
        s.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    }
    // As CNI's portmap makes them: a host port on loopback, and one of the neighbour that this node itself uses over loopback.
    sh("nft -f - <<X
        table ip cni {
          chain pre { type nat hook prerouting priority dstnat; ip daddr 127.0.0.1 udp dport 7003 dnat to 10.9.0.1:7000; }
          chain out { type nat hook output priority -100; ip daddr 127.0.0.1 udp dport 7002 dnat to 10.9.0.2:7000; }
          chain post { type nat hook postrouting priority srcnat; ip saddr 127.0.0.0/8 oifname v0 masquerade; }
        }
X");
    let attack = |neighbour: &mut Neighbour| {
        neighbour.send("127.0.0.1:7000", "to loopback");
        neighbour.send("127.3.2.1:7000", "to another loopback address");
        neighbour.send("127.0.0.1:7003", "to a host port on loopback");
        // Packets of one cable keep their order.
        neighbour.send("10.9.0.1:7000", "end");
        received(&socket, "end")
    };
    assert_eq!(attack(&mut neighbour).len(), 3, "without rules all arrive");

    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let mut w = Writer::new(Model::new("n1", Family::V4), backend(nft, Family::V4));
    let kernel = OwnProcesses::default();
    let now = tokio::time::Instant::now();
    runtime.block_on(w.sync(true, &kernel, now)).unwrap();
    // Flows that were let in before would count as established.
    sh("conntrack -F 2>/dev/null");
    assert_eq!(attack(&mut neighbour), Vec::<String>::new());

    // The node itself still reaches its loopback, and host ports over it.
    inner.send_to(b"end", "127.0.0.1:7000").unwrap();
    received(&socket, "end");
    inner.send_to(b"end", "127.0.0.1:7002").unwrap();
    received(&inner, "end");

    for script in backend(nft, Family::V4).cleanup() {
        runtime
            .block_on(proxy::runner::apply(&script, &kernel))
            .unwrap();
    }
    let left = Command::new("nft")
        .args(["list", "ruleset"])
        .output()
        .unwrap();
    let left = String::from_utf8_lossy(&left.stdout).to_lowercase();
    assert!(!left.contains("kube"), "{left}");
}

#[test]
fn cve_2020_8558_nftables() {
    outsiders_do_not_reach_loopback(true, "cve_2020_8558_nftables");
}

#[test]
fn cve_2020_8558_iptables() {
    outsiders_do_not_reach_loopback(false, "cve_2020_8558_iptables");
}
