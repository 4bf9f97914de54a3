use tempfile::TempDir;

use super::*;

fn asked(subject: &str) -> Event {
    Event::Asked { by: Requester::Uid(1000), action: "submit".into(), subject: subject.into(), refused: None }
}

/// A log of six entries.
fn log() -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().expect("tempdir");
    let path = folder.path().join("state/audit.jsonl");
    for half in [0..3, 3..6] {
        let mut audit = Audit::open(&path).expect("opens");
        half.for_each(|i| audit.add(asked(&format!("/slides/{i} \"ü\"\n{i}.svs"))));
    }
    (folder, path)
}

#[test]
fn a_log_goes_on_after_a_restart_and_hangs_together() {
    let (_folder, path) = log();
    let verified = verify(&path).expect("readable").expect("whole");
    assert_eq!((verified.entries, verified.torn_bytes), (6, 0));
    let text = fs::read_to_string(&path).expect("readable");
    assert!(text.lines().last().expect("there").ends_with(&format!("{}\"}}", verified.last)), "{text}");
    let first: serde_json::Value = serde_json::from_str(text.lines().next().expect("there")).expect("JSON");
    assert_eq!(
        (&first["n"], &first["event"], &first["by"]["uid"], &first["subject"]),
        (&1.into(), &"asked".into(), &1000.into(), &"/slides/0 \"ü\"\n0.svs".into())
    );
}

#[test]
fn every_kind_of_entry_is_read_again() {
    let folder = tempfile::tempdir().expect("tempdir");
    let path = folder.path().join("audit.jsonl");
    let text = || "text".to_owned();
    let end = JobEnd {
        job: JobId(7),
        set: text(),
        outcome: text(),
        reason: text(),
        model: text(),
        inputs: BTreeMap::from([("HE".into(), ("/slides/1_HE.svs".into(), Some(text())))]),
        outputs: vec!["/slides/1_HE.tissuemap".into()],
        seconds: 0.5,
    };
    let kinds = [
        Event::Started { version: text(), model: text() },
        asked("slide"),
        Event::Model { name: text(), model: Some("0".repeat(64)), outcome: text(), reason: text() },
        Event::Job(Box::new(end)),
        Event::TornLine { bytes: 3, text: text() },
        Event::MovedAside { file: "audit.jsonl.corrupt-1".into(), reason: text() },
        Event::Ended,
    ];
    for (i, kind) in kinds.into_iter().enumerate() {
        // A log is opened by its last line.
        Audit::open(&path).expect("opens").add(kind.clone());
        let verified = verify(&path).expect("readable");
        assert_eq!(verified.map(|verified| verified.entries), Ok(i as u64 + 1), "{kind:?}");
    }
}

#[test]
fn every_change_of_every_byte_is_found() {
    let (_folder, path) = log();
    let whole = fs::read(&path).expect("readable");
    for at in 0..whole.len() - 1 {
        let mut changed = whole.clone();
        changed[at] ^= 1;
        fs::write(&path, &changed).expect("write");
        let verified = verify(&path).expect("readable");
        assert!(verified.is_err(), "byte {at}: {:?} to {:?}", whole[at] as char, changed[at] as char);
    }
}

#[test]
fn removed_doubled_and_exchanged_lines_are_found() {
    let (_folder, path) = log();
    let text = fs::read_to_string(&path).expect("readable");
    let lines: Vec<&str> = text.split_inclusive('\n').collect();
    let check = |order: &[usize]| {
        fs::write(&path, order.iter().map(|&i| lines[i]).collect::<String>()).expect("write");
        verify(&path).expect("readable").map_err(|broken| broken.line)
    };
    assert_eq!(check(&[0, 1, 3, 4, 5]), Err(3), "removed");
    assert_eq!(check(&[1, 2, 3, 4, 5]), Err(1), "the first removed");
    assert_eq!(check(&[0, 1, 1, 2, 3, 4, 5]), Err(3), "doubled");
    assert_eq!(check(&[0, 2, 1, 3, 4, 5]), Err(2), "exchanged");
    // Nothing in the file can show this; the last hash that was noted down does.
    assert!(check(&[0, 1, 2]).is_ok_and(|verified| verified.entries == 3));
}

#[test]
fn h05_a_log_cut_anywhere_goes_on_from_its_last_whole_line_and_says_so() {
    let (_folder, path) = log();
    let whole = fs::read(&path).expect("readable");
    for length in (0..whole.len()).step_by(7) {
        fs::write(&path, &whole[..length]).expect("write");
        let lines = whole[..length].split(|&byte| byte == b'\n').count() as u64 - 1;
        let torn = length - whole[..length].iter().rposition(|&byte| byte == b'\n').map_or(0, |last| last + 1);
        let before = verify(&path).expect("readable").expect("whole up to the torn line");
        assert_eq!((before.entries, before.torn_bytes), (lines, torn as u64), "{length}");

        Audit::open(&path).expect("opens").add(asked("next"));
        let after = verify(&path).expect("readable").expect("whole");
        assert_eq!((after.entries, after.torn_bytes), (lines + 1 + u64::from(torn > 0), 0), "{length}");
        let text = fs::read_to_string(&path).expect("readable");
        assert_eq!(text.matches("\"event\":\"torn_line\"").count(), usize::from(torn > 0), "{length}");
    }
}

#[test]
fn a_log_that_ends_in_something_else_is_moved_aside() {
    let (_folder, path) = log();
    let mut text = fs::read_to_string(&path).expect("readable");
    text.push_str("somebody wrote here\n");
    fs::write(&path, &text).expect("write");
    Audit::open(&path).expect("opens").add(asked("next"));
    assert_eq!(verify(&path).expect("readable").expect("whole").entries, 2);
    let files =
        fs::read_dir(path.parent().expect("a folder")).expect("readable").map(|file| file.expect("there").path());
    let aside = files.into_iter().find(|file| file.to_string_lossy().contains("audit.jsonl.corrupt-"));
    assert_eq!(fs::read_to_string(aside.expect("kept")).expect("readable"), text);
}
