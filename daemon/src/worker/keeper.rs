//! Who starts the worker of a seat, gives it work, watches it, and replaces it.

mod load;

use std::collections::VecDeque;
use std::io::ErrorKind;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{RecvTimeoutError, Sender, SyncSender};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tissuemap::road::Stage;

pub(super) use self::load::Load;
use super::back_off::back_off;
use super::duty::Duty;
use super::faults::{Bounds, away, ended, not_cancelled, stands_still, too_slow, unexpected};
use super::granted::{Paths, Places};
use super::log::repeat;
use super::process::Process;
use super::protocol::{Event, Request, Setup};
use super::said::{News, one_line};
use super::seat::{Call, Input, Inputs, Ready, Vitals};
use super::unwritable;
use super::watch::Watch;
use crate::job::{Fault, FaultKind, ModelInfo};

/// How often a working worker's memory and time are looked at.
const TICK: Duration = Duration::from_millis(100);
/// And that of one that waits for work.
const IDLE_TICK: Duration = Duration::from_secs(1);
/// From the start of the program to the end of its confinement.
const HELLO_LIMIT: Duration = Duration::from_secs(10);
/// How long cancelled work may go on. The worker looks between batches.
const CANCEL_LIMIT: Duration = Duration::from_secs(15);
/// A worker that stands still is first no longer vouched for ([`crate::job::Health`]), and then killed. In this order,
/// because systemd must step in where the killing stands still, too.
const STALL_GRACE: Duration = Duration::from_secs(10);
/// A folder that leads elsewhere at every look must not keep a request from being sent at all.
const REPLACED_AT_MOST: u32 = 3;
/// How long no worker is replaced for a file that the last one could not read, either.
const FUTILE: Duration = Duration::from_mins(1);

/// See the module.
pub(super) struct Keeper {
    duty: Duty,
    inputs: Inputs,
    /// Where workers' events are heard.
    sender: SyncSender<Input>,
    vitals: Arc<Mutex<Vitals>>,
    /// Came while something else was being done.
    pending: VecDeque<Call>,
    /// The model that the first worker loaded. Later ones must load the same.
    model: Option<ModelInfo>,
    /// What every worker is granted.
    paths: Paths,
    /// The request that is or was last worked on is no longer wanted.
    cancelled: bool,
    /// Until then, a worker that may not read what we may is not replaced: another one could not, either.
    futile_until: Option<Instant>,
    stopped: bool,
}

/// A worker that serves.
struct Serving {
    process: Process,
    watch: Watch,
    number: u32,
    /// Where the paths led that it was granted.
    places: Places,
}

/// Why a worker has to be replaced: the fault of whoever waits for it.
struct Lost(Fault);

/// What becomes of a request that failed.
enum Verdict {
    /// Another worker is given it.
    Again(Call),
    /// Its fault was told.
    Told,
}

impl Keeper {
    pub(super) fn new(duty: Duty, inputs: Inputs, sender: SyncSender<Input>, vitals: Arc<Mutex<Vitals>>) -> Self {
        let paths = Paths::new(duty.setup.read.iter().chain(&duty.setup.write));
        Self {
            duty,
            inputs,
            sender,
            vitals,
            pending: VecDeque::new(),
            model: None,
            paths,
            cancelled: false,
            futile_until: None,
            stopped: false,
        }
    }

    /// Keeps the seat until it is closed. The outcome of the first start goes to `ready`; if it failed, that was all.
    pub(super) fn keep(mut self, ready: &Sender<Ready>) {
        let mut idle_deaths = 0;
        for number in 1.. {
            let begun = Instant::now();
            match self.start(number, ready) {
                Ok(serving) => {
                    tracing::info!(
                        worker = self.duty.name,
                        pid = serving.process.id(),
                        seconds = begun.elapsed().as_secs_f64(),
                        "Worker serves"
                    );
                    if number == 1 {
                        let _ = ready.send(Ready::Outcome(Ok(self.model.clone())));
                    } else {
                        self.duty.restarts.fetch_add(1, Ordering::Relaxed);
                    }
                    let worked = self.serve(serving);
                    idle_deaths = if worked { 0 } else { idle_deaths + 1 };
                }
                Err(Lost(fault)) if number == 1 => {
                    let _ = ready.send(Ready::Outcome(Err(fault)));
                    return;
                }
                Err(Lost(fault)) => {
                    idle_deaths += 1;
                    if !self.stopped {
                        tracing::error!(worker = self.duty.name, reason = %fault, "Worker does not start");
                    }
                    // Who waits is told at once: it may take long until a worker starts again.
                    let fault = fault.with_kind(FaultKind::NoWorker);
                    self.pending.drain(..).for_each(|call| drop(call.reply.send(Event::Fault(fault.clone()))));
                }
            }
            self.vitals(|vitals| (vitals.pid, vitals.busy_since) = (None, None));
            self.wait(back_off(idle_deaths));
            if self.stopped {
                return;
            }
        }
    }

    fn vitals(&self, change: impl FnOnce(&mut Vitals)) {
        change(&mut self.vitals.lock().unwrap_or_else(PoisonError::into_inner));
    }

    fn silence(&self) -> Duration {
        self.vitals.lock().unwrap_or_else(PoisonError::into_inner).silence()
    }

    /// Waits, and collects what comes meanwhile.
    fn wait(&mut self, time: Duration) {
        let end = Instant::now() + time;
        while !self.stopped && Instant::now() < end {
            match self.inputs.recv_timeout(end.saturating_duration_since(Instant::now())) {
                Ok(Input::Call(call)) => self.pending.push_back(call),
                Ok(Input::Stop) | Err(RecvTimeoutError::Disconnected) => self.stopped = true,
                Ok(Input::Cancel | Input::Replace | Input::Said(..)) | Err(RecvTimeoutError::Timeout) => {}
            }
        }
    }

    fn start(&mut self, number: u32, ready: &Sender<Ready>) -> Result<Serving, Lost> {
        // Before the worker opens them: what changes in between is seen at the next comparison.
        let places = self.paths.look();
        if let Some(engines) = self.duty.load.as_ref().map(|load| &load.engines) {
            engines.prepare().map_err(|error| Lost(unwritable(engines.folder(), &error)))?;
        }
        let sender = self.sender.clone();
        let hear = move |event| drop(sender.send(Input::Said(number, event)));
        let process = Process::start(&self.duty.program, hear).map_err(|error| {
            let reason = format!("the worker process {} cannot be started: {error}", self.duty.program.display());
            Lost(Fault::new(reason, "check that the program is there and that the system has processes left"))
        })?;
        let watch = Watch::new(process.id(), self.duty.setup.memory, &self.duty.setup.write);
        let serving = Serving { process, watch, number, places };
        self.vitals(|vitals| (vitals.pid, vitals.last_event) = (Some(serving.process.id()), Instant::now()));

        let bounds = Bounds { subject: "worker", limit: HELLO_LIMIT, key: None, tells: false };
        let setup = Request::Setup(Box::new(self.setup(&serving.places)));
        let (mut serving, answer) = self.ask(serving, &setup, &bounds, &|_| {})?;
        match answer {
            Event::Hello { lacking, .. } if number == 1 => {
                lacking
                    .iter()
                    .for_each(|what| tracing::warn!(worker = self.duty.name, "Not confined as wanted: {what}"));
            }
            Event::Hello { .. } => {}
            answer => return Err(Lost(unexpected(answer))),
        }
        if self.duty.load.is_some() {
            serving = self.load(serving, ready)?;
        }
        self.vitals(|vitals| vitals.starts += 1);
        Ok(serving)
    }

    /// What the next worker is granted: all that it would not stand still at.
    fn setup(&self, places: &Places) -> Setup {
        let mut setup = self.duty.setup.clone();
        setup.read.retain(|path| places.answers(path));
        setup.write.retain(|path| places.answers(path));
        setup
    }

    /// Gives the worker what there is to do until it is lost; tells whether it did anything.
    fn serve(&mut self, mut serving: Serving) -> bool {
        let mut worked = false;
        loop {
            let mut call = match self.pending.pop_front() {
                Some(call) => call,
                None => match self.inputs.recv_timeout(IDLE_TICK) {
                    Ok(Input::Call(call)) => call,
                    Err(RecvTimeoutError::Timeout) => match serving.watch.look() {
                        None => continue,
                        Some(excess) => {
                            let fault = excess.fault("worker", None);
                            tracing::warn!(worker = self.duty.name, reason = %fault, "Worker replaced");
                            return worked;
                        }
                    },
                    Ok(Input::Replace) => {
                        tracing::warn!(worker = self.duty.name, "Worker replaced, because its result was not accepted");
                        return true;
                    }
                    Ok(Input::Said(number, None)) if number == serving.number => {
                        let fault = self.obituary(serving, "worker", None);
                        tracing::warn!(worker = self.duty.name, reason = %fault, "Worker lost");
                        return worked;
                    }
                    Ok(Input::Said(_, event)) => {
                        self.note(event);
                        continue;
                    }
                    Ok(Input::Cancel) => continue,
                    Ok(Input::Stop) | Err(RecvTimeoutError::Disconnected) => {
                        self.stopped = true;
                        return worked;
                    }
                },
            };
            let now = self.paths.look();
            if let Some(path) = serving.places.changed(&now).filter(|_| call.replaced < REPLACED_AT_MOST) {
                let path = path.display();
                tracing::info!(worker = self.duty.name, %path, "Leads to another object than before; the worker is replaced");
                call.replaced += 1;
                self.pending.push_front(call);
                return true;
            }
            if let Some(fault) = unreachable(&call, &now) {
                let _ = call.reply.send(Event::Fault(fault));
                continue;
            }
            worked = true;
            self.vitals(|vitals| (vitals.busy_since, vitals.last_event) = (Some(Instant::now()), Instant::now()));
            let bounds = Bounds { subject: &call.subject, limit: call.limit, key: Some(call.key), tells: true };
            let stage = |event| {
                if let Event::Stage { .. } = event {
                    let _ = call.reply.send(event);
                }
            };
            // The worker may be lost with the folder.
            let granted = std::mem::take(&mut serving.places);
            let outcome = self.ask(serving, &call.request, &bounds, &stage);
            self.vitals(|vitals| vitals.busy_since = None);
            let (still, fault) = match outcome {
                Ok((still, Event::Fault(fault))) => (Some(still), fault),
                Ok((still, answer)) => {
                    serving = Serving { places: granted, ..still };
                    let _ = call.reply.send(answer);
                    continue;
                }
                Err(Lost(fault)) => {
                    if !self.stopped {
                        tracing::warn!(worker = self.duty.name, reason = %fault, "Worker lost");
                    }
                    (None, fault)
                }
            };
            match self.judge(call, fault, &granted) {
                Verdict::Again(call) => {
                    tracing::info!(worker = self.duty.name, "A folder was put in place anew; the request is repeated");
                    self.pending.push_front(call);
                    return true;
                }
                Verdict::Told => match still {
                    Some(still) => serving = Serving { places: granted, ..still },
                    None => return true,
                },
            }
        }
    }

    /// Whether a request that failed is to be repeated with another worker, because this one may not read what is there
    /// now; if not, its fault is told. What failed in a folder that is away failed for that reason.
    fn judge(&mut self, mut call: Call, fault: Fault, granted: &Places) -> Verdict {
        let again = !self.cancelled && !self.stopped;
        let now = self.paths.look();
        if again && !call.repeated && (granted.changed(&now).is_some() || self.may_read_more(&call, &fault)) {
            call.repeated = true;
            return Verdict::Again(call);
        }
        if call.repeated && fault.is_unreachable() && granted.changed(&now).is_none() {
            self.futile_until = Some(Instant::now() + FUTILE);
        }
        let fault = unreachable(&call, &now).filter(|_| again).unwrap_or(fault);
        let _ = call.reply.send(Event::Fault(fault));
        Verdict::Told
    }

    /// Whether the worker was refused a file that we may read and that does not lead out of what was granted: a mount that
    /// was made again looks the same on older kernels.
    fn may_read_more(&self, call: &Call, fault: &Fault) -> bool {
        let futile = self.futile_until.is_some_and(|until| Instant::now() < until);
        fault.is_unreachable() && !futile && call.request.slides().iter().all(|slide| self.paths.may_read(slide))
    }

    /// Sends a request and waits for its answer; the worker is gone when there is none.
    fn ask(
        &mut self,
        mut serving: Serving,
        request: &Request,
        bounds: &Bounds,
        stages: &dyn Fn(Event),
    ) -> Result<(Serving, Event), Lost> {
        match serving.process.send(request) {
            Ok(()) => {}
            // What cannot be written down was not sent either.
            Err(error) if matches!(error.kind(), ErrorKind::InvalidData | ErrorKind::FileTooLarge) => {
                let reason = format!("{}: cannot be told to the worker: {error}", one_line(bounds.subject));
                let hint = if error.kind() == ErrorKind::FileTooLarge {
                    "split the set, or shorten the names of its slides and folders"
                } else {
                    "rename the file: its name must be UTF-8"
                };
                return Ok((serving, Event::Fault(Fault::new(reason, hint))));
            }
            Err(_) => return Err(Lost(self.obituary(serving, bounds.subject, None))),
        }
        let mut end = Instant::now() + bounds.limit;
        let (mut stage, mut cancelled, mut next_look) = (None, false, Instant::now());
        self.cancelled = false;
        let (mut stage_news, mut step_news) = (News::new(), News::new());
        loop {
            match self.inputs.recv_timeout(TICK) {
                Ok(Input::Said(number, None)) if number == serving.number => {
                    return Err(Lost(self.obituary(serving, bounds.subject, stage)));
                }
                Ok(Input::Said(number, Some(event))) if number == serving.number => {
                    if let Some(event) = self.note(Some(event)) {
                        match event {
                            Event::Stage { stage: reached, done, total } => {
                                stage = Some(reached);
                                // The first and the last of every stage, and now and then one between.
                                if stage_news.is_due((reached, done >= total), Instant::now()) {
                                    stages(event);
                                }
                            }
                            Event::Fault(fault) if fault.kind() == FaultKind::Cancelled && !cancelled => {
                                // Nobody has asked for it.
                                return Ok((serving, Event::Fault(fault.with_kind(FaultKind::Other))));
                            }
                            // Only loading has steps; in the midst of other work, they are nobody's.
                            Event::Step(step) => {
                                if step_news.is_due(step, Instant::now()) {
                                    stages(event);
                                }
                            }
                            answer => return Ok((serving, answer)),
                        }
                    }
                }
                Ok(Input::Call(call)) => self.pending.push_back(call),
                Ok(Input::Cancel) if !cancelled => {
                    (cancelled, self.cancelled) = (true, true);
                    end = end.min(Instant::now() + CANCEL_LIMIT);
                    // One that cannot be told is killed at the limit.
                    let _ = serving.process.send(&Request::Cancel);
                }
                Ok(Input::Stop) | Err(RecvTimeoutError::Disconnected) => {
                    self.stopped = true;
                    return Err(Lost(
                        Fault::new(format!("{}: cancelled", bounds.subject), "submit the set again")
                            .with_kind(FaultKind::Cancelled),
                    ));
                }
                Ok(Input::Cancel | Input::Replace | Input::Said(..)) | Err(RecvTimeoutError::Timeout) => {}
            }
            if Instant::now() < next_look {
                continue;
            }
            next_look = Instant::now() + TICK;
            if let Some(excess) = serving.watch.look() {
                return Err(Lost(excess.fault(bounds.subject, stage)));
            }
            let stall = self.duty.stall;
            if bounds.tells && self.silence() > stall + STALL_GRACE {
                return Err(Lost(stands_still(bounds.subject, stall, stage)));
            }
            if Instant::now() >= end {
                return Err(Lost(if cancelled { not_cancelled(bounds) } else { too_slow(bounds, stage) }));
            }
        }
    }

    /// Notes that the worker lives, and repeats its log; gives back any other event.
    fn note(&self, event: Option<Event>) -> Option<Event> {
        self.vitals(|vitals| vitals.last_event = Instant::now());
        match event? {
            Event::Log { level, text } => {
                repeat(level, &text);
                None
            }
            event => Some(event),
        }
    }

    /// How a worker ended that nobody asked to.
    fn obituary(&self, serving: Serving, subject: &str, stage: Option<Stage>) -> Fault {
        let (status, words) = serving.process.end();
        ended(subject, status, &words, self.duty.setup.memory, stage)
    }
}

/// The state of the folder that a call's slides lie in, if it cannot be reached.
fn unreachable(call: &Call, now: &Places) -> Option<Fault> {
    call.request.slides().iter().find_map(|slide| now.away(slide)).map(|(folder, why)| away(folder, why))
}
