//! Damaged slides for a daemon's worker: small sound slides of several formats, of which an input changes a few bytes.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, anyhow};
use tempfile::TempDir;
use tissuemap::units::Mpp;
use tissuemap_daemon::config::Config;
use tissuemap_daemon::job::{Backend, Fault};
use tissuemap_daemon::worker::Workers;

use crate::soak::section;

#[path = "../../../fuzz/shared/patches.rs"]
mod patches;

/// Real slides of a few kilobytes, below the folder of test slides.
const SMALL: [&str; 6] = [
    "openslide-fixtures/small.svs",
    "openslide-fixtures/boxes.tiff",
    "openslide-fixtures/boxes_0.dcm",
    "zero_gi.tif",
    "yb10kx5k.zstd.tiff",
    "dicom-camelyon/multi_frame_jpeg_camelyon_challenge_image.dcm",
];

/// A supervisor with the worker that looks into slides, and a folder for these.
pub struct Examiner {
    folder: TempDir,
    workers: Workers,
    /// Endings and contents; the first is always there.
    sound: Vec<(String, Vec<u8>)>,
}

impl Examiner {
    /// `program` is the daemon's, `slides` a folder of real slides, where there is one.
    ///
    /// # Errors
    /// The worker does not start, or files cannot be written.
    pub fn new(program: &Path, slides: Option<&Path>) -> anyhow::Result<Self> {
        let folder = tempfile::tempdir()?;
        fs::create_dir(folder.path().join("incoming"))?;
        let path = folder.path().join("tissuemapd.toml");
        let text = "state_folder = \"state\"\n[[watch]]\nfolder = \"incoming\"\n[bus]\nkind = \"none\"\n[worker]\n\
                    providers = [\"cpu\"]\nmemory_mib = 2048\nprobe_seconds = 20\nstall_seconds = 20\n";
        fs::write(&path, text)?;
        let workers = Workers::start(program, &Config::read(&path)?).map_err(|fault| anyhow!("{fault}"))?;
        let mut sound = vec![("tif".to_owned(), section(1, 0)?)];
        for name in slides.into_iter().flat_map(|_| SMALL) {
            let path = slides.unwrap_or(Path::new("")).join(name);
            let ending = path.extension().unwrap_or_default().to_string_lossy().into_owned();
            sound.push((ending, fs::read(&path).with_context(|| path.display().to_string())?));
        }
        Ok(Self { folder, workers, sound })
    }

    /// Has the worker look into a slide: the first byte says which sound one, the rest how it is changed (see
    /// `fuzz/shared/patches.rs`).
    ///
    /// # Errors
    /// What the supervisor says of the slide.
    ///
    /// # Panics
    /// The supervisor's answer does not name the slide, or a file cannot be written.
    pub fn examine(&self, input: &[u8]) -> Result<(), Fault> {
        let (which, script) = input.split_first().map_or((0, input), |(which, script)| (usize::from(*which), script));
        let (ending, content) = &self.sound[which % self.sound.len()];
        let slide = self.write("damaged", ending, &patches::patched(content, script));
        let found = self.workers.probe(&slide, Mpp::new(1.0).ok());
        if let Err(fault) = &found {
            assert!(fault.to_string().contains("damaged"), "{fault} does not name the slide");
            assert!(!fault.to_string().chars().any(char::is_control), "{fault:?} drives a terminal");
        }
        found
    }

    /// Whether a sound slide is read after all that.
    ///
    /// # Errors
    /// What the supervisor says of it.
    pub fn is_well(&self) -> Result<(), Fault> {
        let (ending, content) = &self.sound[0];
        self.workers.probe(&self.write("sound", ending, content), None)
    }

    fn write(&self, name: &str, ending: &str, content: &[u8]) -> PathBuf {
        let path = self.folder.path().join("incoming").join(name).with_extension(ending);
        fs::write(&path, content).expect("the temporary folder has room");
        path
    }
}
