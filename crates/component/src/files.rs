//! The process's limit of open files.

use std::os::unix::process::CommandExt as _;
use std::process::Command;
use std::sync::OnceLock;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// The limit before it was raised.
static STARTED_WITH: OnceLock<Rlimit> = OnceLock::new();

/// Raises the soft limit to the hard one, as Go's runtime does for upstream's daemons. For `bin/`, before anything is opened.
/// Who starts a process calls [`restore_limit`]; containers are started by the runtime and do not have the raised limit.
pub fn raise_limit() {
    let limit = getrlimit(Resource::Nofile);
    if limit.current == limit.maximum {
        return;
    }
    let raised = Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    match setrlimit(Resource::Nofile, raised) {
        Ok(()) => {
            let _ = STARTED_WITH.set(limit);
        }
        Err(err) => tracing::warn!(%err, "Cannot raise the limit of open files"),
    }
}

/// Has the program start with the limit that this process was started with, as Go's runtime does: some look through all
/// descriptors up to the limit, or use `select`, which knows 1,024.
pub fn restore_limit(command: &mut Command) {
    let Some(limit) = STARTED_WITH.get() else {
        return;
    };
    let restore = move || setrlimit(Resource::Nofile, *limit).map_err(Into::into);
    #[expect(
        unsafe_code,
        reason = "between fork and exec nothing but one system call is made"
    )]
    unsafe {
        command.pre_exec(restore);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn soft_becomes_hard() {
        let before = getrlimit(Resource::Nofile);
        let lower = before.current.map_or(1024, |n| n / 2);
        let soft = Rlimit {
            current: Some(lower),
            maximum: before.maximum,
        };
        setrlimit(Resource::Nofile, soft).unwrap();
        raise_limit();
        assert_eq!(getrlimit(Resource::Nofile).current, before.maximum);
        // What is started has what this process had.
        let mut shell = Command::new("sh");
        shell.args(["-c", "ulimit -Sn"]);
        restore_limit(&mut shell);
        let told = shell.output().unwrap().stdout;
        assert_eq!(String::from_utf8(told).unwrap().trim(), lower.to_string());
    }
}
