//! What was done already, from the records beside the slides: so that a restart repeats nothing.
//!
//! The records are the truth, because they travel with the slides. The journal adds what they cannot tell: which content
//! a slide had that has another time or another name since.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use tissuemap::durable::rename_new;
use tissuemap::overlay::{Input, Record, read_record, result_folder, sha256_of};
use tissuemap::placement::PlacementKind;

use crate::arrive::members::{Fingerprint, Member};
use crate::job::{Job, ModelInfo};
use crate::journal::{Contents, Past};

/// Whose results count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Maker {
    /// Those of this model only.
    This,
    /// Those of any model that used the same stains of the set as this one would: a new model is no reason to do
    /// everything again.
    Any,
}

/// True when every slide of the set has a whole result of one and the same run, from the slides as they are now and
/// with this model or a like one. Slides that the run could not register have no result, and need none.
pub fn is_done(job: &Job, model: &ModelInfo, maker: Maker) -> bool {
    let records = slides(job, model).map(|(stain, slide)| (stain, read_record(&result_folder(slide)))).collect();
    let Some(run) = whole_run(&records, model, maker) else { return false };
    slides(job, model).all(|(stain, slide)| {
        let input = run.inputs.iter().find(|input| input.stain == *stain);
        input.zip(job.inputs.get(slide)).is_some_and(|(input, now)| is_as_recorded(input, slide, now))
    })
}

/// The stains that results beside the job's slides were made with and that the job lacks; none where it may replace them.
///
/// That a slide is not there is no reason to replace a result by a poorer one (hazard h22). That a slide which the result
/// was made with has other content is one.
pub fn would_lose(job: &Job, model: &ModelInfo) -> BTreeSet<String> {
    let mine: BTreeMap<&String, &PathBuf> = slides(job, model).collect();
    let has = |input: &Input| mine.contains_key(&input.stain) || mine.values().any(|slide| is_named(input, slide));
    let lost = |slide: &PathBuf| {
        let record = read_record(&result_folder(slide))?;
        let lost: Vec<String> = record.inputs.iter().filter(|input| !has(input)).map(|i| i.stain.clone()).collect();
        (!lost.is_empty() && !has_changed(&record, job)).then_some(lost)
    };
    mine.values().filter_map(|slide| lost(slide)).flatten().collect()
}

/// Whether one of the slides that this result was made with has other content now.
fn has_changed(record: &Record, job: &Job) -> bool {
    let there = record.inputs.iter().filter_map(|input| Some((input, job.set.slides.get(&input.stain)?)));
    there.into_iter().any(|(input, slide)| {
        let as_recorded = job.inputs.get(slide).is_some_and(|now| is_as_recorded(input, slide, now));
        // One that was only touched or renamed is read as a whole, which is seldom needed.
        !as_recorded && !sha256_of(slide, &mut |_| {}).is_ok_and(|(_, sha256)| sha256 == input.sha256)
    })
}

/// True when `past` was work on slides with these contents and its results are whole: the slides of the job were only
/// touched or renamed since. Results of renamed slides are moved beside them; they keep the names that they were made
/// under. A slide that still lies where it was is a copy, which has a right to results of its own.
pub fn take_over(job: &Job, contents: &Contents, past: &Past, model: &ModelInfo, maker: Maker) -> bool {
    let mut moves: Vec<(PathBuf, PathBuf)> = Vec::new();
    let mut records = BTreeMap::new();
    for (stain, slide) in slides(job, model) {
        let Some((before, content)) = past.slides.get(stain) else { return false };
        let (old, new) = (result_folder(before), result_folder(slide));
        if contents.get(stain) != Some(content) || (before != slide && before.exists()) {
            return false;
        }
        let place = if new.exists() { &new } else { &old };
        let record = read_record(place);
        if record.is_some() && *place == old && old != new {
            moves.push((old.clone(), new.clone()));
        }
        records.insert(stain, record);
    }
    if whole_run(&records, model, maker).is_none() {
        return false;
    }
    moves.iter().all(|(old, new)| match rename_new(old, new) {
        Ok(()) => {
            tracing::info!(from = %old.display(), to = %new.display(), "Slide was renamed; its result follows");
            true
        }
        // Another disk, say: the work is then done again.
        Err(error) => {
            tracing::warn!(from = %old.display(), to = %new.display(), %error, "Cannot move the result of a renamed slide");
            false
        }
    })
}

/// The slides of stains that the model knows: others are no part of its runs.
fn slides<'a>(job: &'a Job, model: &'a ModelInfo) -> impl Iterator<Item = (&'a String, &'a PathBuf)> {
    job.set.slides.iter().filter(|(stain, _)| model.stains.iter().any(|known| known.name == **stain))
}

/// A record of the run that made all these results, if one did.
fn whole_run<'a>(
    records: &'a BTreeMap<&String, Option<Record>>,
    model: &ModelInfo,
    maker: Maker,
) -> Option<&'a Record> {
    let run = records.values().flatten().max_by_key(|record| record.times.finished)?;
    let same_run = |record: &Option<Record>| record.as_ref().is_some_and(|record| record.run_id == run.run_id);
    let all_there = records.iter().all(|(stain, record)| was_left_out(run, stain) || same_run(record));
    let counts = maker == Maker::Any || run.model.sha256 == model.sha256;
    (all_there && counts && run.inputs.len() == records.len()).then_some(run)
}

/// True when this slide, as it is now, was read by an earlier run: it need not be tested again.
pub fn was_read(slide: &Path, now: &Fingerprint) -> bool {
    read_record(&result_folder(slide))
        .is_some_and(|record| record.inputs.iter().any(|input| is_as_recorded(input, slide, now)))
}

fn was_left_out(run: &Record, stain: &str) -> bool {
    run.sections.iter().any(|section| section.stain == stain && section.placement == PlacementKind::LeftOut)
}

fn is_named(input: &Input, slide: &Path) -> bool {
    slide.file_name().is_some_and(|name| name.to_string_lossy() == input.file)
}

/// Records hold the state of the naming file only; its size and time stand for all members.
fn is_as_recorded(input: &Input, slide: &Path, now: &Fingerprint) -> bool {
    let nanoseconds = |member: &Member| member.modified.duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos();
    let naming = now.members().iter().find(|member| member.path == slide);
    naming.is_some_and(|member| {
        is_named(input, slide)
            && member.bytes == input.bytes
            && nanoseconds(member) == u128::from(input.modified_unix_ns)
    })
}

#[cfg(test)]
mod tests {
    use std::fs;

    use tempfile::TempDir;
    use tissuemap::contract::StainSpec;
    use tissuemap::infer::Provider;
    use tissuemap::section_set::{SectionSet, SetKey};

    use super::*;
    use crate::arrive::members::fingerprint;
    use crate::testing;

    /// Case c1 in HE and CD31, processed by one run with model `ab`.
    struct Fixture {
        folder: TempDir,
        model: ModelInfo,
    }

    impl Fixture {
        fn new() -> Self {
            let folder = tempfile::tempdir().expect("tempdir");
            let stain = |name: &str| StainSpec { name: name.into(), aliases: vec![] };
            let model = ModelInfo {
                path: "m.onnx".into(),
                sha256: "ab".into(),
                stains: ["HE", "CD31"].map(stain).to_vec(),
                provider: Provider::Cpu,
                revision: None,
                golden: String::new(),
            };
            let fixture = Self { folder, model };
            for stain in ["HE", "CD31"] {
                fs::write(fixture.slide(stain), stain).expect("write");
            }
            for stain in ["HE", "CD31"] {
                fixture.record(stain, "registered", "run1");
            }
            fixture
        }

        fn slide(&self, stain: &str) -> std::path::PathBuf {
            self.folder.path().join(format!("c1_{stain}.svs"))
        }

        fn slides(&self, stains: &[&str]) -> BTreeMap<String, PathBuf> {
            stains.iter().map(|stain| ((*stain).to_owned(), self.slide(stain))).collect()
        }

        fn record(&self, stain: &str, placement: &str, run: &str) {
            let record = testing::record(&self.slides(&["HE", "CD31"]), stain, placement, run, "ab");
            let folder = result_folder(&self.slide(stain));
            fs::create_dir_all(&folder).expect("create");
            fs::write(folder.join("result.json"), record.to_string()).expect("write");
        }

        fn is_done(&self, stains: &[&str]) -> bool {
            self.is_done_by(stains, Maker::This)
        }

        fn is_done_by(&self, stains: &[&str], maker: Maker) -> bool {
            let set = SectionSet { key: SetKey { case: "c1".into(), block: None }, slides: self.slides(stains) };
            let now = |slide: &std::path::PathBuf| (slide.clone(), fingerprint(slide).expect("readable"));
            let inputs = set.slides.values().map(now).collect();
            is_done(&Job { set, inputs, mpp: None }, &self.model, maker)
        }
    }

    #[test]
    fn h05_whole_results_of_the_same_slides_and_model_are_not_repeated() {
        let fixture = Fixture::new();
        assert!(fixture.is_done(&["HE", "CD31"]));
        let slide = fixture.slide("HE");
        assert!(was_read(&slide, &fingerprint(&slide).expect("readable")));
    }

    #[test]
    fn a_stain_that_the_model_does_not_know_changes_nothing() {
        let fixture = Fixture::new();
        fs::write(fixture.slide("KI67"), "KI67").expect("write");
        assert!(fixture.is_done(&["HE", "CD31", "KI67"]));
    }

    #[test]
    fn another_model_a_rewritten_slide_or_a_missing_result_is_not_done() {
        let mut fixture = Fixture::new();
        fixture.model.sha256 = "cd".into();
        assert!(!fixture.is_done(&["HE", "CD31"]), "another model");
        assert!(fixture.is_done_by(&["HE", "CD31"], Maker::Any), "its results need not be of this model");
        fixture.model.stains.pop();
        assert!(!fixture.is_done_by(&["HE", "CD31"], Maker::Any), "this model would use other stains");

        let fixture = Fixture::new();
        fs::write(fixture.slide("CD31"), "scanned anew").expect("write");
        assert!(!fixture.is_done(&["HE", "CD31"]), "rewritten");

        let fixture = Fixture::new();
        fs::remove_dir_all(result_folder(&fixture.slide("CD31"))).expect("remove");
        assert!(!fixture.is_done(&["HE", "CD31"]), "result missing");

        let fixture = Fixture::new();
        assert!(!fixture.is_done(&["HE"]), "a stain is gone");
    }

    #[test]
    fn h06_results_of_two_runs_are_not_done() {
        let fixture = Fixture::new();
        fixture.record("HE", "registered", "run2");
        assert!(!fixture.is_done(&["HE", "CD31"]));
    }

    #[test]
    fn a_section_that_could_not_be_registered_needs_no_result() {
        let fixture = Fixture::new();
        fixture.record("HE", "left-out", "run2");
        fs::remove_dir_all(result_folder(&fixture.slide("CD31"))).expect("remove");
        assert!(fixture.is_done(&["HE", "CD31"]));
    }
}
