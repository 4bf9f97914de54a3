//! What is copied: the files of one slide, with their contents.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context;
use rand::{Rng, RngExt};
use sha2::{Digest, Sha256};
use tissuemap_daemon::arrive::members::Seen;
use tissuemap_daemon::arrive::names::Ignore;
use tissuemap_daemon::arrive::scan::scan;

/// How a slide's files lie together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// One file.
    Plain,
    /// `name.mrxs` and the directory `name/`.
    Mirax,
    /// A directory of `.dcm` files.
    Dicom,
}

/// The files of a slide whose name is still open.
#[derive(Debug, Clone)]
pub struct Template {
    pub kind: Kind,
    /// Ending of the naming file, without the dot.
    ending: String,
    /// For [`Kind::Plain`] the one file; else the name of each file in the directory, the index of a MIRAX slide first.
    files: Vec<(String, Vec<u8>)>,
}

impl Template {
    /// A slide of this kind and about this size with arbitrary content: enough for whoever only compares bytes.
    pub fn arbitrary(kind: Kind, bytes: usize, rng: &mut impl Rng) -> Self {
        let mut content = |bytes: usize| {
            let mut content = vec![0; bytes.max(1)];
            rng.fill(&mut content[..]);
            content
        };
        let (ending, names) = match kind {
            Kind::Plain => ("svs", vec![""]),
            Kind::Mirax => ("mrxs", vec!["", "Slidedat.ini", "Index.dat", "Data0000.dat", "Data0001.dat"]),
            Kind::Dicom => ("dcm", vec!["0001.dcm", "0002.dcm", "0003.dcm", "0004.dcm"]),
        };
        let share = bytes / names.len();
        let files = names.into_iter().map(|name| (name.to_owned(), content(share))).collect();
        Self { kind, ending: ending.into(), files }
    }

    /// All slides in a folder, as the daemon sees them; but for those whose naming file names the others, which cannot be
    /// given other names.
    ///
    /// # Errors
    /// The folder cannot be read, or holds no slide.
    pub fn read_all(folder: &Path) -> anyhow::Result<Vec<Self>> {
        let snapshot = scan(folder, &Ignore::default(), None).with_context(|| folder.display().to_string())?;
        let names_others = |slide: &Path| slide.extension().is_some_and(|ending| ending == "vms" || ending == "vmu");
        let read = |(slide, seen): (&PathBuf, &Seen)| {
            let ending = slide.extension().unwrap_or_default().to_string_lossy().to_lowercase();
            let kind = match ending.as_str() {
                "mrxs" => Kind::Mirax,
                "dcm" => Kind::Dicom,
                _ => Kind::Plain,
            };
            let name = |path: &Path| match kind {
                Kind::Dicom => file_name(path),
                _ if path == slide => String::new(),
                _ => file_name(path),
            };
            let file = |path: &PathBuf| Ok((name(path), fs::read(path).with_context(|| path.display().to_string())?));
            let mut files: Vec<(String, Vec<u8>)> =
                seen.fingerprint.members().iter().map(|member| file(&member.path)).collect::<anyhow::Result<_>>()?;
            files.sort();
            Ok(Self { kind, ending, files })
        };
        let templates = snapshot
            .slides
            .iter()
            .filter(|(slide, _)| !names_others(slide))
            .map(read)
            .collect::<anyhow::Result<Vec<_>>>()?;
        anyhow::ensure!(!templates.is_empty(), "{}: no slides", folder.display());
        Ok(templates)
    }

    /// The same slide with a tail of its own, so that no two copies are alike. DICOM has no room for one and stays.
    pub fn made_unique(&self, rng: &mut impl Rng) -> Self {
        let mut unique = self.clone();
        if self.kind != Kind::Dicom
            && let Some((_, content)) = unique.files.last_mut()
        {
            content.extend(rng.random::<[u8; 16]>());
        }
        unique
    }

    /// The path of the file that names the slide, for a slide called `stem` in `folder`.
    pub fn naming_file(&self, folder: &Path, stem: &str) -> PathBuf {
        let first = self.files.iter().map(|(name, _)| name).min();
        match (self.kind, first) {
            (Kind::Dicom, Some(first)) => folder.join(stem).join(first),
            _ => folder.join(format!("{stem}.{}", self.ending)),
        }
    }

    /// Where each file of a slide called `stem` in `folder` goes, in the order in which scanners write them: the index
    /// first.
    pub fn placed<'a>(&'a self, folder: &Path, stem: &str) -> Vec<(PathBuf, &'a [u8])> {
        let place = |name: &str| match name {
            "" => self.naming_file(folder, stem),
            name => folder.join(stem).join(name),
        };
        self.files.iter().map(|(name, content)| (place(name), content.as_slice())).collect()
    }

    /// Bytes of all files.
    pub fn bytes(&self) -> usize {
        self.files.iter().map(|(_, content)| content.len()).sum()
    }
}

fn file_name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

/// One hash of all files of a slide, of their paths and contents.
pub fn digest<'a>(files: impl IntoIterator<Item = (&'a Path, &'a [u8])>) -> String {
    let mut files: Vec<(&Path, &[u8])> = files.into_iter().collect();
    files.sort();
    let mut hash = Sha256::new();
    for (path, content) in files {
        hash.update(path.as_os_str().as_encoded_bytes());
        hash.update((content.len() as u64).to_le_bytes());
        hash.update(content);
    }
    hex(hash)
}

/// Of one file's content, in hexadecimal digits.
pub(crate) fn sha256(content: &[u8]) -> String {
    hex(Sha256::new_with_prefix(content))
}

fn hex(hash: Sha256) -> String {
    hash.finalize().iter().fold(String::new(), |hex, byte| hex + &format!("{byte:02x}"))
}
