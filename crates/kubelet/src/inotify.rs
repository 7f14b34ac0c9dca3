//! A wake-up when something changes in a folder, from the kernel's inotify.

use std::path::Path;

/// Changes below one path; what changed is for the caller to look up.
pub struct Inotify {
    fd: tokio::io::unix::AsyncFd<std::os::fd::OwnedFd>,
}

impl Inotify {
    /// Watches a folder or file.
    pub fn new(path: &Path) -> std::io::Result<Inotify> {
        use rustix::fs::inotify;
        let fd = inotify::init(inotify::CreateFlags::NONBLOCK | inotify::CreateFlags::CLOEXEC)?;
        let flags = inotify::WatchFlags::CREATE
            | inotify::WatchFlags::CLOSE_WRITE
            | inotify::WatchFlags::MODIFY
            | inotify::WatchFlags::MOVED_TO
            | inotify::WatchFlags::MOVED_FROM
            | inotify::WatchFlags::DELETE
            | inotify::WatchFlags::DELETE_SELF
            | inotify::WatchFlags::MOVE_SELF;
        inotify::add_watch(&fd, path, flags)?;
        #[expect(
            deprecated,
            reason = "the descriptor is owned here and never given away, which is what the successor asks for"
        )]
        let fd = tokio::io::unix::AsyncFd::new(fd)?;
        Ok(Inotify { fd })
    }

    /// Waits for events and drops them: what happened is read from the folder.
    pub async fn wait(&mut self) -> std::io::Result<()> {
        loop {
            let mut guard = self.fd.readable().await?;
            let mut buf = [0u8; 4096];
            match guard.try_io(|f| rustix::io::read(f.get_ref(), &mut buf).map_err(Into::into)) {
                Ok(Ok(_)) => return Ok(()),
                Ok(Err(e)) => return Err(e),
                Err(_would_block) => {}
            }
        }
    }
}
