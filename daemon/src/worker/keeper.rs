//! Who starts the worker of a seat, gives it work, watches it, and replaces it.

use std::collections::VecDeque;
use std::io::ErrorKind;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{RecvTimeoutError, Sender, SyncSender};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tissuemap::road::Stage;

use super::batches::Batches;
use super::log::{one_line, repeat};
use super::process::{Process, in_words};
use super::protocol::{Event, Request, Setup};
use super::seat::{Call, Input, Inputs, Vitals};
use crate::job::{Fault, FaultKind, ModelInfo};
use crate::status::stage_name;

/// How often a working worker's memory and time are looked at.
const TICK: Duration = Duration::from_millis(100);
/// From the start of the program to the end of its confinement.
const HELLO_LIMIT: Duration = Duration::from_secs(10);
/// TensorRT compiles a model for minutes, once.
const LOAD_LIMIT: Duration = Duration::from_mins(15);
/// How long cancelled work may go on. The worker looks between batches.
const CANCEL_LIMIT: Duration = Duration::from_secs(15);
/// A worker that stands still is first no longer vouched for ([`crate::job::Health`]), and then killed. In this order,
/// because systemd must step in where the killing stands still, too.
const STALL_GRACE: Duration = Duration::from_secs(10);
/// The first replacement comes at once. Further ones, when workers do not live to do anything, wait twice as long each.
const BACK_OFF: Duration = Duration::from_millis(500);
const BACK_OFF_MOST: Duration = Duration::from_secs(30);

/// What the workers of a seat are for.
pub(super) struct Duty {
    /// `jobs` or `probes`, for the log.
    pub(super) name: &'static str,
    pub(super) program: PathBuf,
    pub(super) setup: Setup,
    /// A worker that tells nothing for so long, in the midst of work, stands still.
    pub(super) stall: Duration,
    /// Counts the workers that had to be replaced.
    pub(super) restarts: Arc<AtomicU32>,
    /// The model to load before anything else.
    pub(super) load: Option<Load>,
}

/// How the model is loaded.
pub(super) struct Load {
    pub(super) model: PathBuf,
    pub(super) providers: Vec<tissuemap::infer::Provider>,
    pub(super) engines: PathBuf,
    pub(super) batches: Batches,
}

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
    stopped: bool,
}

/// A worker that serves.
struct Serving {
    process: Process,
    number: u32,
    /// Folders that were not there when the worker confined itself: what lies in them, it may not read.
    missing: Vec<PathBuf>,
}

/// Why a worker has to be replaced: the fault of whoever waits for it.
struct Lost(Fault);

/// What a request is about, and how long it may take.
struct Bounds<'a> {
    subject: &'a str,
    limit: Duration,
    /// The configuration's key for it.
    key: Option<&'static str>,
}

impl Keeper {
    pub(super) fn new(duty: Duty, inputs: Inputs, sender: SyncSender<Input>, vitals: Arc<Mutex<Vitals>>) -> Self {
        Self { duty, inputs, sender, vitals, pending: VecDeque::new(), model: None, stopped: false }
    }

    /// Keeps the seat until it is closed. The outcome of the first start goes to `ready`; if it failed, that was all.
    pub(super) fn keep(mut self, ready: &Sender<Result<Option<ModelInfo>, Fault>>) {
        let mut idle_deaths = 0;
        for number in 1.. {
            let begun = Instant::now();
            match self.start(number) {
                Ok(serving) => {
                    tracing::info!(
                        worker = self.duty.name,
                        pid = serving.process.id(),
                        seconds = begun.elapsed().as_secs_f64(),
                        "Worker serves"
                    );
                    if number == 1 {
                        let _ = ready.send(Ok(self.model.clone()));
                    } else {
                        self.duty.restarts.fetch_add(1, Ordering::Relaxed);
                    }
                    let worked = self.serve(serving);
                    idle_deaths = if worked { 0 } else { idle_deaths + 1 };
                }
                Err(Lost(fault)) if number == 1 => {
                    let _ = ready.send(Err(fault));
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
                Ok(Input::Cancel | Input::Said(..)) | Err(RecvTimeoutError::Timeout) => {}
            }
        }
    }

    fn start(&mut self, number: u32) -> Result<Serving, Lost> {
        let missing = self.duty.setup.read.iter().filter(|path| !path.exists()).cloned().collect();
        let sender = self.sender.clone();
        let hear = move |event| drop(sender.send(Input::Said(number, event)));
        let process = Process::start(&self.duty.program, hear).map_err(|error| {
            let reason = format!("the worker process {} cannot be started: {error}", self.duty.program.display());
            Lost(Fault::new(reason, "check that the program is there and that the system has processes left"))
        })?;
        let serving = Serving { process, number, missing };
        self.vitals(|vitals| (vitals.pid, vitals.last_event) = (Some(serving.process.id()), Instant::now()));

        let bounds = Bounds { subject: "worker", limit: HELLO_LIMIT, key: None };
        let setup = Request::Setup(Box::new(self.duty.setup.clone()));
        let (mut serving, answer) = self.ask(serving, &setup, &bounds, &|_| {})?;
        match answer {
            Event::Hello { lacking, .. } if number == 1 => {
                lacking
                    .iter()
                    .for_each(|what| tracing::warn!(worker = self.duty.name, "Not confined as wanted: {what}"));
            }
            Event::Hello { .. } => {}
            answer => return Err(unexpected(answer)),
        }
        if let Some(load) = &self.duty.load {
            let request = Request::Load {
                model: load.model.clone(),
                providers: load.providers.clone(),
                engines: load.engines.clone(),
                batches: load.batches.read(),
            };
            let subject = load.model.display().to_string();
            let bounds = Bounds { subject: &subject, limit: LOAD_LIMIT, key: None };
            let lost = |Lost(fault)| Lost(Fault::new(fault.reason(), MODEL_HINT).with_id("model.worker-lost"));
            let (loaded, answer) = self.ask(serving, &request, &bounds, &|_| {}).map_err(lost)?;
            serving = loaded;
            let Event::Loaded { info, batch } = answer else { return Err(unexpected(answer)) };
            self.take_model(info, batch)?;
        }
        self.vitals(|vitals| vitals.starts += 1);
        Ok(serving)
    }

    fn take_model(&mut self, info: ModelInfo, batch: usize) -> Result<(), Lost> {
        let load = self.duty.load.as_ref();
        if let Some(first) = self.model.as_ref().filter(|first| first.sha256 != info.sha256) {
            let reason = format!("{}: the file is not the model that serves any more", first.path.display());
            return Err(Lost(Fault::new(
                reason,
                "the disk may be damaged, or somebody has written there; restart tissuemapd",
            )));
        }
        load.inspect(|load| load.batches.store(&info, batch));
        tracing::info!(provider = %info.provider, batch, "Model loaded");
        self.model = Some(info);
        Ok(())
    }

    /// Gives the worker what there is to do until it is lost; tells whether it did anything.
    fn serve(&mut self, mut serving: Serving) -> bool {
        let mut worked = false;
        loop {
            let call = match self.pending.pop_front() {
                Some(call) => call,
                None => match self.inputs.recv() {
                    Ok(Input::Call(call)) => call,
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
                    Ok(Input::Stop) | Err(_) => {
                        self.stopped = true;
                        return worked;
                    }
                },
            };
            if serving.missing.iter().any(|path| path.exists()) {
                tracing::info!(worker = self.duty.name, "A folder has appeared; the worker is replaced");
                self.pending.push_front(call);
                return true;
            }
            worked = true;
            self.vitals(|vitals| (vitals.busy_since, vitals.last_event) = (Some(Instant::now()), Instant::now()));
            let bounds = Bounds { subject: &call.subject, limit: call.limit, key: Some(call.key) };
            let stage = |event| drop(call.reply.send(event));
            let outcome = self.ask(serving, &call.request, &bounds, &stage);
            self.vitals(|vitals| vitals.busy_since = None);
            match outcome {
                Ok((still, answer)) => {
                    serving = still;
                    let _ = call.reply.send(answer);
                }
                Err(Lost(fault)) => {
                    if !self.stopped {
                        tracing::warn!(worker = self.duty.name, reason = %fault, "Worker lost");
                    }
                    let _ = call.reply.send(Event::Fault(fault));
                    return true;
                }
            }
        }
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
            Err(error) if error.kind() == ErrorKind::InvalidData => {
                let reason = format!("{}: cannot be told to the worker: {error}", bounds.subject);
                return Ok((serving, Event::Fault(Fault::new(reason, "rename the file: its name must be UTF-8"))));
            }
            Err(_) => return Err(Lost(self.obituary(serving, bounds.subject, None))),
        }
        let mut end = Instant::now() + bounds.limit;
        let (mut stage, mut cancelled, mut next_look) = (None, false, Instant::now());
        loop {
            match self.inputs.recv_timeout(TICK) {
                Ok(Input::Said(number, None)) if number == serving.number => {
                    return Err(Lost(self.obituary(serving, bounds.subject, stage)));
                }
                Ok(Input::Said(number, Some(event))) if number == serving.number => {
                    if let Some(event) = self.note(Some(event)) {
                        match event {
                            Event::Stage { stage: reached, .. } => {
                                stage = Some(reached);
                                stages(event);
                            }
                            answer => return Ok((serving, answer)),
                        }
                    }
                }
                Ok(Input::Call(call)) => self.pending.push_back(call),
                Ok(Input::Cancel) if !cancelled => {
                    cancelled = true;
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
                Ok(Input::Cancel | Input::Said(..)) | Err(RecvTimeoutError::Timeout) => {}
            }
            if Instant::now() < next_look {
                continue;
            }
            next_look = Instant::now() + TICK;
            let most = self.duty.setup.memory;
            if let Some(used) = serving.process.resident().filter(|&used| used > most) {
                return Err(Lost(too_much_memory(bounds.subject, used, most, stage)));
            }
            let stall = self.duty.stall;
            if bounds.key.is_some() && self.silence() > stall + STALL_GRACE {
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
        let most = self.duty.setup.memory >> 20;
        let words = if words.is_empty() { String::new() } else { format!(" ({words})") };
        let how = in_words(status);
        if ["memory allocation of", "failed to allocate", "bad_alloc"].iter().any(|sign| words.contains(sign)) {
            let reason = format!("{subject}: the worker ran into its memory cap of {most} MiB{}{words}", during(stage));
            return Fault::new(reason, MEMORY_HINT);
        }
        Fault::new(
            format!("{subject}: the worker {how}{}{words}", during(stage)),
            "the slide may be damaged: copy it again and compare checksums; if it is sound, report this with the log",
        )
    }
}

const MODEL_HINT: &str = "the model asks for more memory or time than it may have, or is hostile; the log says more";

const MEMORY_HINT: &str = "raise `memory_mib` in [worker] if the slides are genuine and the machine has the memory";

fn too_much_memory(subject: &str, used: u64, most: u64, stage: Option<Stage>) -> Fault {
    let (used, most) = (used >> 20, most >> 20);
    let reason = format!("{subject}: the worker used {used} MiB of memory, more than {most} MiB{}", during(stage));
    Fault::new(reason, MEMORY_HINT)
}

fn stands_still(subject: &str, stall: Duration, stage: Option<Stage>) -> Fault {
    let reason = format!("{subject}: no progress for more than {} seconds{}", stall.as_secs(), during(stage));
    Fault::new(
        reason,
        "see whether the disk or share answers; raise `stall_seconds` in [worker] if the machine is slow",
    )
}

fn too_slow(bounds: &Bounds, stage: Option<Stage>) -> Fault {
    let Bounds { subject, limit, key } = bounds;
    let reason = format!("{subject}: not done after {} seconds{}", limit.as_secs(), during(stage));
    let hint = key.map_or_else(
        || "the machine is overloaded, or a driver hangs".to_owned(),
        |key| format!("raise `{key}` in [worker] if the slides are genuine"),
    );
    Fault::new(reason, hint)
}

fn not_cancelled(bounds: &Bounds) -> Fault {
    let reason = format!("{}: cancelled, and killed because it did not end by itself", bounds.subject);
    Fault::new(reason, "nothing was published; submit the set again").with_kind(FaultKind::Cancelled)
}

fn during(stage: Option<Stage>) -> String {
    stage.map_or_else(String::new, |stage| format!(" in stage {}", stage_name(stage)))
}

fn unexpected(answer: Event) -> Lost {
    Lost(match answer {
        Event::Fault(fault) => fault,
        other => {
            let reason = one_line(&format!("the worker gave an answer that was not asked for: {other:?}"));
            Fault::new(reason, "this is a bug; report it with the log")
        }
    })
}

/// Nothing after the first death, then longer and longer.
fn back_off(idle_deaths: u32) -> Duration {
    match idle_deaths {
        0 | 1 => Duration::ZERO,
        n => BACK_OFF.saturating_mul(1 << (n - 2).min(16)).min(BACK_OFF_MOST),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_replacement_comes_at_once_and_hopeless_ones_ever_more_rarely() {
        let waits: Vec<u128> = (0..=9).map(|deaths| back_off(deaths).as_millis()).collect();
        assert_eq!(waits, [0, 0, 500, 1000, 2000, 4000, 8000, 16000, 30000, 30000]);
    }
}
