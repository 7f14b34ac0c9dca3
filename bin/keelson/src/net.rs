//! How the nodes are joined: a bridge in a network namespace of its own (`switch`), one cable (veth pair) from it to each
//! node's `eth0`, and one to the root namespace for the user.
//!
//! Invariants: no node has a default route; the root namespace has a route to the nodes' subnet only, so nothing that a
//! pod or a node sends leaves the machine. The bridge is not in the root namespace, where packet filters of the machine
//! (and of other container tools) could see its frames.

use crate::cluster::{Cluster, Node, SERVICE_RANGE};
use crate::{host, run};
use anyhow::{Context, Result, bail};
use std::net::Ipv4Addr;
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
    if let Some(owner) = foreign_link(cluster) {
        bail!("the interface {root} belongs to {owner}; choose another name with --name");
    }
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
        if let Some(identity) = &cluster.identity {
            run::output(Command::new("ip").args([
                "link",
                "set",
                "dev",
                &root,
                "alias",
                &identity.alias(),
            ]))?;
        }
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
            cluster.cable(node),
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
            cluster.cable(node),
            if connected { "up" } else { "down" }
        ),
    )
}

/// Removes a node's cable and network namespace.
pub fn remove_node(cluster: &Cluster, node: &Node) -> Result<()> {
    let cable = cluster.cable(node);
    let _ = ip_batch(cluster, Some(SWITCH), &format!("link del {cable}\n"));
    host::release(cluster, &node.name, &["net"])
}

/// Removes the user's cable and the switch.
pub fn remove_switch(cluster: &Cluster) -> Result<()> {
    let root = cluster.root_interface();
    if has_link(cluster, None, &root) && foreign_link(cluster).is_none() {
        let removed = ip_batch(cluster, None, &format!("link del {root}\n"));
        // It may have gone with the namespace of its other end meanwhile.
        if has_link(cluster, None, &root) {
            removed?;
        }
    }
    host::release(cluster, SWITCH, &["net"])
}

/// Who has an interface of the name of ours in the root namespace, if somebody else has.
pub fn foreign_link(cluster: &Cluster) -> Option<String> {
    let link = std::path::Path::new("/sys/class/net").join(cluster.root_interface());
    if !link.exists() {
        return None;
    }
    let alias = std::fs::read_to_string(link.join("ifalias")).unwrap_or_default();
    let alias = alias.trim();
    let own = cluster.identity.as_ref().map(|i| i.alias());
    if alias == own.unwrap_or_default() {
        return None;
    }
    Some(match alias.strip_prefix("keelson ") {
        Some(id) => format!("another cluster (its id is {id})"),
        None => "something else".into(),
    })
}

/// What on the machine overlaps with the nodes' subnet: addresses and routes of other interfaces, as lines.
pub fn overlaps(cluster: &Cluster) -> Vec<String> {
    let ask = |words: &[&str]| run::output(Command::new("ip").args(words)).unwrap_or_default();
    let routes = ask(&["-4", "route", "show", "table", "all"]);
    let addresses = ask(&["-4", "-o", "address", "show"]);
    overlapping(
        cluster.subnet,
        &cluster.root_interface(),
        &routes,
        &addresses,
    )
}

/// A network as `A.B.C.D/N` or an address.
fn network(text: &str) -> Option<(u32, u32)> {
    let (ip, bits) = text.split_once('/').unwrap_or((text, "32"));
    let ip: Ipv4Addr = ip.parse().ok()?;
    let bits: u32 = bits.parse().ok().filter(|b| *b <= 32)?;
    Some((u32::from(ip), bits))
}

fn overlapping(subnet: [u8; 3], own: &str, routes: &str, addresses: &str) -> Vec<String> {
    let [a, b, c] = subnet;
    let ours = u32::from(Ipv4Addr::new(a, b, c, 0));
    let overlap = |text: &str| {
        network(text).is_some_and(|(ip, bits)| {
            let shared = bits.min(24);
            // Routes to (half of) everything are ways out, not networks of the machine.
            shared > 1 && (ip ^ ours) >> (32 - shared) == 0
        })
    };
    let is_own = |words: &[&str]| words.windows(2).any(|w| w == ["dev", own]);
    let mut out = Vec::new();
    for line in addresses.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        if let [_, link, "inet", address, ..] = words.as_slice()
            && *link != own
            && overlap(address)
        {
            out.push(format!("the address {address} of {link}"));
        }
    }
    for line in routes.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        let kinds = ["local", "broadcast", "multicast"];
        let target = match words.as_slice() {
            [kind, ..] if kinds.contains(kind) => continue,
            [
                "unreachable" | "blackhole" | "prohibit" | "throw",
                target,
                ..,
            ] => target,
            [target, ..] => target,
            [] => continue,
        };
        if overlap(target) && !is_own(&words) {
            out.push(format!("the route {}", line.trim()));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_overlaps_with_the_subnet_is_told_and_our_own_is_not() {
        let addresses = "1: lo    inet 127.0.0.1/8 scope host lo\n\
            4: eth0    inet 192.0.2.2/24 brd 192.0.2.255 scope global eth0\n\
            7: wg0    inet 10.89.0.200/32 scope global wg0\n\
            9: keelson0    inet 10.89.0.1/24 scope global keelson0\n";
        let routes = "default via 192.0.2.1 dev eth0\n\
            0.0.0.0/1 via 192.0.2.9 dev tun0\n\
            10.0.0.0/8 via 192.0.2.3 dev eth0\n\
            10.89.0.0/24 dev keelson0 proto kernel scope link src 10.89.0.1\n\
            10.89.0.64/26 dev br-x proto kernel scope link\n\
            blackhole 10.89.0.7\n\
            10.89.1.0/24 dev other0\n\
            local 10.89.0.1 dev keelson0 table local proto kernel scope host\n";
        assert_eq!(
            overlapping([10, 89, 0], "keelson0", routes, addresses),
            [
                "the address 10.89.0.200/32 of wg0",
                "the route 10.0.0.0/8 via 192.0.2.3 dev eth0",
                "the route 10.89.0.64/26 dev br-x proto kernel scope link",
                "the route blackhole 10.89.0.7",
            ]
        );
        assert_eq!(
            overlapping([172, 20, 5], "keelson0", routes, addresses),
            Vec::<String>::new()
        );
    }
}
