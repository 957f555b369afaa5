//! Detects changes of files by polling their [`Stamp`]s.
//!
//! Links are followed. A change counts when two polls see the same state, so files are not read while they are
//! written. A file that is missing is a state like any other: the caller decides what it means. Never fails.

use std::{collections::HashSet, path::PathBuf};

use super::{includes::expand, stamp::Stamp};

/// Detects changes of a set of files.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct FileWatch {
    files: Vec<PathBuf>,
    /// Patterns of further files, which may not exist yet.
    patterns: Vec<PathBuf>,
    /// Their stamps when they were last read. `None`: there was no such file.
    read: Vec<Option<Stamp>>,
    /// Their stamps at the last poll.
    seen: Vec<Option<Stamp>>,
}

impl FileWatch {
    /// Watches more files, from the state on in which they were when `more` was made.
    pub(crate) fn append(&mut self, mut more: FileWatch) {
        self.files.append(&mut more.files);
        self.read.append(&mut more.read);
        self.seen.append(&mut more.seen);
    }

    /// Watches the files that match these patterns, now and later. To be called before they are read.
    pub(crate) fn include(&mut self, patterns: Vec<PathBuf>) {
        self.append(FileWatch::new(expand(&patterns)));
        self.patterns = patterns;
    }

    /// To be called before the files are read for the first time.
    pub(crate) fn new(files: impl IntoIterator<Item = PathBuf>) -> Self {
        let mut watch = FileWatch { files: files.into_iter().collect(), ..FileWatch::default() };
        watch.mark_read();
        watch
    }

    /// Whether the files must be read: they have changed, and are not being written.
    pub(crate) fn poll(&mut self) -> bool {
        let known: HashSet<&PathBuf> = self.files.iter().collect();
        let found: Vec<PathBuf> = expand(&self.patterns).into_iter().filter(|file| !known.contains(file)).collect();
        self.read.extend(found.iter().map(|_| None));
        self.seen.extend(found.iter().map(|_| None));
        self.files.extend(found);
        let now = self.stamps();
        let still = now == self.seen;
        self.seen = now;
        still && self.seen != self.read
    }

    /// To be called before the files are read again.
    pub(crate) fn mark_read(&mut self) {
        self.seen = self.stamps();
        self.read.clone_from(&self.seen);
    }

    /// Whether the files are still what they were at [`FileWatch::mark_read`].
    pub(crate) fn is_unchanged(&self) -> bool {
        self.stamps() == self.read
    }

    /// Whether the first of the files existed at the last poll.
    pub(crate) fn first_exists(&self) -> bool {
        self.seen.first().is_some_and(Option::is_some)
    }

    fn stamps(&self) -> Vec<Option<Stamp>> {
        self.files.iter().map(|file| Stamp::at(file)).collect()
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
        let mut watch = FileWatch::new([file.clone()]);
        assert!(!watch.poll() && !watch.poll(), "as it was read");
        fs::write(&file, "half of").unwrap();
        assert!(!watch.poll(), "perhaps it is being written");
        fs::write(&file, "half of it and the rest").unwrap();
        assert!(!watch.poll(), "it was");
        assert!(watch.poll());
        watch.mark_read();
        assert!(!watch.poll() && !watch.poll(), "only once");
        fs::remove_file(&file).unwrap();
        assert!(!watch.poll() && watch.poll() && !watch.first_exists(), "gone");
        fs::write(&beside, "half of it and the rest").unwrap();
        fs::rename(&beside, &file).unwrap();
        assert!(!watch.poll() && watch.poll() && watch.first_exists(), "back");
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
        let mut watch = FileWatch::new([file.clone()]);
        swap("two");
        assert!(!watch.poll() && watch.poll());
    }
}
