//! A daemon under measurement: started, watched through /proc, ended.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};

/// A process's resident memory in MB (10^6 bytes).
pub fn resident(pid: u32) -> Result<f64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let kilobytes: f64 = text
        .lines()
        .find_map(|l| l.strip_prefix("VmRSS:")?.trim().strip_suffix(" kB"))
        .context("no VmRSS in status")?
        .parse()?;
    // A zombie has none, and no daemon gets by with so little: a reading of nothing must not meet an aim.
    ensure!(kilobytes > 100.0, "process {pid} holds {kilobytes} kB");
    Ok(kilobytes * 1024.0 / 1e6)
}

/// A running daemon; ended when dropped.
pub struct Daemon(Child);

impl Daemon {
    /// Starts a program that stands beside this one, with its output in a file.
    pub fn start(name: &str, args: &[String], log: &Path) -> Result<Daemon> {
        let program = std::env::current_exe()?.with_file_name(name);
        let log = std::fs::File::create(log)?;
        let child = Command::new(&program)
            .args(args)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .with_context(|| format!("start {}", program.display()))?;
        Ok(Daemon(child))
    }

    /// Resident memory in MB (10^6 bytes).
    pub fn rss(&self) -> Result<f64> {
        resident(self.0.id())
    }

    /// CPU time used so far, user and system.
    pub fn cpu(&self) -> Result<Duration> {
        let text = std::fs::read_to_string(format!("/proc/{}/stat", self.0.id()))?;
        let fields: Vec<&str> = text
            .rsplit(')')
            .next()
            .context("stat")?
            .split_whitespace()
            .collect();
        let ticks = |i: usize| -> Result<u64> { Ok(fields.get(i).context("stat")?.parse()?) };
        // utime and stime are fields 14 and 15; two come before the last parenthesis. USER_HZ is 100 on Linux.
        Ok(Duration::from_millis((ticks(11)? + ticks(12)?) * 10))
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
