//! Full and failing disks, torn and damaged files.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests"
)]

use std::any::Any;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU8, Ordering};
use std::time::Duration;

use bytes::Bytes;
use storage::embedded::disk::{Disk, DiskFile, RealDisk};
use storage::embedded::{Embedded, Options, record};
use storage::{Error, Expect, ListOptions, Store, Written};

const WELL: u8 = 0;
const FULL: u8 = 1;
const SYNC_FAILS: u8 = 2;
const DEAD: u8 = 3;
/// Files can be made, but neither filled nor removed.
const NO_ROOM: u8 = 4;

/// The real disk, with a switch.
#[derive(Clone, Default)]
struct FaultyDisk {
    mode: Arc<AtomicU8>,
    /// Syncs so far.
    syncs: Arc<AtomicI64>,
}

impl FaultyDisk {
    fn set(&self, mode: u8) {
        self.mode.store(mode, Ordering::SeqCst);
    }

    fn mode(&self) -> u8 {
        self.mode.load(Ordering::SeqCst)
    }

    fn error(&self) -> io::Error {
        let code = if matches!(self.mode(), FULL | NO_ROOM) {
            28
        } else {
            5
        };
        io::Error::from_raw_os_error(code)
    }
}

struct FaultyFile {
    inner: Arc<dyn DiskFile>,
    disk: FaultyDisk,
}

impl DiskFile for FaultyFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        self.inner.read_at(buffer, offset)
    }

    fn read_cached(&self, _: &mut [u8], _: u64) -> io::Result<bool> {
        // Everything takes the slow path.
        Ok(false)
    }

    fn write_at(&self, data: &[u8], offset: u64) -> io::Result<()> {
        match self.disk.mode() {
            FULL => {
                // Part of it arrives.
                self.inner.write_at(&data[..data.len() / 2], offset)?;
                Err(self.disk.error())
            }
            DEAD | NO_ROOM => Err(self.disk.error()),
            _ => self.inner.write_at(data, offset),
        }
    }

    fn sync(&self) -> io::Result<()> {
        self.disk.syncs.fetch_add(1, Ordering::SeqCst);
        match self.disk.mode() {
            SYNC_FAILS | DEAD => Err(self.disk.error()),
            _ => self.inner.sync(),
        }
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        match self.disk.mode() {
            DEAD => Err(self.disk.error()),
            _ => self.inner.set_len(len),
        }
    }

    fn length(&self) -> io::Result<u64> {
        self.inner.length()
    }
}

impl Disk for FaultyDisk {
    fn open(&self, path: &Path, create: bool) -> io::Result<Arc<dyn DiskFile>> {
        if create && !matches!(self.mode(), WELL | NO_ROOM) {
            return Err(self.error());
        }
        Ok(Arc::new(FaultyFile {
            inner: RealDisk.open(path, create)?,
            disk: self.clone(),
        }))
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        RealDisk.list(dir)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        if self.mode() == NO_ROOM {
            return Err(self.error());
        }
        RealDisk.remove(path)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        RealDisk.rename(from, to)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        RealDisk.sync_dir(dir)
    }

    fn create_dir(&self, dir: &Path) -> io::Result<()> {
        RealDisk.create_dir(dir)
    }

    fn lock(&self, path: &Path) -> io::Result<Box<dyn Any + Send + Sync>> {
        RealDisk.lock(path)
    }
}

fn options() -> Options {
    Options {
        retention: Duration::ZERO,
        ..Options::default()
    }
}

async fn put(store: &Embedded, key: &str, value: &str) -> Result<i64, Error> {
    match store
        .put(
            key.as_bytes(),
            Bytes::copy_from_slice(value.as_bytes()),
            Expect::Any,
            0,
        )
        .await?
    {
        Written::Done { revision, .. } => Ok(revision),
        Written::Mismatch { .. } => panic!("mismatch"),
    }
}

async fn open_on(disk: &FaultyDisk, dir: &Path) -> Embedded {
    let disk = Arc::new(disk.clone());
    Embedded::open_on(disk, dir, options()).await.unwrap()
}

async fn contents(store: &Embedded) -> Vec<(String, String, i64)> {
    let text = |bytes: &Bytes| String::from_utf8(bytes.to_vec()).unwrap();
    let listed = store.list(b"/", ListOptions::default()).await.unwrap();
    listed
        .items
        .iter()
        .map(|kv| (text(&kv.key), text(&kv.value), kv.mod_revision))
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failing_disk_refuses_writes_keeps_reads_and_recovers() {
    for mode in [FULL, SYNC_FAILS, DEAD] {
        let dir = tempfile::tempdir().unwrap();
        let disk = FaultyDisk::default();
        let store = open_on(&disk, dir.path()).await;
        let lease = store.grant(1000).await.unwrap();
        put(&store, "/a", "1").await.unwrap();
        store
            .put(b"/leased", Bytes::from_static(b"1"), Expect::Absent, lease)
            .await
            .unwrap();
        let before = store.revision().await.unwrap();
        let state = contents(&store).await;
        let mut watch = store.watch(b"/", 0).await.unwrap();
        for round in 0..3 {
            disk.set(mode);
            for attempt in 0..3 {
                let error = put(&store, "/a", "lost").await.unwrap_err();
                assert!(matches!(error, Error::Unavailable(_)), "{error:?}");
                let error = put(&store, &format!("/new{attempt}"), "lost")
                    .await
                    .unwrap_err();
                assert!(matches!(error, Error::Unavailable(_)), "{error:?}");
                assert!(matches!(
                    store.revoke(lease).await,
                    Err(Error::Unavailable(_))
                ));
            }
            assert!(
                store.ready().await.is_err(),
                "a store that cannot write is not ready"
            );
            assert_eq!(store.revision().await.unwrap(), before + round);
            if round == 0 {
                assert_eq!(
                    contents(&store).await,
                    state,
                    "reads go on and show nothing that is not durable"
                );
            }
            disk.set(WELL);
            let revision = put(&store, "/b", &round.to_string()).await.unwrap();
            assert_eq!(
                revision,
                before + round + 1,
                "what failed takes no revision"
            );
        }
        // The lease still holds its key.
        assert_eq!(
            store.lease(lease).unwrap().keys,
            [Bytes::from_static(b"/leased")]
        );
        let mut seen = Vec::new();
        while seen.len() < 3 {
            if let storage::WatchMessage::Events(events) =
                futures::StreamExt::next(&mut watch).await.unwrap().unwrap()
            {
                seen.extend(events.into_iter().map(|event| event.kv.value));
            }
        }
        assert_eq!(
            seen,
            ["0", "1", "2"],
            "a watch sees only what became durable"
        );
        let state = contents(&store).await;
        drop((watch, store));
        let store = Embedded::open(dir.path(), options()).await.unwrap();
        assert_eq!(contents(&store).await, state);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_writers_share_syncs() {
    let dir = tempfile::tempdir().unwrap();
    let disk = FaultyDisk::default();
    let store = open_on(&disk, dir.path()).await;
    let before = disk.syncs.load(Ordering::SeqCst);
    let writers = (0..100).map(|writer| {
        let store = store.clone();
        tokio::spawn(async move {
            for round in 0..20 {
                put(&store, &format!("/{writer}"), &round.to_string())
                    .await
                    .unwrap();
            }
        })
    });
    futures::future::join_all(writers)
        .await
        .into_iter()
        .for_each(|result| result.unwrap());
    let syncs = disk.syncs.load(Ordering::SeqCst) - before;
    assert!(syncs < 1000, "{syncs} syncs for 2000 writes");
    assert!(syncs >= 20, "{syncs} syncs cannot have covered 20 rounds");
}

/// The logs of a store, oldest first.
fn logs(dir: &Path) -> Vec<PathBuf> {
    let mut logs: Vec<PathBuf> = std::fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|kind| kind == "log"))
        .collect();
    logs.sort();
    logs
}

fn newest_log(dir: &Path) -> PathBuf {
    logs(dir).pop().unwrap()
}

/// Disk full: what could be begun and not written does not keep the store from being opened.
#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_leaves_a_store_that_opens() {
    let dir = tempfile::tempdir().unwrap();
    let disk = FaultyDisk::default();
    let store = open_on(&disk, dir.path()).await;
    put(&store, "/a", "1").await.unwrap();
    disk.set(NO_ROOM);
    for _ in 0..4 {
        assert!(put(&store, "/a", "lost").await.is_err());
    }
    disk.set(WELL);
    put(&store, "/b", "2").await.unwrap();
    let state = contents(&store).await;
    drop(store);
    let empty = |path: &PathBuf| std::fs::metadata(path).unwrap().len() == 0;
    assert!(logs(dir.path()).iter().filter(|log| empty(log)).count() >= 2);

    let store = Embedded::open(dir.path(), options()).await.unwrap();
    assert_eq!(contents(&store).await, state);
    assert!(!logs(dir.path()).iter().any(empty));
    put(&store, "/c", "3").await.unwrap();
    drop(store);
    Embedded::open(dir.path(), options()).await.unwrap();
}

/// The last handle to go closes the store: no thread, no task and no file is left, and what waited was written.
#[tokio::test(flavor = "multi_thread")]
async fn a_closed_store_holds_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let disk = FaultyDisk::default();
    let store = open_on(&disk, dir.path()).await;
    put(&store, "/a", "1").await.unwrap();
    drop(store.clone());
    put(&store, "/a", "2").await.unwrap();
    assert!(Arc::strong_count(&disk.mode) > 1);
    drop(store);
    let end = std::time::Instant::now() + Duration::from_secs(10);
    while Arc::strong_count(&disk.mode) > 1 {
        assert!(std::time::Instant::now() < end, "something is still open");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let store = Embedded::open(dir.path(), options()).await.unwrap();
    assert_eq!(contents(&store).await[0].1, "2");
}

/// Damage: a log whose contents are gone is told by the revisions that are missing.
#[tokio::test(flavor = "multi_thread")]
async fn an_emptied_log_is_damage_where_revisions_are_missing() {
    let dir = tempfile::tempdir().unwrap();
    let small = Options {
        file_bytes: 64,
        ..options()
    };
    let store = Embedded::open(dir.path(), small).await.unwrap();
    for round in 0..4 {
        put(&store, "/a", &round.to_string()).await.unwrap();
    }
    drop(store);
    let all = logs(dir.path());
    assert!(all.len() > 3);
    std::fs::write(&all[1], b"").unwrap();
    let error = Embedded::open(dir.path(), options()).await.err();
    assert!(matches!(error, Some(Error::Corrupt(_))), "{error:?}");
}

/// Torn writes: whatever clients put into values, a commit that did not arrive whole is cut off and not taken for damage.
#[tokio::test(flavor = "multi_thread")]
async fn values_that_look_like_commits_do_not_keep_the_store_shut() {
    let mut forged = Vec::new();
    record::begin_frame(&mut forged);
    record::seal_frame(&mut forged);
    let value = Bytes::from(forged.repeat(20));
    let dir = tempfile::tempdir().unwrap();
    let store = Embedded::open(dir.path(), options()).await.unwrap();
    put(&store, "/a", "first").await.unwrap();
    let state = contents(&store).await;
    let kept = std::fs::metadata(newest_log(dir.path())).unwrap().len() as usize;
    store.put(b"/b", value, Expect::Any, 0).await.unwrap();
    drop(store);
    let log = newest_log(dir.path());
    let whole = std::fs::read(&log).unwrap();
    for end in kept..whole.len() {
        std::fs::write(&log, &whole[..end]).unwrap();
        let store = Embedded::open(dir.path(), options()).await.unwrap();
        assert_eq!(contents(&store).await, state, "cut at {end}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_torn_tail_is_cut_off_at_every_byte_and_damage_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let store = Embedded::open(dir.path(), options()).await.unwrap();
    put(&store, "/a", "first").await.unwrap();
    put(&store, "/b", "second").await.unwrap();
    drop(store);
    let log = newest_log(dir.path());
    let kept = std::fs::metadata(&log).unwrap().len();
    let store = Embedded::open(dir.path(), options()).await.unwrap();
    let state = contents(&store).await;
    put(&store, "/c", "third").await.unwrap();
    drop(store);
    let whole = std::fs::read(&log).unwrap();
    for end in kept as usize..whole.len() {
        let mut torn = whole[..end].to_vec();
        if end % 2 == 0 {
            // A file system may leave zeros.
            torn.resize(whole.len() + 100, 0);
        }
        std::fs::write(&log, &torn).unwrap();
        let store = Embedded::open(dir.path(), options()).await.unwrap();
        assert_eq!(contents(&store).await, state, "cut at {end}");
        assert_eq!(put(&store, "/d", "later").await.unwrap(), 4);
        drop(store);
        let store = Embedded::open(dir.path(), options()).await.unwrap();
        assert_eq!(
            store.get(b"/d", 0).await.unwrap().kv.unwrap().value,
            "later"
        );
    }
    for position in 8..kept as usize {
        let mut damaged = whole.clone();
        damaged[position] ^= 0x40;
        std::fs::write(&log, &damaged).unwrap();
        let error = Embedded::open(dir.path(), options()).await.err();
        assert!(
            matches!(error, Some(Error::Corrupt(_))),
            "damage at {position}: {error:?}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_directory_has_one_owner() {
    let dir = tempfile::tempdir().unwrap();
    let store = Embedded::open(dir.path(), options()).await.unwrap();
    assert!(matches!(
        Embedded::open(dir.path(), options()).await.err(),
        Some(Error::Unavailable(_))
    ));
    drop(store);
    Embedded::open(dir.path(), options()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn leases_survive_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let store = Embedded::open(dir.path(), options()).await.unwrap();
    let (long, short) = (
        store.grant(1000).await.unwrap(),
        store.grant(1).await.unwrap(),
    );
    for (key, lease) in [("/long", long), ("/short", short)] {
        store
            .put(
                key.as_bytes(),
                Bytes::from_static(b"1"),
                Expect::Absent,
                lease,
            )
            .await
            .unwrap();
    }
    drop(store);
    let store = Embedded::open(dir.path(), options()).await.unwrap();
    let mut watch = store.watch(b"/short", 2).await.unwrap();
    let mut deleted = false;
    while !deleted {
        if let storage::WatchMessage::Events(events) =
            futures::StreamExt::next(&mut watch).await.unwrap().unwrap()
        {
            deleted = events.iter().any(|event| event.deleted);
        }
    }
    assert_eq!(store.leases(), [long]);
    assert_eq!(
        store.lease(long).unwrap().keys,
        [Bytes::from_static(b"/long")]
    );
    assert!(store.get(b"/long", 0).await.unwrap().kv.is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn old_files_are_rewritten_and_removed() {
    let dir = tempfile::tempdir().unwrap();
    let small = Options {
        retention: Duration::ZERO,
        history_changes: 500,
        file_bytes: 64 << 10,
        rewrite_slack: 128 << 10,
        ..Options::default()
    };
    let store = Embedded::open(dir.path(), small.clone()).await.unwrap();
    let value = "x".repeat(1000);
    let writers = (0..20).map(|writer| {
        let (store, value) = (store.clone(), value.clone());
        tokio::spawn(async move {
            for _ in 0..1000 {
                put(&store, &format!("/{writer}"), &value).await.unwrap();
            }
        })
    });
    futures::future::join_all(writers)
        .await
        .into_iter()
        .for_each(|result| result.unwrap());
    // 20 MB were written; 500 to 5000 changes are remembered.
    let size = store.size_on_disk().await.unwrap();
    assert!(size < 12 << 20, "{size} bytes on disk");
    assert!(store.compacted() > 14_000);
    let state = contents(&store).await;
    assert_eq!(state.len(), 20);
    drop(store);
    let store = Embedded::open(dir.path(), small).await.unwrap();
    assert_eq!(contents(&store).await, state);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watcher_that_sleeps_reads_history_and_ends_when_it_is_gone() {
    let dir = tempfile::tempdir().unwrap();
    let options = Options {
        watcher_bytes: 10_000,
        ..options()
    };
    let store = Embedded::open(dir.path(), options).await.unwrap();
    let mut sleeper = store.watch(b"/", 0).await.unwrap();
    let mut late = store.watch(b"/", 0).await.unwrap();
    for round in 0..500 {
        put(&store, "/a", &round.to_string()).await.unwrap();
    }
    let mut seen = Vec::new();
    while seen.len() < 500 {
        if let storage::WatchMessage::Events(events) = futures::StreamExt::next(&mut sleeper)
            .await
            .unwrap()
            .unwrap()
        {
            seen.extend(events.into_iter().map(|event| event.kv.value));
        }
    }
    assert_eq!(
        seen,
        (0..500).map(|round| round.to_string()).collect::<Vec<_>>()
    );
    store.compact(400).await.unwrap();
    assert!(matches!(
        futures::StreamExt::next(&mut late).await.unwrap(),
        Err(Error::SlowWatcher)
    ));
    assert!(futures::StreamExt::next(&mut late).await.is_none());
}
