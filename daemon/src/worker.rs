//! The processes that alone open slides and models, each in a sandbox: what a hostile file does to one of them, it does to
//! nobody else.
//!
//! ```text
//! supervisor                                                worker process (tissuemapd worker)
//! run ─► Workers ─► seat ─► keeper ─► process  ◄═protocol═►  child ─► sandbox, then in_process ─► staging folder
//!           └─ publish: from the staging folder to beside the slides
//! ```
//!
//! There are two: one for sets, with the model, and one for first looks into slides. A slide that kills the second does not
//! take a running job with it, and it is always clear which slide it was.

mod batches;
pub mod child;
mod keeper;
mod log;
mod process;
mod protocol;
pub mod sandbox;
mod seat;
mod syscalls;

use std::fs;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tissuemap::infer::Provider;
use tissuemap::road::{Progress, SetResult};
use tissuemap::units::Mpp;

pub use self::protocol::{Setup, VERSION};
pub use self::seat::Vitals;

use self::batches::Batches;
use self::keeper::{Duty, Load};
use self::protocol::{Event, Request};
use self::seat::Seat;
use crate::config::Config;
use crate::job::{Fault, Job, JobRunner, ModelInfo};

/// The worker processes and what they are for.
pub struct Workers {
    jobs: Seat,
    probes: Seat,
    model: ModelInfo,
    staging: PathBuf,
    next: AtomicU64,
    job_limit: Duration,
    probe_limit: Duration,
}

impl Workers {
    /// Starts the workers as `program worker` and has the model loaded and proved.
    ///
    /// # Errors
    /// The state folder cannot be written, a worker cannot be confined as configured, or the model is refused.
    pub fn start(program: &Path, config: &Config) -> Result<Self, Fault> {
        let settings = &config.worker;
        let state = config.state_folder();
        let (staging, engines) = (state.join("worker/staging"), state.join("worker/engines"));
        for folder in [&staging, &engines] {
            private_folder(folder).map_err(|error| unwritable(folder, &error))?;
        }
        clear(&staging).map_err(|error| unwritable(&staging, &error))?;

        let folders: Vec<PathBuf> = config.watch.iter().map(|watch| watch.folder.clone()).collect();
        let setup = |read: Vec<PathBuf>, write: Vec<PathBuf>, gpu: bool| Setup {
            version: VERSION,
            sandbox: settings.sandbox,
            read,
            write,
            gpu,
            memory: settings.memory_mib << 20,
            params: config.road.clone(),
        };
        let gpu = settings.providers.iter().any(|&provider| provider != Provider::Cpu);
        let readable = folders.iter().cloned().chain([config.model.clone()]).collect();
        let jobs = Duty {
            name: "jobs",
            program: program.into(),
            setup: setup(readable, vec![staging.clone(), engines.clone()], gpu),
            load: Some(Load {
                model: config.model.clone(),
                providers: settings.providers.clone(),
                engines,
                batches: Batches(state.join("batches.json")),
            }),
        };
        let probes = Duty { name: "probes", program: program.into(), setup: setup(folders, vec![], false), load: None };
        let (jobs, model) = Seat::open(jobs)?;
        let (probes, _) = Seat::open(probes)?;
        let model = model.ok_or_else(|| Fault::new("the worker told of no model", "this is a bug"))?;
        let (job_limit, probe_limit) = (settings.job_limit(), settings.probe_limit());
        Ok(Self { jobs, probes, model, staging, next: AtomicU64::new(1), job_limit, probe_limit })
    }

    /// How the worker for sets is.
    pub fn jobs(&self) -> Vitals {
        self.jobs.vitals()
    }

    /// How the worker for first looks is.
    pub fn probes(&self) -> Vitals {
        self.probes.vitals()
    }
}

impl JobRunner for Workers {
    fn model(&self) -> &ModelInfo {
        &self.model
    }

    fn probe(&self, slide: &Path, mpp: Option<Mpp>) -> Result<(), Fault> {
        let request = Request::Probe { slide: slide.into(), mpp };
        let limit = (self.probe_limit, "probe_seconds");
        match self.probes.call(request, slide.display().to_string(), limit, &())? {
            Event::Probed => Ok(()),
            other => Err(not_asked_for(&other)),
        }
    }

    fn process(&self, job: &Job, progress: &dyn Progress) -> Result<SetResult, Fault> {
        let folder = self.staging.join(self.next.fetch_add(1, Ordering::Relaxed).to_string());
        private_folder(&folder).map_err(|error| unwritable(&folder, &error))?;
        let _guard = Removed(&folder);
        let request = Request::Process { set: job.set.clone(), mpp: job.mpp, folder: folder.clone() };
        let limit = (self.job_limit, "job_seconds");
        match self.jobs.call(request, slides(job), limit, progress)? {
            Event::Drawn(drawn) => {
                drawn.publish(&job.set, &folder).map_err(|error| Fault::from_error(&error).or_hint(error.hint()))
            }
            other => Err(not_asked_for(&other)),
        }
    }
}

/// A folder for this job only; whatever is in it goes with it.
struct Removed<'a>(&'a Path);

impl Drop for Removed<'_> {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(self.0) {
            tracing::warn!(folder = %self.0.display(), reason = %error, "Staging folder not removed");
        }
    }
}

/// Nobody else reads what a result is before it is published.
fn private_folder(folder: &Path) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)
}

/// Removes what an earlier daemon left that was killed.
fn clear(folder: &Path) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() { fs::remove_dir_all(entry.path()) } else { fs::remove_file(entry.path()) }?;
    }
    Ok(())
}

fn unwritable(folder: &Path, error: &io::Error) -> Fault {
    Fault::new(
        format!("{}: {error}", folder.display()),
        "give the daemon a folder that it may write: `state_folder`, or StateDirectory= in its unit",
    )
}

fn slides(job: &Job) -> String {
    let names = job.set.slides.values().map(|slide| slide.file_name().unwrap_or_default().to_string_lossy());
    names.collect::<Vec<_>>().join(", ")
}

fn not_asked_for(event: &Event) -> Fault {
    let reason = log::one_line(&format!("the worker gave an answer that was not asked for: {event:?}"));
    Fault::new(reason, "this is a bug; report it with the log")
}
