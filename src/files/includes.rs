//! Which files the patterns of `include` lead to.
//!
//! `*` and `?` match parts of one name, and no hidden file. A pattern without them is a file, whether it exists or not.
//! Never fails: a folder that cannot be read has no files.

use std::{
    collections::BTreeSet,
    fs,
    path::{Component, Path, PathBuf},
};

/// Files that a configuration may include.
pub(crate) const MAX_FILES: usize = 10_000;

/// The files that match any of the patterns, sorted, each once; one more than [`MAX_FILES`] at most.
pub(crate) fn expand<'p>(patterns: impl IntoIterator<Item = &'p PathBuf>) -> Vec<PathBuf> {
    let mut files = BTreeSet::new();
    for pattern in patterns {
        let mut found = vec![PathBuf::new()];
        for component in pattern.components() {
            found = match component {
                Component::Normal(name) if has_wildcard(name.as_encoded_bytes()) => {
                    let name = name.as_encoded_bytes();
                    found.iter().flat_map(|folder| entries(folder, name)).take(MAX_FILES + 1).collect()
                }
                other => found.into_iter().map(|folder| folder.join(other)).collect(),
            };
        }
        files.extend(found);
    }
    files.into_iter().take(MAX_FILES + 1).collect()
}

fn has_wildcard(name: &[u8]) -> bool {
    memchr::memchr2(b'*', b'?', name).is_some()
}

/// The entries of a folder whose name matches.
fn entries(folder: &Path, pattern: &[u8]) -> Vec<PathBuf> {
    let hidden = pattern.first() == Some(&b'.');
    let names = fs::read_dir(folder).into_iter().flatten().filter_map(|entry| Some(entry.ok()?.file_name()));
    let mut found: Vec<PathBuf> = names
        .filter(|name| {
            let name = name.as_encoded_bytes();
            matches(name, pattern) && (hidden || name.first() != Some(&b'.'))
        })
        .map(|name| folder.join(name))
        .collect();
    found.sort();
    found
}

/// Whether a name matches a pattern, in time by the product of their lengths.
fn matches(name: &[u8], pattern: &[u8]) -> bool {
    let (mut at, mut in_pattern) = (0, 0);
    // Where to go on if what follows the last `*` does not match: one byte later.
    let mut again: Option<(usize, usize)> = None;
    while at < name.len() {
        match pattern.get(in_pattern) {
            Some(b'*') => {
                again = Some((at, in_pattern));
                in_pattern += 1;
            }
            Some(wanted) if *wanted == b'?' || *wanted == name[at] => {
                at += 1;
                in_pattern += 1;
            }
            _ => match again {
                Some((from, star)) => {
                    again = Some((from + 1, star));
                    (at, in_pattern) = (from + 1, star + 1);
                }
                None => return false,
            },
        }
    }
    pattern[in_pattern..].iter().all(|byte| *byte == b'*')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stars_and_question_marks_match_parts_of_a_name() {
        for (pattern, name, wanted) in [
            ("*.toml", "a.toml", true),
            ("*.toml", ".toml", true),
            ("*.toml", "a.toml~", false),
            ("a*b*c", "axbxbc", true),
            ("a*b*c", "axbxb", false),
            ("??.toml", "ab.toml", true),
            ("??.toml", "a.toml", false),
            ("*", "", true),
            ("a", "b", false),
        ] {
            assert_eq!(matches(name.as_bytes(), pattern.as_bytes()), wanted, "{pattern} {name}");
        }
    }

    #[test]
    fn each_file_is_named_once_in_the_order_of_their_names() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        for name in ["d/b.toml", "d/a.toml", "d/.hidden.toml", "d/a.toml~", "e/c.toml"] {
            fs::create_dir_all(at(name).parent().unwrap()).unwrap();
            fs::write(at(name), "").unwrap();
        }
        let found = expand(&[at("?/*.toml"), at("d/a.toml"), at("none.toml"), at("no/*.toml")]);
        assert_eq!(found, ["d/a.toml", "d/b.toml", "e/c.toml", "none.toml"].map(at));
    }
}
