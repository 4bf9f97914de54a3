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
mod duty;
mod engines;
mod faults;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing;
mod granted;
mod keeper;
mod log;
mod process;
mod protocol;
mod said;
pub mod sandbox;
mod seat;
mod staging;
mod syscalls;
mod watch;

use std::fs;
use std::io::{self, Read};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use sha2::{Digest, Sha256};
use tissuemap::contract::MAX_MODEL_BYTES;
use tissuemap::hex::hex;
use tissuemap::infer::{ProofStep, Provider};
use tissuemap::overlay::Assignment;
use tissuemap::road::{Progress, RoadError, RoadParams, SetResult};
use tissuemap::units::Mpp;
use tissuemap::untrusted::{self, UntrustedError};

pub(crate) use self::log::UNTELLABLE;
pub use self::protocol::{Setup, VERSION};
pub(crate) use self::said::one_line;
pub use self::seat::Vitals;

use self::batches::Batches;
use self::duty::Duty;
use self::engines::Engines;
use self::keeper::Load;
use self::protocol::{Event, Request};
use self::seat::Seat;
use self::staging::{StagingArea, WorkerFolder};
use crate::config::{self, Config};
use crate::job::{Backend, Fault, FaultKind, Health, Job, JobRunner, ModelInfo};
use crate::outputs;

/// The worker processes: one for first looks, and those that [`Backend::load`] starts.
pub struct Workers(Arc<House>);

/// What all workers of a daemon share.
struct House {
    program: PathBuf,
    settings: config::Worker,
    setup: Setup,
    staging: StagingArea,
    engines: PathBuf,
    batches: PathBuf,
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
    /// No other worker may see it.
    folder: WorkerFolder,
}

const TAKEN_OVER_HINT: &str = "nothing was published; a slide or the model may have taken the worker over: see where they come \
                               from, and report this with the log";

impl Workers {
    /// Starts the worker for first looks as `program worker`. Models are loaded with [`Backend::load`].
    ///
    /// # Errors
    /// The state folder cannot be written, or a worker cannot be confined as configured.
    pub fn start(program: &Path, config: &Config) -> Result<Self, Fault> {
        let state = config.state_folder();
        let (place, engines) = (state.join("worker"), state.join("worker/engines"));
        private_folder(&engines).map_err(|error| unwritable(&engines, &error))?;
        let staging = StagingArea::open(&place).map_err(|error| unwritable(&place, &error))?;
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
        let sha256 = hash_model(model)?;
        // What it leaves for later reaches no other model.
        let engines = Engines::of(&house.engines, &sha256).map_err(|error| unwritable(&house.engines, &error))?;
        let folder = house.staging.worker().map_err(|error| unwritable(house.staging.path(), &error))?;
        let mut setup = house.setup.clone();
        setup.read.push(model.into());
        setup.write = vec![folder.path().to_owned(), engines.folder().to_owned()];
        let wanted = house.settings.providers.iter().any(|&provider| provider != Provider::Cpu);
        setup.gpu = wanted && !sandbox::graphics_cards().is_empty();
        let load = Load {
            model: model.into(),
            sha256,
            providers: house.settings.providers.clone(),
            engines,
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
        Ok(Arc::new(Served { seat, model, house: Arc::clone(house), folder }))
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
        let folder = self.folder.job().map_err(|error| {
            // One that fills or occupies its folder before the job begins does not get one.
            self.seat.replace();
            unwritable(self.folder.path(), &error)
        })?;
        let request = Request::Process { set: job.set.clone(), mpp: job.mpp, folder: folder.path.clone() };
        let limit = (self.house.settings.job_limit(), "job_seconds");
        let answer = self.seat.call(request, slides(job), limit, progress).map_err(|fault| {
            // A set that no room is blamed for is tried for ever: that is not taken from the worker.
            if fault.is_no_space() && !folder.is_disk_full() { fault.with_kind(FaultKind::Other) } else { fault }
        })?;
        match answer {
            Event::Drawn(drawn) => {
                let params = &self.house.setup.params;
                let assignment = Assignment {
                    set: &job.set,
                    model_sha256: &self.model.sha256,
                    model_stains: &self.model.stain_names(),
                    provider: self.model.provider,
                    params: &RoadParams { mpp: job.mpp.or(params.mpp), ..params.clone() },
                };
                drawn.publish(&assignment, &folder.path).map_err(|error| {
                    if matches!(error, RoadError::Unasked { .. } | RoadError::NotAccepted { .. }) {
                        self.seat.replace();
                        return Fault::from_error(&error);
                    }
                    // It could be written when the job began: then nothing is wrong with the job.
                    let fault = || Fault::from_error(&error).or_hint(error.hint());
                    outputs::unwritable_now(&job.set).unwrap_or_else(fault)
                })
            }
            other => Err(not_asked_for(&other)),
        }
    }
}

/// SHA-256 of a model's file, which is not taken from the worker that is to load it.
fn hash_model(model: &Path) -> Result<String, Fault> {
    let failed = |error: &UntrustedError| {
        let id = if matches!(error, UntrustedError::TooLarge { .. }) { "onnx.too-large" } else { "model.unreadable" };
        Fault::new(error.to_string(), error.hint()).with_id(id)
    };
    let mut file = untrusted::open_named(model, MAX_MODEL_BYTES).map_err(|error| failed(&error))?;
    let mut hash = Sha256::new();
    let hashed = hash_all(&mut file, &mut hash);
    hashed.map_err(|source| failed(&UntrustedError::Io { path: model.into(), source }))?;
    Ok(hex(hash.finalize()))
}

fn hash_all(from: &mut impl Read, hash: &mut Sha256) -> io::Result<()> {
    let mut buffer = vec![0; 1 << 20];
    loop {
        match from.read(&mut buffer)? {
            0 => return Ok(()),
            read => hash.update(&buffer[..read]),
        }
    }
}

/// Nobody else reads what a result is before it is published.
pub(crate) fn private_folder(folder: &Path) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)
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
    let reason = one_line(&format!("the worker gave an answer that was not asked for: {event:?}"));
    Fault::new(reason, "this is a bug; report it with the log")
}
