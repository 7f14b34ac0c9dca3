//! Which engine under the embedded store? Durable writes per second of fjall, redb, heed (LMDB) and a plain append-only
//! log with an index in memory, each behind the same group commit: one thread takes all waiting writes, commits them as
//! one durable batch, and wakes the writers. Every write is a new version (key + revision -> 2300 bytes), as a
//! multi-version store needs.
//!
//! `cargo run --release [seconds per case] [directory]`, one process per engine so that memory is comparable.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::sync::mpsc;
use std::time::{Duration, Instant};

type Batch = Vec<(Vec<u8>, Vec<u8>)>;

trait Engine: Send {
    fn commit(&mut self, batch: &Batch) -> anyhow::Result<()>;
}

struct Fjall(fjall::Database, fjall::Keyspace);

impl Engine for Fjall {
    fn commit(&mut self, batch: &Batch) -> anyhow::Result<()> {
        let mut write = self.0.batch();
        for (key, value) in batch {
            write.insert(&self.1, key.as_slice(), value.as_slice());
        }
        write.commit()?;
        self.0.persist(fjall::PersistMode::SyncData)?;
        Ok(())
    }
}

struct Redb(redb::Database);

const TABLE: redb::TableDefinition<&[u8], &[u8]> = redb::TableDefinition::new("pairs");

impl Engine for Redb {
    fn commit(&mut self, batch: &Batch) -> anyhow::Result<()> {
        let write = self.0.begin_write()?;
        {
            let mut table = write.open_table(TABLE)?;
            for (key, value) in batch {
                table.insert(key.as_slice(), value.as_slice())?;
            }
        }
        write.commit()?;
        Ok(())
    }
}

struct Heed(
    &'static heed::Env,
    heed::Database<'static, heed::types::Bytes, heed::types::Bytes>,
);

impl Engine for Heed {
    fn commit(&mut self, batch: &Batch) -> anyhow::Result<()> {
        let mut write = self.0.write_txn()?;
        for (key, value) in batch {
            self.1.put(&mut write, key, value)?;
        }
        write.commit()?;
        Ok(())
    }
}

struct Log {
    file: File,
    end: u64,
    buffer: Vec<u8>,
    index: BTreeMap<Vec<u8>, (u64, u32)>,
}

impl Engine for Log {
    fn commit(&mut self, batch: &Batch) -> anyhow::Result<()> {
        self.buffer.clear();
        for (key, value) in batch {
            self.buffer
                .extend_from_slice(&(key.len() as u32).to_le_bytes());
            self.buffer
                .extend_from_slice(&(value.len() as u32).to_le_bytes());
            self.buffer
                .extend_from_slice(&crc32fast::hash(value).to_le_bytes());
            self.buffer.extend_from_slice(key);
            self.index.insert(
                key.clone(),
                (self.end + self.buffer.len() as u64, value.len() as u32),
            );
            self.buffer.extend_from_slice(value);
        }
        self.file.write_all(&self.buffer)?;
        self.file.sync_data()?;
        self.end += self.buffer.len() as u64;
        Ok(())
    }
}

fn open(name: &str, dir: &Path) -> anyhow::Result<Box<dyn Engine>> {
    Ok(match name {
        "fjall" => {
            let database = fjall::Database::builder(dir).open()?;
            let keyspace = database.keyspace("pairs", fjall::KeyspaceCreateOptions::default)?;
            Box::new(Fjall(database, keyspace))
        }
        "redb" => Box::new(Redb(redb::Database::create(dir.join("redb"))?)),
        "heed" => {
            // SAFETY: nothing else touches this fresh directory.
            let env = unsafe { heed::EnvOpenOptions::new().map_size(64 << 30).open(dir)? };
            let env: &'static heed::Env = Box::leak(Box::new(env));
            let write = env.write_txn()?;
            let database = env
                .create_databases_and_commit(write, |opener, write| {
                    opener
                        .create_database(write, None)
                        .map(heed::CommitOrAbort::<_, ()>::Commit)
                })?
                .unwrap_commit();
            Box::new(Heed(env, database))
        }
        "log" => {
            let file = File::options()
                .append(true)
                .create(true)
                .open(dir.join("log"))?;
            Box::new(Log {
                file,
                end: 0,
                buffer: Vec::new(),
                index: BTreeMap::new(),
            })
        }
        _ => anyhow::bail!("no engine {name}"),
    })
}

type Request = (Vec<u8>, Vec<u8>, mpsc::SyncSender<()>);

fn measure(
    engine: &mut Box<dyn Engine>,
    writers: usize,
    time: Duration,
    revision: &mut u64,
) -> anyhow::Result<f64> {
    let (sender, receiver) = mpsc::channel::<Request>();
    let start = Instant::now();
    let threads: Vec<_> = (0..writers)
        .map(|writer| {
            let sender = sender.clone();
            std::thread::spawn(move || {
                let (done, wait) = mpsc::sync_channel(1);
                let mut round = 0_u64;
                while start.elapsed() < time {
                    let key =
                        format!("/registry/pods/default/pod-{writer}-{}", round % 100).into_bytes();
                    let value = vec![b'v'; 2300];
                    if sender.send((key, value, done.clone())).is_err() || wait.recv().is_err() {
                        break;
                    }
                    round += 1;
                }
                round
            })
        })
        .collect();
    drop(sender);
    let mut batch = Batch::new();
    let mut waiting = Vec::new();
    while let Ok(first) = receiver.recv() {
        for (mut key, value, done) in std::iter::once(first).chain(receiver.try_iter()) {
            *revision += 1;
            key.extend_from_slice(&revision.to_be_bytes());
            batch.push((key, value));
            waiting.push(done);
        }
        engine.commit(&batch)?;
        batch.clear();
        for done in waiting.drain(..) {
            let _ = done.send(());
        }
    }
    let total: u64 = threads
        .into_iter()
        .map(|thread| thread.join().unwrap_or(0))
        .sum();
    Ok(total as f64 / start.elapsed().as_secs_f64())
}

fn disk_use(dir: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    let Ok(entries) = std::fs::read_dir(dir) else {
        return 0;
    };
    entries
        .flatten()
        .map(|entry| match entry.metadata() {
            Ok(metadata) if metadata.is_dir() => disk_use(&entry.path()),
            Ok(metadata) => metadata.blocks() * 512,
            Err(_) => 0,
        })
        .sum()
}

fn anonymous_memory() -> String {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status
        .lines()
        .find(|line| line.starts_with("RssAnon"))
        .unwrap_or("RssAnon: 0 kB");
    line.split_whitespace().nth(1).unwrap_or("0").to_owned()
}

fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let seconds: f64 = arguments
        .first()
        .and_then(|text| text.parse().ok())
        .unwrap_or(4.0);
    let base = arguments.get(1).cloned().unwrap_or_else(|| ".".to_owned());
    let Some(name) = arguments.get(2) else {
        println!(
            "{:>6} {:>10} {:>10} {:>10} {:>14} {:>12}",
            "engine", "1/s", "16/s", "100/s", "disk per byte", "RssAnon MB"
        );
        for name in ["fjall", "redb", "heed", "log"] {
            std::process::Command::new(std::env::current_exe()?)
                .args([&seconds.to_string(), &base, name])
                .status()?;
        }
        return Ok(());
    };
    let dir = tempfile::tempdir_in(base)?;
    let mut engine = open(name, dir.path())?;
    let mut revision = 0;
    let mut figures = Vec::new();
    for writers in [1, 16, 100] {
        figures.push(measure(
            &mut engine,
            writers,
            Duration::from_secs_f64(seconds),
            &mut revision,
        )?);
    }
    let memory: f64 = anonymous_memory().parse().unwrap_or(0.0);
    let written = revision as f64 * 2300.0;
    println!(
        "{name:>6} {:>10.0} {:>10.0} {:>10.0} {:>14.2} {:>12.0}",
        figures[0],
        figures[1],
        figures[2],
        disk_use(dir.path()) as f64 / written,
        memory / 1024.0
    );
    Ok(())
}
