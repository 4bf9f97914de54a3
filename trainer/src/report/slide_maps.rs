//! The model's maps of the slides it was trained with, made as the daemon makes them.

use std::path::Path;

use image::RgbImage;
use tissuemap::infer::Model;
use tissuemap::map::LabelMap;
use tissuemap::road::{self, Layout, Progress, RoadError, Section as Placed, Stage};
use tissuemap::section_set::SectionSet;
use tissuemap::slide;
use tissuemap::units::{Mpp, UmPoint};

use crate::config::Config;
use crate::data::sampling::{ConfiguredSet, ConfiguredSets};
use crate::system::error::TrainError;
use crate::system::progress;

/// Sets that are drawn, the first of the training's: each takes about half a megabyte and as long as in the daemon.
pub const MAX_SETS: usize = 12;
/// Long side of a section's picture in pixels.
const LONG_SIDE_PX: u32 = 900;

/// One set's map on its reference section.
pub(super) struct SlideMap {
    pub(super) set: String,
    pub(super) thumbnail: RgbImage,
    pub(super) mpp: Mpp,
    pub(super) origin: UmPoint,
    pub(super) labels: LabelMap,
    pub(super) notes: Vec<String>,
}

/// A set without a map, and why.
pub(super) struct MapFailure {
    pub(super) set: String,
    pub(super) reason: String,
}

/// The maps of the sets that a model was trained with, as far as they can still be made.
pub struct SlideMaps(pub(super) Vec<Result<SlideMap, MapFailure>>);

impl SlideMaps {
    /// Makes the maps of the first [`MAX_SETS`] of `sets` through the same code as the daemon. `base` is where relative
    /// folders of the configuration start. Slides that are not there any more, or cannot be read, are no error: the
    /// report says so.
    ///
    /// # Errors
    /// [`TrainError::Interrupted`].
    pub fn make(
        config: &Config,
        base: &Path,
        model: &mut Model,
        sets: &[String],
        interrupted: &(dyn Fn() -> bool + Sync),
    ) -> Result<Self, TrainError> {
        let (found, mut reason) = match ConfiguredSets::find(config, base) {
            Ok(configured_sets) => (configured_sets.sets, None),
            Err(error) => {
                let cause = std::error::Error::source(&error).map(|cause| format!(": {cause}")).unwrap_or_default();
                (Vec::new(), Some(format!("{error}{cause}")))
            }
        };
        let bar = progress::bar(sets.len().min(MAX_SETS) as u64);
        bar.set_prefix("maps");
        let mut maps = Vec::new();
        for set in sets.iter().take(MAX_SETS) {
            if interrupted() {
                return Err(TrainError::Interrupted { checkpoint: None });
            }
            bar.set_message(set.clone());
            let map = match found.iter().find(|configured_set| configured_set.set.key.to_string() == *set) {
                Some(configured_set) => match map(config, configured_set, model, &Stop(interrupted)) {
                    Err(RoadError::Cancelled) => return Err(TrainError::Interrupted { checkpoint: None }),
                    other => other.map_err(|error| error.to_string()),
                },
                None => Err(reason
                    .get_or_insert("its slides are not in the configured folders any more".to_owned())
                    .clone()),
            };
            maps.push(map.map_err(|reason| MapFailure { set: set.clone(), reason }));
            bar.inc(1);
        }
        bar.finish_and_clear();
        Ok(Self(maps))
    }

    /// No maps, all for one reason.
    pub fn none(sets: &[String], reason: &str) -> Self {
        let failure = |set: &String| Err(MapFailure { set: set.clone(), reason: reason.to_owned() });
        Self(sets.iter().take(MAX_SETS).map(failure).collect())
    }
}

/// Passes an interruption on to the pipeline; what it does is not shown step by step.
struct Stop<'a>(&'a (dyn Fn() -> bool + Sync));

impl Progress for Stop<'_> {
    fn stage(&self, _: Stage, _: u64, _: u64) {}

    fn cancelled(&self) -> bool {
        (self.0)()
    }
}

fn map(
    config: &Config,
    configured_set: &ConfiguredSet,
    model: &mut Model,
    stop: &Stop<'_>,
) -> Result<SlideMap, RoadError> {
    let (set, params) = (&configured_set.set, configured_set.params());
    let layout = Layout::from(model.contract());
    let slides = set.slides.iter().filter(|(stain, _)| config.stains.iter().any(|s| s.name == **stain));
    let wanted = SectionSet { key: set.key.clone(), slides: slides.map(|(s, p)| (s.clone(), p.clone())).collect() };
    let prepared = road::prepare(&wanted, &layout, &params, stop)?;
    let labels = road::infer(&prepared, model, params.batch, stop)?.labels;
    let reference = prepared.sections.iter().find(|section| section.stain == layout.reference);
    let Some(slide) = reference.and_then(|section| section.slide.as_ref()) else {
        let found = wanted.slides.keys().cloned().collect::<Vec<_>>().join(", ");
        return Err(RoadError::NoReference { key: set.key.clone(), reference: layout.reference, found });
    };
    let (width, height) = slide.info().bounds_um();
    let finest = slide.info().mpp;
    let wanted = Mpp::new(width.max(height) / f64::from(LONG_SIDE_PX)).ok().filter(|&mpp| mpp > finest);
    let mpp = wanted.unwrap_or(finest);
    let note = |section: &Placed| {
        let verdict = section.verdict().filter(|verdict| !verdict.reasons.is_empty())?;
        Some(format!("Registration of {}: {}", verdict.stain, verdict.reasons.join("; ")))
    };
    Ok(SlideMap {
        set: set.key.to_string(),
        thumbnail: slide::thumbnail(slide, mpp)?,
        mpp,
        origin: slide.info().bounds_origin(),
        labels,
        notes: prepared.sections.iter().filter_map(note).collect(),
    })
}

#[cfg(test)]
mod tests {
    use image::Rgb;
    use tissuemap::contract::Precision;
    use tissuemap::map::BACKGROUND;

    use super::*;
    use crate::config::SetFolder;
    use crate::fit::FitContext;
    use crate::testing::{seeded, texture_config, texture_patches};

    #[test]
    fn maps_are_made_of_the_slides_that_are_there_and_the_others_are_named() {
        let _turn = seeded(1);
        if let Err(error) = tissuemap::slide::load_openslide() {
            eprintln!("SKIPPED: {error}");
            return;
        }
        let (config, patches) = (texture_config(1), texture_patches(1));
        let context = FitContext { device: tch::Device::Cpu, checkpoint: None, metrics: None, interrupted: &|| false };
        let fitted = crate::fit::fit(&config, &patches, &context).expect("fits");
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("model.onnx");
        match crate::export::export(&fitted, &patches, &config, Precision::Fp32, &path) {
            Err(TrainError::Model(tissuemap::infer::ModelError::Library(error))) => {
                return eprintln!("SKIPPED: {error}");
            }
            exported => exported.expect("exports"),
        };
        // Left half of the one colour, right half of the other, on glass.
        let section = RgbImage::from_fn(640, 400, |x, y| match (x, y) {
            (100..320, 80..320) => Rgb([80, 60, 160]),
            (320..540, 80..320) => Rgb([200, 80, 120]),
            _ => Rgb([250; 3]),
        });
        let slide = folder.path().join("a_S1.tif");
        tissuemap::pyramid::write_rgb(&slide, &section, Mpp::new(1.0).expect("plausible"), "test").expect("written");
        let sets = ["a".to_owned(), "gone".to_owned()];
        let config = Config {
            sets: vec![SetFolder { folder: ".".into(), manifest: None, mpp: None, held_out: false }],
            ..config
        };
        let mut model = Model::load(&path).expect("loads");
        let SlideMaps(maps) = SlideMaps::make(&config, folder.path(), &mut model, &sets, &|| false).expect("maps");
        let map = maps[0].as_ref().map_err(|failure| failure.reason.clone()).expect("there");
        assert_eq!((map.set.as_str(), map.thumbnail.dimensions(), map.labels.cols), ("a", (640, 400), 40));
        let label = |x, y| map.labels.label_at(UmPoint { x, y });
        let labels = [label(200.0, 200.0), label(440.0, 200.0), label(20.0, 20.0)];
        assert!(labels[0] != labels[1] && labels[0] != BACKGROUND && labels[1] != BACKGROUND, "{labels:?}");
        assert_eq!(labels[2], BACKGROUND);
        let reason = &maps[1].as_ref().err().expect("not there").reason;
        assert!(reason.contains("not in the configured folders any more"), "{reason}");

        let elsewhere = folder.path().join("nowhere");
        let SlideMaps(maps) = SlideMaps::make(&config, &elsewhere, &mut model, &sets, &|| false).expect("no maps");
        assert!(maps.iter().all(|map| map.as_ref().err().is_some_and(|failure| failure.reason.contains("nowhere"))));
        let stopped = SlideMaps::make(&config, folder.path(), &mut model, &sets, &|| true).err().expect("stopped");
        assert_eq!(stopped.exit_code(), 130);
    }
}
