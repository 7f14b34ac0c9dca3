//! Which cluster a state directory holds: a random id, kept as `identity.json`, that all it makes on the machine carries. So
//! `down` touches nothing that is not this very cluster's, whatever it is called, and whatever became of `cluster.json`.
//!
//! - control groups are `/NAME-ID` in every hierarchy,
//! - the interface in the root namespace has the alias `keelson ID`,
//! - processes are known by pid, start time and boot, namespaces by the files in `STATE/ns` that hold them.
//!
//! A copy of a state directory is no cluster: the identity also names the directory it was made for.

use crate::cgroup::Hierarchies;
use crate::cluster::write_file;
use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

const FILE: &str = "identity.json";

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// Sixteen hexadecimal digits.
    pub id: String,
    pub name: String,
    /// The state directory.
    pub home: PathBuf,
    /// Entries of the state directory that were there before the cluster.
    #[serde(default)]
    pub kept: Vec<String>,
}

fn is_id(text: &str) -> bool {
    text.len() == 16
        && text
            .bytes()
            .all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
}

/// The state directories of the clusters whose supervisors run, but for this one.
pub fn others(own: &Path) -> Vec<PathBuf> {
    let own = own.canonicalize().unwrap_or_else(|_| own.to_path_buf());
    let mut out: Vec<PathBuf> = std::fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|e| supervised(e.file_name().to_str()?.parse().ok()?))
        .filter(|dir| dir.canonicalize().is_ok_and(|d| d != own))
        .collect();
    out.sort();
    out.dedup();
    out
}

/// The state directory of the supervisor that this process is.
pub fn supervised(pid: i32) -> Option<PathBuf> {
    use std::os::unix::ffi::OsStrExt;
    let line = std::fs::read(format!("/proc/{pid}/cmdline")).ok()?;
    let mut words = line.split(|b| *b == 0);
    let program = Path::new(std::ffi::OsStr::from_bytes(words.next()?));
    (program.file_name()? == "keelson" && words.next()? == b"--state-dir").then_some(())?;
    let dir = PathBuf::from(std::ffi::OsStr::from_bytes(words.next()?));
    (words.next()? == b"supervise").then_some(dir)
}

impl Identity {
    /// A new one, not yet written.
    pub fn random(name: &str, home: &Path) -> Result<Self> {
        let mut bytes = [0u8; 8];
        ring::rand::SecureRandom::fill(&ring::rand::SystemRandom::new(), &mut bytes)
            .map_err(|_| anyhow::anyhow!("the kernel gives no random numbers"))?;
        Ok(Identity {
            id: bytes.iter().map(|b| format!("{b:02x}")).collect(),
            name: name.into(),
            home: home.to_path_buf(),
            kept: Vec::new(),
        })
    }

    /// The identity of this state directory, if it holds a cluster.
    pub fn read(dir: &Path) -> Result<Option<Self>> {
        let path = dir.join(FILE);
        let bytes = match std::fs::read(&path) {
            Ok(bytes) => bytes,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(e).with_context(|| format!("read {}", path.display())),
        };
        let found: Identity = serde_json::from_slice(&bytes)
            .with_context(|| format!("{} is damaged", path.display()))?;
        if !is_id(&found.id) {
            bail!("{} is damaged: there is no id", path.display());
        }
        // One that was moved is still itself.
        if let (Ok(here), Ok(home)) = (dir.canonicalize(), found.home.canonicalize())
            && here != home
        {
            bail!(
                "{} is a copy of {}, which holds the cluster; use that with --state-dir, and remove the copy by hand",
                here.display(),
                home.display()
            );
        }
        Ok(Some(found))
    }

    pub fn write(&self) -> Result<()> {
        write_file(
            &self.home.join(FILE),
            &serde_json::to_vec_pretty(self)?,
            0o644,
        )
    }

    /// The control group of everything.
    pub fn group(&self) -> String {
        format!("{}-{}", self.name, self.id)
    }

    /// The alias of the interface in the root namespace.
    pub fn alias(&self) -> String {
        format!("keelson {}", self.id)
    }
}

/// Another cluster of this name that runs, as a phrase.
pub fn name_in_use(hierarchies: &Hierarchies, name: &str, own_group: &str) -> Option<String> {
    let group = hierarchies.groups().into_iter().find(|group| {
        let same = group
            .strip_prefix(name)
            .and_then(|rest| rest.strip_prefix('-'))
            .is_some_and(is_id);
        (same || group == name)
            && group != own_group
            && hierarchies
                .processes(Path::new(group))
                .iter()
                .any(|p| *p > 0)
    })?;
    let supervisor = Path::new(&group).join("supervisor");
    let dir = hierarchies
        .processes(&supervisor)
        .into_iter()
        .find_map(supervised);
    Some(match dir {
        Some(dir) => format!(
            "a cluster named {name} runs already, with the state directory {}",
            dir.display()
        ),
        None => {
            format!("processes of another cluster named {name} run in the control group /{group}")
        }
    })
}

#[cfg(test)]
pub mod tests {
    use super::*;

    /// A directory of the test's own.
    pub fn scratch(what: &str) -> PathBuf {
        let dir = std::env::temp_dir().join(format!("keelson-{what}-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        dir
    }

    #[test]
    fn an_identity_is_its_directorys_own() {
        let dir = scratch("identity");
        assert_eq!(Identity::read(&dir).unwrap(), None);
        let one = Identity::random("a", &dir).unwrap();
        one.write().unwrap();
        assert_eq!(Identity::read(&dir).unwrap().as_ref(), Some(&one));
        assert_ne!(one.group(), Identity::random("a", &dir).unwrap().group());

        let copy = scratch("identity-copy");
        std::fs::copy(dir.join(FILE), copy.join(FILE)).unwrap();
        let error = Identity::read(&copy).unwrap_err().to_string();
        assert!(error.contains("is a copy of"), "{error}");
        std::fs::remove_dir_all(&dir).unwrap();
        assert_eq!(Identity::read(&copy).unwrap().as_ref(), Some(&one), "moved");

        for damaged in ["", "{}", r#"{"id":"../..","name":"a","home":"/x"}"#] {
            std::fs::write(copy.join(FILE), damaged).unwrap();
            let error = Identity::read(&copy).unwrap_err().to_string();
            assert!(error.contains("identity.json is damaged"), "{error}");
        }
        std::fs::remove_dir_all(&copy).unwrap();
    }

    #[test]
    fn only_supervisors_tell_a_state_directory() {
        assert_eq!(supervised(std::process::id() as i32), None);
    }
}
