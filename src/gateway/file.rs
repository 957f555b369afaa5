//! Reading the configuration file again: when somebody asks, and when it has changed.
//!
//! Seen by its [`Stamp`], followed through links, so a file that is put in another's
//! place, a folder's link that is swapped and an edit in place are all seen. What always holds: a state is
//! a change only when it stood for two looks, so a file is not read while an editor writes it; a file that
//! is gone is no change, its return is. Fails with [`ReloadError`].

use std::{path::Path, sync::atomic::Ordering, time::Duration};

use super::{Gateway, StartError};
use crate::files::{Stamp, configuration::LoadError};

/// How often to look.
pub const LOOK: Duration = Duration::from_millis(500);

/// Why another configuration was not put in force.
#[derive(Debug, thiserror::Error)]
pub enum ReloadError {
    /// It was started without a file.
    #[error("this gateway has no configuration file")]
    NoFile,
    /// The file can't be read, or has faults.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// What it names can't be used.
    #[error(transparent)]
    Start(#[from] StartError),
}

/// What was seen of the file.
#[derive(Debug)]
pub(super) struct FileWatch {
    /// When it was last read.
    read: Option<Stamp>,
    /// At the last look.
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
        looks.changed(file) && {
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
    /// The file is going to be read now.
    pub(super) fn at(file: Option<&Path>) -> Self {
        let now = file.and_then(Stamp::at);
        FileWatch { read: now, seen: now }
    }

    /// Looks at the file; says whether it must be read.
    pub(super) fn changed(&mut self, file: &Path) -> bool {
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
        assert!(!looks.changed(&file) && !looks.changed(&file), "as it was read");
        fs::write(&file, "half of").unwrap();
        assert!(!looks.changed(&file), "perhaps it is being written");
        fs::write(&file, "half of it and the rest").unwrap();
        assert!(!looks.changed(&file), "it was");
        assert!(looks.changed(&file));
        looks = FileWatch::at(Some(&file));
        assert!(!looks.changed(&file) && !looks.changed(&file), "only once");
        fs::remove_file(&file).unwrap();
        assert!(!looks.changed(&file) && !looks.changed(&file), "gone");
        fs::write(&beside, "half of it and the rest").unwrap();
        fs::rename(&beside, &file).unwrap();
        assert!(!looks.changed(&file) && looks.changed(&file), "back");
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
        assert!(!looks.changed(&file) && looks.changed(&file));
    }
}
