//! The daemon's configuration file.

mod models;
mod report;
mod schedule;
mod watch;
mod worker;

use std::io;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use tissuemap::escape::for_people;
use tissuemap::register::RegisterError;
use tissuemap::road::RoadParams;
use tissuemap::section_set::{Namer, NamingError, NamingRules};
use tissuemap::untrusted::{self, Bounded};

pub use self::models::Models;
pub use self::report::{Audit, Leds, Light, Metrics, Pin};
pub use self::schedule::{Order, Schedule};
pub use self::watch::{FolderNaming, Watch};
pub use self::worker::{Sandbox, Worker};
use crate::sets::Incomplete;

/// The commented configuration that `tissuemapd config` prints; equal to the built-in defaults.
pub const DEFAULT: &str = include_str!("default.toml");

/// The whole file.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The ONNX file to begin with, where none was dropped into the model folder.
    pub model: Option<PathBuf>,
    /// How long a running job may go on after the daemon was asked to end.
    #[serde(default = "drain_seconds")]
    pub drain_seconds: u64,
    /// Where the daemon remembers what it tried; see [`Config::state_folder`].
    pub state_folder: Option<PathBuf>,
    /// At least one.
    pub watch: Vec<Watch>,
    #[serde(default)]
    pub naming: NamingRules,
    #[serde(default)]
    pub group: Group,
    #[serde(default)]
    pub schedule: Schedule,
    #[serde(default)]
    pub models: Models,
    #[serde(default)]
    pub worker: Worker,
    #[serde(default)]
    pub bus: Bus,
    #[serde(default)]
    pub leds: Leds,
    #[serde(default)]
    pub metrics: Metrics,
    #[serde(default)]
    pub audit: Audit,
    /// How a set is processed.
    #[serde(default)]
    pub road: RoadParams,
}

/// Leaves a third of systemd's default 90 s for the cancelled job to end.
fn drain_seconds() -> u64 {
    60
}

/// What becomes of incomplete sets.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Group {
    pub wait_seconds: u64,
    pub incomplete: Incomplete,
}

impl Default for Group {
    /// A scanner needs some ten minutes for a slide at 40x, so an hour covers a rack of five stains.
    fn default() -> Self {
        Self { wait_seconds: 3600, incomplete: Incomplete::Wait }
    }
}

/// Where the daemon tells its state.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Bus {
    pub kind: BusKind,
}

/// One of the D-Bus buses of a machine.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum BusKind {
    /// The machine's bus, where a daemon started by systemd belongs.
    #[default]
    System,
    /// The bus of a logged-in user.
    Session,
    /// No bus: the daemon tells its state in its log only.
    #[value(skip)]
    None,
}

/// Why a configuration cannot be used; the text names the file, the line and the key.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("configuration {}: {source}", for_people(path))]
    Read { path: PathBuf, source: io::Error },
    #[error("configuration {}: {}{}", for_people(path), for_people(place), for_people(reason))]
    Parse { path: PathBuf, place: String, reason: String },
    #[error("configuration {}: `{key}` {}", for_people(path), for_people(reason))]
    Value { path: PathBuf, key: String, reason: String },
    #[error("configuration {}: {}: {}", for_people(path), for_people(section), for_people(&source.to_string()))]
    Naming { path: PathBuf, section: String, source: Box<NamingError> },
}

impl Config {
    /// Reads the file, makes its paths absolute and checks its values. What the paths lead to is not looked at: a
    /// network share may come later.
    ///
    /// # Errors
    /// [`ConfigError`].
    pub fn read(path: &Path) -> Result<Self, ConfigError> {
        let read = |source| ConfigError::Read { path: path.into(), source };
        let text = untrusted::open_named(path, untrusted::SMALL).and_then(Bounded::text);
        let text = text.map_err(|error| read(error.into()))?;
        let absolute = std::path::absolute(path).map_err(read)?;
        Self::parse(&text, path)?.resolved(absolute.parent().unwrap_or(Path::new("/"))).checked(path)
    }

    fn parse(text: &str, path: &Path) -> Result<Self, ConfigError> {
        toml::from_str(text).map_err(|error| ConfigError::Parse {
            path: path.into(),
            place: error.span().map(|span| place(text, span.start)).unwrap_or_default(),
            reason: error.message().trim_end().replace('\n', ", "),
        })
    }

    fn resolved(mut self, folder: &Path) -> Self {
        self.model = self.model.as_ref().map(|model| folder.join(model));
        self.models.resolve(folder);
        self.state_folder = self.state_folder.as_ref().map(|state| folder.join(state));
        self.leds.class_folder = folder.join(&self.leds.class_folder);
        self.metrics.file = self.metrics.file.as_ref().map(|file| folder.join(file));
        self.audit.file = self.audit.file.as_ref().map(|file| folder.join(file));
        for watch in &mut self.watch {
            watch.folder = folder.join(&watch.folder);
            watch.manifest = watch.manifest.as_ref().map(|manifest| folder.join(manifest));
        }
        self
    }

    fn checked(self, path: &Path) -> Result<Self, ConfigError> {
        let wrong = |key: String, reason: String| Err(ConfigError::Value { path: path.into(), key, reason });
        if self.watch.is_empty() {
            return wrong("watch".into(), "must name at least one folder: add a [[watch]] section".into());
        }
        for (index, watch) in self.watch.iter().enumerate() {
            for (key, value) in [("settle_seconds", watch.settle_seconds), ("scan_seconds", watch.scan_seconds)] {
                if value == 0 {
                    return wrong(format!("watch.{key}"), format!("of {} must be at least 1", watch.folder.display()));
                }
            }
            // A slide below two folders would be processed twice.
            let overlaps =
                |other: &&Watch| watch.folder.starts_with(&other.folder) || other.folder.starts_with(&watch.folder);
            if let Some(other) = self.watch[index + 1..].iter().find(overlaps) {
                let (one, two) = (watch.folder.display(), other.folder.display());
                return wrong("watch.folder".into(), format!("{one} and {two} overlap; watch only the outer one"));
            }
        }
        let problems = [self.schedule.problem(), self.models.problem(), self.worker.problem()];
        if let Some((key, reason)) = problems.into_iter().flatten().next() {
            return wrong(key.into(), reason.into());
        }
        if let Err(RegisterError::Parameter { name, allowed }) = self.road.register.check() {
            return wrong(format!("road.register.{name}"), format!("must be {allowed}"));
        }
        if let Some((key, range)) = self.road.tissue.problem() {
            return wrong(format!("road.tissue.{key}"), range.into());
        }
        if let Some((key, most)) = self.beyond() {
            return wrong(key.into(), format!("must be at most {most}"));
        }
        let valid = |rules: &NamingRules, section: String| {
            let wrong = |source| ConfigError::Naming { path: path.into(), section, source: Box::new(source) };
            Namer::new(rules).map(drop).map_err(wrong)
        };
        valid(&self.naming, "[naming]".into())?;
        for watch in &self.watch {
            valid(&watch.naming.over(&self.naming), format!("[watch.naming] of {}", watch.folder.display()))?;
        }
        Ok(self)
    }
}

/// Ten years: a longer time is a slip, and sums of times and dates must not overflow.
const MOST_SECONDS: u64 = 10 * 365 * 24 * 3600;

/// A pebibyte.
const MOST_MIB: u64 = 1 << 30;

impl Config {
    /// A key whose value is too large to be calculated with, and its greatest value.
    fn beyond(&self) -> Option<(&'static str, u64)> {
        let seconds = [
            ("drain_seconds", self.drain_seconds),
            ("group.wait_seconds", self.group.wait_seconds),
            ("schedule.retry_max_seconds", self.schedule.retry_max_seconds),
            ("models.settle_seconds", self.models.settle_seconds),
            ("worker.job_seconds", self.worker.job_seconds),
            ("worker.probe_seconds", self.worker.probe_seconds),
            ("worker.stall_seconds", self.worker.stall_seconds),
        ];
        let of_folder = |watch: &Watch| {
            [("watch.settle_seconds", watch.settle_seconds), ("watch.scan_seconds", watch.scan_seconds)]
        };
        let seconds = seconds.into_iter().chain(self.watch.iter().flat_map(of_folder));
        let days = ("models.reprocess_days", u64::from(self.models.reprocess_days), MOST_SECONDS / (24 * 3600));
        let room =
            [("worker.memory_mib", self.worker.memory_mib), ("schedule.min_free_mib", self.schedule.min_free_mib)];
        let all = seconds.map(|(key, value)| (key, value, MOST_SECONDS));
        let all = all.chain(room.map(|(key, value)| (key, value, MOST_MIB))).chain([days]);
        all.filter(|(_, value, most)| value > most).map(|(key, _, most)| (key, most)).next()
    }

    /// Where the daemon remembers what it tried: as configured; else where systemd says (`StateDirectory=`); else
    /// `/var/lib/tissuemap` for root and `tissuemap` among the user's own state for everyone else.
    pub fn state_folder(&self) -> PathBuf {
        const NAME: &str = "tissuemap";
        let variable = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        let by_systemd = || {
            // A list, where the unit names several.
            let folders = std::env::var("STATE_DIRECTORY").ok()?;
            folders.split(':').next().filter(|first| !first.is_empty()).map(PathBuf::from)
        };
        let of_user = || {
            let state = variable("XDG_STATE_HOME").or_else(|| Some(variable("HOME")?.join(".local/state")))?;
            (!rustix::process::geteuid().is_root()).then(|| state.join(NAME))
        };
        let chosen = self.state_folder.clone().or_else(by_systemd).or_else(of_user);
        chosen.unwrap_or_else(|| Path::new("/var/lib").join(NAME))
    }

    /// Where models are dropped: as configured, else `models` in the state folder.
    pub fn model_folder(&self) -> PathBuf {
        self.models.folder.clone().unwrap_or_else(|| self.state_folder().join("models"))
    }
}

/// `line 3, `key`: ` for a byte offset, the key only where the line has one.
fn place(text: &str, offset: usize) -> String {
    let before = text.get(..offset).unwrap_or(text);
    let number = before.matches('\n').count() + 1;
    let line = text.lines().nth(number - 1).unwrap_or_default();
    match line.split_once('=') {
        Some((key, _)) => format!("line {number}, `{}`: ", key.trim()),
        None => format!("line {number}: "),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Config, String> {
        let path = Path::new("/etc/tissuemap/tissuemapd.toml");
        Config::parse(text, path)
            .and_then(|config| config.resolved(Path::new("/etc/tissuemap")).checked(path))
            .map_err(|error| error.to_string())
    }

    const MINIMAL: &str = "[[watch]]\nfolder = \"incoming\"\n";

    #[test]
    fn the_printed_default_is_the_built_in_default() {
        assert_eq!(parse(DEFAULT).expect("default"), parse(MINIMAL).expect("minimal"));
    }

    #[test]
    fn commented_keys_of_the_printed_default_are_known_and_show_the_built_in_defaults() {
        // A commented key is `# key = value` or `# [section]`; all else is prose.
        let uncomment = |line: &str| match line.strip_prefix("# ") {
            Some(rest) if rest.starts_with('[') || rest.split(' ').nth(1) == Some("=") => rest.to_owned(),
            _ => line.to_owned(),
        };
        let text: Vec<String> = DEFAULT.lines().map(uncomment).collect();
        let config = parse(&text.join("\n")).expect("all keys are known");
        assert!(
            config.watch[0].mpp.is_some() && config.watch[0].manifest.is_some() && !config.naming.stains.is_empty()
        );
        assert!(config.watch[0].marker.is_some() && config.watch[0].naming != FolderNaming::default());
        assert_eq!(config.watch[0].ignore, parse(MINIMAL).expect("minimal").watch[0].ignore);
        assert_eq!(config.road, RoadParams::default());
        assert!(config.leds.lights().iter().all(Option::is_some) && config.leds.button.is_some());
        assert_eq!(config.leds.class_folder, parse(MINIMAL).expect("minimal").leds.class_folder);
        assert!(config.metrics.file.is_some() && config.audit.file.is_some());
        let keys = |table: &toml::Value, section: &str| -> Vec<String> {
            let section = table.get(section).and_then(toml::Value::as_table);
            section.into_iter().flat_map(toml::Table::keys).cloned().collect()
        };
        let shown = toml::Value::Table(text.join("\n").parse().expect("TOML"));
        let built_in = toml::Value::try_from(RoadParams::default()).expect("a table");
        for section in ["limits", "tissue", "register"] {
            assert_eq!(keys(&shown["road"], section), keys(&built_in, section), "[road.{section}] shows every key");
        }
    }

    #[test]
    fn paths_are_relative_to_the_file() {
        let config = parse("model = \"/models/m.onnx\"\nstate_folder = \"state\"\n[[watch]]\nfolder = \"incoming\"\nmanifest = \"names.csv\"")
            .expect("fine");
        assert_eq!(config.model.as_deref(), Some(Path::new("/models/m.onnx")));
        assert_eq!(config.model_folder(), Path::new("/etc/tissuemap/state/models"));
        assert_eq!(config.state_folder(), Path::new("/etc/tissuemap/state"));
        assert_eq!(config.watch[0].folder, Path::new("/etc/tissuemap/incoming"));
        assert_eq!(config.watch[0].manifest.as_deref(), Some(Path::new("/etc/tissuemap/names.csv")));
    }

    #[test]
    fn errors_are_one_line_and_name_file_line_and_key() {
        let cases = [
            ("model = \"m\"\n", vec!["watch"]),
            ("model = \"m\"\nwatch = []\n", vec!["`watch`", "at least one folder"]),
            (
                "[[watch]]\nfolder = \"a\"\n[road.register]\nngf_eta = nan\n",
                vec!["`road.register.ngf_eta`", "0.01 to 100"],
            ),
            (
                "[[watch]]\nfolder = \"a\"\n[road.tissue]\nmin_density = inf\n",
                vec!["`road.tissue.min_density`", "0 to 10"],
            ),
            (
                "model = \"m\"\n[[watch]]\nfolder = \"a\"\nsettle_secs = 3\n",
                vec!["line 4", "settle_secs", "settle_seconds"],
            ),
            ("model = \"m\"\n[[watch]]\nfolder = \"a\"\nsettle_seconds = \"3\"\n", vec!["line 4, `settle_seconds`"]),
            (
                "model = \"m\"\n[[watch]]\nfolder = \"a\"\nscan_seconds = 0\n",
                vec!["`watch.scan_seconds`", "at least 1"],
            ),
            ("model = \"m\"\n[[watch]]\nfolder = \"a\"\nmpp = 0.0\n", vec!["line 4, `mpp`", "plausible"]),
            (
                "model = \"m\"\n[[watch]]\nfolder = \"a\"\n[group]\nincomplete = \"go\"\n",
                vec!["line 5, `incomplete`", "skip"],
            ),
            (
                "[[watch]]\nfolder = \"a\"\n[models]\ntrusted_keys = [\"untrusted comment: k\"]\n",
                vec!["`models.trusted_keys`", "minisign"],
            ),
            (
                "model = \"m\"\n[[watch]]\nfolder = \"a\"\n[worker]\nmemory_mib = 0\n",
                vec!["`worker.memory_mib`", "at least 1"],
            ),
            (
                "model = \"m\"\n[[watch]]\nfolder = \"a\"\n[worker]\njob_seconds = 9223372036854775807\n",
                vec!["`worker.job_seconds`", "at most 315360000"],
            ),
            (
                "model = \"m\"\n[[watch]]\nfolder = \"a\"\n[worker]\nmemory_mib = 17592186044416\n",
                vec!["`worker.memory_mib`", "at most 1073741824"],
            ),
            (
                "model = \"m\"\n[[watch]]\nfolder = \"a\"\n[worker]\nproviders = [\"gpu\"]\n",
                vec!["line 5, `providers`", "tensorrt"],
            ),
            (
                "model = \"m\"\n[[watch]]\nfolder = \"a\"\n[naming]\npatterns = [\"(\"]\n",
                vec!["[naming]", "regular expression"],
            ),
            (
                "model = \"m\"\n[[watch]]\nfolder = \"a\"\n[watch.naming]\npatterns = [\"(\"]\n",
                vec!["[watch.naming] of /etc/tissuemap/a", "regular expression"],
            ),
            (
                "model = \"m\"\n[[watch]]\nfolder = \"a\"\nmarker = \"{case}.done\"\n",
                vec!["line 4, `marker`", "{stem}.done"],
            ),
            (
                "model = \"m\"\n[[watch]]\nfolder = \"a\"\nignore = [\"*.tmp\", \"*\"]\n",
                vec!["line 4, `ignore`", "at most one `*`"],
            ),
            (
                "model = \"m\"\n[[watch]]\nfolder = \"a\"\n[[watch]]\nfolder = \"a/b\"\n",
                vec!["`watch.folder`", "overlap"],
            ),
            (
                "model = \"m\"\n[[watch]]\nfolder = \"a\"\n[schedule]\ntries = 0\n",
                vec!["`schedule.tries`", "at least 1"],
            ),
            (
                "model = \"m\"\n[[watch]]\nfolder = \"a\"\n[schedule]\norder = \"fifo\"\n",
                vec!["line 5, `order`", "newest-first"],
            ),
        ];
        for (text, parts) in cases {
            let error = parse(text).expect_err(text);
            assert!(!error.contains('\n'), "{error}");
            for part in ["/etc/tissuemap/tissuemapd.toml"].iter().chain(&parts) {
                assert!(error.contains(part), "{part:?} missing in {error:?}");
            }
        }
    }

    #[test]
    fn a_folder_may_have_a_naming_of_its_own() {
        let text = "model = \"m\"\n[naming]\npatterns = ['^(?<case>.+)_(?<stain>.+)$']\n[naming.stains]\nCD31 = [\"PECAM\"]\n\
                    [[watch]]\nfolder = \"a\"\n[watch.naming]\npatterns = ['^(?<stain>.+)@(?<case>.+)$']\n\
                    [watch.naming.stains]\nHE = [\"eosin\"]\n[[watch]]\nfolder = \"b\"\n";
        let config = parse(text).expect("fine");
        let read = |watch: usize, name: &str| {
            let namer = Namer::new(&config.watch[watch].naming.over(&config.naming)).expect("checked");
            namer.parse(Path::new(name)).ok().map(|name| (name.case, name.stain))
        };
        let read_as = |case: &str, stain: &str| Some((case.to_owned(), stain.to_owned()));
        assert_eq!(read(0, "Eosin@c1.svs"), read_as("c1", "HE"));
        assert_eq!(read(0, "pecam@c1.svs"), read_as("c1", "CD31"));
        assert_eq!(read(0, "c1_HE.svs"), None);
        assert_eq!(read(1, "c1_pecam.svs"), read_as("c1", "CD31"));
        assert_eq!(read(1, "c1_eosin.svs"), read_as("c1", "eosin"));
    }

    #[test]
    fn a_missing_file_is_named() {
        let error = Config::read(Path::new("/nonexistent/tissuemapd.toml")).expect_err("missing").to_string();
        assert!(error.contains("/nonexistent/tissuemapd.toml") && error.contains("No such file"), "{error}");
    }
}
