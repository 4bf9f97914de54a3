//! What the daemon holds, looked at again and again.

use std::fs;
use std::path::Path;

use anyhow::Context;
use serde::Serialize;

use super::book::Book;
use super::daemon::{Daemon, processes};
use super::site::Site;
use super::trend::growth;

/// One look.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Sample {
    /// Since the beginning of the soak.
    pub(super) seconds: f64,
    /// The daemon's process.
    pub(super) process: u32,
    pub(super) resident_kib: u64,
    pub(super) descriptors: u64,
    pub(super) threads: u64,
    pub(super) workers: usize,
    pub(super) workers_resident_kib: u64,
    pub(super) state_files: u64,
    /// Without journal and audit log, which hold a line for every job.
    pub(super) state_kib: u64,
    pub(super) sets: u64,
}

impl Sample {
    /// None where the daemon does not run at the moment.
    pub(super) fn take(site: &Site, daemon: &Daemon, book: &Book) -> Option<Self> {
        let process = daemon.id()?;
        let (resident_kib, threads) = (status(process, "VmRSS:")?, status(process, "Threads:")?);
        let descriptors = fs::read_dir(format!("/proc/{process}/fd")).ok()?.count() as u64;
        let workers: Vec<u32> = processes(site).into_iter().filter(|id| *id != process).collect();
        let workers_resident_kib = workers.iter().filter_map(|id| status(*id, "VmRSS:")).sum();
        let (mut state_files, mut bytes) = (0, 0);
        count(&site.state(), &mut state_files, &mut bytes);
        Some(Self {
            seconds: book.seconds(),
            process,
            resident_kib,
            descriptors,
            threads,
            workers: workers.len(),
            workers_resident_kib,
            state_files,
            state_kib: bytes >> 10,
            sets: book.sets.load(std::sync::atomic::Ordering::Relaxed),
        })
    }
}

/// A number from the kernel's text about a process.
fn status(process: u32, field: &str) -> Option<u64> {
    let text = fs::read_to_string(format!("/proc/{process}/status")).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix(field))?;
    line.split_whitespace().next()?.parse().ok()
}

fn count(folder: &Path, files: &mut u64, bytes: &mut u64) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let Ok(metadata) = entry.metadata() else { continue };
        if metadata.is_dir() {
            count(&entry.path(), files, bytes);
            continue;
        }
        *files += 1;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if !name.starts_with("journal.") && !name.starts_with("audit.") {
            *bytes += metadata.len();
        }
    }
}

/// A figure that must not grow: its name, what it is of a sample, and by how much it may seem to grow over the second half.
type Limit = (&'static str, fn(&Sample) -> f64, f64);

/// Memory: what allocators keep moves by some mebibytes; descriptors, threads and files are counted exactly, but for a look
/// in the midst of a job. Two models are kept beside those that serve.
const LIMITS: [Limit; 5] = [
    ("resident KiB", |sample| sample.resident_kib as f64, 8192.0),
    ("descriptors", |sample| sample.descriptors as f64, 4.0),
    ("threads", |sample| sample.threads as f64, 4.0),
    ("files in the state folder", |sample| sample.state_files as f64, 6.0),
    ("KiB in the state folder", |sample| sample.state_kib as f64, 1024.0),
];

/// How much each figure grew over the samples of one process, and whether that is too much.
pub(super) fn judge(samples: &[Sample], book: &Book) -> Vec<String> {
    let Some(last) = samples.last() else { return vec!["no samples".into()] };
    let half: Vec<&Sample> = samples
        .iter()
        .filter(|sample| sample.seconds >= last.seconds / 2.0 && sample.process == last.process)
        .collect();
    let line = |(name, figure, most): &Limit| {
        let points: Vec<(f64, f64)> = half.iter().map(|sample| (sample.seconds, figure(sample))).collect();
        let Some(growth) = growth(&points) else {
            book.wrong(format!("{name}: too few samples of one daemon process in the second half"));
            return format!("{name}: unknown");
        };
        if growth > *most {
            book.wrong(format!("{name} grew by {growth:.1} in the second half, at most {most} is allowed"));
        }
        let values = || points.iter().map(|(_, value)| *value);
        let (least, greatest) = (values().fold(f64::MAX, f64::min), values().fold(f64::MIN, f64::max));
        format!("{name}: {growth:+.1} over the second half (allowed {most}); {least} to {greatest}")
    };
    LIMITS.iter().map(line).collect()
}

/// All samples, one line each.
///
/// # Errors
/// The file cannot be written.
pub(super) fn write(path: &Path, samples: &[Sample]) -> anyhow::Result<()> {
    let mut writer = csv::Writer::from_path(path).with_context(|| path.display().to_string())?;
    samples.iter().try_for_each(|sample| writer.serialize(sample))?;
    writer.flush().with_context(|| path.display().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn samples(figure: impl Fn(u32) -> u64) -> Vec<Sample> {
        let sample = |at: u32| Sample {
            seconds: f64::from(at) * 10.0,
            process: if at < 40 { 1 } else { 2 },
            resident_kib: 50_000 + figure(at),
            descriptors: 20,
            threads: 9,
            workers: 2,
            workers_resident_kib: 0,
            state_files: 8,
            state_kib: 100,
            sets: u64::from(at),
        };
        (0..100).map(sample).collect()
    }

    fn wrong(figure: impl Fn(u32) -> u64) -> Vec<String> {
        let book = Book::new(Path::new("none"));
        judge(&samples(figure), &book);
        book.all_wrong()
    }

    #[test]
    fn what_one_process_gathers_in_the_second_half_is_wrong_and_nothing_else() {
        assert!(wrong(|_| 0).is_empty());
        assert!(wrong(|at| if at % 5 == 0 { 90_000 } else { 0 }).is_empty(), "peaks");
        assert!(wrong(|at| u64::from(40_u32.saturating_sub(at)) * 1000).is_empty(), "an earlier process");
        let grown = wrong(|at| u64::from(at) * 1000);
        assert!(grown.len() == 1 && grown[0].contains("resident KiB grew by"), "{grown:?}");
        let book = Book::new(Path::new("none"));
        judge(&samples(|_| 0)[..2], &book);
        assert!(!book.all_wrong().is_empty(), "too few samples prove nothing");
    }
}
