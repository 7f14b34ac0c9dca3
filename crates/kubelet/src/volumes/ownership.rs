//! Gives a volume to a group: every file in it belongs to the group and may be read and written by it.
//!
//! Invariants: no symbolic link is followed, however containers change the volume meanwhile: everything is opened beneath the
//! directory before it; what is mounted in the volume is left alone; a directory is changed after what is in it, so that one
//! whose top fits has been changed as a whole; however deep a volume is, few files are open.
//!
//! Upstream: `VolumeOwnership`. Its events about volumes that take long are not there.

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{AtFlags, CWD, Dir, FileType, Gid, Mode, OFlags, ResolveFlags, Stat};
use rustix::io::Errno;

/// Directories that are open at a time, each with the one above it.
const OPEN: usize = 64;
/// What the group may do with a file.
const FILE: u32 = 0o660;
/// What it may do with a directory; what is made in it is the group's too.
const DIRECTORY: u32 = 0o2770;

/// Ends the work when it is dropped.
struct Waiting(Arc<AtomicBool>);

impl Drop for Waiting {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Gives a volume to a group. `policy` is `fsGroupChangePolicy`: `OnRootMismatch` leaves a volume alone whose top directory
/// fits. A volume may have any number of files, so no asynchronous thread does this; it ends when nobody waits for it.
///
/// # Errors
/// The directory that could not be read. What cannot be changed is left as it is, as upstream.
pub async fn give(root: &Path, group: i64, policy: Option<&str>) -> io::Result<()> {
    let gid = u32::try_from(group).ok().filter(|g| *g != u32::MAX);
    let gid = gid.ok_or_else(|| io::Error::other(format!("fsGroup {group}")))?;
    let gid = Gid::from_raw(gid);
    let (root, only_if) = (root.to_path_buf(), policy == Some("OnRootMismatch"));
    let waiting = Waiting(Arc::default());
    let stop = waiting.0.clone();
    let work = move || walk(&root, gid, only_if, &stop);
    let done = tokio::task::spawn_blocking(work).await;
    drop(waiting);
    done.map_err(io::Error::other)?
}

/// A directory on the way down.
struct Level {
    /// None as long as too many others are open.
    dir: Option<OwnedFd>,
    about: Stat,
    /// Directories in it that are still to be visited.
    below: Vec<CString>,
}

struct Walk<'a> {
    gid: Gid,
    device: u64,
    stop: &'a AtomicBool,
    /// Whether it was told that something could not be changed.
    told: bool,
}

fn walk(root: &Path, gid: Gid, only_if: bool, stop: &AtomicBool) -> io::Result<()> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let dir = rustix::fs::openat(CWD, root, flags, Mode::empty())?;
    let about = rustix::fs::fstat(&dir)?;
    if only_if && fits(&about, gid, DIRECTORY) {
        return Ok(());
    }
    let mut walk = Walk {
        gid,
        device: about.st_dev,
        stop,
        told: false,
    };
    let mut levels = vec![walk.enter(dir, about)?];
    while let Some(level) = levels.last_mut() {
        let Some(name) = level.below.pop() else {
            let done = levels.pop();
            if let Some(Level {
                dir: Some(dir),
                about,
                ..
            }) = done
            {
                walk.change(&dir, &about, false);
                back(&dir, levels.last_mut())?;
            }
            continue;
        };
        let Some(dir) = &level.dir else {
            continue;
        };
        let flags = flags | OFlags::NOFOLLOW | OFlags::NONBLOCK;
        let dir = match open(dir.as_fd(), &name, flags) {
            Ok(dir) => dir,
            // It is something else by now, or of another file system.
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::XDEV) => continue,
            Err(e) => return Err(e.into()),
        };
        let about = rustix::fs::fstat(&dir)?;
        if about.st_dev != walk.device {
            continue;
        }
        let next = walk.enter(dir, about)?;
        levels.push(next);
        let far = levels.len().checked_sub(OPEN + 1);
        // Never the top: there is no way back to it that nobody can change.
        if let Some(far) = far.filter(|n| *n > 0).and_then(|n| levels.get_mut(n)) {
            far.dir = None;
        }
    }
    Ok(())
}

/// Opens what is in a directory, unless something is mounted there, where the kernel can tell; a mount of another file system
/// is told by its device too.
fn open(dir: BorrowedFd<'_>, name: &CStr, flags: OFlags) -> Result<OwnedFd, Errno> {
    let only = ResolveFlags::BENEATH | ResolveFlags::NO_XDEV | ResolveFlags::NO_SYMLINKS;
    match rustix::fs::openat2(dir, name, flags, Mode::empty(), only) {
        Err(Errno::NOSYS | Errno::PERM) => rustix::fs::openat(dir, name, flags, Mode::empty()),
        opened => opened,
    }
}

/// Opens the directory above one that is done, if it was closed meanwhile.
fn back(from: &OwnedFd, to: Option<&mut Level>) -> io::Result<()> {
    let Some(to) = to.filter(|l| l.dir.is_none()) else {
        return Ok(());
    };
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let dir = rustix::fs::openat(from, c"..", flags, Mode::empty())?;
    let about = rustix::fs::fstat(&dir)?;
    if (about.st_dev, about.st_ino) != (to.about.st_dev, to.about.st_ino) {
        return Err(io::Error::other("a directory was moved meanwhile"));
    }
    to.dir = Some(dir);
    Ok(())
}

impl Walk<'_> {
    /// Changes the files of a directory and finds its directories.
    fn enter(&mut self, dir: OwnedFd, about: Stat) -> io::Result<Level> {
        let mut below = Vec::new();
        for entry in Dir::read_from(&dir)? {
            if self.stop.load(Ordering::Relaxed) {
                return Err(io::Error::other("nobody waits for it any more"));
            }
            let entry = entry?;
            let name = entry.file_name();
            if name == c"." || name == c".." {
                continue;
            }
            if entry.file_type() == FileType::Directory || self.file(dir.as_fd(), name)? {
                below.push(name.to_owned());
            }
        }
        Ok(Level {
            dir: Some(dir),
            about,
            below,
        })
    }

    /// Changes a file; whether it is a directory instead.
    fn file(&mut self, dir: BorrowedFd<'_>, name: &CStr) -> io::Result<bool> {
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = match open(dir, name, flags) {
            Ok(file) => file,
            Err(Errno::NOENT | Errno::XDEV) => return Ok(false),
            Err(e) => return Err(e.into()),
        };
        let about = rustix::fs::fstat(&file)?;
        let kind = FileType::from_raw_mode(about.st_mode);
        if kind == FileType::Directory {
            return Ok(true);
        }
        if about.st_dev == self.device {
            self.change(&file, &about, kind == FileType::Symlink);
        }
        Ok(false)
    }

    /// Changes what is open. The mode of a symbolic link means nothing.
    fn change(&mut self, file: &OwnedFd, about: &Stat, link: bool) {
        let directory = FileType::from_raw_mode(about.st_mode) == FileType::Directory;
        let wanted = if directory { DIRECTORY } else { FILE };
        if fits(about, self.gid, if link { 0 } else { wanted }) {
            return;
        }
        let mut done = Ok(());
        if about.st_gid != self.gid.as_raw() {
            let flags = AtFlags::EMPTY_PATH | AtFlags::SYMLINK_NOFOLLOW;
            done = rustix::fs::chownat(file, c"", None, Some(self.gid), flags);
        }
        if !link {
            // After the group, since the kernel takes bits away when that changes. A file that is open as a place only has
            // its mode changed by its name among the open ones, which leads to that very file.
            let mode = Mode::from_raw_mode(about.st_mode & 0o7777 | wanted);
            let open = format!("/proc/self/fd/{}", file.as_raw_fd());
            done = done.and(rustix::fs::chmod(open, mode));
        }
        if let Err(e) = done
            && !std::mem::replace(&mut self.told, true)
        {
            tracing::warn!(error = %e, "a file of a volume could not be given to the group; no more is said of others");
        }
    }
}

/// Whether something belongs to the group, which may do what it needs.
fn fits(about: &Stat, gid: Gid, wanted: u32) -> bool {
    about.st_gid == gid.as_raw() && about.st_mode & wanted == wanted
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
    use std::path::PathBuf;

    use super::*;

    /// Only root can give files away; everybody else has them in a group of theirs.
    fn group() -> i64 {
        let own = rustix::process::getgid().as_raw();
        let root = rustix::process::getuid().is_root();
        i64::from(if root { 4711 } else { own })
    }

    fn make(root: &Path, name: &str, mode: u32) -> PathBuf {
        let path = root.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, "x").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        path
    }

    fn is(path: &Path) -> (i64, u32) {
        let about = fs::symlink_metadata(path).unwrap();
        (i64::from(about.gid()), about.mode() & 0o7777)
    }

    #[tokio::test]
    async fn everything_in_a_volume_is_the_groups() {
        let d = tempfile::tempdir().unwrap();
        let root = d.path().join("volume");
        let plain = make(&root, "a/b/plain", 0o600);
        let program = make(&root, "a/program", 0o755);
        let secret = make(&root, "secret", 0o400);
        let with_bits = make(&root, "bits", 0o4755);
        rustix::fs::mknodat(
            CWD,
            root.join("pipe"),
            FileType::Fifo,
            Mode::from_raw_mode(0o600),
            0,
        )
        .unwrap();
        fs::set_permissions(root.join("a"), fs::Permissions::from_mode(0o701)).unwrap();
        give(&root, group(), None).await.unwrap();
        for (path, mode) in [
            (root.clone(), 0o2775),
            (root.join("a"), 0o2771),
            (root.join("a/b"), 0o2775),
            (plain, 0o660),
            (program, 0o775),
            (secret, 0o660),
            (with_bits, 0o4775),
            (root.join("pipe"), 0o660),
        ] {
            let (gid, now) = is(&path);
            assert_eq!(gid, group(), "{}", path.display());
            // The mask of whoever runs this decides what others may.
            assert_eq!(now & !0o22, mode & !0o22, "{}", path.display());
            assert_eq!(now & 0o060, 0o060, "{}", path.display());
        }
    }

    #[tokio::test]
    async fn what_a_link_leads_to_is_left_alone() {
        let d = tempfile::tempdir().unwrap();
        let outside = make(d.path(), "outside/file", 0o600);
        let before = (is(&outside), is(outside.parent().unwrap()));
        let root = d.path().join("volume");
        make(&root, "inside", 0o600);
        symlink(&outside, root.join("file")).unwrap();
        symlink(outside.parent().unwrap(), root.join("directory")).unwrap();
        symlink("..", root.join("up")).unwrap();
        symlink("nowhere", root.join("dangling")).unwrap();
        give(&root, group(), Some("Always")).await.unwrap();
        assert_eq!((is(&outside), is(outside.parent().unwrap())), before);
        assert_eq!(is(&root.join("file")).0, group(), "the link itself");
        assert_eq!(is(&root.join("inside")), (group(), 0o660));
    }

    #[tokio::test]
    async fn a_volume_that_fits_is_left_alone_if_that_is_asked_for() {
        let d = tempfile::tempdir().unwrap();
        for (what, mode, policy, changed) in [
            ("fits", 0o2770, Some("OnRootMismatch"), false),
            ("allows more", 0o2777, Some("OnRootMismatch"), false),
            ("allows less", 0o2750, Some("OnRootMismatch"), true),
            ("does not pass on", 0o770, Some("OnRootMismatch"), true),
            ("fits, always", 0o2770, Some("Always"), true),
            ("fits, nothing said", 0o2770, None, true),
        ] {
            let root = d.path().join(what);
            let file = make(&root, "file", 0o600);
            let gid = u32::try_from(group()).unwrap();
            std::os::unix::fs::chown(&root, None, Some(gid)).unwrap();
            fs::set_permissions(&root, fs::Permissions::from_mode(mode)).unwrap();
            give(&root, group(), policy).await.unwrap();
            assert_eq!(is(&file).1 == 0o660, changed, "{what}");
        }
        if rustix::process::getuid().is_root() {
            let root = d.path().join("another's");
            let file = make(&root, "file", 0o600);
            fs::set_permissions(&root, fs::Permissions::from_mode(0o2770)).unwrap();
            give(&root, group(), Some("OnRootMismatch")).await.unwrap();
            assert_eq!(is(&file), (group(), 0o660));
        }
    }

    /// Deep paths: neither the stack nor the number of open files grows with them.
    #[tokio::test]
    async fn depth_costs_no_open_files() {
        let d = tempfile::tempdir().unwrap();
        let root = d.path().join("volume");
        fs::create_dir(&root).unwrap();
        let flags = OFlags::RDONLY | OFlags::DIRECTORY;
        let mut at = rustix::fs::openat(CWD, &root, flags, Mode::empty()).unwrap();
        for _ in 0..1100 {
            rustix::fs::mkdirat(&at, "directory", Mode::from_raw_mode(0o700)).unwrap();
            at = rustix::fs::openat(&at, "directory", flags, Mode::empty()).unwrap();
        }
        give(&root, group(), None).await.unwrap();
        let about = rustix::fs::fstat(&at).unwrap();
        assert_eq!(i64::from(about.st_gid), group());
        assert_eq!(about.st_mode & 0o7777, 0o2770);
        assert_eq!(is(&root.join("directory")).0, group());
    }

    #[test]
    fn it_ends_when_nobody_waits() {
        let d = tempfile::tempdir().unwrap();
        let file = make(d.path(), "file", 0o600);
        let stop = AtomicBool::new(true);
        let gid = Gid::from_raw(u32::try_from(group()).unwrap());
        assert!(walk(d.path(), gid, false, &stop).is_err());
        assert_eq!(is(&file).1, 0o600);
    }

    #[tokio::test]
    async fn groups_that_are_none_are_refused() {
        let d = tempfile::tempdir().unwrap();
        for group in [-1, i64::from(u32::MAX), i64::MAX] {
            assert!(give(d.path(), group, None).await.is_err(), "{group}");
        }
        let gone = d.path().join("gone");
        assert!(give(&gone, group(), None).await.is_err());
    }
}
