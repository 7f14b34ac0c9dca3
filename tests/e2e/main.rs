//! End to end: `keelson` and kubectl against real containerd, kernel rules and processes that are killed.
//!
//! The cases run one after the other on the cluster of their group, in the order below; each leaves the cluster as it found
//! it. Words on the command line choose cases by parts of their names. A failed case does not keep the others from
//! running. Afterwards, also after a failure, the cluster is taken down and the machine looked over for leftovers.
//!
//! Settings: `KEELSON_BIN_DIR`, where the daemons are (default: beside this test's own target directory);
//! `KEELSON_E2E_STORE`, the store of the first group (default: embedded).

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test's failure is a panic"
)]

mod bad_input;
mod batch;
mod cluster;
mod control_plane;
mod failures;
mod leftovers;
mod neighbours;
mod nodes;
mod scheduling;
mod services;
mod stateful;
mod storage;
mod workloads;

use cluster::{Cluster, Options};
use std::process::ExitCode;
use std::time::Instant;

type Case = (&'static str, fn(&Cluster));

struct Group {
    name: &'static str,
    options: Options,
    cases: Vec<Case>,
}

fn groups() -> Vec<Group> {
    let store = match std::env::var("KEELSON_E2E_STORE").as_deref() {
        Ok("etcd") => "etcd",
        _ => "embedded",
    };
    vec![
        Group {
            name: "processes",
            options: Options {
                nodes: 3,
                store,
                proxy_mode: "nftables",
                control_plane: "processes",
            },
            cases: vec![
                (
                    "three_nodes_are_ready_and_a_second_up_changes_nothing",
                    nodes::ready,
                ),
                (
                    "the_store_holds_the_keys_of_upstream",
                    control_plane::embedded_keys,
                ),
                (
                    "a_service_reaches_every_replica_by_nftables",
                    services::by_nftables,
                ),
                ("replicas_follow_scale", workloads::scale),
                (
                    "a_rolling_update_fails_no_request_and_can_be_undone",
                    workloads::rolling_update,
                ),
                ("jobs_run_to_their_end", batch::to_their_end),
                (
                    "replication_controllers_adopt_pods",
                    batch::replication_controllers,
                ),
                ("claims_are_bound_mounted_and_released", storage::claims),
                (
                    "claims_that_wait_get_the_volume_of_their_pods_node",
                    storage::late_binding,
                ),
                ("stateful_sets_keep_names_order_and_data", stateful::sets),
                ("cron_jobs_run_when_they_are_due", batch::cron_jobs),
                (
                    "logs_and_exec_reach_the_container",
                    workloads::logs_and_exec,
                ),
                (
                    "pods_go_where_their_constraints_say",
                    scheduling::constraints,
                ),
                ("a_pod_that_fits_nowhere_says_why", scheduling::fits_nowhere),
                ("the_node_with_most_room_is_chosen", scheduling::most_room),
                (
                    "a_static_pod_runs_and_shows_as_a_mirror_pod",
                    workloads::static_pod,
                ),
                (
                    "deleting_a_namespace_deletes_what_is_in_it",
                    workloads::namespace,
                ),
                (
                    "bad_input_gets_a_status_and_the_cluster_goes_on",
                    bad_input::gets_a_status,
                ),
                (
                    "a_service_reaches_every_replica_by_iptables",
                    services::by_iptables,
                ),
                (
                    "killed_daemons_lose_nothing_and_restart_no_container",
                    failures::kill_each_daemon,
                ),
                (
                    "a_cut_node_loses_its_pods_and_returns",
                    failures::cut_and_heal,
                ),
                (
                    "an_address_that_two_services_want_has_one_owner",
                    services::one_owner,
                ),
                (
                    "down_and_up_leave_another_cluster_alone",
                    neighbours::are_left_alone,
                ),
                ("a_node_is_stopped_started_added_and_removed", nodes::life),
            ],
        },
        Group {
            name: "etcd",
            options: Options {
                nodes: 2,
                store: "etcd",
                proxy_mode: "nftables",
                control_plane: "processes",
            },
            cases: vec![
                ("the_keys_in_etcd_are_upstreams", control_plane::etcd_keys),
                (
                    "a_killed_etcd_loses_nothing_and_restarts_no_container",
                    failures::kill_the_store,
                ),
            ],
        },
        Group {
            name: "static-pods",
            options: Options {
                nodes: 1,
                store: "etcd",
                proxy_mode: "iptables",
                control_plane: "static-pods",
            },
            cases: vec![
                (
                    "the_control_plane_runs_in_static_pods",
                    control_plane::runs_in_static_pods,
                ),
                ("etcd_holds_the_keys_of_upstream", control_plane::etcd_keys),
            ],
        },
    ]
}

fn main() -> ExitCode {
    // What libtest takes is taken too, where it has a meaning here.
    let words: Vec<String> = std::env::args()
        .skip(1)
        .filter(|w| !w.starts_with("--"))
        .collect();
    let chosen = |group: &str, case: &str| {
        words.is_empty()
            || words
                .iter()
                .any(|w| case.contains(w.as_str()) || group == w)
    };
    if !rustix::process::geteuid().is_root() {
        eprintln!("the end-to-end tests make namespaces and containers, which needs root");
        return ExitCode::FAILURE;
    }
    let (mut passed, mut failed) = (0, Vec::new());
    let begun = Instant::now();
    for group in groups() {
        let cases: Vec<&Case> = group
            .cases
            .iter()
            .filter(|(name, _)| chosen(group.name, name))
            .collect();
        if cases.is_empty() {
            continue;
        }
        println!(
            "\nrunning {} tests on a cluster with {:?}",
            cases.len() + 1,
            group.options
        );
        let before = leftovers::picture();
        let since = Instant::now();
        let started = std::panic::catch_unwind(|| Cluster::up(group.name, &group.options));
        let Ok(cluster) = started else {
            failed.extend(cases.iter().map(|(name, _)| (*name).to_string()));
            println!(
                "the cluster did not start; its {} cases count as failed",
                cases.len()
            );
            continue;
        };
        println!("cluster is up ({:.1} s)", since.elapsed().as_secs_f64());
        for (name, case) in cases {
            if run(name, || case(&cluster)) {
                passed += 1;
            } else {
                cluster.explain();
                failed.push((*name).to_string());
            }
        }
        let name = format!("down_leaves_nothing_behind_{}", group.name);
        if run(&name, || cluster.down_and_compare(&before)) {
            passed += 1;
        } else {
            failed.push(name);
        }
    }
    for name in &failed {
        println!("failed: {name}");
    }
    println!(
        "\ntest result: {}. {passed} passed; {} failed; 0 ignored; 0 measured; 0 filtered out; finished in {:.2}s\n",
        if failed.is_empty() { "ok" } else { "FAILED" },
        failed.len(),
        begun.elapsed().as_secs_f64()
    );
    if failed.is_empty() && passed > 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

fn run(name: &str, case: impl FnOnce()) -> bool {
    let since = Instant::now();
    let ok = std::panic::catch_unwind(std::panic::AssertUnwindSafe(case)).is_ok();
    println!(
        "test {name} ... {} ({:.1} s)",
        if ok { "ok" } else { "FAILED" },
        since.elapsed().as_secs_f64()
    );
    ok
}
