//! What a worker takes of the machine, as the supervisor sees it: beyond its limits it is replaced (hazard h28).
//!
//! The kernel's own limits do not count all of it. `RLIMIT_DATA` leaves out memory that is shared, and files that have no name
//! any more; nothing limits the threads of one process or the bytes in one folder. Where there is a control group, it is the
//! hard limit for all processes together (`MemoryMax=`, `TasksMax=` in the unit).

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use tissuemap::road::Stage;

use super::faults::{MEMORY_HINT, during};
use crate::job::Fault;

/// How often disks and open files are looked at, which takes longer than to look at memory.
const DISK_TICK: Duration = Duration::from_millis(500);
/// In the folders that a worker may write: results of a set of a hundred slides, and TensorRT's engines of one model.
const FOLDER_BYTES: u64 = 6 << 30;
/// A result has four files; a set has hardly a hundred slides.
const FOLDER_FILES: u64 = 5000;
/// `job/result/file`, and for engines `model/shape/file`.
const FOLDER_DEPTH: u32 = 4;

/// The limits of one worker, and when it was looked at last.
pub(super) struct Watch {
    process: PathBuf,
    memory: u64,
    threads: u64,
    folders: Vec<PathBuf>,
    next_disk: Instant,
}

/// What a worker took too much of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Excess {
    Memory {
        used: u64,
        most: u64,
    },
    Threads {
        used: u64,
        most: u64,
    },
    Bytes {
        most: u64,
    },
    Files {
        most: u64,
    },
    Depth,
    /// Files that were removed after an earlier job, and whose room on the disk it keeps.
    RemovedFiles,
}

impl Watch {
    /// Of the process `pid`, which may use so many bytes of memory and write these folders.
    pub(super) fn new(pid: u32, memory: u64, folders: &[PathBuf]) -> Self {
        let processors = thread::available_parallelism().map_or(1, usize::from) as u64;
        Self {
            process: format!("/proc/{pid}").into(),
            memory,
            // Ours, ONNX Runtime's and CUDA's have one for every processor each.
            threads: 64 + 8 * processors,
            folders: folders.to_vec(),
            next_disk: Instant::now(),
        }
    }

    /// What it takes too much of just now. A process that is gone takes nothing.
    pub(super) fn look(&mut self) -> Option<Excess> {
        let status = fs::read_to_string(self.process.join("status")).ok()?;
        let field = |name: &str| field(&status, name);
        let threads = field("Threads:");
        if threads > self.threads {
            return Some(Excess::Threads { used: threads, most: self.threads });
        }
        let resident = (field("VmRSS:") + field("VmSwap:")) << 10;
        if resident > self.memory {
            return Some(Excess::Memory { used: resident, most: self.memory });
        }
        if Instant::now() < self.next_disk {
            return None;
        }
        self.next_disk = Instant::now() + DISK_TICK;
        let shared = field("RssShmem:") << 10;
        self.look_at_open_files(resident - shared.min(resident)).or_else(|| self.look_at_folders())
    }

    /// Memory in files without a name counts, mapped or not; it holds `private` bytes besides.
    fn look_at_open_files(&self, private: u64) -> Option<Excess> {
        let open = fs::read_dir(self.process.join("fd")).into_iter().flatten().flatten().map(|entry| entry.path());
        let open = open.filter_map(|path| Some((fs::read_link(&path).ok()?, fs::metadata(&path).ok()?)));
        let mut unnamed = 0;
        for (name, metadata) in open.filter(|(_, metadata)| metadata.is_file() && metadata.nlink() == 0) {
            if self.is_ours(&name) {
                return Some(Excess::RemovedFiles);
            }
            unnamed += metadata.blocks() * 512;
        }
        // Of a mapping, only its size can be told.
        let maps = fs::read_to_string(self.process.join("maps")).unwrap_or_default();
        let mut mapped = 0;
        for line in maps.lines().filter(|line| line.ends_with(" (deleted)")) {
            let Some((name, bytes)) = mapping(line) else { continue };
            if self.is_ours(Path::new(name)) {
                return Some(Excess::RemovedFiles);
            }
            mapped += bytes;
        }
        let used = private + unnamed.max(mapped);
        (used > self.memory).then_some(Excess::Memory { used, most: self.memory })
    }

    fn is_ours(&self, name: &Path) -> bool {
        self.folders.iter().any(|folder| name.starts_with(folder))
    }

    fn look_at_folders(&self) -> Option<Excess> {
        let mut count = Count { bytes: FOLDER_BYTES, files: FOLDER_FILES };
        self.folders.iter().find_map(|folder| count.below(folder, FOLDER_DEPTH).err())
    }
}

/// What may still be found.
struct Count {
    bytes: u64,
    files: u64,
}

impl Count {
    /// Counts what is in a folder; never deeper than `depth`, and never more than there may be.
    fn below(&mut self, folder: &Path, depth: u32) -> Result<(), Excess> {
        // What cannot be listed has been removed meanwhile, or is told by who reads it.
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            self.files = self.files.checked_sub(1).ok_or(Excess::Files { most: FOLDER_FILES })?;
            let Ok(metadata) = entry.metadata() else { continue };
            if metadata.is_dir() {
                let depth = depth.checked_sub(1).ok_or(Excess::Depth)?;
                self.below(&entry.path(), depth)?;
            } else {
                let bytes = metadata.len().max(metadata.blocks() * 512);
                self.bytes = self.bytes.checked_sub(bytes).ok_or(Excess::Bytes { most: FOLDER_BYTES })?;
            }
        }
        Ok(())
    }
}

/// Of a line such as `VmRSS:     1234 kB`.
fn field(status: &str, name: &str) -> u64 {
    let line = status.lines().find_map(|line| line.strip_prefix(name));
    line.and_then(|rest| rest.split_whitespace().next()?.parse().ok()).unwrap_or(0)
}

/// Name and size of what a line of `/proc/PID/maps` maps.
fn mapping(line: &str) -> Option<(&str, u64)> {
    let (range, _) = line.split_once(' ')?;
    let (from, to) = range.split_once('-')?;
    let address = |text| u64::from_str_radix(text, 16).ok();
    let name = &line[line.find('/')?..];
    Some((name, address(to)?.checked_sub(address(from)?)?))
}

impl Excess {
    /// The fault of `subject`, in whose work it happened.
    pub(super) fn fault(&self, subject: &str, stage: Option<Stage>) -> Fault {
        let what = match self {
            Self::Memory { used, most } => {
                let (used, most) = (used >> 20, most >> 20);
                let reason =
                    format!("{subject}: the worker used {used} MiB of memory, more than {most} MiB{}", during(stage));
                return Fault::new(reason, MEMORY_HINT);
            }
            Self::Threads { used, most } => format!("ran {used} threads, more than {most}"),
            Self::Bytes { most } => format!("wrote more than {} MiB", most >> 20),
            Self::Files { most } => format!("wrote more than {most} files"),
            Self::Depth => format!("made folders in each other, more than {FOLDER_DEPTH}"),
            Self::RemovedFiles => "kept files of an earlier job".to_owned(),
        };
        Fault::new(format!("{subject}: the worker {what}{}", during(stage)), super::TAKEN_OVER_HINT)
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::{io, process};

    use rustix::fs::{MemfdFlags, memfd_create};

    use super::*;

    fn watch(folder: &Path) -> Watch {
        Watch::new(process::id(), 1 << 40, &[folder.to_owned()])
    }

    #[test]
    fn h28_more_files_bytes_or_levels_than_any_result_has_are_seen() -> io::Result<()> {
        let folder = tempfile::tempdir()?;
        let folder = folder.path();
        fs::create_dir_all(folder.join("1/0"))?;
        fs::write(folder.join("1/0/result.json"), "{}")?;
        assert_eq!(watch(folder).look(), None, "a result");

        // Without content: the size counts, too.
        File::create(folder.join("1/0/large"))?.set_len(FOLDER_BYTES)?;
        assert_eq!(watch(folder).look(), Some(Excess::Bytes { most: FOLDER_BYTES }));
        fs::remove_file(folder.join("1/0/large"))?;

        fs::create_dir_all(folder.join("1/0/a/b/c"))?;
        assert_eq!(watch(folder).look(), Some(Excess::Depth));
        fs::remove_dir_all(folder.join("1/0/a"))?;

        (0..FOLDER_FILES).try_for_each(|i| fs::write(folder.join(format!("1/{i}.empty")), ""))?;
        assert_eq!(watch(folder).look(), Some(Excess::Files { most: FOLDER_FILES }));
        Ok(())
    }

    #[test]
    fn h28_memory_in_files_without_a_name_is_seen() -> io::Result<()> {
        let folder = tempfile::tempdir()?;
        let memory = File::from(memfd_create("watched", MemfdFlags::CLOEXEC)?);
        let mut watch = watch(folder.path());
        assert_eq!(watch.look(), None);
        io::copy(&mut io::Read::take(io::repeat(1), 64 << 20), &mut &memory)?;
        // More than it has in all but this file, by far.
        let status = fs::read_to_string("/proc/self/status")?;
        watch.memory = (field(&status, "VmRSS:") << 10) + (32 << 20);
        watch.next_disk = Instant::now();
        assert!(matches!(watch.look(), Some(Excess::Memory { .. })));
        Ok(())
    }

    #[test]
    fn h28_a_file_that_was_removed_and_is_kept_open_is_seen() -> io::Result<()> {
        let folder = tempfile::tempdir()?;
        let file = File::create(folder.path().join("fill"))?;
        fs::remove_file(folder.path().join("fill"))?;
        assert_eq!(watch(folder.path()).look(), Some(Excess::RemovedFiles));
        drop(file);
        assert_eq!(watch(folder.path()).look(), None);
        Ok(())
    }

    #[test]
    fn h28_too_many_threads_are_seen() {
        let folder = tempfile::tempdir().expect("tempdir");
        let mut watch = watch(folder.path());
        watch.threads = 0;
        let Some(excess @ Excess::Threads { .. }) = watch.look() else { panic!("this one has threads") };
        let fault = excess.fault("c1_HE.tif", Some(Stage::Infer)).to_string();
        assert!(fault.contains("c1_HE.tif") && fault.contains("threads, more than 0 in stage infer"), "{fault}");
    }

    #[test]
    fn mappings_are_read() {
        let line = "7f0000000000-7f0000002000 rw-s 00000000 00:01 1029   /dev/zero (deleted)";
        assert_eq!(mapping(line), Some(("/dev/zero (deleted)", 0x2000)));
        assert_eq!(field("VmRSS:\t  12 kB\nThreads:\t3\n", "Threads:"), 3);
    }
}
