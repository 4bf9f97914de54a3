//! Which slides come, in which order and style: everything from one seed.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use rand::seq::{IndexedRandom, SliceRandom};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use tissuemap_daemon::arrive::names::Marker;

use crate::script::{STYLES, Stalls, Step, Style, script};
use crate::template::{Kind, Template};

/// What is wanted.
#[derive(Debug, Clone)]
pub struct Wish {
    pub seed: u64,
    /// At least so many slides; the last set is filled up.
    pub slides: usize,
    pub stains: Vec<String>,
    /// Bytes of a slide that is made up.
    pub bytes: usize,
    pub stalls: Stalls,
    /// All at once and without stalls.
    pub burst: bool,
    /// Leave the marker that this pattern names, a while after the slide.
    pub marker: Option<(Marker, Duration)>,
    /// Begin the name of every case with this.
    pub prefix: String,
}

/// One slide that is to come.
#[derive(Debug, Clone)]
pub struct Copy {
    pub slide: PathBuf,
    pub set: String,
    pub stain: String,
    pub style: Style,
    pub template: Template,
    /// Where each of the template's files goes.
    pub paths: Vec<PathBuf>,
    pub steps: Vec<Step>,
    pub marker: Option<(PathBuf, Duration)>,
}

/// Plans the copies into `folder`, in the order in which they begin. Without `templates`, slides of all kinds are made
/// up. Stains of a set come in any order, the sets mixed with their neighbours; some lie in a subfolder.
///
/// # Errors
/// There are no stains or no templates.
pub fn plan(folder: &Path, wish: &Wish, templates: Option<&[Template]>) -> anyhow::Result<Vec<Copy>> {
    let mut rng = ChaCha8Rng::seed_from_u64(wish.seed);
    anyhow::ensure!(!wish.stains.is_empty(), "at least one stain is needed");
    let sets = wish.slides.div_ceil(wish.stains.len());
    // Sorted by a number that grows with the set and jumps by some sets: stains of one set are apart, but not by hours.
    let mut order: BTreeSet<(u64, usize, usize)> = BTreeSet::new();
    for set in 0..sets {
        for stain in 0..wish.stains.len() {
            order.insert((set as u64 * 100 + rng.random_range(0..400), set, stain));
        }
    }
    let places: Vec<PathBuf> = (0..sets)
        .map(|set| match rng.random_range(0..4) {
            0 => folder.join(format!("day{}", set / 50)),
            _ => folder.to_path_buf(),
        })
        .collect();
    let mut styles = Vec::new();
    order
        .into_iter()
        .map(|(_, set, stain)| {
            let case = format!("{}{set:05}", wish.prefix);
            let stem = format!("{case}_{}", wish.stains[stain]);
            let template = if let Some(templates) = templates {
                templates.choose(&mut rng).context("no templates")?.made_unique(&mut rng)
            } else {
                // Most slides are one file.
                let kind = [Kind::Plain, Kind::Plain, Kind::Mirax, Kind::Dicom][rng.random_range(0..4)];
                Template::arbitrary(if wish.burst { Kind::Plain } else { kind }, wish.bytes, &mut rng)
            };
            if styles.is_empty() {
                styles = STYLES.to_vec();
                styles.shuffle(&mut rng);
            }
            let style = if wish.burst { Style::Burst } else { styles.pop().unwrap_or(Style::Append) };
            let files = template.placed(&places[set], &stem);
            let steps = script(&files, style, &wish.stalls, &mut rng);
            let paths = files.into_iter().map(|(path, _)| path).collect();
            let slide = template.naming_file(&places[set], &stem);
            let marker = wish.marker.as_ref().map(|(marker, after)| (marker.of(&slide, folder), *after));
            Ok(Copy { slide, set: case, stain: wish.stains[stain].clone(), style, paths, steps, marker, template })
        })
        .collect()
}
