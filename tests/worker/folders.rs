//! Folders that go away, come back, or lie at their path anew while workers run (hazard h23).

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use tissuemap::road::Stage;

use super::{At, Site, assert_said};
use crate::support::site::{STAINS, slide};

/// The watch folder is renamed, and another one with the same slides lies at its path.
fn put_anew(site: &Site) {
    let (incoming, aside) = (site.incoming(""), site.folder.path().join("incoming-2023"));
    fs::rename(&incoming, &aside).expect("rename");
    fs::create_dir(&incoming).expect("create");
    for stain in STAINS {
        fs::copy(aside.join(slide("c1", stain)), site.incoming(&slide("c1", stain))).expect("copy");
    }
    fs::remove_dir_all(aside).expect("remove");
}

#[test]
fn h23_a_watch_folder_that_is_put_in_place_anew_is_read_by_all_workers_without_a_fault() {
    let site = Site::new();
    let workers = site.workers("");
    workers.probe(&site.incoming("c1_HE.tif"), None).expect("whole");
    for round in 1..=2 {
        put_anew(&site);
        workers.probe(&site.incoming("c1_HE.tif"), None).unwrap_or_else(|fault| panic!("{round}: {fault}"));
        let result = workers.process(&site.job(), &()).unwrap_or_else(|fault| panic!("{round}: {fault}"));
        assert_eq!(result.outputs.len(), STAINS.len());
    }
}

#[test]
fn h23_a_folder_that_is_put_in_place_anew_in_the_midst_of_a_job_costs_no_fault() {
    let site = Site::new();
    let workers = site.workers("");
    // Between the comparison and the opening of slides: the worker still holds the folder that is gone.
    let change = At::new(Stage::Open, || put_anew(&site));
    let result = workers.process(&site.job(), &change).expect("repeated with another worker");
    assert_eq!(result.outputs.len(), STAINS.len());
}

#[test]
fn h23_a_watch_folder_that_is_a_link_is_read_where_it_leads_now() {
    let site = Site::new();
    let (incoming, one, two) = (site.incoming(""), site.folder.path().join("one"), site.folder.path().join("two"));
    let incoming = incoming.components().as_path();
    fs::rename(incoming, &one).expect("rename");
    fs::create_dir(&two).expect("create");
    for stain in STAINS {
        fs::copy(one.join(slide("c1", stain)), two.join(slide("c1", stain))).expect("copy");
    }
    std::os::unix::fs::symlink(&one, incoming).expect("link");
    let workers = site.workers("");
    workers.probe(&site.incoming("c1_HE.tif"), None).expect("whole");
    fs::remove_file(incoming).expect("remove");
    std::os::unix::fs::symlink(&two, incoming).expect("link");
    workers.probe(&site.incoming("c1_HE.tif"), None).expect("where it leads now");
    assert_eq!(workers.process(&site.job(), &()).expect("processed").outputs.len(), STAINS.len());
}

#[test]
fn h23_a_state_folder_that_is_put_in_place_anew_is_written_again() {
    let site = Site::new();
    let workers = site.workers("");
    fs::rename(site.folder.path().join("state/worker"), site.folder.path().join("state/gone")).expect("rename");
    fs::create_dir_all(site.folder.path().join("state/worker/engines")).expect("create");
    assert_eq!(workers.process(&site.job(), &()).expect("processed").outputs.len(), STAINS.len());
}

#[test]
fn h23_a_folder_that_is_away_is_told_as_away_and_no_worker_is_lost() {
    let site = Site::new();
    let workers = site.workers("");
    let (incoming, aside) = (site.incoming(""), site.folder.path().join("aside"));
    let incoming = incoming.components().as_path();
    fs::rename(incoming, &aside).expect("rename");
    let starts = (workers.probes().starts, workers.jobs().starts);
    for fault in [
        workers.probe(&site.incoming("c1_HE.tif"), None).expect_err("away"),
        workers.process(&site.job(), &()).expect_err("away"),
    ] {
        assert!(fault.is_unreachable(), "{fault}");
        assert_said(&fault, &["incoming: No such file", "work then goes on by itself"]);
    }
    fs::rename(&aside, incoming).expect("back");
    workers.probe(&site.incoming("c1_HE.tif"), None).expect("whole");
    assert_eq!((workers.probes().starts, workers.jobs().starts), starts, "it is the same folder as before");
}

#[test]
fn h23_a_file_that_cannot_be_read_says_so_and_is_no_unknown_format() {
    use std::os::unix::fs::{PermissionsExt, symlink};
    let site = Site::new();
    fs::write(site.folder.path().join("elsewhere.tif"), "not granted").expect("write");
    let workers = site.workers("");
    // Also for root: a link that leads out of what was granted.
    symlink(site.folder.path().join("elsewhere.tif"), site.incoming("out_HE.tif")).expect("link");
    let fault = workers.probe(&site.incoming("out_HE.tif"), None).expect_err("not granted");
    assert!(fault.is_unreachable(), "{fault}");
    assert_said(&fault, &["out_HE.tif: Permission denied", "links must not lead out"]);
    assert_eq!(workers.probes().starts, 1, "another worker could not read it, either");
    if rustix::process::geteuid().is_root() {
        eprintln!("SKIPPED: root reads a file of mode 000");
        return;
    }
    fs::set_permissions(site.incoming("c1_HE.tif"), fs::Permissions::from_mode(0o000)).expect("ours");
    let fault = workers.probe(&site.incoming("c1_HE.tif"), None).expect_err("mode 000");
    assert_said(&fault, &["c1_HE.tif: Permission denied"]);
    assert!(workers.process(&site.job(), &()).expect_err("mode 000").is_unreachable());
}

/// A mount over a folder of a site, gone with the test.
struct Mounted(PathBuf);

impl Mounted {
    /// None where nothing may be mounted.
    fn over(folder: &Path) -> Option<Self> {
        let mount = Command::new("mount").args(["-t", "tmpfs", "-o", "size=64m", "tmpfs"]).arg(folder).output();
        let mounted = mount.is_ok_and(|output| output.status.success());
        if !mounted {
            eprintln!("SKIPPED: nothing can be mounted here (needs root)");
        }
        mounted.then(|| Self(folder.to_path_buf()))
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(&self.0).status();
    }
}

#[test]
fn h23_a_share_that_is_mounted_unmounted_and_mounted_again_is_read_each_time() {
    let site = Site::new();
    let kept = site.folder.path().join("kept.tif");
    fs::copy(site.incoming("c1_HE.tif"), &kept).expect("copy");
    let workers = site.workers("");
    workers.probe(&site.incoming("c1_HE.tif"), None).expect("below the mount");
    let incoming = site.incoming("");
    let incoming = incoming.components().as_path();
    for round in 1..=3 {
        let Some(mounted) = Mounted::over(incoming) else { return };
        fs::copy(&kept, site.incoming("m_HE.tif")).expect("copy");
        workers.probe(&site.incoming("m_HE.tif"), None).unwrap_or_else(|fault| panic!("{round}: {fault}"));
        // Not busy: nothing of ours keeps it from being unmounted.
        let gone = Command::new("umount").arg(incoming).output().expect("umount runs");
        assert!(gone.status.success(), "{round}: {}", String::from_utf8_lossy(&gone.stderr));
        drop(mounted);
        workers.probe(&site.incoming("c1_HE.tif"), None).unwrap_or_else(|fault| panic!("{round}: {fault}"));
    }
}

#[test]
fn h23_a_folder_below_the_watch_folder_that_is_mounted_later_is_read() {
    let site = Site::new();
    let day = site.incoming("day");
    fs::create_dir(&day).expect("create");
    let workers = site.workers("");
    workers.probe(&site.incoming("c1_HE.tif"), None).expect("whole");
    let Some(_mounted) = Mounted::over(&day) else { return };
    fs::copy(site.incoming("c1_HE.tif"), day.join("m_HE.tif")).expect("copy");
    workers.probe(&day.join("m_HE.tif"), None).expect("landlock follows the path through mounts");
    assert_eq!(workers.probes().starts, 1);
}
