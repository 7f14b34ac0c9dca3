//! subPath mounts: a file or directory of a volume, resolved beneath the volume and mounted by file descriptor.
//!
//! CVE-2017-1002101 and CVE-2021-25741: a container can put symlinks into its volume while the path is looked at. The
//! kernel resolves the path with `openat2` (`RESOLVE_BENEATH`, no magic links), and what is bind-mounted is that very
//! descriptor, through `/proc/self/fd`, so there is no moment at which the name could mean something else.

use std::fs;
use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::path::{Component, Path, PathBuf};

use rustix::fs::{Mode, OFlags, ResolveFlags, openat2};
use rustix::mount::{MountFlags, mount_bind, mount_remount};

/// Where a container's subPath mount is kept: one directory per volume and container, one entry per mount.
pub fn target(pod_dir: &Path, volume: &str, container: &str, index: usize) -> PathBuf {
    pod_dir
        .join("volume-subpaths")
        .join(volume)
        .join(container)
        .join(index.to_string())
}

fn check(sub: &str) -> io::Result<&Path> {
    let p = Path::new(sub);
    if !sub.is_empty()
        && p.components()
            .all(|c| matches!(c, Component::Normal(_) | Component::CurDir))
    {
        Ok(p)
    } else {
        Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            format!("invalid subPath {sub:?}"),
        ))
    }
}

fn open_beneath(root: &OwnedFd, path: &Path, flags: OFlags) -> io::Result<OwnedFd> {
    openat2(
        root,
        path,
        flags | OFlags::CLOEXEC,
        Mode::empty(),
        ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS,
    )
    .map_err(Into::into)
}

/// Opens `sub` beneath `volume`, making missing directories (mode 0750, as upstream) one by one.
pub fn open(volume: &Path, sub: &str, create: bool) -> io::Result<OwnedFd> {
    let sub = check(sub)?;
    let root = rustix::fs::open(
        volume,
        OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
    )?;
    match open_beneath(&root, sub, OFlags::PATH) {
        Err(e) if create && e.kind() == io::ErrorKind::NotFound => {}
        other => return other,
    }
    let mut done = PathBuf::new();
    let mut parent = open_beneath(&root, Path::new("."), OFlags::PATH | OFlags::DIRECTORY)?;
    for part in sub.components() {
        let Component::Normal(name) = part else {
            continue;
        };
        done.push(name);
        match rustix::fs::mkdirat(&parent, name, Mode::from_raw_mode(0o750)) {
            Ok(()) | Err(rustix::io::Errno::EXIST) => {}
            Err(e) => return Err(e.into()),
        }
        parent = open_beneath(&root, &done, OFlags::PATH | OFlags::DIRECTORY)?;
    }
    Ok(parent)
}

/// Bind-mounts `sub` of `volume` at `at`; gives the path to hand to the runtime. Repeating it is harmless.
pub fn bind(volume: &Path, sub: &str, at: &Path, read_only: bool) -> io::Result<PathBuf> {
    if super::is_mount_point(at) {
        rustix::mount::unmount(at, rustix::mount::UnmountFlags::DETACH)?;
    }
    let fd = open(volume, sub, !read_only)?;
    let stat = rustix::fs::fstat(&fd)?;
    if let Some(parent) = at.parent() {
        fs::create_dir_all(parent)?;
    }
    if rustix::fs::FileType::from_raw_mode(stat.st_mode).is_dir() {
        fs::create_dir_all(at)?;
    } else if !at.exists() {
        fs::File::create(at)?;
    }
    mount_bind(format!("/proc/self/fd/{}", fd.as_raw_fd()), at)?;
    if read_only {
        mount_remount(at, MountFlags::BIND | MountFlags::RDONLY, c"")?;
    }
    Ok(at.to_path_buf())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    /// CVE-2017-1002101, CVE-2021-25741: a symlink out of the volume is not followed, an inner one is.
    #[test]
    fn sub_paths_stay_beneath_the_volume() {
        let d = tempfile::tempdir().unwrap();
        let v = d.path().join("v");
        fs::create_dir_all(v.join("real")).unwrap();
        fs::write(d.path().join("secret"), "s").unwrap();
        symlink("/etc", v.join("abs")).unwrap();
        symlink("../secret", v.join("up")).unwrap();
        symlink("real", v.join("inner")).unwrap();
        let why = |sub: &str, create| open(&v, sub, create).unwrap_err();
        for leads_out in ["abs", "abs/passwd", "up"] {
            let error = why(leads_out, true);
            assert_eq!(error.kind(), io::ErrorKind::CrossesDevices, "{error}");
        }
        for bad in ["../secret", "/etc", "real/../../secret", ""] {
            assert_eq!(
                why(bad, true).to_string(),
                format!("invalid subPath {bad:?}")
            );
        }
        open(&v, "inner", false).unwrap();
        open(&v, "real", false).unwrap();
        assert_eq!(why("new/deep", false).kind(), io::ErrorKind::NotFound);
        open(&v, "new/deep", true).unwrap();
        assert!(v.join("new/deep").is_dir());
        // A symlink in the middle of a path that is to be made does not lead out either.
        let error = why("abs/new", true);
        assert_eq!(error.kind(), io::ErrorKind::CrossesDevices, "{error}");
        assert!(!Path::new("/etc/new").exists());
    }

    /// CVE-2017-1002101, CVE-2021-25741: whenever the path is swapped for a symlink that leads out, what is mounted lies
    /// beneath the volume.
    #[test]
    fn cve_2017_1002101_what_is_mounted_is_what_was_found() {
        use std::sync::atomic::{AtomicBool, Ordering};
        let d = tempfile::tempdir().unwrap();
        let (v, out) = (d.path().join("v"), d.path().join("out"));
        for (dir, text) in [(v.join("a"), "ours"), (out.clone(), "theirs")] {
            fs::create_dir_all(&dir).unwrap();
            fs::write(dir.join("f"), text).unwrap();
        }
        symlink(&out, v.join("link")).unwrap();
        let done = AtomicBool::new(false);
        let target = target(d.path(), "v", "c", 0);
        let mut mounted = 0;
        std::thread::scope(|s| {
            s.spawn(|| {
                // As a container does it: the directory and the symlink change places.
                while !done.load(Ordering::Relaxed) {
                    let _ = rustix::fs::renameat_with(
                        rustix::fs::CWD,
                        v.join("a"),
                        rustix::fs::CWD,
                        v.join("link"),
                        rustix::fs::RenameFlags::EXCHANGE,
                    );
                }
            });
            for round in 0..2_000 {
                let at = bind(&v, "a", &target, round % 2 == 0);
                if at.is_ok() {
                    mounted += 1;
                    let text = fs::read_to_string(target.join("f"));
                    assert_eq!(text.ok().as_deref(), Some("ours"), "round {round}");
                }
            }
            done.store(true, Ordering::Relaxed);
        });
        assert!(mounted > 0);
        super::super::tear_down(d.path()).unwrap();
        assert_eq!(fs::read_to_string(out.join("f")).unwrap(), "theirs");
    }
}
