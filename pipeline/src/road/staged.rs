//! The road in two parts, for when those who draw may not write where results belong: one draws into a folder, another
//! publishes from it.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::{Progress, RoadError, RoadParams, SetResult, StainVerdict, open_all, verdicts, walk};
use crate::durable::{self, DurableError, Staging};
use crate::infer::Model;
use crate::overlay;
use crate::section_set::SectionSet;

/// A set whose results are drawn and not published. [`Drawn::publish`] trusts nothing in it: stains are looked up in the
/// set, and folders are numbered.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Drawn {
    /// The result of stain `i` is the folder named `i`.
    pub stains: Vec<String>,
    pub tissue_cells: usize,
    /// How each registered stain was judged, in the contract's order.
    pub registration: Vec<StainVerdict>,
    /// What a person should know.
    pub warnings: Vec<String>,
}

/// The whole road for one set, up to results in `folder`, which must be empty.
///
/// # Errors
/// [`RoadError`]; `folder` may then hold a part.
pub fn draw_set(
    set: &SectionSet,
    model: &mut Model,
    params: &RoadParams,
    folder: &Path,
    progress: &dyn Progress,
) -> Result<Drawn, RoadError> {
    walk(&set.key, &open_all(set, params, progress)?, model, params, progress, |run| {
        let mut stains = Vec::new();
        overlay::draw_all(run, progress, |section, _| {
            let place = numbered(folder, stains.len());
            std::fs::create_dir(&place).map_err(|e| DurableError::new("create", &place, e))?;
            stains.push(section.stain.clone());
            Ok(place)
        })?;
        Ok(Drawn {
            stains,
            tissue_cells: run.prepared.cells.len(),
            registration: verdicts(run.prepared),
            warnings: overlay::warnings(run),
        })
    })
}

impl Drawn {
    /// Copies the results from `folder` to where they belong and publishes each in one step, as
    /// [`process_set`](super::process_set) does.
    ///
    /// # Errors
    /// A result is not what it should be, copying, publishing.
    pub fn publish(self, set: &SectionSet, folder: &Path) -> Result<SetResult, RoadError> {
        let mut staged = Vec::with_capacity(self.stains.len());
        for (number, stain) in self.stains.iter().enumerate() {
            let slide = set
                .slides
                .get(stain)
                .ok_or_else(|| RoadError::NotOfTheSet { key: set.key.clone(), stain: stain.clone() })?;
            let staging = Staging::beside(&overlay::result_folder(slide))?;
            staging.take_in(&numbered(folder, number), &overlay::FILES)?;
            staged.push(staging);
        }
        let published = durable::publish_all(staged, overlay::RECORD)?;
        Ok(SetResult::new(&set.key, published, self.tissue_cells, self.registration, self.warnings))
    }
}

fn numbered(folder: &Path, number: usize) -> PathBuf {
    folder.join(number.to_string())
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File};
    use std::io::read_to_string;
    use std::sync::atomic::{AtomicBool, Ordering};

    use rustix::fs::{Mode, OFlags, open, openat};

    use super::*;
    use crate::section_set::SetKey;

    fn drawn(stains: &[&str]) -> Drawn {
        let stains = stains.iter().map(ToString::to_string).collect();
        Drawn { stains, tissue_cells: 0, registration: vec![], warnings: vec![] }
    }

    fn set(folder: &Path) -> SectionSet {
        let slides = ["HE", "CD31"].map(|stain| (stain.to_owned(), folder.join(format!("c1_{stain}.svs"))));
        SectionSet { key: SetKey { case: "c1".into(), block: None }, slides: slides.into() }
    }

    fn draw(folder: &Path, text: &str) {
        for number in 0..2 {
            let place = numbered(folder, number);
            fs::create_dir_all(&place).expect("writable");
            let files = overlay::FILES.iter().filter(|name| **name != overlay::RESULT_JSON);
            files.for_each(|name| fs::write(place.join(name), text).expect("writable"));
            let _ = fs::remove_file(place.join(overlay::RESULT_JSON));
            let content = serde_json::json!({ "text": text });
            durable::write_record(&place, overlay::RESULT_JSON, &content).expect("writable");
        }
    }

    #[test]
    fn h06_a_reader_never_sees_part_of_a_staged_set() {
        let (staged, beside) = (tempfile::tempdir().expect("folder"), tempfile::tempdir().expect("folder"));
        let set = set(beside.path());
        let publish = |text: &str| {
            draw(staged.path(), text);
            drawn(&["HE", "CD31"]).publish(&set, staged.path()).expect("published")
        };
        let outputs = publish("0").outputs;
        assert_eq!(outputs.len(), 2);
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let reader = scope.spawn(|| {
                let mut whole = 0_u32;
                while !stop.load(Ordering::Relaxed) {
                    for output in &outputs {
                        // One open folder is one result, whatever is renamed meanwhile.
                        let folder = open(output, OFlags::DIRECTORY, Mode::empty()).expect("there");
                        let read = |name: &&str| {
                            let file = openat(&folder, *name, OFlags::RDONLY, Mode::empty()).ok()?;
                            Some(read_to_string(File::from(file)).expect("readable"))
                        };
                        let texts: Vec<Option<String>> = overlay::FILES.iter().map(read).collect();
                        // A replaced folder is being removed: files may be gone, but never torn or of two results.
                        let mut there = texts.iter().flatten();
                        let first = there.next();
                        assert!(there.all(|text| first.is_some_and(|first| text.contains(first))), "{texts:?}");
                        whole += u32::from(texts.iter().all(Option::is_some));
                    }
                }
                whole
            });
            (1..200).for_each(|i| drop(publish(&i.to_string().repeat(2000))));
            stop.store(true, Ordering::Relaxed);
            assert!(reader.join().expect("no torn result") > 0);
        });
        assert_eq!(fs::read_dir(beside.path()).expect("readable").count(), 2, "nothing is left behind");
    }

    #[test]
    fn h06_a_set_of_which_a_part_is_missing_is_not_published() {
        let (staged, beside) = (tempfile::tempdir().expect("folder"), tempfile::tempdir().expect("folder"));
        let set = set(beside.path());
        draw(staged.path(), "1");
        fs::remove_file(numbered(staged.path(), 1).join(overlay::RESULT_JSON)).expect("there");
        assert!(drawn(&["HE", "CD31"]).publish(&set, staged.path()).is_err());
        let error = drawn(&["HE", "../../etc"]).publish(&set, staged.path()).expect_err("no slide of the set");
        assert!(error.to_string().contains("../../etc"), "{error}");
        assert_eq!(fs::read_dir(beside.path()).expect("readable").count(), 0);
    }
}
