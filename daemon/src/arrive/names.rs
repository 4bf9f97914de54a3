//! What a name in a watch folder tells by itself: a slide, an unfinished copy, our own output, a slide's done-marker.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use tissuemap::durable::is_kept;
use tissuemap::overlay::RESULT_EXTENSION;

/// Endings of files that name a slide. `.czi` is listed although OpenSlide reads it only in versions to come: the
/// operator shall get a reason, not silence.
const SLIDE_ENDINGS: &[&str] =
    &["svs", "ndpi", "mrxs", "scn", "bif", "svslide", "tif", "tiff", "vms", "vmu", "dcm", "czi"];

/// Names under which copying programs hide unfinished files, and folders in which systems keep what was deleted.
const IGNORED: &[&str] = &[
    "*~",
    "*.tmp",
    "*.part",
    "*.partial",
    "*.filepart",
    "*.crdownload",
    "$RECYCLE.BIN",
    "#recycle",
    "System Volume Information",
    "lost+found",
];

pub(super) fn ending_in(path: &Path, endings: &[&str]) -> bool {
    path.extension().is_some_and(|e| endings.iter().any(|known| e.eq_ignore_ascii_case(known)))
}

/// True when the name is that of a slide's naming file.
pub fn names_a_slide(path: &Path) -> bool {
    ending_in(path, SLIDE_ENDINGS)
}

pub(super) fn is_dicom(path: &Path) -> bool {
    ending_in(path, &["dcm"])
}

/// A file name in which at most one `*` stands for anything. Upper and lower case are the same.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
struct NamePattern {
    text: String,
    before: String,
    /// What follows the `*`; `None` without one.
    after: Option<String>,
}

impl TryFrom<String> for NamePattern {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let lower = text.to_lowercase();
        let (before, after) = match lower.split_once('*') {
            Some((before, after)) => (before.to_owned(), Some(after.to_owned())),
            None => (lower, None),
        };
        let everything = before.is_empty() && after.as_ref().is_none_or(String::is_empty);
        if everything || text.contains('/') || after.as_ref().is_some_and(|after| after.contains('*')) {
            return Err(format!("{text:?} is no name pattern: a name with at most one `*`, such as \"*.tmp\""));
        }
        Ok(Self { text, before, after })
    }
}

impl NamePattern {
    fn fits(&self, name: &str) -> bool {
        match &self.after {
            None => name == self.before,
            Some(after) => name.strip_prefix(&self.before).is_some_and(|rest| rest.ends_with(after.as_str())),
        }
    }
}

/// The names of files and folders that are passed over. Hidden names and our own output are, whatever is listed.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct Ignore(Vec<NamePattern>);

impl Default for Ignore {
    fn default() -> Self {
        let pattern = |text: &&str| NamePattern::try_from((*text).to_owned()).ok();
        Self(IGNORED.iter().filter_map(pattern).collect())
    }
}

/// Why a name is passed over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Passed<'a> {
    /// It begins with a dot.
    Hidden,
    /// It is one of our results, or what was kept beside one.
    Output,
    /// It fits this pattern of the list.
    Listed(&'a str),
}

impl Ignore {
    /// Why this name is passed over, if it is. Only the last part of the path counts.
    pub fn reason(&self, path: &Path) -> Option<Passed<'_>> {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if ending_in(path, &[RESULT_EXTENSION]) || is_kept(path, RESULT_EXTENSION) {
            return Some(Passed::Output);
        }
        if name.starts_with('.') {
            return Some(Passed::Hidden);
        }
        let name = name.to_lowercase();
        self.0.iter().find(|pattern| pattern.fits(&name)).map(|pattern| Passed::Listed(&pattern.text))
    }

    /// True for names that are passed over.
    pub fn ignores(&self, path: &Path) -> bool {
        self.reason(path).is_some()
    }
}

/// The name of the file that tells that a slide is complete; `{stem}` and `{name}` in it stand for the slide's own
/// name without and with its ending.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Marker(String);

impl TryFrom<String> for Marker {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let fixed = text.replace("{stem}", "").replace("{name}", "");
        if fixed.is_empty() || fixed.contains(['/', '{', '}']) {
            return Err(format!("{text:?} is no file name with {{stem}} or {{name}} in it, such as \"{{stem}}.done\""));
        }
        if names_a_slide(Path::new(&text)) {
            return Err(format!("{text:?} has the ending of a slide"));
        }
        Ok(Self(text))
    }
}

impl Marker {
    /// As it is configured.
    pub fn pattern(&self) -> &str {
        &self.0
    }

    /// Where the marker of this slide is expected: beside its file, and for a DICOM series beside its directory. `root`
    /// is the watch folder; directly in it, a DICOM file is a slide of its own.
    pub fn of(&self, slide: &Path, root: &Path) -> PathBuf {
        let series = slide.parent().filter(|parent| is_dicom(slide) && *parent != root);
        let text = |part: Option<&OsStr>| part.unwrap_or_default().to_string_lossy().into_owned();
        let named = series.unwrap_or(slide);
        let name = text(named.file_name());
        // A directory has no ending, whatever dots are in its name.
        let stem = if series.is_some() { name.clone() } else { text(slide.file_stem()) };
        named.with_file_name(self.0.replace("{stem}", &stem).replace("{name}", &name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ignore(patterns: &[&str]) -> Result<Ignore, String> {
        let pattern = |text: &&str| NamePattern::try_from((*text).to_owned());
        patterns.iter().map(pattern).collect::<Result<_, _>>().map(Ignore)
    }

    #[test]
    fn temporary_hidden_and_own_names_are_ignored() {
        let names = [".x.svs", "x.svs~", "x.tmp", "x.svs.PART", "x.partial", "x.svs.filepart", "x.svs.crdownload"];
        for name in names.iter().chain(&["case_HE.tissuemap", "$Recycle.bin", "lost+found"]) {
            assert!(Ignore::default().ignores(Path::new(name)), "{name}");
        }
        for name in ["x.svs", "x.tiff", "partial.svs", "tissuemap", "tmp"] {
            assert!(!Ignore::default().ignores(Path::new(name)), "{name}");
        }
        assert_eq!(Ignore::default().0.len(), IGNORED.len(), "every built-in pattern is one");
    }

    #[test]
    fn a_list_of_ones_own_replaces_the_built_in_one_but_not_the_rules() {
        let list = ignore(&["Copying_*.svs", "*.upload"]).expect("patterns");
        let reason = |name: &'static str| list.reason(Path::new(name));
        assert_eq!(reason("copying_case7_HE.SVS"), Some(Passed::Listed("Copying_*.svs")));
        assert_eq!(reason("case7_HE.svs.upload"), Some(Passed::Listed("*.upload")));
        assert_eq!(reason(".case7_HE.svs"), Some(Passed::Hidden));
        assert_eq!(reason("case7_HE.tissuemap"), Some(Passed::Output));
        assert_eq!(reason("case7_HE.svs"), None);
        assert_eq!(reason("x.tmp"), None);
        assert_eq!(ignore(&["copying.svs*copying.svs"]).expect("a pattern").reason(Path::new("copying.svs")), None);
    }

    #[test]
    fn patterns_that_fit_everything_or_nothing_are_refused() {
        for text in ["", "*", "a*b*", "sub/x.tmp"] {
            assert!(ignore(&[text]).expect_err(text).contains("*.tmp"), "{text}");
        }
    }

    #[test]
    fn a_marker_lies_beside_the_slide_and_beside_the_directory_of_a_series() {
        let of = |marker: &str, slide: &str| {
            let marker = Marker::try_from(marker.to_owned()).expect("a marker");
            marker.of(Path::new(slide), Path::new("/in")).display().to_string()
        };
        assert_eq!(of("{stem}.done", "/in/day/c1_HE.svs"), "/in/day/c1_HE.done");
        assert_eq!(of("{name}.ok", "/in/c1_HE.mrxs"), "/in/c1_HE.mrxs.ok");
        assert_eq!(of("scan_complete.txt", "/in/c1/c1_HE.svs"), "/in/c1/scan_complete.txt");
        assert_eq!(of("{stem}.done", "/in/c1_HE.2/7.dcm"), "/in/c1_HE.2.done");
        assert_eq!(of("{stem}.done", "/in/c1_HE.dcm"), "/in/c1_HE.done");
    }

    #[test]
    fn a_marker_that_names_no_file_or_a_slide_is_refused() {
        for text in ["", "{stem}", "{case}.done", "done/{stem}", "{stem}.svs"] {
            assert!(Marker::try_from(text.to_owned()).is_err(), "{text}");
        }
    }
}
