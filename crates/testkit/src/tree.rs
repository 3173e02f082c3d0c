//! What lies in a folder, byte for byte, to tell whether anything touched it.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hasher};
use std::path::{Path, PathBuf};

/// Every file and folder below a path, with length and hash of content.
#[derive(Debug, PartialEq, Eq)]
pub struct Tree(BTreeMap<PathBuf, Option<(u64, u64)>>);

impl Tree {
    /// Reads it; a path that does not exist is an empty tree.
    ///
    /// # Panics
    /// If something cannot be read.
    #[must_use]
    pub fn of(root: &Path) -> Self {
        let mut found = BTreeMap::new();
        visit(root, &mut found);
        Self(found)
    }
}

fn visit(path: &Path, found: &mut BTreeMap<PathBuf, Option<(u64, u64)>>) {
    if path.is_dir() {
        found.insert(path.to_owned(), None);
        for entry in std::fs::read_dir(path).expect("a folder can be listed") {
            visit(&entry.expect("an entry can be read").path(), found);
        }
    } else if path.exists() {
        let bytes = std::fs::read(path).expect("a file can be read");
        let mut hasher = DefaultHasher::new();
        hasher.write(&bytes);
        found.insert(path.to_owned(), Some((bytes.len() as u64, hasher.finish())));
    }
}

fn copy(from: &Path, to: &Path) {
    if from.is_dir() {
        std::fs::create_dir_all(to).expect("a folder can be made");
        for entry in std::fs::read_dir(from).expect("a folder can be listed") {
            let entry = entry.expect("an entry can be read");
            copy(&entry.path(), &to.join(entry.file_name()));
        }
    } else {
        std::fs::copy(from, to).expect("a file can be copied");
    }
}

impl Tree {
    /// Copies a folder with everything in it.
    ///
    /// # Panics
    /// If something cannot be read or written.
    pub fn copy(from: &Path, to: &Path) {
        copy(from, to);
    }
}
