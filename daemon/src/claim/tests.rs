use std::fs;

use tempfile::TempDir;

use super::*;

fn claim(folder: &TempDir) -> Claim {
    Claim::new(folder.path(), Duration::from_mins(1))
}

fn tempdir() -> TempDir {
    tempfile::tempdir().expect("tempdir")
}

#[test]
fn h24_a_watch_folder_has_one_daemon_and_the_second_is_told_of_the_first() {
    let folder = tempdir();
    let (mut first, mut second) = (claim(&folder), claim(&folder));
    assert_eq!(first.renew(), Ok(Held::Mine));
    assert_eq!(first.renew(), Ok(Held::Mine));
    let fault = second.renew().expect_err("held").to_string();
    assert!(fault.contains(&format!("another tissuemapd (pid {} on ", std::process::id())), "{fault}");
    assert!(fault.contains("hint: stop that one"), "{fault}");
    drop(first);
    assert_eq!(fs::read_dir(folder.path()).expect("readable").count(), 0, "nothing is left");
    assert_eq!(second.renew(), Ok(Held::Mine));
}

#[test]
fn h24_nothing_is_open_in_a_claimed_folder() {
    let folder = tempdir();
    let mut claim = claim(&folder);
    assert_eq!(claim.renew(), Ok(Held::Mine));
    let open = fs::read_dir("/proc/self/fd").expect("readable").flatten();
    let inside = open.filter_map(|fd| fs::read_link(fd.path()).ok()).filter(|path| path.starts_with(folder.path()));
    assert_eq!(inside.count(), 0, "a share could not be unmounted");
}

/// Has the claim in the folder be another's.
fn forge(folder: &TempDir, change: impl FnOnce(&mut Owner)) {
    let mut owner = claim(folder).me.clone();
    change(&mut owner);
    fs::write(folder.path().join(FILE), serde_json::to_vec(&owner).expect("JSON")).expect("write");
}

#[test]
fn h24_what_a_killed_daemon_or_one_before_a_loss_of_power_left_keeps_nobody_out() {
    let mut child = std::process::Command::new("true").spawn().expect("runs");
    child.wait().expect("ended");
    let dead = child.id().cast_signed();
    let folder = tempdir();
    forge(&folder, |owner| owner.pid = dead);
    assert_eq!(claim(&folder).renew(), Ok(Held::Mine), "killed");
    forge(&folder, |owner| owner.boot = "before".into());
    let same_machine = !claim(&folder).me.machine.is_empty();
    assert_eq!(claim(&folder).renew().is_ok(), same_machine, "before a loss of power");
}

#[test]
fn h24_what_a_daemon_of_another_host_left_is_void_once_it_was_not_renewed_for_long_enough() {
    let folder = tempdir();
    let mut claim = claim(&folder);
    let elsewhere = |renewals: u64| {
        forge(&folder, |owner| {
            (owner.token, owner.boot, owner.host, owner.machine) = ("a".into(), "b".into(), "pc2".into(), "c".into());
            owner.renewals = renewals;
        });
    };
    let age = |claim: &mut Claim| {
        let (_, since) = claim.seen.as_mut().expect("seen");
        *since = since.checked_sub(STALE).expect("the machine is up for longer");
    };
    elsewhere(1);
    let fault = claim.renew().expect_err("held").to_string();
    assert!(fault.contains(" on pc2)"), "{fault}");
    age(&mut claim);
    elsewhere(2);
    assert!(claim.renew().is_err(), "it was renewed");
    age(&mut claim);
    assert_eq!(claim.renew(), Ok(Held::Mine));
    elsewhere(3);
    claim.renewed = None;
    assert!(claim.renew().is_err(), "the other one was there after all, and has it");
}

#[test]
fn h24_folders_above_and_below_a_watched_one_are_told_as_watched() {
    let folder = tempdir();
    let below = folder.path().join("day/rack");
    fs::create_dir_all(&below).expect("create");
    // Of another process than this one, and that lives as long.
    forge(&folder, |owner| owner.pid = std::os::unix::process::parent_id().cast_signed());
    let fault = Claim::new(&below, Duration::ZERO).renew().expect_err("watched above").to_string();
    assert!(fault.contains(&folder.path().display().to_string()), "{fault}");
    assert!(claimed_by_other(folder.path()).is_some() && claimed_by_other(&below).is_none());
}

#[test]
fn h24_what_is_no_claim_and_a_folder_that_cannot_be_written_keep_nobody_waiting() {
    let folder = tempdir();
    let path = folder.path().join(FILE);
    rustix::fs::mknodat(rustix::fs::CWD, &path, rustix::fs::FileType::Fifo, rustix::fs::Mode::RUSR, 0).expect("a pipe");
    assert_eq!(claim(&folder).renew(), Ok(Held::Unclaimed), "a pipe of somebody else's, which stays");
    assert!(path.exists());
    assert_eq!(Claim::new(Path::new("/proc/self"), Duration::ZERO).renew(), Ok(Held::Unclaimed));
}
