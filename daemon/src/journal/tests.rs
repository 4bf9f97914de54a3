use std::collections::BTreeMap;
use std::io::Write;
use std::os::unix::process::ExitStatusExt;

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use tempfile::TempDir;
use tissuemap::section_set::SectionSet;

use super::JobState::{Cancelled, Done, Quarantined, Requested, Running};
use super::*;
use crate::arrive::members::fingerprint;
use crate::job::{Fault, FaultKind, Job};
use crate::testing;

fn key(case: &str) -> SetKey {
    SetKey { case: case.into(), block: None }
}

/// The slides of a set, seen in this state.
fn seen(case: &str, state: &str) -> Inputs {
    let input = |stain: &str| {
        let slide = format!("/slides/{case}_{stain}.svs");
        (stain.to_owned(), Input { slide, bytes: 10, seen: state.into(), content: None })
    };
    ["HE", "CD31"].map(input).into()
}

fn contents_of(case: &str) -> Contents {
    ["HE", "CD31"].map(|stain| (stain.to_owned(), format!("{case} {stain}"))).into()
}

fn request(journal: &mut Journal, case: &str, state: &str) -> JobRow {
    journal.request(Path::new("/slides"), &key(case), "ab", false, &seen(case, state)).expect("written").0
}

fn done(case: &str) -> Change {
    Change::Done { contents: contents_of(case), reason: String::new() }
}

fn no_tissue() -> Fault {
    Fault::new("no tissue; hint: is its name (os error 28)", "scan again")
        .with_id("slide.empty")
        .with_kind(FaultKind::Slide)
}

fn given_up() -> Change {
    Change::Quarantined { attempts: 2, fault: no_tissue() }
}

fn state_of(journal: &Journal, id: JobId) -> JobState {
    journal.job(id).expect("readable").expect("there").state
}

#[test]
fn h05_a_running_job_reads_back_as_requested_and_its_try_does_not_count() {
    let folder = tempfile::tempdir().expect("tempdir");
    let mut journal = Journal::open(folder.path()).expect("new");
    let id = request(&mut journal, "c1", "1").id;
    journal.apply(id, &Change::Begun { attempt: 1, model: "ab".into() }).expect("written");
    assert_eq!(journal.job(id).expect("readable").expect("there").attempts, 1);
    drop(journal);

    let journal = Journal::open(folder.path()).expect("again");
    let row = journal.job(id).expect("readable").expect("there");
    assert_eq!((row.state, row.attempts), (JobState::Requested, 0));
    let history = journal.history(id).expect("readable");
    let steps: Vec<_> = history.iter().map(|entry| (entry.from, entry.to)).collect();
    assert_eq!(steps, [(None, Requested), (Some(Requested), Running), (Some(Running), Requested)]);
    assert_eq!(history[2].reason, "the daemon ended during the job".into());
    assert_eq!(journal.open_jobs().expect("readable"), [row]);
}

#[test]
fn a_job_keeps_its_state_and_id_until_its_slides_or_the_model_change() {
    let folder = tempfile::tempdir().expect("tempdir");
    let mut journal = Journal::open(folder.path()).expect("new");
    let id = request(&mut journal, "c1", "1").id;
    journal.apply(id, &given_up()).expect("written");
    let row = request(&mut journal, "c1", "1");
    assert_eq!((row.id, row.state, row.attempts, row.reason), (id, JobState::Quarantined, 2, no_tissue().into()));
    let row = request(&mut journal, "c1", "2");
    assert_eq!((row.id, row.state, row.attempts), (id, JobState::Requested, 0));
    journal.apply(id, &done("c1")).expect("written");
    let mut other = |model: &str, renew: bool| {
        journal.request(Path::new("/slides"), &key("c1"), model, renew, &seen("c1", "2")).expect("written")
    };
    assert_eq!(other("cd", false).0.state, JobState::Done, "what was done stays done");
    let (row, contents) = other("cd", true);
    assert_eq!((row.state, contents), (JobState::Requested, contents_of("c1")), "contents are of slides, not models");
    journal.apply(id, &given_up()).expect("written");
    let mut other = |model: &str| {
        journal.request(Path::new("/slides"), &key("c1"), model, false, &seen("c1", "2")).expect("written").0
    };
    assert_eq!(other("cd").state, JobState::Quarantined, "the model that it was given up with");
    let row = other("ef");
    assert_eq!((row.state, row.attempts), (JobState::Requested, 0), "another one may fare better");
    journal.apply(id, &Change::Cancelled { reason: "on request".into() }).expect("written");
    let row = journal.request(Path::new("/slides"), &key("c1"), "ab", false, &seen("c1", "2")).expect("written").0;
    assert_eq!(row.state, JobState::Cancelled, "nobody wants it with any");
    assert_ne!(request(&mut journal, "c2", "1").id, id);
}

#[test]
fn a_journal_of_the_version_before_keeps_what_it_knows() {
    let folder = tempfile::tempdir().expect("tempdir");
    let mut old = Connection::open(folder.path().join(Journal::FILE)).expect("new");
    let tx = old.transaction().expect("begun");
    schema::first(&tx).expect("made");
    let filled =
        "INSERT INTO jobs VALUES (7, '/slides', 'c1', '', 'quarantined', 2, NULL, 'ab', 'no tissue; hint: scan again');
        INSERT INTO history VALUES (7, 1, NULL, 'requested', '');
        UPDATE daemon SET paused = 1;";
    tx.execute_batch(filled).and_then(|()| tx.commit()).expect("filled");
    drop(old);
    for _ in 0..2 {
        let journal = Journal::open(folder.path()).expect("readable");
        assert_eq!(journal.moved_aside(), None);
        assert!(journal.paused().expect("readable"));
        let row = journal.job(JobId(7)).expect("readable").expect("there");
        assert_eq!((row.state, row.reason), (Quarantined, "no tissue; hint: scan again".into()));
        assert_eq!(journal.history(JobId(7)).expect("readable").len(), 1);
    }
}

#[test]
fn slides_that_are_away_for_a_while_change_no_verdict() {
    let folder = tempfile::tempdir().expect("tempdir");
    let mut journal = Journal::open(folder.path()).expect("new");
    let ids = ["asked", "bad", "unwanted", "finished"].map(|case| request(&mut journal, case, "1").id);
    journal.apply(ids[1], &given_up()).expect("written");
    journal.apply(ids[2], &Change::Cancelled { reason: "on request".into() }).expect("written");
    journal.apply(ids[3], &done("finished")).expect("written");
    let there: BTreeSet<String> = ["/slides/asked_HE.svs".into()].into();
    assert_eq!(journal.withdraw_missing(Path::new("/slides"), &there).expect("written"), 3);
    assert_eq!(journal.open_jobs().expect("readable"), []);
    assert_eq!(journal.withdraw_missing(Path::new("/slides"), &there).expect("written"), 0);

    let back = ["asked", "bad", "unwanted", "finished"].map(|case| request(&mut journal, case, "1").state);
    assert_eq!(back, [Requested, Quarantined, Cancelled, Done]);
    assert_eq!(journal.job(ids[1]).expect("readable").expect("there").reason, no_tissue().into());
}

#[test]
fn past_work_is_found_by_size_and_model_until_its_job_begins_again() {
    let folder = tempfile::tempdir().expect("tempdir");
    let mut journal = Journal::open(folder.path()).expect("new");
    let id = request(&mut journal, "c1", "1").id;
    journal.apply(id, &done("c1")).expect("written");
    let past = journal.past(Some("ab"), 20).expect("readable");
    assert_eq!(past.len(), 1);
    let slide = (PathBuf::from("/slides/c1_HE.svs"), "c1 HE".to_owned());
    assert_eq!((past[0].job, past[0].slides.get("HE")), (id, Some(&slide)));
    assert_eq!(journal.past(Some("ab"), 21).expect("readable"), []);
    assert_eq!(journal.past(Some("cd"), 20).expect("readable"), []);
    journal.apply(id, &Change::Begun { attempt: 1, model: "ab".into() }).expect("written");
    assert_eq!(journal.past(Some("ab"), 20).expect("readable"), []);
    let partly = Change::Done { contents: [("HE".to_owned(), "c1 HE".to_owned())].into(), reason: String::new() };
    journal.apply(id, &partly).expect("written");
    assert_eq!(journal.past(Some("ab"), 20).expect("readable"), [], "a content that is not known proves nothing");
}

#[test]
fn a_journal_in_use_is_refused_and_not_moved_aside() {
    let folder = tempfile::tempdir().expect("tempdir");
    let first = Journal::open(folder.path()).expect("new");
    let error = Journal::open(folder.path()).expect_err("in use").to_string();
    assert!(error.contains("in use by another tissuemapd"), "{error}");
    drop(first);
    assert_eq!(Journal::open(folder.path()).expect("free again").moved_aside(), None);
}

#[test]
fn content_is_the_same_under_another_name_and_time_and_another_after_any_scan() {
    let folder = tempfile::tempdir().expect("tempdir");
    let mut random = ChaCha8Rng::seed_from_u64(1);
    let hash = |name: &str, bytes: &[u8]| {
        let slide = folder.path().join(name);
        fs::write(&slide, bytes).expect("write");
        let set = SectionSet { key: key("c1"), slides: [("HE".to_owned(), slide.clone())].into() };
        let now = fingerprint(&slide).expect("readable");
        contents(&Job { set, inputs: [(slide, now)].into(), mpp: None }, &Contents::new())["HE"].clone()
    };
    for length in [0, 1, 65_536, 1 << 20, (1 << 20) + 1, 3_000_001] {
        let scan: Vec<u8> = (0..length).map(|_| random.random()).collect();
        let other: Vec<u8> = (0..length).map(|_| random.random()).collect();
        assert_eq!(hash("a.svs", &scan), hash("b.svs", &scan), "{length}");
        if length > 0 {
            assert_ne!(hash("a.svs", &scan), hash("a.svs", &other), "{length}: as long as before");
            assert_ne!(hash("a.svs", &scan), hash("a.svs", &scan[1..]), "{length}: shorter");
            for at in [0, length - 1] {
                let mut changed = scan.clone();
                changed[at] ^= 1;
                assert_ne!(hash("a.svs", &scan), hash("a.svs", &changed), "{length}: byte {at}");
            }
        }
    }
    let missing = folder.path().join("gone.svs");
    fs::write(&missing, "x").expect("write");
    let now = fingerprint(&missing).expect("readable");
    fs::remove_file(&missing).expect("removed");
    let set = SectionSet { key: key("c1"), slides: [("HE".to_owned(), missing.clone())].into() };
    assert_eq!(contents(&Job { set, inputs: [(missing, now)].into(), mpp: None }, &Contents::new()), Contents::new());
}

const VICTIM_PLACE: &str = "TISSUEMAP_TEST_JOURNAL_PLACE";

#[test]
#[ignore = "the process that h05_a_writer_killed_at_random_times_loses_and_doubles_no_row kills"]
fn victim() {
    let place = PathBuf::from(std::env::var_os(VICTIM_PLACE).expect("started by the test"));
    let mut acknowledged = fs::File::options().append(true).create(true).open(place.join("acks")).expect("writable");
    // In one piece: the next victim goes on where this one was killed.
    let mut acknowledge = |case: &str, what: &str| {
        acknowledged.write_all(format!("{case} {what}\n").as_bytes()).expect("written");
    };
    let mut journal = Journal::open(&place).expect("not damaged");
    let known = journal.db.query_row("SELECT count(*) FROM jobs", [], |row| row.get::<_, usize>(0)).expect("readable");
    let unfinished = journal.open_jobs().expect("readable").into_iter().map(|row| row.set.case);
    let cases: Vec<String> = unfinished.chain((known..known + 10_000).map(|case| format!("c{case}"))).collect();
    for case in cases {
        let id = request(&mut journal, &case, "1").id;
        acknowledge(&case, "requested");
        journal.apply(id, &Change::Begun { attempt: 1, model: "ab".into() }).expect("written");
        acknowledge(&case, "running");
        journal.apply(id, &done(&case)).expect("written");
        acknowledge(&case, "done");
    }
}

#[test]
fn h05_a_writer_killed_at_random_times_loses_and_doubles_no_row() {
    const KILLS: usize = 60;
    let folder = tempfile::tempdir().expect("tempdir");
    let acks = folder.path().join("acks");
    let mut random = ChaCha8Rng::seed_from_u64(2);
    let mut put_back = 0;
    for kill in 0..KILLS {
        let before = fs::metadata(&acks).map_or(0, |acks| acks.len());
        let mut victim = testing::victim("journal::tests::victim", VICTIM_PLACE, folder.path());
        let started = std::time::Instant::now();
        while fs::metadata(&acks).map_or(0, |acks| acks.len()) == before && started.elapsed() < Duration::from_secs(30)
        {
            std::thread::sleep(Duration::from_millis(1));
        }
        std::thread::sleep(Duration::from_micros(random.random_range(0..40_000)));
        victim.kill().expect("killed");
        assert_eq!(victim.wait().expect("ended").signal(), Some(9), "kill {kill}: it ended by itself");

        let journal = Journal::open(folder.path()).expect("opens");
        assert_eq!(journal.moved_aside(), None, "kill {kill}");
        let text = fs::read_to_string(&acks).expect("readable");
        let lines = text.lines().filter_map(|line| line.split_once(' '));
        let last: BTreeMap<&str, &str> = lines.collect();
        for (case, acknowledged) in &last {
            let row = journal.job_of(Path::new("/slides"), &key(case)).expect("readable");
            let row = row.unwrap_or_else(|| panic!("kill {kill}: {case} is lost"));
            let allowed: &[JobState] =
                if *acknowledged == "done" { &[JobState::Done] } else { &[JobState::Requested, JobState::Done] };
            assert!(allowed.contains(&row.state), "kill {kill}: {case} was {acknowledged}, is {}", row.state);
            let history = journal.history(row.id).expect("readable");
            let linked = history.windows(2).all(|pair| pair[1].from == Some(pair[0].to));
            assert!(linked && history.last().map(|entry| entry.to) == Some(row.state), "kill {kill}: {history:?}");
        }
        let rows: usize = journal.db.query_row("SELECT count(*) FROM jobs", [], |row| row.get(0)).expect("readable");
        assert!(rows == last.len() || rows == last.len() + 1, "kill {kill}: {rows} rows, {} known", last.len());
        put_back += usize::from(!journal.open_jobs().expect("readable").is_empty());
    }
    assert!(put_back > 0, "no kill hit a job");
    println!("{KILLS} kills, {put_back} of them in the middle of a job");
}

/// The files of a journal with jobs in all states, as a crash leaves them: the last changes are in the log only.
fn busy_journal() -> (TempDir, Vec<u8>, Vec<u8>) {
    let folder = tempfile::tempdir().expect("tempdir");
    let mut journal = Journal::open(folder.path()).expect("new");
    for case in 0..40 {
        let case = format!("c{case}");
        let id = request(&mut journal, &case, "1").id;
        journal.apply(id, &Change::Begun { attempt: 1, model: "ab".into() }).expect("written");
        journal.apply(id, &if id.0 % 3 == 0 { given_up() } else { done(&case) }).expect("written");
    }
    drop(journal);
    let mut journal = Journal::open(folder.path()).expect("again");
    for case in 40..50 {
        let id = request(&mut journal, &format!("c{case}"), "1").id;
        journal.apply(id, &Change::Begun { attempt: 1, model: "ab".into() }).expect("written");
    }
    let read = |suffix: &str| fs::read(folder.path().join(format!("{}{suffix}", Journal::FILE))).expect("readable");
    let files = (read(""), read("-wal"));
    (folder, files.0, files.1)
}

#[test]
fn h08_a_journal_damaged_anywhere_is_opened_or_moved_aside_and_serves() {
    let (_folder, whole, log) = busy_journal();
    assert!(log.len() > 10_000, "the last changes are in the log");
    let mut random = ChaCha8Rng::seed_from_u64(3);
    let mut damaged: Vec<(String, Vec<u8>, Vec<u8>)> = Vec::new();
    for step in 0..40 {
        let (cut, log_cut) = (whole.len() * step / 40, log.len() * step / 40);
        damaged.push((format!("cut at {cut}"), whole[..cut].to_vec(), log.clone()));
        damaged.push((format!("log cut at {log_cut}"), whole.clone(), log[..log_cut].to_vec()));
    }
    // Bits of every byte of the header, then bits anywhere.
    let anywhere = (0..200).map(|_| random.random_range(0..whole.len() * 8)).collect::<Vec<_>>();
    for bit in (0..100 * 8).step_by(7).chain(anywhere) {
        let mut bytes = whole.clone();
        bytes[bit / 8] ^= 1 << (bit % 8);
        damaged.push((format!("bit {bit}"), bytes, Vec::new()));
    }
    for _ in 0..60 {
        let bit = random.random_range(0..log.len() * 8);
        let mut bytes = log.clone();
        bytes[bit / 8] ^= 1 << (bit % 8);
        damaged.push((format!("bit {bit} of the log"), whole.clone(), bytes));
    }
    let (tries, mut moved) = (damaged.len(), 0);
    for (what, main, log) in damaged {
        let folder = tempfile::tempdir().expect("tempdir");
        fs::write(folder.path().join(Journal::FILE), &main).expect("write");
        if !log.is_empty() {
            fs::write(folder.path().join(format!("{}-wal", Journal::FILE)), &log).expect("write");
        }
        let mut journal = Journal::open(folder.path()).unwrap_or_else(|error| panic!("{what}: {error}"));
        if let Some(aside) = journal.moved_aside() {
            assert!(aside.exists(), "{what}");
            moved += 1;
        }
        journal.paused().unwrap_or_else(|error| panic!("{what}: {error}"));
        for row in journal.open_jobs().unwrap_or_else(|error| panic!("{what}: {error}")) {
            assert_ne!(row.state, JobState::Running, "{what}");
            journal.history(row.id).unwrap_or_else(|error| panic!("{what}: {error}"));
        }
        for case in [0, 20, 49] {
            let id = request(&mut journal, &format!("c{case}"), "1").id;
            journal.apply(id, &done(&format!("c{case}"))).unwrap_or_else(|error| panic!("{what}: {error}"));
            assert_eq!(state_of(&journal, id), JobState::Done, "{what}");
        }
    }
    assert!(moved > tries / 10, "{moved} of {tries} were noticed");
    println!("{tries} damaged journals, {moved} moved aside, the others readable as they were");
}

#[test]
fn h08_what_sqlite_itself_lets_pass_is_seen_as_damage() {
    for damage in [
        "PRAGMA user_version = 99",
        "DROP INDEX history_by_job",
        "INSERT INTO history (job, at_ms, to_state, reason) VALUES (99, 0, 'requested', '')",
        "UPDATE jobs SET reason = CAST(x'ff' AS TEXT)",
        "DELETE FROM daemon",
    ] {
        let folder = tempfile::tempdir().expect("tempdir");
        let mut journal = Journal::open(folder.path()).expect("new");
        request(&mut journal, "c1", "1");
        drop(journal);
        let stranger = Connection::open(folder.path().join(Journal::FILE)).expect("opens");
        stranger.pragma_update(None, "foreign_keys", false).expect("a setting");
        stranger.execute_batch(damage).expect("done");
        drop(stranger);
        let journal = Journal::open(folder.path()).expect("another one");
        assert!(journal.moved_aside().is_some_and(Path::exists), "{damage}");
        assert_eq!(journal.open_jobs().expect("readable"), [], "{damage}");
    }
}

#[test]
fn h30_an_empty_or_missing_journal_is_told_like_a_damaged_one() {
    let folder = tempfile::tempdir().expect("tempdir");
    let file = folder.path().join(Journal::FILE);
    let open = || Journal::open(folder.path()).expect("opens");
    assert_eq!(open().loss(), None, "the first one of all");
    assert_eq!(open().loss(), None);

    for what in ["empty", "without tables"] {
        for suffix in ["", "-wal", "-shm"] {
            let _ = fs::remove_file(crate::aside::with_suffix(&file, suffix));
        }
        if what == "empty" {
            fs::write(&file, "").expect("written");
        } else {
            let stranger = Connection::open(&file).expect("made");
            stranger.execute_batch("CREATE TABLE t (x); DROP TABLE t; VACUUM").expect("written");
        }
        let mut journal = open();
        let loss = journal.loss().unwrap_or_else(|| panic!("{what}: not told"));
        assert!(loss.reason().contains("a pause are forgotten"), "{what}: {loss}");
        assert!(journal.moved_aside().is_some_and(Path::exists), "{what}");
        journal.set_paused(true).expect("written");
        drop(journal);
        assert!(open().paused().expect("readable"), "the new one is kept");
    }

    for trace in ["models.json", "audit.jsonl"] {
        fs::remove_file(&file).expect("there");
        fs::write(folder.path().join(trace), "").expect("written");
        let loss = open().loss().unwrap_or_else(|| panic!("{trace}: not told"));
        assert!(loss.reason().contains("is missing") && loss.reason().contains(trace), "{loss}");
        assert_eq!(open().loss(), None, "it is told once: the new journal is there");
        fs::remove_file(folder.path().join(trace)).expect("there");
    }
}
