use std::os::unix::fs::symlink;

use tempfile::TempDir;

use super::super::series::tests::dicom;
use super::*;

fn folder(names: &[&str]) -> TempDir {
    let folder = tempfile::tempdir().expect("tempdir");
    for name in names {
        let path = folder.path().join(name);
        fs::create_dir_all(path.parent().expect("has a parent")).expect("create");
        fs::write(path, name).expect("write");
    }
    folder
}

fn look(folder: &Path) -> Snapshot {
    scan(folder, &Ignore::default(), None).expect("readable")
}

fn relative<'a>(folder: &TempDir, paths: impl Iterator<Item = &'a PathBuf>) -> Vec<String> {
    paths.map(|path| path.strip_prefix(folder.path()).expect("inside").display().to_string()).collect()
}

#[test]
fn slides_are_found_in_subfolders_and_everything_else_is_passed_over() {
    let folder = folder(&[
        "case1_HE.svs",
        "2026-11-23/case2_HE.ndpi",
        "notes.txt",
        "Thumbs.db",
        ".case3_HE.svs.Xy12",
        "case4_HE.svs.filepart",
        "case5_HE.tmp",
        ".hidden/case6_HE.svs",
        "#recycle/case7_HE.svs",
        "case1_HE.tissuemap/clusters.ome.tif",
    ]);
    let snapshot = look(folder.path());
    assert_eq!(relative(&folder, snapshot.slides.keys()), ["2026-11-23/case2_HE.ndpi", "case1_HE.svs"]);
    assert!(snapshot.unreadable.is_empty(), "{:?}", snapshot.unreadable);
}

#[test]
fn a_dicom_series_is_one_slide() {
    let folder = folder(&["case1_HE/b.dcm", "case1_HE/a.dcm", "flat.dcm", "other.dcm"]);
    let snapshot = look(folder.path());
    assert_eq!(relative(&folder, snapshot.slides.keys()), ["case1_HE/a.dcm", "flat.dcm", "other.dcm"]);
    let members = |slide: &str| snapshot.slides[&folder.path().join(slide)].fingerprint.members().len();
    assert_eq!((members("case1_HE/a.dcm"), members("flat.dcm")), (2, 1), "the watch folder is no series");
}

#[test]
fn every_dicom_series_is_a_slide_wherever_its_files_lie() {
    let folder = folder(&["rack/6_HE.dcm"]);
    let files = [
        ("rack/1_HE.dcm", "1.1"),
        ("rack/2_HE.dcm", "1.1"),
        ("rack/3_CD31.dcm", "1.2"),
        ("rack/4_CD31.dcm", "1.2"),
        ("7_HE.dcm", "1.3"),
        ("8_HE.dcm", "1.3"),
        ("9_HE.dcm", "1.4"),
    ];
    for (name, uid) in files {
        fs::write(folder.path().join(name), dicom(uid)).expect("written");
    }
    let snapshot = look(folder.path());
    let slides = ["7_HE.dcm", "9_HE.dcm", "rack/1_HE.dcm", "rack/3_CD31.dcm", "rack/6_HE.dcm"];
    assert_eq!(relative(&folder, snapshot.slides.keys()), slides);
    let members = |slide: &str| {
        let seen = &snapshot.slides[&folder.path().join(slide)];
        relative(&folder, seen.fingerprint.members().iter().map(|member| &member.path))
    };
    assert_eq!(members("7_HE.dcm"), ["7_HE.dcm", "8_HE.dcm"]);
    assert_eq!(members("rack/3_CD31.dcm"), ["rack/3_CD31.dcm", "rack/4_CD31.dcm", "rack/6_HE.dcm"]);
    assert_eq!(
        members("rack/6_HE.dcm"),
        ["rack/6_HE.dcm"],
        "of no series yet: unfinished, or broken, and told as such"
    );
}

#[test]
fn a_missing_folder_is_an_error_and_not_an_empty_one() {
    assert!(scan(Path::new("/nonexistent/incoming"), &Ignore::default(), None).is_err());
}

#[test]
fn links_that_lead_around_in_circles_are_neither_followed_nor_an_end() {
    let folder = folder(&["day/case1_HE.svs"]);
    symlink(folder.path(), folder.path().join("day/up")).expect("link");
    symlink("day", folder.path().join("latest")).expect("link");
    symlink("two_HE.svs", folder.path().join("one_HE.svs")).expect("link");
    symlink("one_HE.svs", folder.path().join("two_HE.svs")).expect("link");
    symlink("gone", folder.path().join("broken")).expect("link");
    let snapshot = look(folder.path());
    assert_eq!(relative(&folder, snapshot.slides.keys()), ["day/case1_HE.svs"]);
    assert_eq!(relative(&folder, snapshot.unreadable.keys()), ["one_HE.svs", "two_HE.svs"]);
    assert!(
        snapshot.unreadable.values().all(|fault| fault.reason().contains("symbolic links")),
        "{:?}",
        snapshot.unreadable
    );
}

#[test]
fn a_link_to_a_folder_elsewhere_is_told_with_a_remedy() {
    let (folder, elsewhere) = (folder(&["case1_HE.svs"]), folder(&["case2_HE.svs"]));
    let link = folder.path().join("archive");
    symlink(elsewhere.path(), &link).expect("link");
    let snapshot = look(folder.path());
    assert_eq!(relative(&folder, snapshot.slides.keys()), ["case1_HE.svs"]);
    let reason = snapshot.unreadable[&link].to_string();
    assert!(reason.contains(&elsewhere.path().display().to_string()) && reason.contains("hint: add a [[watch]]"));
}

#[test]
fn folders_without_end_are_told_and_the_rest_is_found() {
    let deep = |levels: usize| "d/".repeat(levels);
    let (near, far) = (deep(MAX_DEPTH) + "near_HE.svs", deep(MAX_DEPTH + 1) + "far_HE.svs");
    let folder = folder(&[&near, &far]);
    let snapshot = look(folder.path());
    assert_eq!(relative(&folder, snapshot.slides.keys()), [near]);
    assert!(snapshot.hides(&folder.path().join(far)));
    assert!(snapshot.unreadable.values().next().is_some_and(|fault| fault.hint().is_some()));
}

#[test]
fn a_slide_without_its_marker_awaits_it() {
    let folder = folder(&["case1_HE.svs", "case2_HE.svs", "case2_HE.done", "s_HE/1.dcm"]);
    let marker = Marker::try_from("{stem}.done".to_owned()).expect("a marker");
    let snapshot = scan(folder.path(), &Ignore::default(), Some(&marker)).expect("readable");
    let awaited = snapshot.slides.values().filter_map(|seen| seen.awaits.as_ref());
    assert_eq!(relative(&folder, awaited), ["case1_HE.done", "s_HE.done"]);
}
