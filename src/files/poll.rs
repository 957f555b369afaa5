//! Detects changes of a file by polling its [`Stamp`].
//!
//! Links are followed. A change counts when two polls see the same state, so a file is not read while it is
//! written. A file that is removed is not a change; its return is. Never fails.

use std::path::Path;

use super::stamp::Stamp;

/// Detects changes of the file.
#[derive(Debug)]
pub(crate) struct FileWatch {
    /// Its state when it was last read.
    read: Option<Stamp>,
    /// Its state at the last poll.
    seen: Option<Stamp>,
}

impl FileWatch {
    /// To be called before the file is read.
    pub(crate) fn at(file: Option<&Path>) -> Self {
        let now = file.and_then(Stamp::at);
        FileWatch { read: now, seen: now }
    }

    /// Whether the file must be read: it has changed, and is not being written.
    pub(crate) fn poll(&mut self, file: &Path) -> bool {
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
