//! Reports that files may have changed, where the system can (Linux: inotify).
//!
//! A report is only a hint that makes the next reading happen at once: key files are read each second with
//! or without it, because a folder may be on a network file system, be replaced through a link further up,
//! or not exist yet. So nothing here fails: without inotify, nothing is reported. Folders are watched and
//! not files, because a file is replaced by another one of the same name.

use std::path::{Path, PathBuf};

#[cfg(target_os = "linux")]
use self::linux::Inotify;

/// Watches the folders of some files.
#[derive(Debug)]
pub(crate) struct FolderWatch {
    files: Vec<PathBuf>,
    #[cfg(target_os = "linux")]
    inotify: std::sync::OnceLock<Option<Inotify>>,
}

impl FolderWatch {
    /// Watches these files; for a folder, any name in it.
    pub(crate) fn new(files: Vec<PathBuf>) -> Self {
        Self {
            files,
            #[cfg(target_os = "linux")]
            inotify: std::sync::OnceLock::new(),
        }
    }

    /// The folders as they are now: that of the name, and that of the file that it links to.
    fn folders(&self) -> impl Iterator<Item = PathBuf> {
        let parent = |path: &Path| path.parent().map(Path::to_owned);
        self.files.iter().flat_map(move |file| {
            let real = std::fs::canonicalize(file).ok();
            [parent(file), real.as_deref().and_then(parent)].into_iter().flatten()
        })
    }
}

#[cfg(target_os = "linux")]
impl FolderWatch {
    /// Watches the folders that exist now; to be called before each reading. Blocks.
    pub(crate) fn arm(&self) {
        if let Some(Some(inotify)) = self.inotify.get() {
            self.folders().for_each(|folder| inotify.add(&folder));
        }
    }

    /// Returns when something changed in a folder; never, where the system doesn't report it. Watching begins
    /// with the first call. Cancel safe.
    pub(crate) async fn changed(&self) {
        match self.inotify.get_or_init(Inotify::new) {
            Some(inotify) => inotify.changed().await,
            None => std::future::pending().await,
        }
    }
}

#[cfg(not(target_os = "linux"))]
impl FolderWatch {
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

    /// An inotify instance.
    #[derive(Debug)]
    pub(super) struct Inotify(AsyncFd<OwnedFd>);

    impl Inotify {
        /// `None` when the system has no more instances.
        pub(super) fn new() -> Option<Self> {
            let queue = inotify::init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC).ok()?;
            #[allow(deprecated, reason = "an owned descriptor is all that the unsafe successor asks for")]
            AsyncFd::new(queue).ok().map(Self)
        }

        /// Watching a folder twice has no effect.
        pub(super) fn add(&self, folder: &Path) {
            // Not MODIFY: a file that is half written must not be read yet.
            let flags = WatchFlags::CLOSE_WRITE
                | WatchFlags::MOVED_TO
                | WatchFlags::CREATE
                | WatchFlags::DELETE
                | WatchFlags::ATTRIB;
            // A folder that doesn't exist yet is tried again before the next reading.
            let _ = inotify::add_watch(self.0.get_ref(), folder, flags | WatchFlags::ONLYDIR);
        }

        pub(super) async fn changed(&self) {
            loop {
                let Ok(mut ready) = self.0.readable().await else { return std::future::pending().await };
                let mut buffer = [MaybeUninit::uninit(); 4096];
                let mut events = Reader::new(self.0.get_ref(), &mut buffer);
                let mut told = false;
                // Ends when there are no more events.
                while let Ok(event) = events.next() {
                    // The end of a watch says nothing about the file.
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
    async fn tells(watch: &FolderWatch) -> bool {
        tokio::time::timeout(Duration::from_secs(1), watch.changed()).await.is_ok()
    }

    #[tokio::test]
    async fn a_file_that_is_written_or_replaced_is_told_of() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("keys.toml");
        let watch = FolderWatch::new(vec![path.clone()]);
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
        let watch = FolderWatch::new(vec![at("access_key")]);
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
        let watch = FolderWatch::new(vec![path.clone()]);
        let _ = tokio::time::timeout(Duration::ZERO, watch.changed()).await;
        watch.arm();
        fs::create_dir(folder.path().join("later")).unwrap();
        watch.arm();
        fs::write(&path, "1").unwrap();
        assert!(tells(&watch).await);
    }
}
