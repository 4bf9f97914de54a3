//! What the service will see, which is not what this process sees: its unit hides folders, and it runs as another user.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::unit::{NAME, Unit};
use super::{Finding, Grade};
use crate::config::Config;
use crate::job::Fault;

/// A path that the service uses.
struct Used {
    /// As it is called in the findings.
    what: String,
    path: PathBuf,
    write: bool,
}

/// Checks what the installed unit and its user may do with the folders of this configuration, if it is the service's.
pub(super) fn seen(path: &Path, config: &Config, tell: &mut dyn FnMut(Finding)) {
    const CHECK: &str = "service";
    let Some(unit) = Unit::installed() else {
        return tell(Finding::ok(CHECK, format!("{NAME} is not installed; what is checked is what this user sees")));
    };
    let same =
        |one: &Path, other: &Path| one.canonicalize().ok().zip(other.canonicalize().ok()).is_some_and(|(a, b)| a == b);
    if !same(path, &unit.config()) {
        let theirs = unit.config();
        return tell(Finding::ok(CHECK, format!("{NAME} reads {}: it is not concerned", theirs.display())));
    }
    let user = match User::of(&unit) {
        Ok(user) => user,
        Err(fault) => return tell(Finding::fail(CHECK, &fault)),
    };
    let used = used(config);
    let faults: Vec<(Grade, Fault)> = used.iter().filter_map(|used| judged(used, &unit, &user)).collect();
    for (grade, fault) in &faults {
        tell(Finding::of(CHECK, *grade, fault));
    }
    if faults.is_empty() {
        let how = if user.is_asked() { "tried as that user" } else { "by permission bits" };
        tell(Finding::ok(CHECK, format!("{NAME} can use all {} paths as user {} ({how})", used.len(), user.name)));
    }
}

/// All paths of the configuration that the service reads or writes.
fn used(config: &Config) -> Vec<Used> {
    let of = |what: &str, path: &Path, write: bool| Used { what: what.into(), path: path.into(), write };
    let parent = |file: &PathBuf| file.parent().unwrap_or(Path::new("/")).to_path_buf();
    let mut used =
        vec![of("state folder", &config.state_folder(), true), of("model folder", &config.model_folder(), true)];
    used.extend(config.model.as_deref().map(|model| of("model", model, false)));
    for watch in &config.watch {
        used.push(of("watch folder", &watch.folder, true));
        used.extend(watch.manifest.as_deref().map(|manifest| of("manifest", manifest, false)));
    }
    used.extend(config.audit.file.as_ref().map(|file| of("folder of the audit log", &parent(file), true)));
    used.extend(config.metrics.file.as_ref().map(|file| of("folder of the metrics", &parent(file), true)));
    used
}

fn judged(Used { what, path, write }: &Used, unit: &Unit, user: &User) -> Option<(Grade, Fault)> {
    // What is not there yet is made by the daemon, or told by another check: the nearest folder above decides.
    let there = path.ancestors().find_map(|path| path.canonicalize().ok())?;
    let name = path.display();
    if let Some(setting) = unit.hides(&there) {
        let hint = format!("move it, or lift {setting} in a drop-in (`systemctl edit {NAME}`)");
        return Some((Grade::Fail, Fault::new(format!("{what} {name}: {NAME} does not see it ({setting})"), hint)));
    }
    if let Some(setting) = write.then(|| unit.keeps_from_writing(&there)).flatten() {
        let hint = format!("ReadWritePaths={name} in a drop-in (`systemctl edit {NAME}`; examples/scanner.conf)");
        return Some((Grade::Fail, Fault::new(format!("{what} {name}: {NAME} cannot write it ({setting})"), hint)));
    }
    // systemd makes and owns the state folder.
    if unit.words("StateDirectory").iter().any(|own| there.starts_with(Path::new("/var/lib").join(own)))
        || !path.exists() && path.starts_with("/var/lib/tissuemap")
    {
        return None;
    }
    let wanted = if there.is_dir() { "rx" } else { "r" };
    let wanted = if *write { format!("{wanted}w") } else { wanted.to_owned() };
    let lacking = wanted.chars().find(|right| user.may(&there, *right) == Some(false));
    let unknown = || wanted.chars().any(|right| user.may(&there, right).is_none());
    let right = |right: char| match right {
        'r' => "read",
        'w' => "write",
        _ => "enter",
    };
    let hint =
        format!("give the user {} that right (chgrp, chmod or setfacl; SupplementaryGroups= in a drop-in)", user.name);
    match lacking {
        Some(lacking) => {
            let reason = format!("{what} {name}: user {} of {NAME} may not {} it", user.name, right(lacking));
            Some((Grade::Fail, Fault::new(reason, hint)))
        }
        None if unknown() => {
            let reason =
                format!("{what} {name}: has an access list; whether user {} may use it is not known", user.name);
            Some((Grade::Warn, Fault::new(reason, "run this check as root")))
        }
        None => None,
    }
}

/// The user that the service runs as.
struct User {
    name: String,
    uid: u32,
    gid: u32,
    groups: BTreeSet<u32>,
}

impl User {
    fn of(unit: &Unit) -> Result<Self, Fault> {
        let name = unit.value("User").unwrap_or("root").to_owned();
        let missing = |kind: &str, name: &str| {
            Fault::new(
                format!("{kind} {name} of {NAME} is not there"),
                "systemd-sysusers makes it, or correct the drop-in",
            )
        };
        let id = |kind: &str, of: &str| -> Option<Vec<u32>> {
            let output = Command::new("id").arg(kind).arg("--").arg(of).stderr(Stdio::null()).output().ok()?;
            let text = output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())?;
            text.split_whitespace().map(|number| number.parse().ok()).collect()
        };
        let first =
            |kind: &str| id(kind, &name).and_then(|ids| ids.first().copied()).ok_or_else(|| missing("user", &name));
        let group = |name: &String| gid(name).ok_or_else(|| missing("group", name));
        let (uid, own) = (first("-u")?, first("-g")?);
        let gid = unit.value("Group").map(|name| group(&name.to_owned())).transpose()?.unwrap_or(own);
        let mut groups: BTreeSet<u32> = id("-G", &name).unwrap_or_default().into_iter().collect();
        for name in unit.words("SupplementaryGroups") {
            groups.insert(group(&name)?);
        }
        groups.insert(gid);
        Ok(Self { name, uid, gid, groups })
    }

    /// Whether the kernel is asked, and not the permission bits.
    fn is_asked(&self) -> bool {
        let me = rustix::process::geteuid();
        me.is_root() || me.as_raw() == self.uid
    }

    /// Whether this user has a right on a path, and may come there; none where that is not known.
    fn may(&self, path: &Path, right: char) -> Option<bool> {
        if !self.is_asked() {
            return self.may_by_bits(path, right);
        }
        let groups = self.groups.iter().map(u32::to_string).collect::<Vec<_>>().join(",");
        let mut test = Command::new("setpriv");
        if rustix::process::geteuid().is_root() {
            test.args([format!("--reuid={}", self.uid), format!("--regid={}", self.gid), format!("--groups={groups}")]);
            test.args(["--bounding-set=-all", "--inh-caps=-all"]);
        }
        let status = test.args(["--", "test", &format!("-{right}")]).arg(path).stderr(Stdio::null()).status().ok()?;
        match status.code() {
            Some(0) => Some(true),
            Some(1) => Some(false),
            // Without setpriv, say.
            _ => self.may_by_bits(path, right),
        }
    }

    fn may_by_bits(&self, path: &Path, right: char) -> Option<bool> {
        let above = path.ancestors().skip(1).map(|above| self.bit(above, 'x'));
        let rights: Vec<Option<bool>> = above.chain([self.bit(path, right)]).collect();
        if rights.contains(&Some(false)) {
            Some(false)
        } else {
            rights.into_iter().collect::<Option<Vec<_>>>().map(|_| true)
        }
    }

    fn bit(&self, path: &Path, right: char) -> Option<bool> {
        if self.uid == 0 {
            return Some(true);
        }
        let what = fs::metadata(path).ok()?;
        let shift = match what.uid() {
            owner if owner == self.uid => 6,
            _ if self.groups.contains(&what.gid()) => 3,
            _ => 0,
        };
        let bit = match right {
            'r' => 4,
            'w' => 2,
            _ => 1,
        };
        let by_bits = what.permissions().mode() >> shift & bit != 0;
        // An access list may give more, or take away.
        let listed =
            rustix::fs::getxattr(path, "system.posix_acl_access", &mut [0_u8; 1024]).is_ok_and(|bytes| bytes > 0);
        (!listed).then_some(by_bits)
    }
}

/// The number of a group.
fn gid(name: &str) -> Option<u32> {
    if let Ok(number) = name.parse() {
        return Some(number);
    }
    let output = Command::new("getent").args(["group", "--", name]).stderr(Stdio::null()).output().ok()?;
    String::from_utf8_lossy(&output.stdout).split(':').nth(2)?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nobody() -> User {
        User { name: "nobody".into(), uid: 65534, gid: 65534, groups: [65534].into() }
    }

    #[test]
    fn h24_what_the_services_user_may_not_read_or_write_is_told() {
        let place = tempfile::tempdir_in("/var/tmp").expect("tempdir");
        let folder = place.path().join("in");
        fs::create_dir(&folder).expect("create");
        let mode = |path: &Path, mode: u32| fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("ours");
        let user = nobody();
        let used = Used { what: "watch folder".into(), path: folder.clone(), write: true };
        let said = || judged(&used, &Unit::default(), &user).map(|(_, fault)| fault.to_string()).unwrap_or_default();
        mode(place.path(), 0o755);
        mode(&folder, 0o755);
        assert!(said().contains("user nobody of tissuemapd.service may not write it"), "{}", said());
        mode(&folder, 0o777);
        assert_eq!(said(), "");
        mode(&folder, 0o733);
        assert!(said().contains("may not read it"), "{}", said());
        mode(&folder, 0o777);
        mode(place.path(), 0o700);
        assert!(said().contains("may not read it"), "a folder above keeps it out: {}", said());
        // Without root, by the bits alone.
        assert_eq!(user.may_by_bits(&folder, 'w'), Some(false));
        mode(place.path(), 0o755);
        assert_eq!(user.may_by_bits(&folder, 'w'), Some(true));
    }
}
