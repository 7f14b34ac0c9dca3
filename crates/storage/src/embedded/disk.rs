//! What the engine needs from a disk, as a trait, so that tests and the simulation can bring their own: full disks,
//! failing syncs, memory.
//!
//! Files are read and written by offset. Nothing here keeps a position.

use std::any::Any;
use std::fs;
use std::io;
use std::os::unix::fs::FileExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::Arc;

/// One open file.
pub trait DiskFile: Send + Sync {
    /// Fills `buffer` from `offset`; `UnexpectedEof` when the file ends before.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()>;

    /// As `read_at`, but only when it cannot wait for the device: `Ok(false)` otherwise, and then the content of `buffer`
    /// means nothing.
    fn read_cached(&self, buffer: &mut [u8], offset: u64) -> io::Result<bool>;

    /// Writes all of `data` at `offset`. After an error any part of it may be there.
    fn write_at(&self, data: &[u8], offset: u64) -> io::Result<()>;

    /// Makes what was written durable, including the file's length.
    fn sync(&self) -> io::Result<()>;

    /// Cuts or extends the file.
    fn set_len(&self, len: u64) -> io::Result<()>;

    /// The file's length in bytes.
    fn length(&self) -> io::Result<u64>;
}

/// A file system with one directory level.
pub trait Disk: Send + Sync + 'static {
    /// Opens for reading and writing; with `create`, makes the file or fails if it exists.
    fn open(&self, path: &Path, create: bool) -> io::Result<Arc<dyn DiskFile>>;

    /// The file names in a directory, in no order.
    fn list(&self, dir: &Path) -> io::Result<Vec<String>>;

    /// Removes a file.
    fn remove(&self, path: &Path) -> io::Result<()>;

    /// Renames a file, replacing what has the new name.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;

    /// Makes creations, renames and removals in a directory durable.
    fn sync_dir(&self, dir: &Path) -> io::Result<()>;

    /// Makes a directory with its parents, readable by its owner only.
    fn create_dir(&self, dir: &Path) -> io::Result<()>;

    /// Takes an exclusive lock that lives as long as the returned value and ends with the process.
    fn lock(&self, path: &Path) -> io::Result<Box<dyn Any + Send + Sync>>;
}

/// The machine's file system.
#[derive(Clone, Copy, Debug, Default)]
pub struct RealDisk;

struct RealFile(fs::File);

impl DiskFile for RealFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        self.0.read_exact_at(buffer, offset)
    }

    fn read_cached(&self, buffer: &mut [u8], offset: u64) -> io::Result<bool> {
        let wanted = buffer.len();
        let mut parts = [io::IoSliceMut::new(buffer)];
        match rustix::io::preadv2(
            &self.0,
            &mut parts,
            offset,
            rustix::io::ReadWriteFlags::NOWAIT,
        ) {
            Ok(read) => Ok(read == wanted),
            Err(
                rustix::io::Errno::AGAIN | rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::INTR,
            ) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    fn write_at(&self, data: &[u8], offset: u64) -> io::Result<()> {
        self.0.write_all_at(data, offset)
    }

    fn sync(&self) -> io::Result<()> {
        self.0.sync_data()
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.set_len(len)
    }

    fn length(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }
}

impl Disk for RealDisk {
    fn open(&self, path: &Path, create: bool) -> io::Result<Arc<dyn DiskFile>> {
        let mut options = fs::OpenOptions::new();
        options
            .read(true)
            .write(true)
            .create_new(create)
            .mode(0o600);
        Ok(Arc::new(RealFile(options.open(path)?)))
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(dir)? {
            if let Ok(name) = entry?.file_name().into_string() {
                names.push(name);
            }
        }
        Ok(names)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        fs::File::open(dir)?.sync_all()
    }

    fn create_dir(&self, dir: &Path) -> io::Result<()> {
        use std::os::unix::fs::DirBuilderExt;
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(dir)
    }

    fn lock(&self, path: &Path) -> io::Result<Box<dyn Any + Send + Sync>> {
        let file = fs::OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(path)?;
        match file.try_lock() {
            Ok(()) => Ok(Box::new(file)),
            Err(fs::TryLockError::WouldBlock) => Err(io::Error::new(
                io::ErrorKind::WouldBlock,
                "another process has this store open",
            )),
            Err(fs::TryLockError::Error(error)) => Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;

    #[test]
    fn a_read_that_ends_too_soon_is_none() {
        let dir = tempfile::tempdir().unwrap();
        let file = RealDisk.open(&dir.path().join("f"), true).unwrap();
        file.write_at(b"0123456789", 0).unwrap();
        // What is cached is the system's choice, and a part of what was asked for is not the whole.
        assert!(!file.read_cached(&mut [0; 11], 0).unwrap());
        let mut whole = [0; 10];
        if file.read_cached(&mut whole, 0).unwrap() {
            assert_eq!(&whole, b"0123456789");
        }
        assert!(file.read_at(&mut [0; 11], 0).is_err());
    }
}
