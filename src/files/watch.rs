//! Tells that a key file may have changed, where the system can (Linux: inotify).
//!
//! A hint that makes the next reading come at once, and nothing more: every source is read again each
//! second whether or not it tells, because a folder may be on a disk of another machine, be put in place
//! by a link further up, or not be there yet. So nothing here can fail: without inotify nobody is told.
//! Folders are watched and not files, because a file is replaced by another one of its name.

use std::path::{Path, PathBuf};

#[cfg(target_os = "linux")]
use self::linux::Inotify;

/// The folders in which a source's files lie.
#[derive(Debug)]
pub(crate) struct Watch {
    files: Vec<PathBuf>,
    #[cfg(target_os = "linux")]
    inotify: std::sync::OnceLock<Option<Inotify>>,
}

impl Watch {
    /// For these files; for a folder of files, any name in it.
    pub(crate) fn new(files: Vec<PathBuf>) -> Self {
        Self {
            files,
            #[cfg(target_os = "linux")]
            inotify: std::sync::OnceLock::new(),
        }
    }

    /// The folders as they are now: where a file's name stands, and where it leads to.
    fn folders(&self) -> impl Iterator<Item = PathBuf> {
        let parent = |path: &Path| path.parent().map(Path::to_owned);
        self.files.iter().flat_map(move |file| {
            let real = std::fs::canonicalize(file).ok();
            [parent(file), real.as_deref().and_then(parent)].into_iter().flatten()
        })
    }
}

#[cfg(target_os = "linux")]
impl Watch {
    /// Watches the folders that are there now; before each reading. Touches the disk.
    pub(crate) fn arm(&self) {
        if let Some(Some(inotify)) = self.inotify.get() {
            self.folders().for_each(|folder| inotify.add(&folder));
        }
    }

    /// Returns when something changed in a folder; never, where the system doesn't tell. The first call
    /// begins, for readings after it. Cancel safe.
    pub(crate) async fn changed(&self) {
        match self.inotify.get_or_init(Inotify::new) {
            Some(inotify) => inotify.changed().await,
            None => std::future::pending().await,
        }
    }
}

#[cfg(not(target_os = "linux"))]
impl Watch {
    pub(crate) fn arm(&self) {
        let _ = self.folders();
    }

    pub(crate) async fn changed(&self) {
        std::future::pending().await
    }
}

#[cfg(target_os = "linux")]
mod linux {
    use std::{mem::MaybeUninit, path::Path};

    use rustix::{
        fd::OwnedFd,
        fs::inotify::{self, CreateFlags, ReadFlags, Reader, WatchFlags},
    };
    use tokio::io::unix::AsyncFd;

    /// A queue of the system's.
    #[derive(Debug)]
    pub(super) struct Inotify(AsyncFd<OwnedFd>);

    impl Inotify {
        /// `None` when the system has no more of them.
        pub(super) fn new() -> Option<Self> {
            let queue = inotify::init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC).ok()?;
            #[allow(deprecated, reason = "an owned descriptor is all that the unsafe successor asks for")]
            AsyncFd::new(queue).ok().map(Self)
        }

        /// Watching a folder again is the same watch.
        pub(super) fn add(&self, folder: &Path) {
            // Not each write into a file: what is half written is no news yet.
            let flags = WatchFlags::CLOSE_WRITE
                | WatchFlags::MOVED_TO
                | WatchFlags::CREATE
                | WatchFlags::DELETE
                | WatchFlags::ATTRIB;
            // A folder that isn't there yet is read, and tried, again in a second.
            let _ = inotify::add_watch(self.0.get_ref(), folder, flags | WatchFlags::ONLYDIR);
        }

        pub(super) async fn changed(&self) {
            loop {
                let Ok(mut ready) = self.0.readable().await else { return std::future::pending().await };
                let mut buffer = [MaybeUninit::uninit(); 4096];
                let mut events = Reader::new(self.0.get_ref(), &mut buffer);
                let mut told = false;
                // Ends when the queue is empty.
                while let Ok(event) = events.next() {
                    // The end of a watch says nothing of the file.
                    told |= !event.events().contains(ReadFlags::IGNORED);
                }
                ready.clear_ready();
                if told {
                    return;
                }
            }
        }
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use std::{fs, os::unix::fs::symlink, time::Duration};

    use super::*;

    /// Whether anything is told within a second of real time.
    async fn tells(watch: &Watch) -> bool {
        tokio::time::timeout(Duration::from_secs(1), watch.changed()).await.is_ok()
    }

    #[tokio::test]
    async fn a_file_that_is_written_or_replaced_is_told_of() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("keys.toml");
        let watch = Watch::new(vec![path.clone()]);
        let _ = tokio::time::timeout(Duration::ZERO, watch.changed()).await;
        watch.arm();
        fs::write(&path, "1").unwrap();
        assert!(tells(&watch).await, "made");
        fs::write(folder.path().join("new"), "2").unwrap();
        fs::rename(folder.path().join("new"), &path).unwrap();
        assert!(tells(&watch).await, "replaced");
        let again = tokio::time::timeout(Duration::from_millis(50), watch.changed()).await;
        assert!(again.is_err(), "told twice of one change");
    }

    #[tokio::test]
    async fn kubernetes_swap_of_its_link_is_told_of() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        for n in ["..1", "..2"] {
            fs::create_dir(at(n)).unwrap();
            fs::write(at(n).join("access_key"), n).unwrap();
        }
        symlink("..1", at("..data")).unwrap();
        symlink("..data/access_key", at("access_key")).unwrap();
        let watch = Watch::new(vec![at("access_key")]);
        let _ = tokio::time::timeout(Duration::ZERO, watch.changed()).await;
        watch.arm();
        symlink("..2", at("..data_tmp")).unwrap();
        fs::rename(at("..data_tmp"), at("..data")).unwrap();
        assert!(tells(&watch).await);
    }

    #[tokio::test]
    async fn a_folder_that_is_not_there_yet_is_watched_once_it_is() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("later/keys.toml");
        let watch = Watch::new(vec![path.clone()]);
        let _ = tokio::time::timeout(Duration::ZERO, watch.changed()).await;
        watch.arm();
        fs::create_dir(folder.path().join("later")).unwrap();
        watch.arm();
        fs::write(&path, "1").unwrap();
        assert!(tells(&watch).await);
    }
}
