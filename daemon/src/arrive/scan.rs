//! The truth: what is in a watch folder right now.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::{fs, io};

use super::members::{Fingerprint, fingerprint, ignored, is_dicom, names_a_slide};

/// All slides of a folder and its subfolders at one moment, each with the state of all its members.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Snapshot {
    /// Naming file of each slide.
    pub slides: BTreeMap<PathBuf, Fingerprint>,
    /// Subfolders and files that could not be looked at, with the reason.
    pub unreadable: BTreeMap<PathBuf, String>,
}

/// Looks at every file below `folder`. Links to files are followed, links to directories are not (they could form a
/// circle).
///
/// # Errors
/// `folder` itself cannot be read. Then nothing is known, which is not the same as an empty folder.
pub fn scan(folder: &Path) -> io::Result<Snapshot> {
    let mut snapshot = Snapshot::default();
    let mut pending = vec![folder.to_path_buf()];
    while let Some(directory) = pending.pop() {
        let listed = list(&directory, directory == folder, &mut snapshot, &mut pending);
        match listed {
            Err(error) if directory == folder => return Err(error),
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                snapshot.unreadable.insert(directory, error.to_string());
            }
            _ => {}
        }
    }
    Ok(snapshot)
}

fn list(directory: &Path, is_root: bool, snapshot: &mut Snapshot, pending: &mut Vec<PathBuf>) -> io::Result<()> {
    let mut slides = Vec::new();
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let path = entry.path();
        if ignored(&path) {
            continue;
        }
        if entry.file_type()?.is_dir() {
            pending.push(path);
        } else if names_a_slide(&path) {
            slides.push(path);
        }
    }
    if !is_root {
        keep_one_dicom(&mut slides);
    }
    for slide in slides {
        match fingerprint(&slide) {
            // It went between the listing and the look.
            Ok(found) if found.members().iter().all(|m| m.path != slide) => {}
            Ok(found) => {
                snapshot.slides.insert(slide, found);
            }
            Err(error) => {
                snapshot.unreadable.insert(slide, error.to_string());
            }
        }
    }
    Ok(())
}

/// A directory of DICOM files is one slide, named by the first of them: OpenSlide finds the rest of the series itself.
/// Directly in the watch folder each file is a slide, because there is no directory to hold a series together.
fn keep_one_dicom(slides: &mut Vec<PathBuf>) {
    let first = slides.iter().filter(|p| is_dicom(p)).min().cloned();
    slides.retain(|path| !is_dicom(path) || Some(path) == first.as_ref());
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(names: &[&str]) -> Vec<String> {
        let folder = tempfile::tempdir().expect("tempdir");
        for name in names {
            let path = folder.path().join(name);
            fs::create_dir_all(path.parent().expect("has a parent")).expect("create");
            fs::write(path, name).expect("write");
        }
        let snapshot = scan(folder.path()).expect("readable");
        assert!(snapshot.unreadable.is_empty());
        let relative = |p: &PathBuf| p.strip_prefix(folder.path()).expect("inside").display().to_string();
        snapshot.slides.keys().map(relative).collect()
    }

    #[test]
    fn slides_are_found_in_subfolders_and_everything_else_is_passed_over() {
        let names = [
            "case1_HE.svs",
            "2026-11-23/case2_HE.ndpi",
            "notes.txt",
            "Thumbs.db",
            ".case3_HE.svs.Xy12",
            "case4_HE.svs.filepart",
            "case5_HE.tmp",
            ".hidden/case6_HE.svs",
            "case1_HE.tissuemap/clusters.ome.tif",
        ];
        assert_eq!(found(&names), ["2026-11-23/case2_HE.ndpi", "case1_HE.svs"]);
    }

    #[test]
    fn a_dicom_series_is_one_slide() {
        assert_eq!(found(&["case1_HE/b.dcm", "case1_HE/a.dcm", "flat.dcm"]), ["case1_HE/a.dcm", "flat.dcm"]);
    }

    #[test]
    fn a_missing_folder_is_an_error_and_not_an_empty_one() {
        assert!(scan(Path::new("/nonexistent/incoming")).is_err());
    }
}
