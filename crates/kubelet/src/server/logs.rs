//! Container logs in the CRI format: `<time> <stdout|stderr> <P|F> <text>`.
//!
//! Reading is bounded in memory whatever a log holds. Following notices rotation (the path names another file) and ends
//! when the container has ended and everything was sent.

use std::collections::VecDeque;
use std::io::SeekFrom;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::fs::File;
use tokio::io::{AsyncReadExt as _, AsyncSeekExt as _};
use tokio::sync::mpsc;

use crate::inotify::Inotify;

/// Block size of reads.
const BLOCK: usize = 32 * 1024;
/// Longest beginning of a line kept in memory, the rest passes through; the runtime splits at 16 KiB.
const MAX_LINE: usize = 128 * 1024;

/// What to send.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[expect(missing_docs, reason = "fields of core/v1 PodLogOptions")]
pub struct Options {
    pub follow: bool,
    pub previous: bool,
    pub tail_lines: Option<u64>,
    pub since: Option<jiff::Timestamp>,
    pub timestamps: bool,
    pub limit_bytes: Option<u64>,
    /// `Stdout` or `Stderr`; empty for both.
    pub stream: String,
}

/// A line of a log.
#[derive(Debug, PartialEq, Eq)]
pub struct Line<'a> {
    /// RFC 3339 with nanoseconds.
    pub time: &'a str,
    /// `stdout` or `stderr`.
    pub stream: &'a str,
    /// The text goes on in the next line.
    pub partial: bool,
    /// The text, without the newline.
    pub text: &'a [u8],
}

/// Parses one line; `None` when it is not in the CRI format.
pub fn parse(line: &[u8]) -> Option<Line<'_>> {
    let mut parts = line.splitn(4, |b| *b == b' ');
    let time = std::str::from_utf8(parts.next()?).ok()?;
    let stream = std::str::from_utf8(parts.next()?).ok()?;
    let tags = parts.next()?;
    if !matches!(stream, "stdout" | "stderr") || time.len() < 20 {
        return None;
    }
    Some(Line {
        time,
        stream,
        partial: tags.split(|b| *b == b':').next() == Some(b"P"),
        text: parts.next().unwrap_or_default(),
    })
}

impl Options {
    fn selects(&self, l: &Line<'_>) -> bool {
        let stream = self.stream.is_empty()
            || self.stream == "All"
            || self.stream.eq_ignore_ascii_case(l.stream);
        let early = |s| l.time.parse::<jiff::Timestamp>().is_ok_and(|t| t < s);
        stream && !self.since.is_some_and(early)
    }
}

/// Makes what a client sees of the bytes of a log.
struct Printer<'a> {
    options: &'a Options,
    /// What has been read and not printed: less than a line.
    pending: BytesMut,
    /// What is printed next begins a line for the client; only then it has a time.
    begins: bool,
    /// In a line too long to be kept: whether it is printed, and whether it ends for the client where it ends here.
    inside: Option<(bool, bool)>,
}

impl<'a> Printer<'a> {
    fn new(options: &'a Options) -> Printer<'a> {
        Printer {
            options,
            pending: BytesMut::new(),
            begins: true,
            inside: None,
        }
    }

    /// Another file begins.
    fn restart(&mut self) {
        self.pending.clear();
        self.inside = None;
    }

    /// Takes the next bytes of the log and gives what they add.
    fn print(&mut self, bytes: &[u8]) -> BytesMut {
        self.pending.extend_from_slice(bytes);
        let mut out = BytesMut::new();
        while let Some(end) = self.pending.iter().position(|b| *b == b'\n') {
            let line = self.pending.split_to(end + 1);
            let text = line.get(..end).unwrap_or_default();
            match self.inside.take() {
                Some((shown, ends)) => self.rest(text, shown, ends, &mut out),
                None => {
                    if let Some(l) = parse(text).filter(|l| self.options.selects(l)) {
                        self.line(&l, !l.partial, &mut out);
                    }
                }
            }
        }
        if let Some((shown, _)) = self.inside {
            let text = self.pending.split();
            self.rest(&text, shown, false, &mut out);
        } else if self.pending.len() > MAX_LINE {
            let start = self.pending.split();
            let l = parse(&start);
            let shown = l.as_ref().is_some_and(|l| self.options.selects(l));
            let ends = l.as_ref().is_some_and(|l| !l.partial);
            if let Some(l) = l.filter(|_| shown) {
                self.line(&l, false, &mut out);
            }
            self.inside = Some((shown, ends));
        }
        out
    }

    fn line(&mut self, l: &Line<'_>, ends: bool, out: &mut BytesMut) {
        if self.options.timestamps && self.begins {
            out.extend_from_slice(l.time.as_bytes());
            out.extend_from_slice(b" ");
        }
        self.rest(l.text, true, ends, out);
    }

    fn rest(&mut self, text: &[u8], shown: bool, ends: bool, out: &mut BytesMut) {
        if shown {
            out.extend_from_slice(text);
            if ends {
                out.extend_from_slice(b"\n");
            }
            self.begins = ends;
        }
    }
}

/// Opens a file that containers may have had a hand in. What stands there and is no file, such as a pipe or a device that a
/// container has made in its volume, is refused without opening it.
pub fn open(path: &Path) -> std::io::Result<std::fs::File> {
    use rustix::fs::{FileType, Mode, OFlags};
    use std::os::fd::AsRawFd as _;
    let found = rustix::fs::open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
    let mode = rustix::fs::fstat(&found)?.st_mode;
    if !FileType::from_raw_mode(mode).is_file() {
        return Err(std::io::Error::other("not a file"));
    }
    std::fs::File::open(format!("/proc/self/fd/{}", found.as_raw_fd()))
}

/// Offset at which the last `lines` lines of a file begin.
async fn tail_offset(f: &mut File, lines: u64) -> std::io::Result<u64> {
    let size = f.metadata().await?.len();
    if lines == 0 {
        return Ok(size);
    }
    let mut end = size;
    let mut found = 0;
    let mut buf = vec![0; BLOCK];
    while end > 0 {
        let start = end.saturating_sub(BLOCK as u64);
        let want = usize::try_from(end - start).unwrap_or(BLOCK);
        f.seek(SeekFrom::Start(start)).await?;
        let Some(block) = buf.get_mut(..want) else {
            break;
        };
        f.read_exact(block).await?;
        for (i, b) in block.iter().enumerate().rev() {
            let at = start + i as u64;
            // The newline that ends the file ends a line, it does not begin one.
            if *b == b'\n' && at + 1 < size {
                found += 1;
                if found == lines {
                    return Ok(at + 1);
                }
            }
        }
        end = start;
    }
    Ok(0)
}

/// Reads a log into `out` until its end; with `follow` until `running` says the container has ended.
pub async fn read<F, Fut>(
    path: PathBuf,
    options: Options,
    running: F,
    out: mpsc::Sender<Bytes>,
) -> std::io::Result<()>
where
    F: Fn() -> Fut,
    Fut: Future<Output = bool>,
{
    let mut file = File::from_std(open(&path)?);
    let start = match options.tail_lines {
        Some(n) => tail_offset(&mut file, n).await?,
        None => 0,
    };
    file.seek(SeekFrom::Start(start)).await?;
    let mut left = options.limit_bytes.unwrap_or(u64::MAX);
    let mut printer = Printer::new(&options);
    let mut block = vec![0; BLOCK];
    let mut watch = options
        .follow
        .then(|| path.parent().and_then(|d| Inotify::new(d).ok()))
        .flatten();
    let mut last = false;
    loop {
        let n = file.read(&mut block).await?;
        if n > 0 {
            let mut rendered = printer.print(block.get(..n).unwrap_or_default());
            if rendered.len() as u64 > left {
                rendered.truncate(usize::try_from(left).unwrap_or(usize::MAX));
            }
            left -= rendered.len() as u64;
            if !rendered.is_empty() && out.send(rendered.freeze()).await.is_err() {
                return Ok(());
            }
            if left == 0 {
                return Ok(());
            }
            continue;
        }
        if !options.follow {
            return Ok(());
        }
        if rotated(&file, &path).await {
            file = File::from_std(open(&path)?);
            printer.restart();
            continue;
        }
        if last {
            return Ok(());
        }
        let event = async {
            match &mut watch {
                Some(w) => {
                    let _ = w.wait().await;
                }
                None => tokio::time::sleep(Duration::from_millis(200)).await,
            }
        };
        tokio::select! {
            () = event => {}
            () = out.closed() => return Ok(()),
            () = tokio::time::sleep(Duration::from_secs(1)) => {
                // Once more after the end, for what was written just before it.
                last = !running().await;
            }
        }
    }
}

async fn rotated(file: &File, path: &Path) -> bool {
    match (file.metadata().await, tokio::fs::metadata(path).await) {
        (Ok(a), Ok(b)) => a.ino() != b.ino(),
        _ => false,
    }
}

/// The end of a log as text, for termination messages: at most `lines` lines and `bytes` bytes.
pub fn tail_text(path: &str, lines: usize, bytes: usize) -> String {
    use std::io::{Read as _, Seek as _};
    let read = || -> std::io::Result<Vec<u8>> {
        let mut f = open(Path::new(path))?;
        let size = f.metadata()?.len();
        // Each line carries about 45 bytes of its own.
        f.seek(SeekFrom::Start(
            size.saturating_sub((bytes + lines * 64) as u64),
        ))?;
        let mut buf = Vec::new();
        f.take((bytes + lines * 64) as u64).read_to_end(&mut buf)?;
        Ok(buf)
    };
    let Ok(raw) = read() else {
        return String::new();
    };
    let mut kept: VecDeque<Vec<u8>> = VecDeque::new();
    for l in raw.split(|b| *b == b'\n').filter_map(parse) {
        let mut text = l.text.to_vec();
        if !l.partial {
            text.push(b'\n');
        }
        kept.push_back(text);
        if kept.len() > lines {
            kept.pop_front();
        }
    }
    let all: Vec<u8> = kept.into_iter().flatten().collect();
    let from = all.len().saturating_sub(bytes);
    String::from_utf8_lossy(all.get(from..).unwrap_or_default()).into_owned()
}

/// Rotates a log that has grown over `max`: `<log>.<time>`, the runtime reopens, at most `files` files stay.
///
/// Rotated files are not compressed.
pub async fn rotate(
    rt: &dyn crate::cri::Runtime,
    id: &str,
    path: &Path,
    max: i64,
    files: usize,
) -> std::io::Result<bool> {
    let size = match std::fs::metadata(path) {
        Ok(m) => m.len(),
        Err(_) => return Ok(false),
    };
    if max <= 0 || i64::try_from(size).unwrap_or(i64::MAX) < max {
        return Ok(false);
    }
    let stamp = jiff::Timestamp::now().strftime("%Y%m%d-%H%M%S");
    let to = PathBuf::from(format!("{}.{stamp}", path.display()));
    std::fs::rename(path, &to)?;
    if let Err(e) = rt.reopen_container_log(id).await {
        // Without the runtime's help it still writes to the old file: put it back.
        std::fs::rename(&to, path)?;
        return Err(std::io::Error::other(e));
    }
    let (Some(dir), Some(name)) = (
        path.parent(),
        path.file_name().map(|n| n.to_string_lossy().into_owned()),
    ) else {
        return Ok(true);
    };
    let prefix = format!("{name}.");
    let mut old: Vec<PathBuf> = std::fs::read_dir(dir)?
        .flatten()
        .filter(|e| e.file_name().to_string_lossy().starts_with(&prefix))
        .map(|e| e.path())
        .collect();
    old.sort();
    while old.len() + 1 > files {
        let _ = std::fs::remove_file(old.remove(0));
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOG: &str = "2026-01-01T00:00:00.000000001Z stdout F one\n2026-01-01T00:00:01.000000001Z stderr F two\n2026-01-01T00:00:02.000000001Z stdout P thr\n2026-01-01T00:00:02.000000002Z stdout F ee\n";

    async fn get(o: Options) -> String {
        let d = tempfile::tempdir().unwrap();
        let p = d.path().join("0.log");
        std::fs::write(&p, LOG).unwrap();
        let (tx, mut rx) = mpsc::channel(16);
        read(p, o, || async { false }, tx).await.unwrap();
        let mut out = Vec::new();
        while let Some(b) = rx.recv().await {
            out.extend_from_slice(&b);
        }
        String::from_utf8(out).unwrap()
    }

    #[tokio::test]
    async fn options_select_lines() {
        let o = Options::default();
        assert_eq!(get(o.clone()).await, "one\ntwo\nthree\n");
        assert_eq!(
            get(Options {
                tail_lines: Some(2),
                ..o.clone()
            })
            .await,
            "three\n"
        );
        assert_eq!(
            get(Options {
                tail_lines: Some(0),
                ..o.clone()
            })
            .await,
            ""
        );
        assert_eq!(
            get(Options {
                tail_lines: Some(99),
                ..o.clone()
            })
            .await,
            "one\ntwo\nthree\n"
        );
        assert_eq!(
            get(Options {
                limit_bytes: Some(5),
                ..o.clone()
            })
            .await,
            "one\nt"
        );
        assert_eq!(
            get(Options {
                stream: "Stderr".into(),
                ..o.clone()
            })
            .await,
            "two\n"
        );
        let since = Some("2026-01-01T00:00:01Z".parse().unwrap());
        assert_eq!(get(Options { since, ..o.clone() }).await, "two\nthree\n");
        assert_eq!(
            get(Options {
                timestamps: true,
                limit_bytes: Some(35),
                ..o
            })
            .await,
            "2026-01-01T00:00:00.000000001Z one\n"
        );
    }

    /// A line that the runtime stored in parts has the time of its first part only, whatever is between.
    #[test]
    fn a_line_in_parts_has_one_time() {
        const PARTS: &str = "2026-01-01T00:00:02.000000001Z stdout P thr\n2026-01-01T00:00:02.000000002Z stdout P e\n2026-01-01T00:00:02.500000000Z stderr F x\n2026-01-01T00:00:02.000000003Z stdout F e\n2026-01-01T00:00:03.000000001Z stdout F next\n";
        let options = Options {
            timestamps: true,
            stream: "Stdout".into(),
            ..Options::default()
        };
        let want = "2026-01-01T00:00:02.000000001Z three\n2026-01-01T00:00:03.000000001Z next\n";
        for size in [1, 7, PARTS.len()] {
            let mut p = Printer::new(&options);
            let parts = PARTS.as_bytes().chunks(size);
            let got: Vec<u8> = parts.flat_map(|b| p.print(b).to_vec()).collect();
            assert_eq!(String::from_utf8(got).unwrap(), want, "in blocks of {size}");
        }
        // What was left out as too early does not take the time from what follows.
        let options = Options {
            timestamps: true,
            since: Some("2026-01-01T00:00:02.000000002Z".parse().unwrap()),
            stream: "Stdout".into(),
            ..Options::default()
        };
        let got = Printer::new(&options).print(PARTS.as_bytes());
        assert!(
            got.starts_with(b"2026-01-01T00:00:02.000000002Z ee\n"),
            "{got:?}"
        );
    }

    /// Lines of any length are printed whole, and memory is bounded: what is kept is less than a block more than the limit.
    #[test]
    fn a_line_of_any_length_passes_through() {
        let options = Options {
            timestamps: true,
            ..Options::default()
        };
        let mut p = Printer::new(&options);
        let block = vec![b'a'; BLOCK];
        let mut printed = p.print(b"2026-01-01T00:00:00.000000001Z stdout F ").len();
        for _ in 0..200 {
            printed += p.print(&block).len();
            assert!(p.pending.len() <= MAX_LINE + BLOCK);
        }
        let end = p.print(b"\n2026-01-01T00:00:01.000000001Z stdout F z\n");
        assert!(end.ends_with(b"\n2026-01-01T00:00:01.000000001Z z\n"));
        printed += end.len();
        let times = 2 * "2026-01-01T00:00:00.000000001Z ".len();
        assert_eq!(printed, 200 * BLOCK + times + "\nz\n".len());
    }

    #[tokio::test]
    async fn following_survives_rotation_and_ends_with_the_container() {
        let d = tempfile::tempdir().unwrap();
        let p = d.path().join("0.log");
        std::fs::write(&p, "2026-01-01T00:00:00.000000001Z stdout F one\n").unwrap();
        let (tx, mut rx) = mpsc::channel(16);
        let running = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(true));
        let r = running.clone();
        let path = p.clone();
        let task = tokio::spawn(async move {
            let r = r.clone();
            read(
                path,
                Options {
                    follow: true,
                    ..Default::default()
                },
                move || {
                    let r = r.clone();
                    async move { r.load(std::sync::atomic::Ordering::SeqCst) }
                },
                tx,
            )
            .await
        });
        assert_eq!(rx.recv().await.unwrap(), "one\n");
        std::fs::rename(&p, d.path().join("0.log.1")).unwrap();
        std::fs::write(&p, "2026-01-01T00:00:03.000000001Z stdout F two\n").unwrap();
        assert_eq!(rx.recv().await.unwrap(), "two\n");
        running.store(false, std::sync::atomic::Ordering::SeqCst);
        assert!(
            tokio::time::timeout(Duration::from_secs(10), task)
                .await
                .unwrap()
                .unwrap()
                .is_ok()
        );
    }

    #[test]
    fn tails_for_termination_messages() {
        let d = tempfile::tempdir().unwrap();
        let p = d.path().join("l");
        std::fs::write(&p, LOG).unwrap();
        assert_eq!(tail_text(p.to_str().unwrap(), 2, 100), "three\n");
        assert_eq!(tail_text(p.to_str().unwrap(), 80, 4), "ree\n");
        assert_eq!(tail_text("/none", 80, 4), "");
    }

    /// A pipe in place of a log holds up nobody who asks for it.
    #[tokio::test]
    async fn what_is_no_file_is_no_log() {
        let d = tempfile::tempdir().unwrap();
        let pipe = d.path().join("0.log");
        rustix::fs::mknodat(
            rustix::fs::CWD,
            &pipe,
            rustix::fs::FileType::Fifo,
            rustix::fs::Mode::from_raw_mode(0o600),
            0,
        )
        .unwrap();
        let (tx, _rx) = mpsc::channel(1);
        let read = read(pipe.clone(), Options::default(), || async { false }, tx).await;
        assert_eq!(read.unwrap_err().to_string(), "not a file");
        assert_eq!(tail_text(pipe.to_str().unwrap(), 10, 100), "");
    }
}
