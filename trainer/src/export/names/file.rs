//! `names.toml`: which cluster is called what, and its colour.
//!
//! ```toml
//! [clusters.3]
//! name = "stroma"
//! color = "#aabbcc"
//! ```

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use tissuemap::contract::{Cluster, is_name};
use tissuemap::untrusted::{self, Bounded};
use toml::Spanned;

use crate::config::toml_error_line;
use crate::system::error::TrainError;

/// A file of names, as it was written.
#[derive(Debug)]
pub struct Names {
    path: PathBuf,
    text: String,
    clusters: BTreeMap<String, Spanned<NameEntry>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct NamesFile {
    clusters: BTreeMap<String, Spanned<NameEntry>>,
}

/// What is given for one cluster; what is not stays as it is.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct NameEntry {
    name: Option<Spanned<String>>,
    color: Option<Spanned<String>>,
}

impl Names {
    /// Reads a file of names.
    ///
    /// # Errors
    /// [`TrainError::Unusable`] if it is none, with the line; [`TrainError::File`] when it cannot be read.
    pub fn read(path: &Path) -> Result<Self, TrainError> {
        let text = untrusted::open_named(path, untrusted::SMALL).and_then(Bounded::text)?;
        let content: NamesFile = toml::from_str(&text).map_err(|error| TrainError::Unusable {
            path: path.to_owned(),
            reason: toml_error_line(&text, &error),
            remedy: "`tissuemap-train name MODEL --print` prints a file to start from",
        })?;
        Ok(Self { path: path.to_owned(), text, clusters: content.clusters })
    }

    /// `clusters` with these names and colours.
    ///
    /// # Errors
    /// [`TrainError::Unusable`], with the line: a cluster that does not exist, a name that cannot be one or comes twice, or
    /// a colour that is none.
    pub fn applied_to(&self, clusters: &[Cluster]) -> Result<Vec<Cluster>, TrainError> {
        let mut named = clusters.to_vec();
        for (id, entry) in &self.clusters {
            let position = clusters.iter().position(|cluster| cluster.id.to_string() == *id).ok_or_else(|| {
                let reason = format!("there is no cluster {id:?}; the model has 1 to {}", clusters.len());
                self.refuse(entry, &reason, "give the number of a cluster as in [clusters.3]")
            })?;
            if let Some(name) = &entry.get_ref().name {
                if !is_name(name.get_ref()) {
                    let reason = format!(
                        "name {:?} is empty, longer than 64 characters or has control characters",
                        name.get_ref()
                    );
                    return Err(self.refuse(name, &reason, "give a shorter name of printable characters"));
                }
                name.get_ref().clone_into(&mut named[position].name);
            }
            if let Some(color) = &entry.get_ref().color {
                named[position].color = parse_color(color.get_ref()).ok_or_else(|| {
                    self.refuse(color, &format!("colour {:?} is none", color.get_ref()), "write colours as \"#aabbcc\"")
                })?;
            }
        }
        // In the order of the file's lines, so that the second of two equal names is the one that is refused.
        let mut given: Vec<(&str, &Spanned<String>)> =
            self.clusters.iter().filter_map(|(id, e)| Some((id.as_str(), e.get_ref().name.as_ref()?))).collect();
        given.sort_by_key(|(_, name)| std::cmp::Reverse(name.span().start));
        for (id, name) in given {
            let other = named.iter().find(|c| c.id.to_string() != id && c.name == *name.get_ref());
            if let Some(other) = other {
                let reason = format!("name {:?} is that of cluster {}, too", name.get_ref(), other.id);
                return Err(self.refuse(
                    name,
                    &reason,
                    "number clusters of one tissue, as in \"stroma 1\" and \"stroma 2\"",
                ));
            }
        }
        Ok(named)
    }

    fn refuse<T>(&self, at: &Spanned<T>, reason: &str, remedy: &'static str) -> TrainError {
        let line = self.text[..at.span().start].matches('\n').count() + 1;
        TrainError::Unusable { path: self.path.clone(), reason: format!("line {line}: {reason}"), remedy }
    }
}

/// A file with the names and colours that the clusters have.
pub fn template(clusters: &[Cluster]) -> String {
    let head = "# Names and colours of clusters; what is left out stays as it is.\n\
                # tissuemap-train name MODEL THIS_FILE --out NAMED_MODEL writes them into a copy of the model.\n";
    clusters.iter().fold(head.to_owned(), |mut out, Cluster { id, name, color: [r, g, b] }| {
        // Writing into a String cannot fail.
        let _ = write!(out, "\n[clusters.{id}]\nname = {}\ncolor = \"#{r:02x}{g:02x}{b:02x}\"\n", quoted(name));
        out
    })
}

/// A TOML string.
pub(super) fn quoted(text: &str) -> String {
    toml::Value::String(text.to_owned()).to_string()
}

fn parse_color(text: &str) -> Option<[u8; 3]> {
    let digits =
        text.strip_prefix('#').filter(|digits| digits.len() == 6 && digits.bytes().all(|b| b.is_ascii_hexdigit()))?;
    let channel = |i: usize| u8::from_str_radix(&digits[2 * i..2 * i + 2], 16).ok();
    Some([channel(0)?, channel(1)?, channel(2)?])
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use tissuemap::contract::clusters_default;

    fn applied(text: &str) -> Result<Vec<Cluster>, TrainError> {
        let file = tempfile::NamedTempFile::new().expect("file");
        fs::write(file.path(), text).expect("written");
        Names::read(file.path())?.applied_to(&clusters_default(4))
    }

    #[test]
    fn names_and_colours_are_taken_and_the_rest_stays() {
        let named = applied("[clusters.3]\nname = \"stroma\"\ncolor = \"#aAbb0c\"\n[clusters.1]\nname = \"gland\"\n")
            .expect("applies");
        let mut expected = clusters_default(4);
        (expected[2].name, expected[2].color) = ("stroma".to_owned(), [0xaa, 0xbb, 0x0c]);
        expected[0].name = "gland".to_owned();
        assert_eq!(named, expected);
    }

    #[test]
    fn two_clusters_may_exchange_their_names() {
        let named =
            applied("[clusters.1]\nname = \"cluster 2\"\n[clusters.2]\nname = \"cluster 1\"\n").expect("applies");
        assert_eq!((named[0].name.as_str(), named[1].name.as_str()), ("cluster 2", "cluster 1"));
    }

    #[test]
    fn the_template_changes_nothing() {
        let mut clusters = clusters_default(4);
        clusters[1].name = "\"odd\" \\ name = # [x]".to_owned();
        let file = tempfile::NamedTempFile::new().expect("file");
        fs::write(file.path(), template(&clusters)).expect("written");
        assert_eq!(Names::read(file.path()).expect("reads").applied_to(&clusters).expect("applies"), clusters);
    }

    #[test]
    fn mistakes_are_refused_with_line_and_remedy() {
        for (text, expected) in [
            ("", "clusters"),
            ("[clusters.5]\nname = \"x\"", "line 1: there is no cluster \"5\"; the model has 1 to 4"),
            ("\n[clusters.0]\nname = \"x\"", "line 2: there is no cluster \"0\""),
            ("[clusters.stroma]\nname = \"x\"", "line 1: there is no cluster \"stroma\""),
            ("[clusters.01]\nname = \"x\"", "line 1: there is no cluster \"01\""),
            ("[clusters.1]\nnmae = \"x\"", "line 2: unknown field `nmae`"),
            ("[clusters.1]\nname = \"x\"\n[clusters.1]\nname = \"y\"", "line 3: duplicate key"),
            ("[clusters.1]\nname = \"x\"\n[clusters.2]\nname = \"x\"", "line 4: name \"x\" is that of cluster 1, too"),
            ("[clusters.1]\nname = \"cluster 3\"", "line 2: name \"cluster 3\" is that of cluster 3, too"),
            ("[clusters.1]\nname = \" \"", "line 2: name \" \" is empty"),
            ("[clusters.1]\n\ncolor = \"red\"", "line 3: colour \"red\" is none"),
            ("[clusters.1]\ncolor = \"#12345é\"", "line 2: colour"),
            ("[clusters.1]\ncolor = \"#+12345\"", "line 2: colour"),
        ] {
            let error = applied(text).expect_err(text);
            let message = error.to_string();
            assert!(message.contains(expected) && !message.contains('\n'), "{text:?}: {message}");
            assert!(error.hint().is_some() && error.exit_code() == 64, "{text:?}");
        }
    }
}
