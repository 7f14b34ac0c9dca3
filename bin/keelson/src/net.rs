//! How the nodes are joined: a bridge in a network namespace of its own (`switch`), one cable (veth pair) from it to each
//! node's `eth0`, and one to the root namespace for the user.
//!
//! Invariants: no node has a default route; the root namespace has a route to the nodes' subnet only, so nothing that a
//! pod or a node sends leaves the machine. The bridge is not in the root namespace, where packet filters of the machine
//! (and of other container tools) could see its frames.

use crate::cluster::{Cluster, Node, SERVICE_RANGE};
use crate::{host, run};
use anyhow::{Context, Result};
use std::process::Command;

const SWITCH: &str = "switch";

fn ip_batch(cluster: &Cluster, host: Option<&str>, lines: &str) -> Result<()> {
    let mut command = match host {
        Some(host) => {
            let mut net = std::ffi::OsString::from("--net=");
            net.push(host::namespace_file(cluster, host, "net"));
            let mut c = Command::new("nsenter");
            c.arg(net).args(["--", "ip", "-batch", "-"]);
            c
        }
        None => {
            let mut c = Command::new("ip");
            c.args(["-batch", "-"]);
            c
        }
    };
    run::with_input(&mut command, lines)
        .with_context(|| format!("set up the network of {}", host.unwrap_or("this machine")))?;
    Ok(())
}

fn has_link(cluster: &Cluster, host: Option<&str>, link: &str) -> bool {
    match host {
        None => std::path::Path::new("/sys/class/net").join(link).exists(),
        Some(host) => {
            let mut net = std::ffi::OsString::from("--net=");
            net.push(host::namespace_file(cluster, host, "net"));
            run::output(
                Command::new("nsenter")
                    .arg(net)
                    .args(["--", "ip", "link", "show", "dev", link]),
            )
            .is_ok()
        }
    }
}

/// Makes the switch and the user's way to it.
pub fn ensure_switch(cluster: &Cluster) -> Result<()> {
    let made = host::ensure_network(cluster, SWITCH)?;
    if made || !has_link(cluster, Some(SWITCH), "br0") {
        ip_batch(
            cluster,
            Some(SWITCH),
            "link set lo up\nlink add br0 type bridge forward_delay 0\nlink set br0 up\n",
        )?;
    }
    let root = cluster.root_interface();
    if !has_link(cluster, None, &root) {
        let switch = host::namespace_file(cluster, SWITCH, "net");
        ip_batch(
            cluster,
            None,
            &format!(
                "link add {root} type veth peer name root netns {}\naddress add {}/24 dev {root}\nlink set {root} up\n",
                switch.display(),
                cluster.root_address()
            ),
        )?;
        ip_batch(cluster, Some(SWITCH), "link set root master br0 up\n")?;
    }
    Ok(())
}

/// Makes a node's network namespace, cable and addresses.
pub fn ensure_node(cluster: &Cluster, node: &Node) -> Result<()> {
    host::ensure_network(cluster, &node.name)?;
    if has_link(cluster, Some(&node.name), "eth0") {
        return Ok(());
    }
    let file = host::namespace_file(cluster, &node.name, "net");
    ip_batch(
        cluster,
        Some(SWITCH),
        &format!(
            "link add {0} type veth peer name eth0 netns {1}\nlink set {0} master br0 up\n",
            node.name,
            file.display()
        ),
    )?;
    let address = cluster.node_address(node);
    // Service addresses are rewritten on their way out, but a packet needs a route before it is looked at.
    ip_batch(
        cluster,
        Some(&node.name),
        &format!(
            "link set lo up\naddress add {address}/24 dev eth0\nlink set eth0 up\nroute replace {SERVICE_RANGE} dev eth0 src {address}\n"
        ),
    )?;
    let mut net = std::ffi::OsString::from("--net=");
    net.push(&file);
    let settings = "echo 1 >/proc/sys/net/ipv4/ip_forward; echo 0 >/proc/sys/net/ipv4/conf/all/rp_filter; \
                    echo 0 >/proc/sys/net/ipv4/conf/eth0/rp_filter";
    run::output(
        Command::new("nsenter")
            .arg(net)
            .args(["--", "sh", "-ec", settings]),
    )?;
    Ok(())
}

/// Gives every node the routes to the pods of the others.
pub fn connect_pods(cluster: &Cluster) -> Result<()> {
    for node in &cluster.nodes {
        if !host::is_namespace(&host::namespace_file(cluster, &node.name, "net")) {
            continue;
        }
        let mut lines = String::new();
        for other in cluster.nodes.iter().filter(|o| o.name != node.name) {
            lines.push_str(&format!(
                "route replace {} via {}\n",
                cluster.pod_range(other),
                cluster.node_address(other)
            ));
        }
        if !lines.is_empty() {
            ip_batch(cluster, Some(&node.name), &lines)?;
        }
    }
    Ok(())
}

/// Takes back the routes to a node's pods.
pub fn disconnect_pods(cluster: &Cluster, gone: &Node) -> Result<()> {
    for node in cluster.nodes.iter().filter(|n| n.name != gone.name) {
        // A route that is not there is what is wanted.
        let _ = ip_batch(
            cluster,
            Some(&node.name),
            &format!("route del {}\n", cluster.pod_range(gone)),
        );
    }
    Ok(())
}

/// Pulls a node's cable, or puts it back.
pub fn set_cable(cluster: &Cluster, node: &Node, connected: bool) -> Result<()> {
    ip_batch(
        cluster,
        Some(SWITCH),
        &format!(
            "link set {} {}\n",
            node.name,
            if connected { "up" } else { "down" }
        ),
    )
}

/// Removes a node's cable and network namespace.
pub fn remove_node(cluster: &Cluster, node: &Node) -> Result<()> {
    let _ = ip_batch(cluster, Some(SWITCH), &format!("link del {}\n", node.name));
    host::release(cluster, &node.name, &["net"])
}

/// Removes the user's cable and the switch.
pub fn remove_switch(cluster: &Cluster) -> Result<()> {
    let root = cluster.root_interface();
    if has_link(cluster, None, &root) {
        ip_batch(cluster, None, &format!("link del {root}\n"))?;
    }
    host::release(cluster, SWITCH, &["net"])
}

/// Addresses of the machine that overlap with the nodes' subnet on another interface: its routes, as lines.
pub fn foreign_routes(cluster: &Cluster) -> Vec<String> {
    let routes = run::output(Command::new("ip").args([
        "-4",
        "route",
        "show",
        "root",
        &cluster.subnet_text(),
    ]))
    .unwrap_or_default();
    let own = format!(" dev {} ", cluster.root_interface());
    routes
        .lines()
        .filter(|l| !l.contains(&own))
        .map(str::to_string)
        .collect()
}
