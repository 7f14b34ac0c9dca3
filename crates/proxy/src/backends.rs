//! Backends: how the service model becomes kernel rules.
//!
//! A backend turns entries into scripts for one program that applies them atomically; it keeps what it wrote last, so
//! that a change costs what changed. Scripts are deterministic: the same entries give the same bytes.

use crate::model::{Changes, Entries, Family};

pub mod iptables;
pub mod nftables;

/// What all backends need to know.
#[derive(Clone, Debug)]
pub struct Options {
    /// The family of the rules.
    pub family: Family,
    /// Traffic to cluster IPs from outside these ranges is masqueraded; empty: from nowhere.
    pub cluster_cidrs: Vec<String>,
    /// Masquerade all traffic to cluster IPs.
    pub masquerade_all: bool,
    /// Which bit of the mark asks for masquerading (0 to 31).
    pub masquerade_bit: u8,
    /// The ranges of node addresses that node ports listen on; empty for all.
    pub node_port_addresses: Vec<String>,
}

/// One program run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Script {
    /// The program and its arguments.
    pub command: Vec<String>,
    /// Its standard input.
    pub text: String,
    /// Not run when this program ends well: for what cannot be said idempotently.
    pub unless: Option<Vec<String>>,
    /// What stands in for the script once the output of `command` is known.
    pub then: Option<Then>,
    /// Whether the rules are right though it fails: for what others may hold on to.
    pub may_fail: bool,
}

/// Makes scripts from a program's output.
#[derive(Clone)]
pub struct Then(pub std::sync::Arc<dyn Fn(&str) -> Vec<Script> + Send + Sync>);

impl std::fmt::Debug for Then {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Then")
    }
}

impl PartialEq for Then {
    fn eq(&self, _: &Then) -> bool {
        true
    }
}

impl Eq for Then {}

/// Makes scripts.
pub trait Backend: Send {
    /// Brings the kernel from whatever is there to exactly these entries.
    fn full(&mut self, entries: &Entries) -> Vec<Script>;

    /// Brings the kernel from the last script's state to the changed one; nothing if nothing differs. Must not be used
    /// before `full`, nor after a script failed.
    fn delta(&mut self, changes: &Changes) -> Vec<Script>;

    /// Tells whether the kernel takes rules at all, without writing any: what fails these scripts is no service's fault.
    fn dry_run(&mut self) -> Vec<Script>;

    /// Removes everything this backend ever wrote. Each script may fail where there is nothing to remove.
    fn cleanup(&self) -> Vec<Script>;

    /// Tells of a line of `nft monitor` whether it changes what this backend owns.
    fn owns(&self) -> fn(&str) -> bool;
}
