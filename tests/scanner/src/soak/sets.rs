//! The life of a set: it is brought, gets its results, is disturbed as people and archives do, is looked at once more and
//! put away.

mod entries;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context;
use rand::seq::IndexedRandom;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use tissuemap::overlay::{CLUSTERS_GEOJSON, FileState, Input, Record, read_record, result_folder, verify};

use super::book::Book;
use super::models::Models;
use super::site::{SETTLE, Site, WAIT_FOR_STAINS};
use super::tissue::{STAINS, section};
use crate::script::{STYLES, Stalls, script};
use crate::template::sha256;

/// How long a set may take to get its results, whatever is done to the daemon meanwhile.
const PATIENCE: Duration = Duration::from_mins(4);

/// What happens to a set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Story {
    /// Brought and done.
    Plain,
    /// The second stain comes when the first has a result of its own.
    Late,
    /// A person leaves notes, and the slide's time changes.
    Noted,
    /// A person's folder has the name of the result before the slide comes.
    Foreign,
    /// One slide goes to an archive and comes back.
    Archived,
    /// One slide is damaged at first.
    Damaged,
    /// A person corrects an annotation and leaves notes, and a slide is scanned again.
    Rescanned,
    /// Both slides get other names.
    Renamed,
}

/// Each as often as it stands here.
const STORIES: [Story; 14] = [
    Story::Plain,
    Story::Plain,
    Story::Plain,
    Story::Plain,
    Story::Plain,
    Story::Plain,
    Story::Late,
    Story::Noted,
    Story::Foreign,
    Story::Archived,
    Story::Archived,
    Story::Damaged,
    Story::Rescanned,
    Story::Renamed,
];

/// Everything that a set's life needs.
pub(super) struct World<'a> {
    pub(super) site: &'a Site,
    pub(super) book: &'a Book,
    pub(super) models: &'a Models,
    pub(super) seed: u64,
    /// The soak is broken off.
    pub(super) over: &'a AtomicBool,
}

/// One set in the watched folder.
struct Set<'a> {
    world: &'a World<'a>,
    name: String,
    rng: ChaCha8Rng,
    /// The block of tissue that each slide shows.
    block: u64,
    /// SHA-256 of each slide as it is now.
    contents: [String; STAINS.len()],
    /// What people left, and where it must still be.
    notes: Vec<(PathBuf, Vec<u8>)>,
    /// Files of ours that people have changed: they may be kept anywhere beside the slides of the set.
    changed: Vec<Vec<u8>>,
    /// How often the set may be processed, under this name or an earlier one.
    runs: u64,
    earlier_names: Vec<String>,
}

/// What the daemon did wrong; ends the life of the set.
type Wrong = String;

/// Outer: the soak itself cannot go on.
type Outcome<T = ()> = anyhow::Result<Result<T, Wrong>>;

/// Goes on to the next step only if the daemon did nothing wrong in this one.
macro_rules! right {
    ($step:expr) => {
        match $step? {
            Ok(value) => value,
            Err(wrong) => return Ok(Err(wrong)),
        }
    };
}

impl World<'_> {
    /// The whole life of set number so-and-so.
    ///
    /// # Errors
    /// The soak itself cannot go on. What the daemon does wrong is noted in the book.
    pub(super) fn live(&self, number: u64) -> anyhow::Result<()> {
        let mut rng = ChaCha8Rng::seed_from_u64(self.seed.wrapping_mul(1_000_003).wrapping_add(number));
        let story = STORIES.choose(&mut rng).copied().unwrap_or(Story::Plain);
        let mut set = Set {
            world: self,
            name: format!("set{number:05}"),
            block: rng.random(),
            rng,
            contents: Default::default(),
            notes: Vec::new(),
            changed: Vec::new(),
            runs: 1,
            earlier_names: Vec::new(),
        };
        let outcome = set.tell(story).with_context(|| format!("{} ({story:?})", set.name))?;
        if let Err(wrong) = outcome.and_then(|()| set.look_once_more()) {
            self.book.wrong(format!("{} ({story:?}): {wrong}", set.name));
        }
        set.put_away();
        self.book.lived(&format!("{story:?}").to_lowercase());
        Ok(())
    }
}

impl Set<'_> {
    fn tell(&mut self, story: Story) -> Outcome {
        match story {
            Story::Late => return self.late(),
            Story::Damaged => return self.damaged(),
            Story::Foreign => {
                let _stay = self.world.site.stay();
                let folder = result_folder(&self.slide(0));
                fs::create_dir(&folder)?;
                self.leave_note(&folder, "protocol.txt")?;
            }
            _ => {}
        }
        self.bring(0, self.block)?;
        self.bring(1, self.block)?;
        let records = right!(self.await_result(2, None));
        match story {
            Story::Noted => self.noted(&records),
            Story::Archived => self.archived(&records),
            Story::Rescanned => self.rescanned(&records),
            Story::Renamed => self.renamed(&records),
            _ => Ok(Ok(())),
        }
    }

    fn late(&mut self) -> Outcome {
        self.runs = 2;
        self.bring(0, self.block)?;
        right!(self.await_result(1, None));
        {
            let _stay = self.world.site.stay();
            self.leave_note(&result_folder(&self.slide(0)), "notes.txt")?;
        }
        self.bring(1, self.block)?;
        self.await_result(2, None).map(|outcome| outcome.map(drop))
    }

    fn damaged(&mut self) -> Outcome {
        // Perhaps the first stain alone, perhaps with what the damage left of the second, and the whole set.
        self.runs = 3;
        self.bring(0, self.block)?;
        let whole = section(self.block, 1)?;
        let mut damaged = whole[..whole.len() / 2].to_vec();
        for _ in 0..self.rng.random_range(0..4) {
            let at = self.rng.random_range(0..damaged.len().min(400));
            damaged[at] = self.rng.random();
        }
        self.write(1, &damaged)?;
        self.rest(SETTLE + 3);
        self.write(1, &whole)?;
        self.await_result(2, None).map(|outcome| outcome.map(drop))
    }

    fn noted(&mut self, before: &[Record]) -> Outcome {
        for stain in 0..STAINS.len() {
            let _stay = self.world.site.stay();
            let folder = result_folder(&self.slide(stain));
            self.leave_note(&folder, "notes.txt")?;
            fs::create_dir(folder.join("qupath"))?;
            self.leave_note(&folder.join("qupath"), "project.qpproj")?;
        }
        {
            let _stay = self.world.site.stay();
            let slide = fs::File::options().append(true).open(self.slide(1))?;
            slide.set_modified(std::time::SystemTime::now())?;
        }
        self.rest(SETTLE + 4);
        self.is_unchanged(before)
    }

    fn archived(&mut self, before: &[Record]) -> Outcome {
        let gone: Vec<usize> = if self.rng.random() { vec![0, 1] } else { vec![self.rng.random_range(0..2)] };
        let place = |set: &Self, stain: usize| set.world.site.path("slides").join(file_name(&set.slide(stain)));
        for &stain in &gone {
            let _stay = self.world.site.stay();
            fs::rename(self.slide(stain), place(self, stain))?;
        }
        // Long enough for the rest of the set to be taken for all there is.
        let long: bool = self.rng.random();
        self.rest(if long { WAIT_FOR_STAINS + 4 } else { 3 });
        right!(self.is_unchanged(before));
        for &stain in &gone {
            let _stay = self.world.site.stay();
            fs::rename(place(self, stain), self.slide(stain))?;
        }
        self.rest(SETTLE + 3);
        self.is_unchanged(before)
    }

    fn rescanned(&mut self, before: &[Record]) -> Outcome {
        {
            let _stay = self.world.site.stay();
            let folder = result_folder(&self.slide(0));
            self.leave_note(&folder, "notes.txt")?;
            let annotations = folder.join(CLUSTERS_GEOJSON);
            let mut corrected = fs::read(&annotations)?;
            corrected.extend(format!("\n\n {}", self.name).into_bytes());
            fs::write(&annotations, &corrected)?;
            self.changed.push(corrected);
        }
        // Perhaps one run sees the new slide of one stain and the old one of the other.
        self.runs = 3;
        self.block ^= 1;
        for stain in 0..STAINS.len() {
            let content = section(self.block, stain)?;
            self.write(stain, &content)?;
        }
        self.await_result(2, Some(&before[0].run_id)).map(|outcome| outcome.map(drop))
    }

    fn renamed(&mut self, before: &[Record]) -> Outcome {
        {
            let _stay = self.world.site.stay();
            self.leave_note(&result_folder(&self.slide(0)), "notes.txt")?;
        }
        let old = self.name.clone();
        let stay = self.world.site.stay();
        let slides: Vec<PathBuf> = (0..STAINS.len()).map(|stain| self.slide(stain)).collect();
        self.name.push('n');
        for (stain, slide) in slides.iter().enumerate() {
            fs::rename(slide, self.slide(stain))?;
        }
        drop(stay);
        let folder = result_folder(&self.slide(0));
        for (path, _) in &mut self.notes {
            *path = folder.join(file_name(path));
        }
        self.earlier_names.push(old);
        let after = right!(self.await_result(2, None));
        if after[0].run_id != before[0].run_id {
            // Allowed where the results could not follow at that moment; but the work is then not lost either.
            self.runs = 2;
        }
        Ok(Ok(()))
    }

    fn slide(&self, stain: usize) -> PathBuf {
        self.world.site.incoming().join(format!("{}_{}.tif", self.name, STAINS[stain].0))
    }

    /// Brings a slide in the way of some copying program.
    fn bring(&mut self, stain: usize, block: u64) -> anyhow::Result<()> {
        let content = section(block, stain)?;
        self.contents[stain] = sha256(&content);
        let style = STYLES.choose(&mut self.rng).copied().unwrap_or(STYLES[0]);
        let settle = Duration::from_secs(SETTLE);
        let stalls = Stalls { most: 2, length: settle.mul_f64(0.1)..settle.mul_f64(0.4) };
        let slide = self.slide(stain);
        let steps = script(&[(slide.clone(), &content)], style, &stalls, &mut self.rng);
        let _stay = self.world.site.stay();
        for step in steps {
            step.run(&[&content]).with_context(|| format!("{}: {step:?}", slide.display()))?;
        }
        Ok(())
    }

    /// Puts a slide in its place in one step.
    fn write(&mut self, stain: usize, content: &[u8]) -> anyhow::Result<()> {
        self.contents[stain] = sha256(content);
        let _stay = self.world.site.stay();
        let (slide, unfinished) = (self.slide(stain), self.slide(stain).with_extension("part"));
        fs::write(&unfinished, content).and_then(|()| fs::rename(&unfinished, &slide))?;
        Ok(())
    }

    fn leave_note(&mut self, folder: &Path, name: &str) -> anyhow::Result<()> {
        let path = folder.join(name);
        let note = format!("{}: {}\n", self.name, self.rng.random::<u64>()).into_bytes();
        fs::write(&path, &note).with_context(|| path.display().to_string())?;
        self.notes.push((path, note));
        Ok(())
    }

    /// So many seconds in which the watched folder is there.
    fn rest(&self, seconds: u64) {
        for _ in 0..10 * seconds {
            drop(self.world.site.stay());
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// The records of one run that saw so many slides as they are now; not of the run `but`.
    fn await_result(&self, slides: usize, but: Option<&str>) -> Outcome<Vec<Record>> {
        let begun = Instant::now();
        loop {
            let records: Vec<Option<Record>> = {
                let _stay = self.world.site.stay();
                (0..slides).map(|stain| read_record(&result_folder(&self.slide(stain)))).collect()
            };
            let found: Vec<Record> = records.into_iter().flatten().collect();
            let of_now = |record: &Record| {
                let is_now = |input: &Input| {
                    STAINS
                        .iter()
                        .zip(&self.contents)
                        .any(|((stain, _), now)| *stain == input.stain && *now == input.sha256)
                };
                record.inputs.len() == slides && record.inputs.iter().all(is_now)
            };
            let same = |record: &Record| {
                record.run_id == found[0].run_id && but != Some(record.run_id.as_str()) && of_now(record)
            };
            if found.len() == slides && found.iter().all(same) {
                return Ok(Ok(found));
            }
            if self.world.over.load(Ordering::Relaxed) {
                return Ok(Err("the soak was broken off".into()));
            }
            if begun.elapsed() > PATIENCE {
                let told =
                    found.iter().map(|record| format!("{} of {} slides", record.slide.stain, record.inputs.len()));
                let told = told.collect::<Vec<_>>().join(", ");
                return Ok(Err(format!(
                    "LOST: no result of {slides} slides after {} s; there is [{told}]",
                    PATIENCE.as_secs()
                )));
            }
            std::thread::sleep(Duration::from_millis(200));
        }
    }

    /// The results are still those of this run.
    #[allow(clippy::unnecessary_wraps, reason = "as every step of a set's life")]
    fn is_unchanged(&self, before: &[Record]) -> Outcome {
        let _stay = self.world.site.stay();
        for (stain, before) in before.iter().enumerate() {
            let now = read_record(&result_folder(&self.slide(stain)));
            let (run, slides) = now.map_or(("none".into(), 0), |now| (now.run_id, now.inputs.len()));
            if run != before.run_id {
                let (old, stain) = (&before.run_id, STAINS[stain].0);
                return Ok(Err(format!("the result of {stain} was of run {old}, is of {run} with {slides} slides")));
            }
        }
        Ok(Ok(()))
    }

    /// At the end of its life: one whole result, by a model that may serve; what people left; and nothing done twice.
    fn look_once_more(&self) -> Result<(), Wrong> {
        let _stay = self.world.site.stay();
        for stain in 0..STAINS.len() {
            let folder = result_folder(&self.slide(stain));
            // A result tells the names under which its slides were read.
            let slides = self.earlier_names.is_empty();
            let found = verify(&folder, slides, &mut |_| {}).map_err(|error| error.to_string())?;
            let other = found.outputs.iter().chain(&found.slides).filter(|checked| checked.state != FileState::Same);
            let other: Vec<String> =
                other.map(|checked| format!("{} {:?}", checked.path.display(), checked.state)).collect();
            if !other.is_empty() {
                return Err(format!("not as recorded: {}", other.join(", ")));
            }
            if !self.world.models.is_good(&found.record.model.sha256) {
                return Err(format!("made by a model that may not serve: {}", found.record.model.sha256));
            }
        }
        self.notes_are_there()?;
        let names = self.earlier_names.iter().chain([&self.name]);
        let done: u64 = names.map(|name| self.world.book.times_done(name)).sum();
        if done > self.runs {
            return Err(format!("DONE {done} times, {} had a reason", self.runs));
        }
        Ok(())
    }

    fn notes_are_there(&self) -> Result<(), Wrong> {
        for (path, note) in &self.notes {
            if fs::read(path).ok().as_ref() != Some(note) {
                return Err(format!("A PERSON'S FILE IS GONE OR CHANGED: {}", path.display()));
            }
        }
        let kept: Vec<Vec<u8>> = self.own_files().iter().filter_map(|path| fs::read(path).ok()).collect();
        if self.changed.iter().any(|changed| !kept.contains(changed)) {
            return Err("A FILE THAT A PERSON CHANGED IS GONE".into());
        }
        Ok(())
    }

    /// Takes everything of the set away: slides and results, in this or the other order.
    fn put_away(&mut self) {
        let _stay = self.world.site.stay();
        let mut entries = self.own_entries();
        entries.sort_by_key(|path| path.is_dir());
        if self.rng.random() {
            entries.reverse();
        }
        for path in entries {
            let removed = if path.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
            // The daemon may be publishing into it at this very moment.
            if let Err(error) = removed
                && error.kind() != std::io::ErrorKind::NotFound
            {
                self.world.book.note(format!("{}: not removed: {error}", path.display()));
            }
        }
    }
}

fn file_name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}
