//! One copy as a list of steps: what a copying program does to the file system, and where it stalls.

use std::fs::{self, File, FileTimes, OpenOptions};
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use rand::seq::SliceRandom;
use rand::{Rng, RngExt};

/// How a copying program works.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Style {
    /// The file grows from its beginning: `cp`, the scanner itself.
    Append,
    /// The whole length at once, then filled from its end: preallocating programs.
    Backwards,
    /// Under a temporary name, then renamed: browsers, SFTP clients.
    Temporary,
    /// Under a hidden name, times set, then renamed: rsync.
    Hidden,
    /// Pieces in any order, with holes: parallel downloads.
    Sparse,
    /// Grows, and at its end gets the original's modification time: `cp -p`, robocopy.
    Preserved,
    /// Preallocated, and the original's modification time set again after every piece: some SMB servers. Neither size
    /// nor modification time tells of a write.
    Sticky,
    /// Grows under a name that tells no stain, then gets its proper one: an operator who names slides.
    Renamed,
    /// In one go, without a pause.
    Burst,
}

impl Style {
    /// Whether a slide of one file has a name that is passed over until it is complete.
    pub fn hides(self) -> bool {
        matches!(self, Self::Temporary | Self::Hidden)
    }
}

/// The styles that stall.
pub const STYLES: [Style; 8] = [
    Style::Append,
    Style::Backwards,
    Style::Temporary,
    Style::Hidden,
    Style::Sparse,
    Style::Preserved,
    Style::Sticky,
    Style::Renamed,
];

/// One step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    CreateFolder(PathBuf),
    /// Creates the file, with this length.
    Create(PathBuf, u64),
    /// Writes this part of content number so-and-so at its place.
    Write(PathBuf, usize, Range<usize>),
    SetModified(PathBuf, SystemTime),
    Rename(PathBuf, PathBuf),
    Pause(Duration),
}

impl Step {
    /// The file or folder that it changes, by the name that it has afterwards.
    pub fn path(&self) -> Option<&Path> {
        match self {
            Self::CreateFolder(path) | Self::Create(path, _) | Self::Write(path, ..) | Self::SetModified(path, _) => {
                Some(path)
            }
            Self::Rename(_, path) => Some(path),
            Self::Pause(_) => None,
        }
    }

    /// Does it; `contents` are those of the files of the slide.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn run(&self, contents: &[&[u8]]) -> io::Result<()> {
        match self {
            Self::CreateFolder(path) => fs::create_dir_all(path),
            Self::Create(path, length) => File::create(path)?.set_len(*length),
            Self::Write(path, content, part) => {
                let file = OpenOptions::new().write(true).open(path)?;
                file.write_all_at(&contents[*content][part.clone()], part.start as u64)
            }
            Self::SetModified(path, time) => {
                OpenOptions::new().write(true).open(path)?.set_times(FileTimes::new().set_modified(*time))
            }
            Self::Rename(from, to) => fs::rename(from, to),
            Self::Pause(time) => {
                std::thread::sleep(*time);
                Ok(())
            }
        }
    }
}

/// How long copies stall.
#[derive(Debug, Clone)]
pub struct Stalls {
    /// Most stalls of one copy.
    pub most: usize,
    /// Shortest and longest.
    pub length: Range<Duration>,
}

impl Stalls {
    fn draw(&self, rng: &mut impl Rng) -> Duration {
        let nanoseconds = self.length.start.as_nanos() as u64..self.length.end.as_nanos() as u64;
        if nanoseconds.is_empty() { self.length.start } else { Duration::from_nanos(rng.random_range(nanoseconds)) }
    }
}

/// Files are written in so many pieces.
const PIECES: usize = 6;

/// The steps that bring the files of one slide, in this style. Between the files and within them it stalls.
pub fn script(files: &[(PathBuf, &[u8])], style: Style, stalls: &Stalls, rng: &mut impl Rng) -> Vec<Step> {
    let mut steps: Vec<Step> = Vec::new();
    for (number, (path, content)) in files.iter().enumerate() {
        let folder = path.parent().unwrap_or(Path::new("."));
        steps.push(Step::CreateFolder(folder.to_path_buf()));
        one_file(&mut steps, path, number, content.len(), style, rng);
    }
    stall(&mut steps, style, stalls, rng);
    if files.len() == 1 && style.hides() {
        // As long as it likes: a name that is passed over is no slide, however still it lies.
        let long = Step::Pause(stalls.length.end * 2);
        steps.insert(steps.len() - 1, long);
    }
    steps
}

fn one_file(steps: &mut Vec<Step>, path: &Path, content: usize, length: usize, style: Style, rng: &mut impl Rng) {
    let place = |name: String| path.with_file_name(name);
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let written = match style {
        Style::Temporary => {
            place(name.clone() + [".part", ".tmp", ".filepart", ".crdownload", "~"][rng.random_range(0..5)])
        }
        Style::Hidden => match rng.random_range(0..1 << 24) {
            random if random % 2 == 0 => place(format!(".{name}.{random:06x}")),
            random => place(format!(".{random:06x}.{name}")),
        },
        Style::Renamed => place(format!("Scan{:08}{}", rng.random_range(0..99_999_999), ending(path))),
        _ => path.to_path_buf(),
    };
    // A week before; never twice the same, as with real slides.
    let original = SystemTime::now() - Duration::from_secs(600_000 + rng.random_range(0..100_000));
    let mut pieces = pieces(length);
    match style {
        Style::Backwards => pieces.reverse(),
        Style::Sparse => pieces.shuffle(rng),
        Style::Burst => pieces = pieces.first().zip(pieces.last()).map(|(a, b)| a.start..b.end).into_iter().collect(),
        _ => {}
    }
    let preallocates = matches!(style, Style::Backwards | Style::Sticky);
    steps.push(Step::Create(written.clone(), if preallocates { length as u64 } else { 0 }));
    for piece in pieces {
        steps.push(Step::Write(written.clone(), content, piece));
        if style == Style::Sticky {
            steps.push(Step::SetModified(written.clone(), original));
        }
    }
    if matches!(style, Style::Preserved | Style::Hidden) {
        steps.push(Step::SetModified(written.clone(), original));
    }
    if written != path {
        steps.push(Step::Rename(written, path.to_path_buf()));
    }
}

fn ending(path: &Path) -> String {
    path.extension().map(|ending| format!(".{}", ending.to_string_lossy())).unwrap_or_default()
}

fn pieces(length: usize) -> Vec<Range<usize>> {
    let size = length.div_ceil(PIECES).max(1);
    (0..length).step_by(size).map(|start| start..(start + size).min(length)).collect()
}

/// Puts pauses between the steps; one before the last, where waiting for the end is hardest.
fn stall(steps: &mut Vec<Step>, style: Style, stalls: &Stalls, rng: &mut impl Rng) {
    if style == Style::Burst || stalls.most == 0 || steps.len() < 2 {
        return;
    }
    let last = steps.len() - 1;
    let mut places: Vec<usize> = (1..last).collect();
    places.shuffle(rng);
    places.truncate(rng.random_range(0..stalls.most));
    places.push(last);
    places.sort_unstable();
    for place in places.into_iter().rev() {
        // The time goes back with the write that it hides.
        let place =
            if matches!(steps[place], Step::SetModified(..)) && style == Style::Sticky { place - 1 } else { place };
        steps.insert(place, Step::Pause(stalls.draw(rng)));
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;
    use rand_chacha::ChaCha8Rng;

    use super::*;
    use crate::template::{Kind, Template};

    const STALLS: Stalls = Stalls { most: 3, length: Duration::from_millis(1)..Duration::from_millis(2) };

    #[test]
    fn every_style_ends_with_the_whole_slide_and_nothing_else() {
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        for style in STYLES.into_iter().chain([Style::Burst]) {
            for kind in [Kind::Plain, Kind::Mirax, Kind::Dicom] {
                let folder = tempfile::tempdir().expect("tempdir");
                let template = Template::arbitrary(kind, 10_000, &mut rng);
                let files = template.placed(folder.path(), "c1_HE");
                let contents: Vec<&[u8]> = files.iter().map(|(_, content)| *content).collect();
                for step in script(&files, style, &STALLS, &mut rng) {
                    step.run(&contents).expect("written");
                }
                for (path, content) in &files {
                    assert_eq!(fs::read(path).expect("there"), *content, "{style:?} {}", path.display());
                }
                let there = files.iter().map(|(path, _)| path.parent().expect("a folder"));
                let count: usize = there
                    .collect::<std::collections::BTreeSet<_>>()
                    .into_iter()
                    .map(|folder| {
                        fs::read_dir(folder)
                            .expect("readable")
                            .filter(|e| e.as_ref().expect("readable").path().is_file())
                            .count()
                    })
                    .sum();
                assert_eq!(count, files.len(), "{style:?} {kind:?} leaves nothing behind");
            }
        }
    }

    #[test]
    fn every_style_that_stalls_stalls_before_its_last_write_and_the_seed_decides() {
        let template = Template::arbitrary(Kind::Plain, 10_000, &mut ChaCha8Rng::seed_from_u64(2));
        let files = template.placed(Path::new("/in"), "c1_HE");
        let untimed = |seed| {
            let steps = |style| script(&files, style, &STALLS, &mut ChaCha8Rng::seed_from_u64(seed));
            let plain = |step: &Step| match step {
                Step::SetModified(path, _) => Step::SetModified(path.clone(), SystemTime::UNIX_EPOCH),
                other => other.clone(),
            };
            STYLES.map(|style| steps(style).iter().map(plain).collect::<Vec<_>>())
        };
        assert_eq!(untimed(3), untimed(3));
        assert_ne!(untimed(3), untimed(4));
        for steps in untimed(3) {
            let pause = steps.iter().rposition(|step| matches!(step, Step::Pause(_))).expect("a stall");
            assert!(pause + 4 >= steps.len() && pause + 1 < steps.len(), "{steps:?}");
        }
    }
}
