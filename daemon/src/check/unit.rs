//! The installed unit with its drop-ins: what it lets the service see and write.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The unit's name.
pub(super) const NAME: &str = "tissuemapd.service";

/// Where units and drop-ins lie, the strongest first.
const FOLDERS: [&str; 5] = [
    "etc/systemd/system",
    "run/systemd/system",
    "usr/local/lib/systemd/system",
    "usr/lib/systemd/system",
    "lib/systemd/system",
];

/// What `ProtectHome=` and `PrivateTmp=` take away.
const HOMES: [&str; 3] = ["/home", "/root", "/run/user"];
const TEMPORARY: [&str; 2] = ["/tmp", "/var/tmp"];
/// What stays writable under `ProtectSystem=strict`.
const ALWAYS_WRITABLE: [&str; 3] = ["/dev", "/proc", "/sys"];

/// The settings of `[Service]`, as far as they concern files: the last value of each, all values of lists.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Unit(BTreeMap<String, Vec<String>>);

impl Unit {
    /// The unit as systemd knows it, or as its files say where systemd does not run; none where it is not installed.
    pub(super) fn installed() -> Option<Self> {
        let known =
            Path::new("/run/systemd/system").is_dir().then(|| Command::new("systemctl").args(["cat", NAME]).output());
        if let Some(Ok(output)) = known
            && output.status.success()
        {
            return Some(Self::parse(&String::from_utf8_lossy(&output.stdout)));
        }
        Self::of_files(Path::new("/"))
    }

    /// The unit below this root, with its drop-ins in the order in which systemd reads them.
    fn of_files(root: &Path) -> Option<Self> {
        let folders = FOLDERS.map(|folder| root.join(folder));
        let mut text = folders.iter().find_map(|folder| fs::read_to_string(folder.join(NAME)).ok())?;
        // By name, and of one name the strongest.
        let mut parts: BTreeMap<std::ffi::OsString, PathBuf> = BTreeMap::new();
        for folder in folders.iter().rev() {
            let entries = fs::read_dir(folder.join(format!("{NAME}.d"))).into_iter().flatten().flatten();
            let parts_here = entries.filter(|entry| entry.path().extension().is_some_and(|ending| ending == "conf"));
            parts.extend(parts_here.map(|entry| (entry.file_name(), entry.path())));
        }
        for part in parts.into_values() {
            text.push('\n');
            text.push_str(&fs::read_to_string(part).unwrap_or_default());
        }
        Some(Self::parse(&text))
    }

    fn parse(text: &str) -> Self {
        let (mut unit, mut in_service) = (Self::default(), false);
        let text = text.replace("\\\n", " ");
        for line in text.lines().map(str::trim).filter(|line| !line.starts_with(['#', ';'])) {
            if line.starts_with('[') {
                in_service = line == "[Service]";
            } else if let Some((key, value)) = line.split_once('=').filter(|_| in_service) {
                let values = unit.0.entry(key.trim().to_owned()).or_default();
                // An empty value begins the list anew.
                if value.trim().is_empty() { values.clear() } else { values.push(value.trim().to_owned()) }
            }
        }
        unit
    }

    /// The last value.
    pub(super) fn value(&self, key: &str) -> Option<&str> {
        self.0.get(key)?.last().map(String::as_str)
    }

    /// All words of all values, quotes taken off.
    pub(super) fn words(&self, key: &str) -> Vec<String> {
        let values = self.0.get(key).into_iter().flatten();
        values.flat_map(|value| value.split_whitespace()).map(|word| word.trim_matches('"').to_owned()).collect()
    }

    fn is_on(&self, key: &str) -> bool {
        self.value(key).is_some_and(|value| ["yes", "true", "on", "1"].contains(&value))
    }

    fn paths(&self, key: &str) -> Vec<PathBuf> {
        let plain =
            |word: &String| PathBuf::from(word.trim_start_matches(['-', '+']).split(':').next().unwrap_or_default());
        let paths = self.words(key).iter().map(plain).collect::<Vec<_>>();
        // A link is what it leads to.
        paths.into_iter().map(|path| path.canonicalize().unwrap_or(path)).collect()
    }

    /// The configuration that the service reads.
    pub(super) fn config(&self) -> PathBuf {
        let words = self.words("ExecStart");
        let given = words.iter().position(|word| word == "--config").and_then(|place| words.get(place + 1));
        PathBuf::from(given.map_or("/etc/tissuemap/tissuemapd.toml", String::as_str))
    }

    /// Folders that systemd makes for the service, which it may write.
    fn own_folders(&self) -> Vec<PathBuf> {
        let kinds = [
            ("StateDirectory", "/var/lib"),
            ("CacheDirectory", "/var/cache"),
            ("LogsDirectory", "/var/log"),
            ("RuntimeDirectory", "/run"),
        ];
        let of = |(key, above): (&str, &str)| {
            self.words(key).into_iter().map(|name| Path::new(above).join(name)).collect::<Vec<_>>()
        };
        kinds.into_iter().flat_map(of).collect()
    }

    /// Why the service does not see this path, whose links are followed, if it does not.
    pub(super) fn hides(&self, path: &Path) -> Option<String> {
        let home = self.value("ProtectHome").unwrap_or("no");
        let bound = || [self.paths("BindPaths"), self.paths("BindReadOnlyPaths")].concat();
        if is_below(path, &HOMES) {
            let hidden = ["yes", "true", "on", "1"].contains(&home) || (home == "tmpfs" && !covers(&bound(), path));
            if hidden {
                return Some(format!("ProtectHome={home}"));
            }
        }
        if is_below(path, &TEMPORARY) && self.is_on("PrivateTmp") && !covers(&bound(), path) {
            return Some("PrivateTmp=yes".into());
        }
        covers(&self.paths("InaccessiblePaths"), path).then(|| "InaccessiblePaths=".into())
    }

    /// Why the service cannot write there, if it cannot, whatever the permissions are.
    pub(super) fn keeps_from_writing(&self, path: &Path) -> Option<String> {
        // The longest path that is named decides.
        let depth = |paths: Vec<PathBuf>| {
            paths.iter().filter(|above| path.starts_with(above)).map(|above| above.components().count()).max()
        };
        let writable = depth([self.paths("ReadWritePaths"), self.paths("BindPaths"), self.own_folders()].concat());
        let denied = depth([self.paths("ReadOnlyPaths"), self.paths("BindReadOnlyPaths")].concat());
        if denied > writable {
            return Some("ReadOnlyPaths=".into());
        }
        if writable.is_some() {
            return None;
        }
        if self.value("ProtectHome") == Some("read-only") && is_below(path, &HOMES) {
            return Some("ProtectHome=read-only".into());
        }
        let system = self.value("ProtectSystem").unwrap_or("no");
        let kept = match system {
            "strict" => !is_below(path, &ALWAYS_WRITABLE),
            "full" => is_below(path, &["/usr", "/boot", "/efi", "/etc"]),
            "yes" | "true" | "on" | "1" => is_below(path, &["/usr", "/boot", "/efi"]),
            _ => false,
        };
        kept.then(|| format!("ProtectSystem={system}"))
    }
}

fn is_below(path: &Path, above: &[&str]) -> bool {
    above.iter().any(|above| path.starts_with(above))
}

fn covers(paths: &[PathBuf], path: &Path) -> bool {
    paths.iter().any(|above| path.starts_with(above))
}

#[cfg(test)]
mod tests {
    use super::*;

    const OURS: &str = include_str!("../../../systemd/tissuemapd.service");

    #[test]
    fn h24_our_unit_hides_homes_and_keeps_from_writing_what_no_drop_in_names() {
        let unit = Unit::parse(OURS);
        let hides = |path: &str| unit.hides(Path::new(path));
        for home in HOMES.map(|home| format!("{home}/scanner/slides")) {
            assert_eq!(hides(&home).as_deref(), Some("ProtectHome=yes"), "{home}");
        }
        assert_eq!(hides("/tmp/in").as_deref(), Some("PrivateTmp=yes"));
        assert_eq!((hides("/srv/slides"), hides("/homework")), (None, None));
        let keeps = |path: &str| unit.keeps_from_writing(Path::new(path));
        assert_eq!(keeps("/srv/slides").as_deref(), Some("ProtectSystem=strict"));
        assert_eq!(keeps("/var/lib/tissuemap/models"), None, "its state");
        assert_eq!(unit.value("User"), Some("tissuemap"));
        assert_eq!(unit.config(), Path::new("/etc/tissuemap/tissuemapd.toml"));
        let with = Unit::parse(&format!(
            "{OURS}\n[Service]\nReadWritePaths=-/srv/slides \\\n  /srv/more\nProtectHome=tmpfs\nBindPaths={}/s\n",
            HOMES[0]
        ));
        assert_eq!(with.keeps_from_writing(Path::new("/srv/more/day")), None);
        let below = |folder: &str| Path::new(HOMES[0]).join(folder);
        assert_eq!(with.hides(&below("s/in")), None);
        assert_eq!(with.hides(&below("t")).as_deref(), Some("ProtectHome=tmpfs"));
        let reset = Unit::parse(
            "[Service]\nProtectSystem=strict\nReadWritePaths=/a\nReadWritePaths=\nReadWritePaths=/b\nReadOnlyPaths=/b/c\n",
        );
        assert_eq!(reset.keeps_from_writing(Path::new("/a")).as_deref(), Some("ProtectSystem=strict"));
        assert_eq!(reset.keeps_from_writing(Path::new("/b/c/d")).as_deref(), Some("ReadOnlyPaths="));
        assert_eq!(reset.keeps_from_writing(Path::new("/b")), None);
    }

    #[test]
    fn h24_drop_ins_are_read_by_name_and_those_of_the_machine_win() {
        let root = tempfile::tempdir().expect("tempdir");
        let write = |path: &str, text: &str| {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().expect("a folder")).expect("create");
            fs::write(path, text).expect("write");
        };
        assert_eq!(Unit::of_files(root.path()), None);
        write("usr/lib/systemd/system/tissuemapd.service", OURS);
        write("usr/lib/systemd/system/tissuemapd.service.d/home.conf", "[Service]\nProtectHome=read-only\n");
        write("etc/systemd/system/tissuemapd.service.d/home.conf", "[Service]\nProtectHome=no\n");
        write("etc/systemd/system/tissuemapd.service.d/user.conf", "[Service]\nUser=scanner\n[Unit]\nUser=nobody\n");
        let unit = Unit::of_files(root.path()).expect("installed");
        assert_eq!((unit.value("ProtectHome"), unit.value("User")), (Some("no"), Some("scanner")));
    }
}
