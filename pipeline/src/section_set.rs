//! Which slides belong together: file names to case, block, section and stain; a CSV manifest overrules.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fmt;
use std::path::{Path, PathBuf};

use regex::Regex;
use serde::{Deserialize, Serialize};

use crate::untrusted;

/// How slides are named in one laboratory.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct NamingRules {
    /// Regular expressions over the file name without its extension, tried in order. Named groups: `case` and `stain`
    /// (required), `block`, `section` (optional).
    pub patterns: Vec<String>,
    /// Canonical stain name to the other spellings that mean it. Case, spaces, `-`, `_` and `&` are ignored.
    pub stains: BTreeMap<String, Vec<String>>,
}

impl Default for NamingRules {
    fn default() -> Self {
        let patterns = [
            // J-12-00356_NOR-025_Lewis_HE_Run 06: case, then anything, then the stain before a run number.
            r"^(?<case>.+?)_(?<stain>[^_]+)_Run[ _]?(?<section>\d+)$",
            // case7_B2_3_HE: block and section number between case and stain.
            r"^(?<case>.+)_(?<block>[A-Z]\d*)_(?<section>\d+)_(?<stain>[^_]+)$",
            // case7_HE, 77_HER2
            r"^(?<case>.+)_(?<stain>[^_]+)$",
            // 1-HE
            r"^(?<case>.+)-(?<stain>[^-]+)$",
        ];
        let he = ["H&E", "H_E", "HnE", "H-E", "hematoxylin eosin", "haematoxylin eosin"];
        Self {
            patterns: patterns.map(String::from).to_vec(),
            stains: BTreeMap::from([("HE".to_owned(), he.map(String::from).to_vec())]),
        }
    }
}

/// Why slides cannot be grouped.
#[derive(Debug, Clone, thiserror::Error)]
pub enum NamingError {
    #[error("naming pattern {pattern:?} is not a valid regular expression: {reason}")]
    Pattern { pattern: String, reason: String },
    #[error("naming pattern {0:?} lacks the named groups `case` and `stain`")]
    Groups(String),
    #[error("stain spelling {alias:?} is claimed by both {first} and {second}")]
    Alias { alias: String, first: String, second: String },
    #[error("{}: the file name fits none of the naming patterns", .0.display())]
    Unmatched(PathBuf),
    #[error("{}: stain {stain} of {key} is already {}", path.display(), first.display())]
    Duplicate { path: PathBuf, first: PathBuf, key: SetKey, stain: String },
    #[error("manifest {}: {reason}", path.display())]
    Manifest { path: PathBuf, reason: String },
}

impl NamingError {
    /// What a person can do about it.
    pub fn hint(&self) -> &'static str {
        match self {
            Self::Pattern { .. } => "correct the pattern in [naming]",
            Self::Groups(_) => "name the groups in the pattern: (?<case>...) and (?<stain>...)",
            Self::Alias { .. } => "let one of them have the spelling: [naming.stains], or the model's aliases",
            Self::Unmatched(_) => "rename it, add a pattern, or list it in a manifest",
            Self::Duplicate { .. } => "give one of them another block or section, or list both in a manifest",
            Self::Manifest { .. } => "a manifest is a CSV with the columns slide,case,block,section,stain",
        }
    }
}

/// What a slide's name says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SlideName {
    pub case: String,
    pub block: Option<String>,
    pub section: Option<String>,
    /// Canonical.
    pub stain: String,
}

/// One block of tissue: what its sections have in common.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct SetKey {
    pub case: String,
    pub block: Option<String>,
}

impl fmt::Display for SetKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.block {
            Some(block) => write!(f, "{} {block}", self.case),
            None => f.write_str(&self.case),
        }
    }
}

/// Serial sections of one block, one slide a stain.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SectionSet {
    pub key: SetKey,
    /// Canonical stain to slide.
    pub slides: BTreeMap<String, PathBuf>,
}

/// Compiled [`NamingRules`].
#[derive(Debug, Clone)]
pub struct Namer {
    patterns: Vec<Regex>,
    /// Folded spelling to canonical name.
    spellings: BTreeMap<String, String>,
}

impl Namer {
    /// # Errors
    /// [`NamingError::Pattern`], [`NamingError::Groups`] or [`NamingError::Alias`].
    pub fn new(rules: &NamingRules) -> Result<Self, NamingError> {
        let compile = |pattern: &String| {
            let regex = Regex::new(pattern).map_err(|e| NamingError::Pattern {
                pattern: pattern.clone(),
                reason: e.to_string().replace('\n', " "),
            })?;
            let has = |group| regex.capture_names().flatten().any(|name| name == group);
            if has("case") && has("stain") { Ok(regex) } else { Err(NamingError::Groups(pattern.clone())) }
        };
        let patterns = rules.patterns.iter().map(compile).collect::<Result<_, _>>()?;
        let mut namer = Self { patterns, spellings: BTreeMap::new() };
        for (stain, aliases) in &rules.stains {
            namer.add_stain(stain, aliases)?;
        }
        Ok(namer)
    }

    /// Adds a stain, e.g. one that a model's contract lists with its aliases.
    ///
    /// # Errors
    /// [`NamingError::Alias`] when a spelling already means another stain.
    pub fn add_stain(&mut self, stain: &str, aliases: &[String]) -> Result<(), NamingError> {
        for alias in std::iter::once(stain).chain(aliases.iter().map(String::as_str)) {
            let first = self.spellings.entry(fold(alias)).or_insert_with(|| stain.to_owned());
            if first != stain {
                return Err(NamingError::Alias { alias: alias.into(), first: first.clone(), second: stain.into() });
            }
        }
        Ok(())
    }

    /// The canonical name of a stain; a spelling nobody listed stands for itself.
    pub fn stain(&self, spelling: &str) -> String {
        self.spellings.get(&fold(spelling)).cloned().unwrap_or_else(|| spelling.trim().to_owned())
    }

    /// The patterns, in the order in which they are tried.
    pub fn patterns(&self) -> impl Iterator<Item = &str> {
        self.patterns.iter().map(Regex::as_str)
    }

    /// Reads a slide's name. The files of a DICOM series have names made by a machine, so the name of its directory is
    /// read after that of the file.
    ///
    /// A pattern whose stain is a known one wins over an earlier pattern whose stain is not: `case7_HE_2` is then not
    /// taken for stain `2`.
    ///
    /// # Errors
    /// [`NamingError::Unmatched`].
    pub fn parse(&self, path: &Path) -> Result<SlideName, NamingError> {
        let stem = path.file_stem().unwrap_or_default().to_string_lossy();
        let is_dicom = path.extension().is_some_and(|ending| ending.eq_ignore_ascii_case("dcm"));
        let directory = path.parent().and_then(Path::file_name).filter(|_| is_dicom).map(OsStr::to_string_lossy);
        let names = [Some(stem), directory].into_iter().flatten();
        let tries = names.flat_map(|name| self.patterns.iter().map(move |regex| (name.clone(), regex)));
        let mut fits = tries.filter_map(|(name, regex)| {
            let found = regex.captures(&name)?;
            let group = |name| found.name(name).map(|m| m.as_str().trim().to_owned()).filter(|s| !s.is_empty());
            let stain = group("stain")?;
            let known = self.spellings.contains_key(&fold(&stain));
            let (block, section) = (group("block"), group("section"));
            Some((known, SlideName { case: group("case")?, block, section, stain: self.stain(&stain) }))
        });
        let first = fits.next().ok_or_else(|| NamingError::Unmatched(path.into()))?;
        if first.0 {
            return Ok(first.1);
        }
        Ok(fits.find(|(known, _)| *known).unwrap_or(first).1)
    }
}

/// Spelling without what people vary: case, blanks, hyphens, underscores, ampersands.
fn fold(stain: &str) -> String {
    stain.chars().filter(|c| c.is_alphanumeric()).flat_map(char::to_lowercase).collect()
}

/// A CSV that says what file names cannot: columns `slide,case,block,section,stain`, `block` and `section` may be empty.
#[derive(Debug, Clone, Default)]
pub struct Manifest {
    /// File name (without folder) to its row.
    rows: BTreeMap<String, SlideName>,
}

impl Manifest {
    /// # Errors
    /// [`NamingError::Manifest`] naming the line.
    pub fn read(path: &Path) -> Result<Self, NamingError> {
        #[derive(Deserialize)]
        struct Row {
            slide: String,
            case: String,
            #[serde(default)]
            block: Option<String>,
            #[serde(default)]
            section: Option<String>,
            stain: String,
        }
        let error = |reason: String| NamingError::Manifest { path: path.into(), reason };
        let file = untrusted::open_named(path, untrusted::SMALL).map_err(|e| error(e.to_string()))?;
        let mut reader = csv::ReaderBuilder::new().trim(csv::Trim::All).from_reader(file);
        let mut rows = BTreeMap::new();
        for row in reader.deserialize() {
            let Row { slide, case, block, section, stain } = row.map_err(|e: csv::Error| error(e.to_string()))?;
            if case.is_empty() || stain.is_empty() {
                return Err(error(format!("{slide}: `case` and `stain` must not be empty")));
            }
            rows.insert(slide, SlideName { case, block, section, stain });
        }
        Ok(Self { rows })
    }
}

/// Slides in their sets, and what could not be placed.
#[derive(Debug, Default)]
pub struct Grouped {
    pub sets: Vec<SectionSet>,
    pub errors: Vec<NamingError>,
}

/// Groups slides into section sets, in the order of their keys whatever the order of `paths`.
pub fn group(paths: &[PathBuf], namer: &Namer, manifest: Option<&Manifest>) -> Grouped {
    let mut sorted: Vec<&PathBuf> = paths.iter().collect();
    sorted.sort();
    let mut sets: BTreeMap<SetKey, BTreeMap<String, PathBuf>> = BTreeMap::new();
    let mut errors = Vec::new();
    for path in sorted {
        let listed = path.file_name().and_then(|name| manifest?.rows.get(&*name.to_string_lossy()));
        let name = match listed {
            Some(row) => SlideName { stain: namer.stain(&row.stain), ..row.clone() },
            None => match namer.parse(path) {
                Ok(name) => name,
                Err(error) => {
                    errors.push(error);
                    continue;
                }
            },
        };
        let key = SetKey { case: name.case, block: name.block };
        let slides = sets.entry(key.clone()).or_default();
        match slides.get(&name.stain) {
            Some(first) => {
                errors.push(NamingError::Duplicate {
                    path: path.clone(),
                    first: first.clone(),
                    key,
                    stain: name.stain,
                });
            }
            None => drop(slides.insert(name.stain, path.clone())),
        }
    }
    Grouped { sets: sets.into_iter().map(|(key, slides)| SectionSet { key, slides }).collect(), errors }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn namer() -> Namer {
        let mut namer = Namer::new(&NamingRules::default()).expect("defaults compile");
        for stain in ["CD31", "KI67", "HER2", "CYP3A4"] {
            namer.add_stain(stain, &[]).expect("no clash");
        }
        namer
    }

    #[test]
    fn names_as_laboratories_write_them() {
        let table = [
            ("case7_HE.svs", "case7", None, "HE"),
            ("case7_H&E.svs", "case7", None, "HE"),
            ("case7_B2_3_ki-67.tif", "case7", Some("B2"), "KI67"),
            ("77_HER2.ndpi", "77", None, "HER2"),
            ("1-HE.svs", "1", None, "HE"),
            ("J-12-00356_NOR-025_Lewis_HE_Run 06.svs", "J-12-00356_NOR-025_Lewis", None, "HE"),
            ("demo_PanCK.tif", "demo", None, "PanCK"),
            ("case7_HE/1.2.826.0.1.dcm", "case7", None, "HE"),
            ("case7_HE/DCM_0.dcm", "case7", None, "HE"),
            ("incoming_CD31/case7_HE.dcm", "case7", None, "HE"),
            ("case7_CD31/case7_HE.svs", "case7", None, "HE"),
        ];
        for (file, case, block, stain) in table {
            let name = namer().parse(Path::new(file)).expect(file);
            assert_eq!(
                (name.case.as_str(), name.block.as_deref(), name.stain.as_str()),
                (case, block, stain),
                "{file}"
            );
        }
        assert!(matches!(namer().parse(Path::new("scan0001.svs")), Err(NamingError::Unmatched(_))));
    }

    #[test]
    fn the_manifest_overrules_names() {
        let dir = tempfile::tempdir().expect("temporary folder");
        let csv = dir.path().join("manifest.csv");
        std::fs::write(&csv, "slide,case,block,section,stain\nscan1.svs, A ,,,h&e\ncase7_HE.svs,B,2,,CD31\n")
            .expect("writable");
        let manifest = Manifest::read(&csv).expect("valid");
        let paths = ["scan1.svs", "case7_HE.svs"].map(|f| PathBuf::from("/in").join(f));
        let grouped = group(&paths, &namer(), Some(&manifest));
        assert!(grouped.errors.is_empty(), "{:?}", grouped.errors);
        assert_eq!(grouped.sets[0].slides["HE"], paths[0]);
        assert_eq!(
            (grouped.sets[1].key.to_string().as_str(), grouped.sets[1].slides["CD31"].as_path()),
            ("B 2", paths[1].as_path())
        );
        std::fs::write(&csv, "slide,case,stain\nx.svs,,HE\n").expect("writable");
        assert!(Manifest::read(&csv).expect_err("empty case").to_string().contains("x.svs"));
    }

    #[test]
    fn two_slides_of_one_stain_are_reported_and_the_first_kept() {
        let paths = ["/a/c_HE.svs", "/b/c_H&E.svs", "/b/c_CD31.svs"].map(PathBuf::from);
        let grouped = group(&paths, &namer(), None);
        assert_eq!(grouped.sets.len(), 1);
        assert_eq!(grouped.sets[0].slides["HE"], paths[0]);
        assert!(matches!(&grouped.errors[..], [NamingError::Duplicate { path, .. }] if *path == paths[1]));
    }

    #[test]
    fn bad_rules_are_refused_with_the_pattern() {
        let bad = |pattern: &str| Namer::new(&NamingRules { patterns: vec![pattern.into()], ..NamingRules::default() });
        assert!(bad("(").expect_err("unbalanced").to_string().contains('('));
        assert!(matches!(bad("(?<case>.*)"), Err(NamingError::Groups(_))));
        assert!(matches!(namer().add_stain("PAS", &["H&E".into()]), Err(NamingError::Alias { .. })));
    }

    proptest! {
        #[test]
        fn arrival_order_does_not_matter(order in Just((0..6).collect::<Vec<usize>>()).prop_shuffle()) {
            let files = ["a_HE.svs", "a_CD31.svs", "b_HE.svs", "b_KI67.svs", "b_CD31.svs", "c_HE.svs"];
            let shuffled: Vec<PathBuf> = order.iter().map(|&i| PathBuf::from(files[i])).collect();
            let sorted: Vec<PathBuf> = files.map(PathBuf::from).to_vec();
            prop_assert_eq!(group(&shuffled, &namer(), None).sets, group(&sorted, &namer(), None).sets);
        }
    }
}
