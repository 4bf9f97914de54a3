//! A seat is for one worker process at a time: whoever dies in it is replaced.
//!
//! All state of a seat belongs to its keeper, a thread that lives as long as the seat; whoever has work for the worker
//! talks to the keeper and waits.

use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender, SyncSender};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tissuemap::infer::ProofStep;
use tissuemap::road::Progress;

use super::duty::Duty;
use super::keeper::Keeper;
use super::protocol::{Event, Request};
use crate::job::{Fault, ModelInfo};

/// How often somebody who waits for an answer asks whether the work is still wanted.
const TICK: Duration = Duration::from_millis(100);

/// Events of a worker that wait to be heard; then it has to wait, so that one that went wild fills no memory.
const UNHEARD: usize = 16;

/// What a seat shows of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Vitals {
    /// The worker, if there is one.
    pub pid: Option<u32>,
    /// Workers that began to serve in this seat.
    pub starts: u32,
    /// Since when it has worked on what it was last given; none while it waits for work.
    pub busy_since: Option<Instant>,
    /// When the worker last told anything. A busy worker whose last word lies far back makes no progress.
    pub last_event: Instant,
}

impl Vitals {
    /// Of a seat that nobody has taken yet.
    pub(super) fn new() -> Self {
        Self { pid: None, starts: 0, busy_since: None, last_event: Instant::now() }
    }

    /// How long a busy worker has told nothing; zero for one that waits for work.
    pub fn silence(&self) -> Duration {
        self.busy_since.map(|_| self.last_event.elapsed()).unwrap_or_default()
    }
}

/// Work for a worker.
pub(super) struct Call {
    pub(super) request: Request,
    /// The slides concerned, for faults.
    pub(super) subject: String,
    pub(super) limit: Duration,
    /// Where the limit comes from, for faults.
    pub(super) key: &'static str,
    pub(super) reply: Sender<Event>,
    /// How often a worker was replaced before this could be sent to one.
    pub(super) replaced: u32,
    /// It has failed once, and a folder was put in place anew meanwhile.
    pub(super) repeated: bool,
}

/// What a keeper says of its first worker until that serves.
pub(super) enum Ready {
    Step(ProofStep),
    /// The model that was loaded, if one was to be.
    Outcome(Result<Option<ModelInfo>, Fault>),
}

/// What a keeper hears.
pub(super) enum Input {
    Call(Call),
    /// The call that is being worked on is no longer wanted.
    Cancel,
    /// The worker did what it must not; another one takes its place.
    Replace,
    /// The worker with this number said something; `None` when it is gone.
    Said(u32, Option<Event>),
    Stop,
}

/// See the module.
pub(super) struct Seat {
    inputs: SyncSender<Input>,
    /// One call at a time.
    turn: Mutex<()>,
    vitals: Arc<Mutex<Vitals>>,
    keeper: Option<JoinHandle<()>>,
}

impl Seat {
    /// Starts a worker, and gives what it tells of the model it loaded, if loading one is its duty; `tell` hears how far that is.
    ///
    /// # Errors
    /// Why no worker could be started.
    pub(super) fn open(duty: Duty, tell: &dyn Fn(ProofStep)) -> Result<(Self, Option<ModelInfo>), Fault> {
        let vitals = Arc::new(Mutex::new(Vitals::new()));
        let (inputs, heard) = mpsc::sync_channel(UNHEARD);
        let (ready, is_ready) = mpsc::channel();
        let keeper = Keeper::new(duty, heard, inputs.clone(), Arc::clone(&vitals));
        let keeper = std::thread::Builder::new().name("worker keeper".into()).spawn(move || keeper.keep(&ready));
        let keeper = keeper.map_err(|error| Fault::from_error(&error))?;
        let seat = Self { inputs, turn: Mutex::new(()), vitals, keeper: Some(keeper) };
        loop {
            match is_ready.recv().map_err(|_| no_keeper())? {
                Ready::Step(step) => tell(step),
                Ready::Outcome(outcome) => return outcome.map(|model| (seat, model)),
            }
        }
    }

    /// Has the worker do something, and waits for its answer.
    ///
    /// # Errors
    /// The fault that the worker answered with, or how it ended.
    pub(super) fn call(
        &self,
        request: Request,
        subject: String,
        (limit, key): (Duration, &'static str),
        progress: &dyn Progress,
    ) -> Result<Event, Fault> {
        let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        let (reply, answers) = mpsc::channel();
        let call = Call { request, subject, limit, key, reply, replaced: 0, repeated: false };
        self.inputs.send(Input::Call(call)).map_err(|_| no_keeper())?;
        let mut cancelled = false;
        loop {
            match answers.recv_timeout(TICK) {
                Ok(Event::Stage { stage, done, total }) => progress.stage(stage, done, total),
                Ok(Event::Fault(fault)) => return Err(fault),
                Ok(answer) => return Ok(answer),
                Err(RecvTimeoutError::Disconnected) => return Err(no_keeper()),
                Err(RecvTimeoutError::Timeout) => {}
            }
            if progress.cancelled() && !std::mem::replace(&mut cancelled, true) {
                self.inputs.send(Input::Cancel).map_err(|_| no_keeper())?;
            }
        }
    }

    /// Has the worker replaced that waits for work.
    pub(super) fn replace(&self) {
        let _ = self.inputs.send(Input::Replace);
    }

    pub(super) fn vitals(&self) -> Vitals {
        *self.vitals.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let _ = self.inputs.send(Input::Stop);
        if let Some(keeper) = self.keeper.take() {
            let _ = keeper.join();
        }
    }
}

fn no_keeper() -> Fault {
    Fault::new("the keeper of a worker process has ended", "this is a bug; report it with the log")
}

/// The receiving end, as the keeper reads it.
pub(super) type Inputs = Receiver<Input>;

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;
    use std::sync::atomic::AtomicU32;

    use tissuemap::road::RoadParams;

    use super::super::protocol::{Setup, VERSION};
    use super::*;
    use crate::config::Sandbox;

    #[test]
    fn h29_a_message_that_the_supervisor_refuses_ends_the_wait_and_is_named() {
        let folder = tempfile::tempdir().expect("tempdir");
        let program = folder.path().join("worker");
        // Announces a message of four gigabytes, and waits.
        fs::write(&program, "#!/bin/sh\nprintf '\\377\\377\\377\\377' >&0\nread line\nread line\n").expect("written");
        fs::set_permissions(&program, fs::Permissions::from_mode(0o700)).expect("its own");
        let setup = Setup {
            version: VERSION,
            sandbox: Sandbox::BestEffort,
            read: vec![],
            write: vec![],
            gpu: false,
            memory: 1 << 30,
            params: RoadParams::default(),
        };
        let duty = Duty {
            name: "test",
            program,
            setup,
            stall: Duration::from_mins(15),
            restarts: Arc::new(AtomicU32::new(0)),
            load: None,
        };
        let fault = Seat::open(duty, &|_| {}).map(drop).expect_err("refused");
        assert!(fault.reason().contains("a message of 4294967295 bytes is too long"), "{fault}");
    }
}
