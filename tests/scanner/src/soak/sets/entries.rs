//! What lies in the watched folder under the name of a set.

use std::fs;
use std::path::{Path, PathBuf};

use super::{Set, file_name};

impl Set<'_> {
    /// Every file in the watched folder whose path holds the name of the set.
    pub(super) fn own_files(&self) -> Vec<PathBuf> {
        fn walk(folder: &Path, files: &mut Vec<PathBuf>) {
            for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
                if entry.path().is_dir() { walk(&entry.path(), files) } else { files.push(entry.path()) }
            }
        }
        let mut files = Vec::new();
        self.own_entries()
            .iter()
            .for_each(|path| if path.is_dir() { walk(path, &mut files) } else { files.push(path.clone()) });
        files
    }

    pub(super) fn own_entries(&self) -> Vec<PathBuf> {
        let stem = self.earlier_names.first().unwrap_or(&self.name);
        let entries =
            fs::read_dir(self.world.site.incoming()).into_iter().flatten().flatten().map(|entry| entry.path());
        entries.filter(|path| file_name(path).contains(stem.as_str())).collect()
    }
}
