//! Processes by identity: a pid together with the time the process started, so that a reused pid is never mistaken.

use anyhow::Result;
use serde::{Deserialize, Serialize};

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Process {
    pub pid: i32,
    /// Clock ticks after boot (field 22 of /proc/PID/stat).
    pub started: u64,
    /// Of which boot; empty in files of versions that did not write it.
    #[serde(default)]
    pub boot: String,
}

fn this_boot() -> String {
    let id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    id.trim().to_owned()
}

impl Process {
    /// The process that has this pid now.
    pub fn of(pid: i32) -> Option<Self> {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        let (state, started) = parse_stat(&stat)?;
        // A zombie has ended.
        if state == "Z" || state == "X" {
            return None;
        }
        Some(Process {
            pid,
            started,
            boot: this_boot(),
        })
    }

    pub fn is_alive(&self) -> bool {
        Process::of(self.pid).is_some_and(|now| {
            now.started == self.started && (self.boot.is_empty() || now.boot == self.boot)
        })
    }

    /// Sends a signal, only to this very process. Whether it was there.
    pub fn signal(&self, signal: rustix::process::Signal) -> bool {
        let Some(pid) = rustix::process::Pid::from_raw(self.pid) else {
            return false;
        };
        // The descriptor pins the process: the check after opening it holds until the signal is sent.
        let Ok(fd) = rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty()) else {
            return false;
        };
        self.is_alive() && rustix::process::pidfd_send_signal(&fd, signal).is_ok()
    }

    /// A descriptor that becomes readable when the process ends.
    pub fn descriptor(&self) -> Result<std::os::fd::OwnedFd> {
        let pid = rustix::process::Pid::from_raw(self.pid)
            .ok_or_else(|| anyhow::anyhow!("not a pid: {}", self.pid))?;
        let fd = rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::NONBLOCK)?;
        if !self.is_alive() {
            anyhow::bail!("process {} has ended", self.pid);
        }
        Ok(fd)
    }

    /// Bytes of memory it holds (resident).
    pub fn resident_bytes(&self) -> u64 {
        let status =
            std::fs::read_to_string(format!("/proc/{}/status", self.pid)).unwrap_or_default();
        let line = status.lines().find_map(|l| l.strip_prefix("VmRSS:"));
        line.and_then(|l| l.split_whitespace().next())
            .and_then(|n| n.parse::<u64>().ok())
            .unwrap_or(0)
            * 1024
    }

    /// Seconds since it started.
    pub fn age_seconds(&self) -> u64 {
        let uptime = std::fs::read_to_string("/proc/uptime").unwrap_or_default();
        let uptime: f64 = uptime
            .split_whitespace()
            .next()
            .and_then(|s| s.parse().ok())
            .unwrap_or(0.0);
        let ticks = rustix::param::clock_ticks_per_second().max(1);
        (uptime as u64).saturating_sub(self.started / ticks)
    }
}

/// State and start time from a stat line. The command name, in parentheses, may hold anything.
fn parse_stat(stat: &str) -> Option<(&str, u64)> {
    let rest = stat.get(stat.rfind(')')? + 1..)?;
    let mut fields = rest.split_whitespace();
    let state = fields.next()?;
    // starttime is field 22; state is field 3.
    let started = fields.nth(18)?.parse().ok()?;
    Some((state, started))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stat_lines_with_odd_names_are_read() {
        let line = "7 (a) b (c) S 1 7 7 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 1 0 4242 0 0";
        assert_eq!(parse_stat(line), Some(("S", 4242)));
        assert_eq!(parse_stat("7 (x"), None);
    }

    #[test]
    fn a_process_is_itself_and_no_other() {
        let me = Process::of(std::process::id() as i32).unwrap();
        assert!(me.is_alive());
        let other = Process {
            started: me.started + 1,
            ..me.clone()
        };
        assert!(!other.is_alive());
        let before = Process {
            boot: "another".into(),
            ..me
        };
        assert!(!before.is_alive(), "of another boot");
        assert!(!other.signal(rustix::process::Signal::KILL));
    }
}
