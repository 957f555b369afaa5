//! Reloads the configuration file: on command, and when it has changed.
//!
//! Changes are detected by the file's [`Stamp`], following links: a replaced file, a swapped link to its folder
//! and an edit in place are all detected. A change counts when two polls see the same state, so a file is not
//! read while an editor writes it. A file that is removed is not a change; its return is. Fails with
//! [`ReloadError`].

use std::{path::Path, sync::atomic::Ordering, time::Duration};

use super::{Gateway, StartError};
use crate::files::{Stamp, configuration::LoadError};

/// Interval between polls.
pub const LOOK: Duration = Duration::from_millis(500);

/// The configuration was not replaced.
#[derive(Debug, thiserror::Error)]
pub enum ReloadError {
    /// The gateway was started without a file.
    #[error("this gateway has no configuration file")]
    NoFile,
    /// The file can't be read, or has faults.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// What it names can't be used.
    #[error(transparent)]
    Start(#[from] StartError),
}

/// Detects changes of the file.
#[derive(Debug)]
pub(super) struct FileWatch {
    /// Its state when it was last read.
    read: Option<Stamp>,
    /// Its state at the last poll.
    seen: Option<Stamp>,
}

impl Gateway {
    /// Reads the configuration file again and puts it in force. Requests under way end on the one
    /// before. Blocks for a file or two: not for the path.
    ///
    /// # Errors
    /// [`ReloadError`] says all that is wrong; nothing has changed then.
    pub fn reload(&self) -> Result<(), ReloadError> {
        self.reload_as(&mut self.looks.lock())
    }

    /// Reads the configuration file again if it changed since it was last read and is not being written
    /// at the moment; whatever came of it, only the next change is read. To be called every [`LOOK`];
    /// blocks for a file or two. Says whether it did.
    pub fn look(&self) -> bool {
        let Some(file) = self.file.as_deref() else { return false };
        let mut looks = self.looks.lock();
        looks.poll(file) && {
            tracing::info!(file = %file.display(), "the configuration file has changed");
            // It says itself how it went.
            let _ = self.reload_as(&mut looks);
            true
        }
    }

    fn reload_as(&self, looks: &mut FileWatch) -> Result<(), ReloadError> {
        // First: what changes while it is read is a change.
        *looks = FileWatch::at(self.file.as_deref());
        let reloaded = self.read_again();
        self.reloaded_well.store(reloaded.is_ok(), Ordering::Relaxed);
        match &reloaded {
            Ok(()) => tracing::info!("the configuration was read again and is in force"),
            Err(error) => {
                tracing::error!(%error, "the configuration was read again; nothing was changed");
                if let ReloadError::Load(LoadError::Invalid { errors, .. }) = error {
                    errors.iter().for_each(|error| tracing::error!("{error}"));
                }
            }
        }
        reloaded
    }
}

impl FileWatch {
    /// To be called before the file is read.
    pub(super) fn at(file: Option<&Path>) -> Self {
        let now = file.and_then(Stamp::at);
        FileWatch { read: now, seen: now }
    }

    /// Whether the file must be read: it has changed, and is not being written.
    pub(super) fn poll(&mut self, file: &Path) -> bool {
        let now = Stamp::at(file);
        let still = now == self.seen;
        self.seen = now;
        still && now.is_some() && now != self.read
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_change_is_read_once_and_only_when_nobody_writes_any_more() {
        let folder = tempfile::tempdir().unwrap();
        let (file, beside) = (folder.path().join("gateway.toml"), folder.path().join("new"));
        fs::write(&file, "one").unwrap();
        let mut looks = FileWatch::at(Some(&file));
        assert!(!looks.poll(&file) && !looks.poll(&file), "as it was read");
        fs::write(&file, "half of").unwrap();
        assert!(!looks.poll(&file), "perhaps it is being written");
        fs::write(&file, "half of it and the rest").unwrap();
        assert!(!looks.poll(&file), "it was");
        assert!(looks.poll(&file));
        looks = FileWatch::at(Some(&file));
        assert!(!looks.poll(&file) && !looks.poll(&file), "only once");
        fs::remove_file(&file).unwrap();
        assert!(!looks.poll(&file) && !looks.poll(&file), "gone");
        fs::write(&beside, "half of it and the rest").unwrap();
        fs::rename(&beside, &file).unwrap();
        assert!(!looks.poll(&file) && looks.poll(&file), "back");
    }

    #[test]
    fn a_link_that_is_swapped_is_a_change() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        for version in ["one", "two"] {
            fs::create_dir(at(version)).unwrap();
            fs::write(at(version).join("gateway.toml"), version).unwrap();
        }
        let swap = |to: &str| {
            std::os::unix::fs::symlink(to, at("..new")).unwrap();
            fs::rename(at("..new"), at("..data")).unwrap();
        };
        swap("one");
        let file = at("..data").join("gateway.toml");
        let mut looks = FileWatch::at(Some(&file));
        swap("two");
        assert!(!looks.poll(&file) && looks.poll(&file));
    }
}
