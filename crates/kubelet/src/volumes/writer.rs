//! Writes a set of files into a volume so that readers see the old set or the new one, never a mix.
//!
//! Layout, as upstream's: the files are in a time-stamped directory, `..data` is a symlink to it that is replaced by a
//! rename, and each top-level name is a symlink through `..data`.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Component, Path, PathBuf};

use bytes::Bytes;

/// One file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileData {
    /// Content. One value may be in many files.
    pub data: Bytes,
    /// Permission bits.
    pub mode: i32,
    /// Owner, when not root.
    pub owner: Option<i64>,
}

/// Files by path below the volume.
pub type Payload = BTreeMap<String, FileData>;

const DATA: &str = "..data";
const DATA_NEW: &str = "..data_tmp";

fn check(path: &str) -> io::Result<&Path> {
    let p = Path::new(path);
    let ok = !path.is_empty()
        && path.len() <= 4096
        && !path.starts_with("..")
        && p.components().all(|c| matches!(c, Component::Normal(_)));
    if ok {
        Ok(p)
    } else {
        Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            format!("invalid path {path:?}"),
        ))
    }
}

/// Makes the volume hold exactly `payload`; gives whether anything changed. `group` owns the files when set.
///
/// Paths must be relative and free of `..`; others are refused and nothing is written.
pub fn write(dir: &Path, payload: &Payload, group: Option<i64>) -> io::Result<bool> {
    for path in payload.keys() {
        check(path)?;
    }
    let data = dir.join(DATA);
    let current = fs::read_link(&data).ok().map(|t| dir.join(t));
    if let Some(c) = &current
        && same(c, payload)
    {
        links(dir, payload)?;
        return Ok(false);
    }
    let stamp = jiff::Timestamp::now().strftime("%Y_%m_%d_%H_%M_%S");
    let name = format!("..{stamp}.{}", rand::random::<u32>());
    let fresh = dir.join(&name);
    if let Err(e) = fill(dir, &fresh, payload, group) {
        // It is tried again and again, each time in a directory of its own.
        let _ = fs::remove_dir_all(&fresh);
        return Err(e);
    }
    let tmp = dir.join(DATA_NEW);
    let _ = fs::remove_file(&tmp);
    symlink(&name, &tmp)?;
    fs::rename(&tmp, &data)?;
    links(dir, payload)?;
    if let Some(old) = current {
        let _ = fs::remove_dir_all(old);
    }
    Ok(true)
}

fn id(v: Option<i64>) -> Option<u32> {
    v.and_then(|v| u32::try_from(v).ok())
}

/// Writes the files into a new directory of the volume.
fn fill(dir: &Path, fresh: &Path, payload: &Payload, group: Option<i64>) -> io::Result<()> {
    own(dir, id(group))?;
    fs::create_dir(fresh)?;
    fs::set_permissions(fresh, fs::Permissions::from_mode(0o755))?;
    own(fresh, id(group))?;
    for (path, file) in payload {
        let to = fresh.join(path);
        if let Some(parent) = to.parent() {
            fs::create_dir_all(parent)?;
            for above in parent.ancestors().take_while(|a| *a != fresh) {
                own(above, id(group))?;
            }
        }
        fs::write(&to, &file.data)?;
        let mut mode = u32::try_from(file.mode).unwrap_or(0o644) & 0o777;
        if group.is_some() {
            mode |= 0o440;
        }
        if file.owner.is_some() || group.is_some() {
            std::os::unix::fs::chown(&to, id(file.owner), id(group))?;
        }
        fs::set_permissions(&to, fs::Permissions::from_mode(mode))?;
    }
    Ok(())
}

/// Gives a directory of the volume to the group; what is made in it then is the group's too.
fn own(dir: &Path, group: Option<u32>) -> io::Result<()> {
    if group.is_none() {
        return Ok(());
    }
    std::os::unix::fs::chown(dir, None, group)?;
    let mode = fs::metadata(dir)?.permissions().mode() | 0o2550;
    fs::set_permissions(dir, fs::Permissions::from_mode(mode))
}

fn top(path: &str) -> String {
    path.split('/').next().unwrap_or_default().to_string()
}

/// Makes the top-level symlinks and drops those of files that are gone.
fn links(dir: &Path, payload: &Payload) -> io::Result<()> {
    let want: BTreeSet<String> = payload.keys().map(|p| top(p)).collect();
    for name in &want {
        let link = dir.join(name);
        if fs::symlink_metadata(&link).is_err() {
            symlink(PathBuf::from(DATA).join(name), &link)?;
        }
    }
    for e in fs::read_dir(dir)?.flatten() {
        let name = e.file_name().to_string_lossy().into_owned();
        if !name.starts_with("..") && !want.contains(&name) {
            let _ = fs::remove_file(e.path());
        }
    }
    Ok(())
}

fn same(dir: &Path, payload: &Payload) -> bool {
    let mut count = 0;
    let mut stack = vec![dir.to_path_buf()];
    while let Some(d) = stack.pop() {
        let Ok(entries) = fs::read_dir(&d) else {
            return false;
        };
        for e in entries.flatten() {
            if e.file_type().is_ok_and(|t| t.is_dir()) {
                stack.push(e.path());
            } else {
                count += 1;
            }
        }
    }
    count == payload.len()
        && payload
            .iter()
            .all(|(p, f)| fs::read(dir.join(p)).is_ok_and(|d| d == f.data))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn payload(files: &[(&str, &str)]) -> Payload {
        files
            .iter()
            .map(|(p, d)| {
                (
                    p.to_string(),
                    FileData {
                        data: d.as_bytes().to_vec().into(),
                        mode: 0o644,
                        owner: None,
                    },
                )
            })
            .collect()
    }

    #[test]
    fn files_change_together_and_old_ones_go() {
        let d = tempfile::tempdir().unwrap();
        assert!(write(d.path(), &payload(&[("a", "1"), ("s/b", "2")]), None).unwrap());
        let first = fs::read_link(d.path().join("..data")).unwrap();
        assert_eq!(
            fs::read_link(d.path().join("s")).unwrap(),
            Path::new("..data/s")
        );
        assert!(!write(d.path(), &payload(&[("a", "1"), ("s/b", "2")]), None).unwrap());
        assert_eq!(fs::read_link(d.path().join("..data")).unwrap(), first);
        assert!(write(d.path(), &payload(&[("a", "3")]), None).unwrap());
        assert_eq!(fs::read_to_string(d.path().join("a")).unwrap(), "3");
        let gone = fs::symlink_metadata(d.path().join("s")).unwrap_err();
        assert_eq!(gone.kind(), io::ErrorKind::NotFound);
        assert!(!d.path().join(first).exists());
        assert_eq!(fs::read_dir(d.path()).unwrap().count(), 3);
    }

    #[test]
    fn paths_that_leave_the_volume_are_refused() {
        let d = tempfile::tempdir().unwrap();
        for bad in ["../x", "/x", "a/../b", "..x", "", "./a"] {
            let error = write(d.path(), &payload(&[(bad, "1")]), None).unwrap_err();
            assert_eq!(error.to_string(), format!("invalid path {bad:?}"));
        }
        assert_eq!(fs::read_dir(d.path()).unwrap().count(), 0);
    }

    /// Disk use: what cannot be written leaves nothing, however often it is tried.
    #[test]
    fn files_in_each_others_way_leave_nothing_behind() {
        let d = tempfile::tempdir().unwrap();
        assert!(write(d.path(), &payload(&[("a", "1")]), None).unwrap());
        let count = || fs::read_dir(d.path()).unwrap().count();
        let before = count();
        for _ in 0..3 {
            assert!(write(d.path(), &payload(&[("a", "2"), ("a/b", "3")]), None).is_err());
        }
        assert_eq!(count(), before);
        assert_eq!(fs::read_to_string(d.path().join("a")).unwrap(), "1");
    }
}
