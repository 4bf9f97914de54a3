//! Labelled images as patches: what a clustering without labels is held against.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use image::RgbImage;
use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;
use rayon::prelude::*;
use regex::Regex;
use tch::{Kind, Tensor};

use tissuemap::untrusted;

use crate::data::origin::Origin;
use crate::data::patches::Patches;
use crate::system::error::TrainError;

const EXTENSIONS: [&str; 5] = ["png", "jpg", "jpeg", "tif", "tiff"];

/// How file names tell classes and parents.
#[derive(Debug, Clone)]
pub struct LabelRules {
    /// Its first group that matches in the path below the folder is the class; none: the name of the innermost folder.
    pub class: Option<Regex>,
    /// Its first group that matches says which images come from the same place; none: each image by itself.
    pub parent: Option<Regex>,
    /// Other names of classes.
    pub same: BTreeMap<String, String>,
}

/// An image that has a class.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LabelledImage {
    /// The file.
    pub path: PathBuf,
    /// Index into [`LabelledImages::classes`].
    pub class: usize,
    /// Images of the same parent are trained on together, or kept apart together.
    pub parent: String,
}

/// All labelled images below a folder.
#[derive(Debug, Clone)]
pub struct LabelledImages {
    /// By path.
    pub images: Vec<LabelledImage>,
    /// Names, sorted.
    pub classes: Vec<String>,
}

impl LabelledImages {
    /// Looks through `folder` and the folders in it. Files that are no images or have no class are left out, and counted in
    /// the log.
    ///
    /// # Errors
    /// [`TrainError`] if a folder cannot be read, or where fewer than two classes are found.
    pub fn find(folder: &Path, rules: &LabelRules) -> Result<Self, TrainError> {
        let mut paths = Vec::new();
        collect(folder, &mut paths)?;
        paths.sort();
        let (mut named, mut nameless) = (Vec::new(), 0);
        for path in paths {
            let below = path.strip_prefix(folder).unwrap_or(&path).to_string_lossy().into_owned();
            match rules.class_of(&below) {
                Some(class) => named.push((path, class, rules.parent_of(&below))),
                None => nameless += 1,
            }
        }
        if nameless > 0 {
            tracing::warn!("{}: {nameless} images have no class and are left out", folder.display());
        }
        let mut classes: Vec<String> = named.iter().map(|(_, class, _)| class.clone()).collect();
        classes.sort();
        classes.dedup();
        if classes.len() < 2 {
            let found =
                if classes.is_empty() { "no labelled images".to_owned() } else { format!("only class {}", classes[0]) };
            return Err(TrainError::Unusable {
                path: folder.to_owned(),
                reason: found,
                remedy: "keep each class in a folder of its own, or say with --class how paths name it",
            });
        }
        let index = |class: &String| classes.binary_search(class).unwrap_or_default();
        let images = named.iter().map(|(path, class, parent)| LabelledImage {
            path: path.clone(),
            class: index(class),
            parent: format!("{}/{parent}", index(class)),
        });
        Ok(Self { images: images.collect(), classes })
    }

    /// Parts the images by parent into so many folds, in which every class has the same share of its parents. For each fold:
    /// the images of the others, to fit on, and its own, to judge by.
    pub fn folds(&self, count: usize, seed: u64) -> Vec<[Vec<LabelledImage>; 2]> {
        let mut generator = ChaCha8Rng::seed_from_u64(seed);
        let mut fold_of = BTreeMap::new();
        for class in 0..self.classes.len() {
            let mut parents: Vec<&String> =
                self.images.iter().filter(|image| image.class == class).map(|image| &image.parent).collect();
            parents.dedup();
            parents.sort();
            parents.dedup();
            parents.shuffle(&mut generator);
            // Where a class stops in one round of folds, the next goes on.
            let first = fold_of.len();
            fold_of.extend(parents.into_iter().enumerate().map(|(i, parent)| (parent, (first + i) % count)));
        }
        let split = |fold| {
            let (judged, fitted) =
                self.images.iter().cloned().partition(|image| fold_of.get(&image.parent) == Some(&fold));
            [fitted, judged]
        };
        (0..count).map(split).collect()
    }
}

impl LabelRules {
    fn class_of(&self, below: &str) -> Option<String> {
        let class = match &self.class {
            Some(rule) => first_group(rule, below)?,
            None => Path::new(below).parent()?.file_name()?.to_string_lossy().into_owned(),
        };
        Some(self.same.get(&class).cloned().unwrap_or(class))
    }

    fn parent_of(&self, below: &str) -> String {
        self.parent.as_ref().and_then(|rule| first_group(rule, below)).unwrap_or_else(|| below.to_owned())
    }
}

fn first_group(rule: &Regex, text: &str) -> Option<String> {
    rule.captures(text)?.iter().skip(1).flatten().next().map(|group| group.as_str().to_owned())
}

fn collect(folder: &Path, paths: &mut Vec<PathBuf>) -> Result<(), TrainError> {
    let fail = |source| TrainError::File { path: folder.to_owned(), source };
    for entry in fs::read_dir(folder).map_err(fail)? {
        let path = entry.map_err(fail)?.path();
        if path.is_dir() {
            collect(&path, paths)?;
        } else if path.extension().is_some_and(|e| EXTENSIONS.contains(&e.to_string_lossy().to_lowercase().as_str())) {
            paths.push(path);
        }
    }
    Ok(())
}

/// The patches of labelled images and the class of each.
#[derive(Debug)]
pub struct LabelledPatches {
    /// RGB; an origin's set is the image.
    pub patches: Patches,
    /// Index into [`LabelledImages::classes`].
    pub class: Vec<i64>,
}

impl LabelledPatches {
    /// Cuts each image into as many patches of `side` pixels as lie side by side around its middle; at most `most` of them
    /// are kept, whole images drawn at random. Images that cannot be read or are smaller than a patch are left out with a
    /// warning.
    ///
    /// # Errors
    /// [`TrainError::NoData`] if nothing is left.
    pub fn cut(images: &[LabelledImage], side: u32, most: usize, seed: u64) -> Result<Self, TrainError> {
        let mut order: Vec<&LabelledImage> = images.iter().collect();
        order.shuffle(&mut ChaCha8Rng::seed_from_u64(seed));
        let (mut pixels, mut origins, mut class) = (Vec::new(), Vec::new(), Vec::new());
        let mut sets = 0..;
        // Images are read as many at a time as there is use for.
        for some in order.chunks(64) {
            if class.len() >= most {
                break;
            }
            let read =
                |image: &&LabelledImage| untrusted::image(&image.path).map(|picture| tiles(&picture.to_rgb8(), side));
            for (image, tiles) in some.iter().zip(some.par_iter().map(read).collect::<Vec<_>>()) {
                let tiles = match tiles {
                    Ok(tiles) if !tiles.is_empty() => tiles,
                    Ok(_) => {
                        tracing::warn!("{}: smaller than a patch, left out", image.path.display());
                        continue;
                    }
                    Err(error) => {
                        tracing::warn!("{}: {error}; left out", image.path.display());
                        continue;
                    }
                };
                if class.len() >= most {
                    break;
                }
                let Some(set) = sets.next() else { break };
                for (x, y, tile) in tiles {
                    origins.push(Origin { set, x, y });
                    pixels.extend(tile);
                    class.push(image.class as i64);
                }
            }
        }
        if class.is_empty() {
            return Err(TrainError::Unusable {
                path: images.first().map_or_else(PathBuf::new, |image| image.path.clone()),
                reason: format!("no patch can be cut from this or any other of {} images", images.len()),
                remedy: "the warnings above say why; --patch-px sets the side of a patch, --folds the parts of images",
            });
        }
        let size = [class.len() as i64, 3, i64::from(side), i64::from(side)];
        Ok(Self { patches: Patches::new(&Tensor::f_from_data_size(&pixels, &size, Kind::Uint8)?, origins), class })
    }
}

/// Left and top edge of each patch, and its channels.
fn tiles(image: &RgbImage, side: u32) -> Vec<(i64, i64, Vec<u8>)> {
    let (cols, rows) = (image.width() / side, image.height() / side);
    let (left, top) = ((image.width() - cols * side) / 2, (image.height() - rows * side) / 2);
    let tile = |i: u32| {
        let (x, y) = (left + i % cols * side, top + i / cols * side);
        let channel = |c: usize| (0..side * side).map(move |p| image.get_pixel(x + p % side, y + p / side).0[c]);
        (i64::from(x), i64::from(y), (0..3).flat_map(channel).collect())
    };
    (0..cols * rows).map(tile).collect()
}
