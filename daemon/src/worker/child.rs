//! The worker process itself: confines itself, then does what it is asked, one request after the other.

use std::io;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Sender};

use rustix::process::{Signal, getpid, kill_process, set_parent_process_death_signal};
use tissuemap::infer::{InferOptions, Model, Proving};
use tissuemap::road::{Progress, RoadParams, Stage};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

use super::log::Line;
use super::protocol::{Event, Request, Setup, VERSION, receive};
use super::sandbox;
use crate::exit::{self, Exit};
use crate::in_process::{self, InProcess};
use crate::job::{Fault, JobRunner, panicked};
use crate::priority;

/// Serves the supervisor at the other end of standard input until it is gone.
pub fn serve() -> ExitCode {
    match begin() {
        Ok(ended) => match ended {},
        Err(error) => {
            exit::complain(&Fault::new(format!("worker: {error}"), "tissuemapd starts its workers itself"));
            Exit::Internal.into()
        }
    }
}

/// Serving has no end of its own.
enum Never {}

fn begin() -> io::Result<Never> {
    set_parent_process_death_signal(Some(Signal::KILL))?;
    let mut socket = UnixStream::from(io::stdin().as_fd().try_clone_to_owned()?);
    let Request::Setup(setup) = receive(&mut socket)? else {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "the first request is no set-up"));
    };
    let line = Line::new(socket.try_clone()?);
    let confined = confine(&setup).inspect_err(|fault| line.tell(&Event::Fault(fault.clone())));
    let lacking = confined.map_err(io::Error::other)?;
    // Threads only from here on: they inherit the confinement.
    tracing_subscriber::registry().with(crate::log::filter()).with(line.clone()).init();
    line.tell(&Event::Hello { version: VERSION, lacking });

    let cancel = Arc::new(AtomicBool::new(false));
    let (sender, requests) = mpsc::channel();
    let flag = Arc::clone(&cancel);
    std::thread::Builder::new().name("requests".into()).spawn(move || listen(socket, &sender, &flag))?;
    let mut desk = Desk { line, cancel, params: setup.params, model: None };
    loop {
        let request = requests.recv().unwrap_or_else(|_| end());
        desk.answer(request);
    }
}

fn confine(setup: &Setup) -> Result<Vec<String>, Fault> {
    if setup.version != VERSION {
        let reason = format!("the worker speaks version {VERSION}, the daemon {}", setup.version);
        return Err(Fault::new(reason, "restart tissuemapd after installing another version"));
    }
    let failed = |error: &(dyn std::error::Error + 'static)| {
        Fault::from_error(error).or_hint("set sandbox = \"best-effort\" in [worker], or use a newer kernel")
    };
    priority::step_back().map_err(|error| failed(&error))?;
    // Where memory runs out, a worker goes before its supervisor and before the scanner's software. Without /proc, it does not.
    let _ = std::fs::write("/proc/self/oom_score_adj", "1000");
    sandbox::enter(setup).map_err(|error| failed(&error))
}

/// Hands requests on while the worker works; ends the worker when the supervisor is gone.
fn listen(mut socket: UnixStream, requests: &Sender<Request>, cancel: &AtomicBool) {
    while let Ok(request) = receive(&mut socket) {
        match request {
            Request::Cancel => cancel.store(true, Ordering::Relaxed),
            request => {
                cancel.store(false, Ordering::Relaxed);
                if requests.send(request).is_err() {
                    break;
                }
            }
        }
    }
    end();
}

/// At once: running libraries' exit handlers under the feet of their own threads may hang.
fn end() -> ! {
    let _ = kill_process(getpid(), Signal::KILL);
    std::process::abort()
}

struct Desk {
    line: Line,
    cancel: Arc<AtomicBool>,
    params: RoadParams,
    model: Option<InProcess>,
}

impl Desk {
    /// Answers one request; a panic is an answer too.
    fn answer(&mut self, request: Request) {
        let answer = catch_unwind(AssertUnwindSafe(|| self.work(request)))
            .unwrap_or_else(|panic| Err(panicked(Some(panic.as_ref()))));
        self.line.answer(&answer.unwrap_or_else(Event::Fault));
    }

    fn work(&mut self, request: Request) -> Result<Event, Fault> {
        match request {
            Request::Load { model, providers, engines, batches, machine } => {
                let options = InferOptions { threads: 0, providers, engines: Some(engines) };
                let tell = |step| self.line.tell(&Event::Step(step));
                let proving = Proving { measure: true, known: &batches, machine: &machine, tell: &tell };
                let loaded =
                    Model::load_proven(&model, &options, &proving).map_err(|error| in_process::refused(&error))?;
                let batch = loaded.batch();
                let loaded = self.model.insert(InProcess::new(loaded, &model, &self.params));
                Ok(Event::Loaded { info: JobRunner::model(loaded).clone(), batch })
            }
            Request::Probe { slide, mpp } => in_process::probe(&slide, mpp, &self.params).map(|()| Event::Probed),
            Request::Process { set, mpp, folder } => {
                let model = self.model.as_ref().ok_or_else(|| out_of_turn("a set before a model"))?;
                model.draw(&set, mpp, &folder, &Report { line: &self.line, cancel: &self.cancel }).map(Event::Drawn)
            }
            Request::Setup(_) | Request::Cancel => Err(out_of_turn("a second set-up")),
        }
    }
}

fn out_of_turn(what: &str) -> Fault {
    Fault::new(format!("worker: was given {what}"), "this is a bug; report it with the log")
}

/// The worker's end of [`Progress`].
struct Report<'a> {
    line: &'a Line,
    cancel: &'a AtomicBool,
}

impl Progress for Report<'_> {
    fn stage(&self, stage: Stage, done: u64, total: u64) {
        self.line.tell(&Event::Stage { stage, done, total });
    }

    fn cancelled(&self) -> bool {
        self.cancel.load(Ordering::Relaxed)
    }
}
