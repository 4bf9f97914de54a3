//! What holds of any bytes in the files and messages that the daemon reads: nothing panics, what is damaged is told or moved
//! aside, and what is accepted reads back as itself.
//!
//! The fuzz targets in `fuzz/` try these properties with coverage, the tests below on the committed inputs and on damaged
//! copies of them. The functions panic where a property does not hold.

#![allow(clippy::missing_panics_doc, reason = "panicking is how they tell")]

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::LazyLock;
use std::time::{Duration, Instant, SystemTime};

use tissuemap::section_set::{Namer, SetKey};

use crate::config::Config;
use crate::job::Fault;
use crate::journal::{Change, Input, Inputs, JobId, Journal};

pub use crate::models::fuzzing::memory;
pub use crate::worker::fuzzing::messages;

#[path = "../../fuzz/shared/patches.rs"]
mod patches;

/// A configuration file.
pub fn configuration(bytes: &[u8]) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("tissuemapd.toml");
    fs::write(&path, bytes).expect("writable");
    let config = match Config::read(&path) {
        Ok(config) => config,
        Err(error) => {
            let text = error.to_string();
            assert!(text.contains("tissuemapd.toml"), "{text:?} names the file");
            assert!(!text.chars().any(char::is_control), "{text:?} is one line, and drives no terminal");
            return;
        }
    };
    assert_eq!(Config::read(&path).expect("it was read before"), config);
    assert!(!config.watch.is_empty());
    let (worker, schedule) = (&config.worker, &config.schedule);
    let limits = [worker.job_limit(), worker.probe_limit(), worker.stall(), config.models.settle()];
    let waits = [schedule.retry_wait(1), schedule.retry_wait(200), Duration::from_secs(config.drain_seconds)];
    let groups = [Duration::from_secs(config.group.wait_seconds), config.models.reprocess().unwrap_or_default()];
    let folders = config.watch.iter().flat_map(|watch| [watch.settle(), watch.scan_interval()]);
    for time in limits.into_iter().chain(waits).chain(groups).chain(folders) {
        let reached =
            Instant::now().checked_add(time * 2).is_some() && SystemTime::now().checked_add(time * 2).is_some();
        assert!(reached, "{time:?} can be waited for");
    }
    assert!(worker.memory_mib.checked_mul(1 << 20).is_some(), "{} MiB are a number of bytes", worker.memory_mib);
    for watch in &config.watch {
        assert!(watch.folder.is_absolute() && watch.manifest.as_ref().is_none_or(|manifest| manifest.is_absolute()));
        Namer::new(&watch.naming.over(&config.naming)).expect("it was checked");
    }
}

/// Slides of a job, as the journal knows them.
fn slides(seen: &str) -> Inputs {
    let input = |stain: &str| Input {
        slide: format!("/in/c1_{stain}.svs"),
        bytes: 1000,
        seen: seen.into(),
        content: Some("ab".into()),
    };
    ["HE", "CD31"].into_iter().map(|stain| (stain.to_owned(), input(stain))).collect()
}

fn key(case: usize) -> SetKey {
    SetKey { case: format!("c{case}"), block: (case % 2 == 1).then(|| "B1".into()) }
}

/// The file of a journal with a job in every state.
static JOURNAL: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let mut journal = Journal::open(folder.path()).expect("writable");
    let begun = || Change::Begun { attempt: 1, model: "ab".into() };
    let contents: BTreeMap<String, String> = ["HE", "CD31"].map(|stain| (stain.into(), "ab".into())).into();
    let failed = || Change::Failed {
        attempts: 1,
        not_before: SystemTime::UNIX_EPOCH,
        fault: Fault::new("unreadable", "copy it again"),
    };
    let ends = [
        vec![],
        vec![begun()],
        vec![begun(), Change::Done { contents, reason: String::new() }],
        vec![begun(), failed()],
        vec![begun(), failed(), Change::Quarantined { attempts: 2, fault: Fault::new("unreadable", "copy it again") }],
        vec![Change::Cancelled { reason: "not wanted".into() }],
    ];
    for (case, changes) in ends.iter().enumerate() {
        let (row, _) = journal.request(Path::new("/in"), &key(case), "ab", false, &slides("s1")).expect("written");
        changes.iter().for_each(|change| journal.apply(row.id, change).expect("written"));
    }
    drop(journal);
    fs::read(folder.path().join(Journal::FILE)).expect("readable")
});

/// A journal that is damaged: the first byte says which file, and whether the rest is its content or changes it (see
/// [`patches::patched`]). A daemon starts with what it finds or with a new journal, and can then do its work.
pub fn journal(bytes: &[u8]) {
    let Some((&what, rest)) = bytes.split_first() else { return };
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join(Journal::FILE);
    let beside = |suffix: &str| folder.path().join(format!("{}{suffix}", Journal::FILE));
    match what % 5 {
        0 => fs::write(&path, rest),
        1 => fs::write(&path, patches::patched(&JOURNAL, rest)),
        2 => fs::write(&path, &*JOURNAL).and_then(|()| fs::write(beside("-wal"), rest)),
        3 => fs::write(&path, &*JOURNAL).and_then(|()| fs::write(beside("-journal"), rest)),
        _ => fs::write(&path, &*JOURNAL).and_then(|()| fs::write(beside("-shm"), rest)),
    }
    .expect("writable");
    let mut journal = Journal::open(folder.path()).expect("a damaged journal is moved aside");
    if let Some(aside) = journal.moved_aside() {
        assert!(aside.exists(), "what was moved aside is there");
    }
    let watched = Path::new("/in");
    for case in 0..7 {
        let known = journal.job_of(watched, &key(case)).expect("readable");
        let (row, _) = journal.request(watched, &key(case), "ab", false, &slides("s1")).expect("writable");
        assert!(known.is_none_or(|known| known.id == row.id), "a known set keeps its job");
        journal.history(row.id).expect("readable");
    }
    journal.past(None, 2000).expect("readable");
    let paused = journal.paused().expect("readable");
    journal.set_paused(!paused).expect("writable");
    journal.withdraw_missing(watched, &["/in/c1_HE.svs".to_owned()].into()).expect("writable");
    let open: Vec<JobId> = journal.open_jobs().expect("readable").iter().map(|row| row.id).collect();
    for job in open {
        journal.apply(job, &Change::Begun { attempt: 1, model: "cd".into() }).expect("writable");
        journal.apply(job, &Change::PutBack { reason: "end".into() }).expect("writable");
    }
    drop(journal);
    let journal = Journal::open(folder.path()).expect("it was opened before");
    assert_eq!(journal.paused().expect("readable"), !paused);
    assert!(journal.moved_aside().is_none(), "what the journal wrote itself is whole");
}

#[cfg(test)]
#[path = "../../fuzz/shared/replay.rs"]
mod replay;

#[cfg(test)]
mod tests {
    use super::replay::hold;

    #[test]
    fn a_damaged_configuration_is_refused_in_one_line_or_can_be_used() {
        hold("config", 256, super::configuration);
    }

    #[test]
    fn h04_damaged_messages_are_refused_or_read_back() {
        hold("protocol", 512, super::messages);
    }

    #[test]
    fn h08_a_damaged_journal_is_read_or_moved_aside_and_work_goes_on() {
        hold("journal", 64, super::journal);
    }

    #[test]
    fn a_damaged_memory_of_models_is_read_or_moved_aside() {
        hold("models", 256, super::memory);
    }
}
