//! Files that may be replaced while the daemon runs.
//!
//! No timer: a file's identity (modification time, size, inode) is looked at when its content is asked for, at most every
//! [`INTERVAL`]. A replacement that cannot be read or parsed is logged and the last good content stays in use.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How old the last look at the files may be.
pub const INTERVAL: Duration = Duration::from_secs(2);

type Stamp = Vec<Option<(i64, i64, u64, u64)>>;
type Parse<T> = Box<dyn Fn(&[Vec<u8>]) -> Result<T, String> + Send + Sync>;

struct State<T> {
    value: Arc<T>,
    stamp: Stamp,
    looked: Instant,
}

/// What one or more files hold, parsed together.
pub struct Reloaded<T> {
    paths: Vec<PathBuf>,
    parse: Parse<T>,
    state: Mutex<State<T>>,
}

fn stamp(paths: &[PathBuf]) -> Stamp {
    paths
        .iter()
        .map(|p| {
            std::fs::metadata(p)
                .ok()
                .map(|m| (m.mtime(), m.mtime_nsec(), m.size(), m.ino()))
        })
        .collect()
}

fn load<T>(paths: &[PathBuf], parse: &Parse<T>) -> Result<T, String> {
    let mut contents = Vec::with_capacity(paths.len());
    for p in paths {
        contents.push(std::fs::read(p).map_err(|e| format!("{}: {e}", p.display()))?);
    }
    parse(&contents).map_err(|e| format!("{}: {e}", names(paths)))
}

fn names(paths: &[PathBuf]) -> String {
    paths
        .iter()
        .map(|p| p.display().to_string())
        .collect::<Vec<_>>()
        .join(", ")
}

impl<T> Reloaded<T> {
    /// Reads the files now; `parse` gets their contents in the order of `paths`.
    ///
    /// # Errors
    /// A file that cannot be read, or `parse`'s error, with the path.
    pub fn new(
        paths: impl IntoIterator<Item = impl AsRef<Path>>,
        parse: impl Fn(&[Vec<u8>]) -> Result<T, String> + Send + Sync + 'static,
    ) -> Result<Reloaded<T>, String> {
        let paths: Vec<PathBuf> = paths.into_iter().map(|p| p.as_ref().to_owned()).collect();
        let parse: Parse<T> = Box::new(parse);
        let stamp = stamp(&paths);
        let value = Arc::new(load(&paths, &parse)?);
        Ok(Reloaded {
            paths,
            parse,
            state: Mutex::new(State {
                value,
                stamp,
                looked: Instant::now(),
            }),
        })
    }

    /// The content, at most [`INTERVAL`] old.
    pub fn get(&self) -> Arc<T> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.looked.elapsed() >= INTERVAL {
            self.look(&mut state);
        }
        Arc::clone(&state.value)
    }

    /// The content, looked at now.
    pub fn get_fresh(&self) -> Arc<T> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        self.look(&mut state);
        Arc::clone(&state.value)
    }

    fn look(&self, state: &mut State<T>) {
        state.looked = Instant::now();
        let now = stamp(&self.paths);
        if now == state.stamp {
            return;
        }
        match load(&self.paths, &self.parse) {
            Ok(v) => {
                tracing::info!(files = names(&self.paths), "Reloaded");
                state.value = Arc::new(v);
                state.stamp = now;
            }
            // The stamp stays old, so that a pair of files replaced one after the other is tried again.
            Err(err) => tracing::warn!(err, "Keeping the last good content"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bad_replacement_keeps_the_good_content() {
        let dir = tempfile::tempdir().unwrap();
        let f = dir.path().join("n");
        std::fs::write(&f, "1").unwrap();
        let parse = |c: &[Vec<u8>]| {
            String::from_utf8_lossy(&c[0])
                .parse::<u32>()
                .map_err(|e| e.to_string())
        };
        let r = Reloaded::new([&f], parse).unwrap();
        std::fs::write(&f, "bad").unwrap();
        assert_eq!(*r.get_fresh(), 1);
        std::fs::write(&f, "22").unwrap();
        assert_eq!(*r.get_fresh(), 22);
        std::fs::remove_file(&f).unwrap();
        assert_eq!(*r.get_fresh(), 22);
    }
}
