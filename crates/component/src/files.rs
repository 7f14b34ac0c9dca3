//! The process's limit of open files.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Raises the soft limit to the hard one, as Go's runtime does for upstream's daemons. For `bin/`, before anything is opened.
/// What the process starts later has the raised limit too; containers are started by the runtime and do not.
pub fn raise_limit() {
    let limit = getrlimit(Resource::Nofile);
    if limit.current == limit.maximum {
        return;
    }
    let raised = Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    if let Err(err) = setrlimit(Resource::Nofile, raised) {
        tracing::warn!(%err, "Cannot raise the limit of open files");
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
    }
}
