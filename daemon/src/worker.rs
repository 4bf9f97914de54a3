//! The processes that alone open slides and models, each in a sandbox: what a hostile file does to one of them, it does to
//! nobody else.
//!
//! ```text
//! supervisor                                                    worker process (tissuemapd worker)
//! run ─► Served, Workers ─► seat ─► keeper ─► process  ◄═protocol═►  child ─► sandbox, then in_process ─► staging folder
//!           └─ publish: from the staging folder to beside the slides
//! ```
//!
//! There is one for first looks into slides, and one for every model that serves or is being proved. A slide that kills the
//! first does not take a running job with it, and it is always clear which slide it was. A model that kills its own takes
//! nobody else's.

mod back_off;
mod batches;
pub mod child;
mod faults;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing;
mod granted;
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
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use tissuemap::infer::{ProofStep, Provider};
use tissuemap::road::{Progress, SetResult};
use tissuemap::units::Mpp;

pub use self::protocol::{Setup, VERSION};
pub use self::seat::Vitals;

use self::batches::Batches;
use self::keeper::{Duty, Load};
use self::protocol::{Event, Request};
use self::seat::Seat;
use crate::config::{self, Config};
use crate::job::{Backend, Fault, Health, Job, JobRunner, ModelInfo};
use crate::outputs;

/// The worker processes: one for first looks, and those that [`Backend::load`] starts.
pub struct Workers(Arc<House>);

/// What all workers of a daemon share.
struct House {
    program: PathBuf,
    settings: config::Worker,
    setup: Setup,
    staging: PathBuf,
    engines: PathBuf,
    batches: PathBuf,
    next: AtomicU64,
    /// Workers that had to be replaced, of all seats that there ever were.
    restarts: Arc<AtomicU32>,
    probes: Seat,
    /// Those of models that serve, the latest last.
    jobs: Mutex<Vec<Weak<Seat>>>,
}

/// A model in a worker process of its own.
pub struct Served {
    seat: Arc<Seat>,
    model: ModelInfo,
    house: Arc<House>,
}

impl Workers {
    /// Starts the worker for first looks as `program worker`. Models are loaded with [`Backend::load`].
    ///
    /// # Errors
    /// The state folder cannot be written, or a worker cannot be confined as configured.
    pub fn start(program: &Path, config: &Config) -> Result<Self, Fault> {
        let state = config.state_folder();
        let (staging, engines) = (state.join("worker/staging"), state.join("worker/engines"));
        for folder in [&staging, &engines] {
            private_folder(folder).map_err(|error| unwritable(folder, &error))?;
        }
        clear(&staging).map_err(|error| unwritable(&staging, &error))?;
        let setup = Setup {
            version: VERSION,
            sandbox: config.worker.sandbox,
            read: config.watch.iter().map(|watch| watch.folder.clone()).collect(),
            write: vec![],
            gpu: false,
            memory: config.worker.memory_mib << 20,
            params: config.road.clone(),
        };
        let restarts = Arc::new(AtomicU32::new(0));
        let duty = Duty {
            name: "probes",
            program: program.into(),
            setup: setup.clone(),
            stall: config.worker.stall(),
            restarts: Arc::clone(&restarts),
            load: None,
        };
        let (probes, _) = Seat::open(duty, &|_| {})?;
        Ok(Self(Arc::new(House {
            program: program.into(),
            settings: config.worker.clone(),
            setup,
            staging,
            engines,
            batches: state.join("batches.json"),
            next: AtomicU64::new(1),
            restarts,
            probes,
            jobs: Mutex::default(),
        })))
    }

    /// How the worker that processes a set is; without one, the one that was loaded last.
    pub fn jobs(&self) -> Vitals {
        let seats: Vec<Vitals> = self.0.seats().iter().filter_map(Weak::upgrade).map(|seat| seat.vitals()).collect();
        let busy = seats.iter().filter(|vitals| vitals.busy_since.is_some()).min_by_key(|vitals| vitals.last_event);
        busy.or(seats.last()).copied().unwrap_or_else(Vitals::new)
    }

    /// How the worker for first looks is.
    pub fn probes(&self) -> Vitals {
        self.0.probes.vitals()
    }
}

impl House {
    fn seats(&self) -> MutexGuard<'_, Vec<Weak<Seat>>> {
        self.jobs.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Backend for Workers {
    fn probe(&self, slide: &Path, mpp: Option<Mpp>) -> Result<(), Fault> {
        let request = Request::Probe { slide: slide.into(), mpp };
        let limit = (self.0.settings.probe_limit(), "probe_seconds");
        match self.0.probes.call(request, slide.display().to_string(), limit, &())? {
            Event::Probed => Ok(()),
            other => Err(not_asked_for(&other)),
        }
    }

    fn load(&self, model: &Path, tell: &dyn Fn(ProofStep)) -> Result<Arc<dyn JobRunner>, Fault> {
        let house = &self.0;
        let mut setup = house.setup.clone();
        setup.read.push(model.into());
        setup.write = vec![house.staging.clone(), house.engines.clone()];
        let wanted = house.settings.providers.iter().any(|&provider| provider != Provider::Cpu);
        setup.gpu = wanted && !sandbox::graphics_cards().is_empty();
        let load = Load {
            model: model.into(),
            providers: house.settings.providers.clone(),
            engines: house.engines.clone(),
            batches: Batches(house.batches.clone()),
            machine: tissuemap::infer::machine(),
            limit: house.settings.load_limit(),
        };
        let duty = Duty {
            name: "jobs",
            program: house.program.clone(),
            setup,
            stall: house.settings.stall(),
            restarts: Arc::clone(&house.restarts),
            load: Some(load),
        };
        let (seat, model) = Seat::open(duty, tell)?;
        let model = model.ok_or_else(|| Fault::new("the worker told of no model", "this is a bug"))?;
        let seat = Arc::new(seat);
        let mut seats = house.seats();
        seats.retain(|seat| seat.strong_count() > 0);
        seats.push(Arc::downgrade(&seat));
        Ok(Arc::new(Served { seat, model, house: Arc::clone(house) }))
    }

    fn health(&self) -> Health {
        let limit = self.0.settings.stall();
        let stalled = [("sets", self.jobs()), ("first looks", self.probes())].into_iter().find_map(|(what, vitals)| {
            let reason = format!("the worker for {what} has made no progress for {} seconds", limit.as_secs());
            (vitals.silence() > limit)
                .then(|| Fault::new(reason, "it is replaced; see whether disks and shares answer"))
        });
        Health { stalled, restarts: self.0.restarts.load(Ordering::Relaxed) }
    }
}

impl JobRunner for Served {
    fn model(&self) -> &ModelInfo {
        &self.model
    }

    fn process(&self, job: &Job, progress: &dyn Progress) -> Result<SetResult, Fault> {
        let folder = self.house.staging.join(self.house.next.fetch_add(1, Ordering::Relaxed).to_string());
        private_folder(&folder).map_err(|error| unwritable(&folder, &error))?;
        let _guard = Removed(&folder);
        let request = Request::Process { set: job.set.clone(), mpp: job.mpp, folder: folder.clone() };
        let limit = (self.house.settings.job_limit(), "job_seconds");
        match self.seat.call(request, slides(job), limit, progress)? {
            Event::Drawn(drawn) => {
                drawn.publish(&job.set, &folder).map_err(|error| {
                    // It could be written when the job began: then nothing is wrong with the job.
                    let fault = || Fault::from_error(&error).or_hint(error.hint());
                    outputs::unwritable_now(&job.set).unwrap_or_else(fault)
                })
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
pub(crate) fn private_folder(folder: &Path) -> io::Result<()> {
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

/// What is said of a folder of the daemon's own that it cannot write.
pub(crate) fn unwritable(folder: &Path, error: &io::Error) -> Fault {
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
