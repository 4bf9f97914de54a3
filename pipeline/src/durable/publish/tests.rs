use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::symlink;
use std::sync::mpsc;

use proptest::prelude::*;
use rustix::fs::{CWD, FileType, Mode};
use serde_json::{Value, json};

use super::super::{Staging, file, write_record};
use super::*;

const RECORD: &str = "result.json";
const KIND: RecordKind = RecordKind {
    name: RECORD,
    is_of_older_version: |text| text.starts_with(b"{\n"),
    with_warnings: |text, warnings| {
        let mut record: Value = serde_json::from_slice(text).ok()?;
        record["warnings"].as_array_mut()?.extend(warnings.iter().map(|warning| warning.as_str().into()));
        record["record_sha256"] = "".into();
        serde_json::to_string_pretty(&record).ok()
    },
};

/// A result of which every file says `text`.
fn stage(target: &Path, text: &str) -> Staging {
    let staging = Staging::beside(target).expect("writable");
    for name in ["overlay.png", "clusters.png"] {
        fs::write(staging.path().join(name), text).expect("writable");
    }
    write_record(staging.path(), RECORD, &json!({ "text": text, "warnings": [] })).expect("writable");
    staging
}

fn publish_text(target: &Path, text: &str) -> Published {
    stage(target, text).publish(KIND).expect("published")
}

/// Files below a folder, links and special files included, with what they say; hidden ones by themselves.
fn files(folder: &Path) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(folder).expect("readable").map(|entry| entry.expect("entry")) {
        let (name, kind) = (entry.file_name().to_string_lossy().into_owned(), entry.file_type().expect("known"));
        if kind.is_dir() {
            found.extend(files(&entry.path()).into_iter().map(|(below, text)| (format!("{name}/{below}"), text)));
        } else {
            let text = if kind.is_file() { fs::read_to_string(entry.path()).expect("readable") } else { String::new() };
            found.insert(name, text);
        }
    }
    found
}

fn whole(target: &Path, text: &str) {
    for name in ["overlay.png", "clusters.png"] {
        assert_eq!(fs::read_to_string(target.join(name)).expect("whole"), text);
    }
    assert!(Ours::read(target, KIND).is_unchanged(target, RECORD.as_ref()), "its seal is right");
}

fn warnings_in(target: &Path) -> Vec<String> {
    let record: Value = serde_json::from_slice(&fs::read(target.join(RECORD)).expect("there")).expect("JSON");
    record["warnings"].as_array().expect("a list").iter().map(|text| text.as_str().expect("text").to_owned()).collect()
}

#[test]
fn h21_files_of_people_are_carried_over_and_told() {
    let dir = tempfile::tempdir().expect("temporary folder");
    let target = dir.path().join("case7_HE.tissuemap");
    assert!(publish_text(&target, "one").warnings.is_empty());
    assert!(publish_text(&target, "two").warnings.is_empty());
    fs::write(target.join("review.txt"), "reviewed").expect("writable");
    fs::create_dir_all(target.join("qupath/data")).expect("writable");
    fs::write(target.join("qupath/project.qpproj"), "{}").expect("writable");
    let published = publish_text(&target, "three");
    whole(&target, "three");
    assert_eq!(fs::read_to_string(target.join("review.txt")).expect("there"), "reviewed");
    assert_eq!(fs::read_to_string(target.join("qupath/project.qpproj")).expect("there"), "{}");
    assert!(target.join("qupath/data").is_dir());
    assert_eq!(fs::read_dir(dir.path()).expect("readable").count(), 1, "nothing is left beside");
    assert_eq!(warnings_in(&target), published.warnings);
    assert!(published.warnings[0].ends_with("carried over into the new result: qupath, review.txt"));
}

#[test]
fn h21_what_a_person_changed_or_what_clashes_is_kept_visibly_beside() {
    let dir = tempfile::tempdir().expect("temporary folder");
    let target = dir.path().join("case7_HE.tissuemap");
    publish_text(&target, "one");
    fs::write(target.join("overlay.png"), "painted").expect("writable");
    fs::write(target.join("note"), "mine").expect("writable");
    fs::create_dir(dir.path().join("case7_HE.tissuemap.kept-1")).expect("writable");
    let staging = stage(&target, "two");
    // A later version has a file of a name that was free.
    fs::write(staging.path().join("note"), "new").expect("writable");
    let published = staging.publish(KIND).expect("published");
    whole(&target, "two");
    assert_eq!(fs::read_to_string(target.join("note")).expect("there"), "new");
    let kept = dir.path().join("case7_HE.tissuemap.kept-2");
    let expected = [("note", "mine"), ("overlay.png", "painted")];
    assert_eq!(files(&kept), expected.map(|(name, text)| (name.to_owned(), text.to_owned())).into());
    assert!(published.warnings[0].contains("kept-2") && published.warnings[0].ends_with("overlay.png, note"));
    assert_eq!(warnings_in(&target), published.warnings);
    assert!(is_kept(&kept, "tissuemap") && !is_kept(&target, "tissuemap"));
}

#[test]
fn h21_a_record_that_a_person_changed_is_kept() {
    for edit in [|text: String| text.replace("one", "1 (looked at)"), |_| "my notes".to_owned(), |text| text + " "] {
        let dir = tempfile::tempdir().expect("temporary folder");
        let target = dir.path().join("x.tissuemap");
        publish_text(&target, "one");
        let text = edit(fs::read_to_string(target.join(RECORD)).expect("there"));
        fs::write(target.join(RECORD), &text).expect("writable");
        publish_text(&target, "two");
        whole(&target, "two");
        assert_eq!(files(dir.path())["x.tissuemap.kept-1/result.json"], text);
    }
}

#[test]
fn h21_the_record_of_an_older_version_is_ours_if_it_was_written_with_its_files() {
    let dir = tempfile::tempdir().expect("temporary folder");
    let target = dir.path().join("x.tissuemap");
    let older = |later: u64| {
        let staging = stage(&target, "one");
        let path = staging.path().join(RECORD);
        let mut record: Value = serde_json::from_slice(&fs::read(&path).expect("there")).expect("JSON");
        record.as_object_mut().expect("an object").remove("record_sha256");
        fs::write(&path, serde_json::to_string_pretty(&record).expect("JSON")).expect("writable");
        let time = std::time::SystemTime::now() + std::time::Duration::from_secs(later);
        fs::File::options().write(true).open(&path).and_then(|file| file.set_modified(time)).expect("set");
        staging.publish(KIND).expect("published");
    };
    older(0);
    publish_text(&target, "two");
    assert_eq!(fs::read_dir(dir.path()).expect("readable").count(), 1);
    older(3600);
    publish_text(&target, "three");
    assert!(dir.path().join("x.tissuemap.kept-1/result.json").exists(), "it was written an hour later");
    whole(&target, "three");
}

/// Makes something with the name of a result, and perhaps with what lies elsewhere.
type Make = fn(&Path, &Path);

#[test]
fn h21_what_tissuemap_never_made_is_not_deleted_and_links_are_not_followed() {
    let dir = tempfile::tempdir().expect("temporary folder");
    let elsewhere = dir.path().join("elsewhere");
    fs::create_dir(&elsewhere).expect("writable");
    fs::write(elsewhere.join("slide"), "precious").expect("writable");
    let make: [(&str, Make); 6] = [
        ("folder", |path, _| {
            fs::create_dir(path).and_then(|()| fs::write(path.join("overlay.png"), "mine")).expect("writable");
        }),
        ("file", |path, _| fs::write(path, "mine").expect("writable")),
        ("link", |path, elsewhere| symlink(elsewhere, path).expect("writable")),
        ("dangling", |path, _| symlink("nowhere", path).expect("writable")),
        ("pipe", |path, _| rustix::fs::mknodat(CWD, path, FileType::Fifo, Mode::RUSR, 0).expect("writable")),
        ("empty", |path, _| fs::create_dir(path).expect("writable")),
    ];
    for (name, make) in make {
        let target = dir.path().join(format!("{name}.tissuemap"));
        make(&target, &elsewhere);
        let before = target.symlink_metadata().expect("there").file_type();
        let published = publish_text(&target, "new");
        whole(&target, "new");
        let kept = dir.path().join(format!("{name}.tissuemap.kept-1"));
        assert_eq!(published.warnings.len(), usize::from(name != "empty"), "{name}: {:?}", published.warnings);
        match name {
            "folder" => assert_eq!(fs::read_to_string(kept.join("overlay.png")).expect("there"), "mine"),
            "file" => assert_eq!(fs::read_to_string(&kept).expect("there"), "mine"),
            "empty" => assert!(!kept.exists()),
            _ => assert_eq!(kept.symlink_metadata().expect("there").file_type(), before),
        }
    }
    assert_eq!(files(&elsewhere), [("slide".to_owned(), "precious".to_owned())].into());
}

#[test]
fn h21_pipes_large_files_and_strange_names_in_an_old_result_do_no_harm() {
    let dir = tempfile::tempdir().expect("temporary folder");
    let target = dir.path().join("x.tissuemap");
    publish_text(&target, "one");
    let strange = std::ffi::OsStr::from_bytes(b"\xff\n\x1b[2J");
    fs::write(target.join(strange), "mine").expect("writable");
    let pipe = |name: &str| {
        rustix::fs::mknodat(CWD, target.join(name), FileType::Fifo, Mode::RUSR, 0).expect("writable");
    };
    pipe("pipe");
    fs::remove_file(target.join("clusters.png")).expect("there");
    pipe("clusters.png");
    let huge = fs::File::create(target.join("overlay.png")).expect("writable");
    // To read all of it would take hours.
    huge.set_len(4 << 40).expect("sparse");
    let published = publish_text(&target, "two");
    whole(&target, "two");
    assert!(target.join(strange).exists() && target.join("pipe").symlink_metadata().is_ok());
    let kept = dir.path().join("x.tissuemap.kept-1");
    assert_eq!(fs::metadata(kept.join("overlay.png")).expect("there").len(), 4 << 40);
    assert!(kept.join("clusters.png").symlink_metadata().is_ok());
    assert!(published.warnings.iter().all(|text| !text.contains(['\n', '\x1b'])), "{:?}", published.warnings);
}

#[test]
fn h21_a_folder_that_cannot_be_read_is_kept_as_it_is() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().expect("temporary folder");
    let target = dir.path().join("x.tissuemap");
    fs::create_dir(&target).and_then(|()| fs::write(target.join("note"), "mine")).expect("writable");
    fs::set_permissions(&target, fs::Permissions::from_mode(0o300)).expect("ours");
    if fs::read_dir(&target).is_ok() {
        eprintln!("SKIPPED: this user reads every folder");
        return;
    }
    let published = publish_text(&target, "new");
    whole(&target, "new");
    let kept = dir.path().join("x.tissuemap.kept-1");
    fs::set_permissions(&kept, fs::Permissions::from_mode(0o700)).expect("ours");
    assert_eq!(fs::read_to_string(kept.join("note")).expect("there"), "mine");
    assert_eq!(published.warnings.len(), 1);
}

#[test]
fn h21_the_longest_names_are_kept_under_a_shorter_one() {
    let dir = tempfile::tempdir().expect("temporary folder");
    let target = dir.path().join("ä".repeat(122) + "x.tissuemap");
    assert_eq!(target.file_name().expect("a name").len(), NAME_MAX);
    publish_text(&target, "one");
    fs::write(target.join("overlay.png"), "painted").expect("writable");
    publish_text(&target, "two");
    let kept = fs::read_dir(dir.path()).expect("readable").map(|entry| entry.expect("entry").path());
    let kept: Vec<_> = kept.filter(|path| is_kept(path, "tissuemap")).collect();
    assert_eq!(kept.len(), 1);
    assert!(kept[0].to_str().is_some(), "no character was cut");
    assert_eq!(fs::read_to_string(kept[0].join("overlay.png")).expect("there"), "painted");
}

#[test]
fn h21_what_comes_between_look_and_exchange_is_not_lost() {
    let dir = tempfile::tempdir().expect("temporary folder");
    let target = dir.path().join("x.tissuemap");
    publish_text(&target, "one");
    let staging = stage(&target, "two");
    let meanwhile = &mut |step| {
        if step == "exchanged" {
            // Whoever had the folder open writes into the older one.
            fs::write(staging.path().join("late"), "mine").expect("writable");
            fs::write(staging.path().join("overlay.png"), "painted").expect("writable");
        }
    };
    let published = publish(staging.path(), &target, KIND, meanwhile).expect("published");
    whole(&target, "two");
    assert_eq!(fs::read_to_string(target.join("late")).expect("carried"), "mine");
    assert_eq!(files(dir.path())["x.tissuemap.kept-1/overlay.png"], "painted");
    assert_eq!(published.warnings.len(), 1);
}

/// What a person may have left where the result belongs.
#[derive(Debug, Clone)]
#[allow(clippy::struct_excessive_bools, reason = "independent cases of a property test")]
struct Left {
    /// There is a result of ours.
    ours: bool,
    note: bool,
    nested: bool,
    painted: bool,
    edited: bool,
}

impl Left {
    /// Makes it; gives what a person has written.
    fn make(&self, target: &Path) -> BTreeSet<String> {
        if self.ours {
            publish_text(target, "one");
        } else {
            fs::create_dir(target).expect("writable");
        }
        let mut theirs = BTreeSet::new();
        let mut write = |name: &str, text: &str| {
            fs::write(target.join(name), text).expect("writable");
            theirs.insert(text.to_owned());
        };
        if self.note {
            write("note.txt", "a note");
        }
        if self.nested {
            fs::create_dir_all(target.join("qupath/data")).expect("writable");
            write("qupath/data/1.json", "annotations");
        }
        if self.painted {
            write("overlay.png", "painted");
        }
        if self.edited {
            write(RECORD, "not JSON any more");
        }
        theirs
    }
}

fn left() -> impl Strategy<Value = Left> {
    any::<[bool; 5]>().prop_map(|[ours, note, nested, painted, edited]| Left { ours, note, nested, painted, edited })
}

/// What files whose path has no hidden part say.
fn visible(folder: &Path) -> BTreeSet<String> {
    let shown = |(path, _): &(String, String)| !path.split('/').any(|part| part.starts_with('.'));
    files(folder).into_iter().filter(shown).map(|(_, text)| text).collect()
}

proptest! {
    /// A thread that goes no further leaves the disk as a kill does: nothing cleans up.
    #[test]
    fn h21_a_kill_at_any_step_hides_and_loses_nothing(left in left(), step in 0_usize..14, flags: bool) {
        let dir = tempfile::tempdir().expect("temporary folder");
        let target = dir.path().join("x.tissuemap");
        let theirs = left.make(&target);
        let (staging, place) = (stage(&target, "two"), target.clone());
        let (tell, told) = mpsc::channel();
        std::thread::spawn(move || {
            file::without_flags(!flags);
            let mut steps = 0;
            let outcome = publish(staging.path(), &place, KIND, &mut |_| {
                if steps == step {
                    tell.send(None).expect("heard");
                    loop {
                        std::thread::park();
                    }
                }
                steps += 1;
            });
            tell.send(Some(outcome.is_ok())).expect("heard");
        });
        let done = told.recv().expect("it reports");
        let seen = visible(dir.path());
        prop_assert!(theirs.is_subset(&seen), "{theirs:?} in {seen:?}");
        prop_assert_ne!(done, Some(false));
        if done.is_some() {
            whole(&target, "two");
        }
        // The next run of the set goes through, and loses nothing either.
        publish_text(&target, "three");
        whole(&target, "three");
        let seen = visible(dir.path());
        prop_assert!(theirs.is_subset(&seen), "{theirs:?} in {seen:?}");
    }
}
