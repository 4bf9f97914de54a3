//! One worker process as its supervisor holds it.

use std::io::{self, BufReader};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use super::log::repeat;
use super::protocol::{Event, Level, Request, receive, send};
use super::said::{LogBudget, Paced, each_line, for_log_and_status, one_line};

/// Of the daemon's environment, what libraries heed; the rest (a bus address, credentials) is not the worker's business.
const ENVIRONMENT: [&str; 12] = [
    "TISSUEMAP_LIB_DIR",
    "LD_LIBRARY_PATH",
    "RUST_LOG",
    "RUST_BACKTRACE",
    "OMP_NUM_THREADS",
    "OMP_WAIT_POLICY",
    "RAYON_NUM_THREADS",
    "CUDA_VISIBLE_DEVICES",
    "CUDA_MODULE_LOADING",
    "NVIDIA_VISIBLE_DEVICES",
    "LANG",
    "TZ",
];

/// Requests are small. A worker that does not even take them in is not working.
const WRITE_LIMIT: Duration = Duration::from_secs(5);

/// A running worker; killed when it is dropped.
pub(super) struct Process {
    child: Child,
    socket: UnixStream,
    /// The last line on standard error: what the Rust runtime or a library says before it aborts.
    last_words: Arc<Mutex<String>>,
    /// Whether a request has no answer yet. A worker that gives one unasked is not to be trusted.
    asked: Arc<AtomicBool>,
    /// Reads standard error.
    listener: Option<JoinHandle<()>>,
}

impl Process {
    /// Starts `program worker`. Its events go to `hear`, on a thread of their own; `None` is the last one.
    ///
    /// The thread that calls this must live as long as the worker, which dies with it.
    pub(super) fn start(program: &Path, hear: impl Fn(Option<Event>) + Send + 'static) -> io::Result<Self> {
        let (socket, theirs) = UnixStream::pair()?;
        socket.set_write_timeout(Some(WRITE_LIMIT))?;
        let mut child = Command::new(program)
            .arg0("tissuemapd")
            .arg("worker")
            .env_clear()
            .envs(ENVIRONMENT.iter().filter_map(|name| Some((name, std::env::var_os(name)?))))
            // It would write an identifier into a home folder, and report over a network that it does not have.
            .env("ORT_DISABLE_TELEMETRY", "1")
            .current_dir("/")
            // Signals for the daemon are the daemon's: a job may go on while it drains.
            .process_group(0)
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()?;
        let last_words = Arc::new(Mutex::new(String::new()));
        let (stderr, words) = (child.stderr.take(), Arc::clone(&last_words));
        let refused = Arc::clone(&last_words);
        // From here on, dropping kills.
        let asked = Arc::new(AtomicBool::new(false));
        let mut process = Self { child, socket, last_words, asked: Arc::clone(&asked), listener: None };
        let events = BufReader::new(Paced::new(process.socket.try_clone()?));
        let budget = LogBudget::new();
        let log = budget.clone();
        listen("worker events", move || {
            hear_events(events, &asked, &log, &refused, &hear);
            hear(None);
        })?;
        process.listener = Some(listen("worker stderr", move || {
            let Some(stderr) = stderr else { return };
            each_line(stderr, |line| {
                if !line.trim().is_empty() {
                    line.clone_into(&mut words.lock().unwrap_or_else(PoisonError::into_inner));
                }
                if admit(&budget) {
                    repeat(Level::Warn, line);
                }
            });
        })?);
        Ok(process)
    }

    pub(super) fn id(&self) -> u32 {
        self.child.id()
    }

    pub(super) fn send(&mut self, request: &Request) -> io::Result<()> {
        let wants_answer = !matches!(request, Request::Cancel);
        if wants_answer {
            self.asked.store(true, Ordering::Relaxed);
        }
        send(&mut self.socket, request).inspect_err(|_| {
            if wants_answer {
                self.asked.store(false, Ordering::Relaxed);
            }
        })
    }

    /// Kills it if it still runs, and tells how it ended and what it said last.
    pub(super) fn end(mut self) -> (Option<ExitStatus>, String) {
        let status = self.bury();
        let words = self.last_words.lock().unwrap_or_else(PoisonError::into_inner).clone();
        (status, words)
    }

    fn bury(&mut self) -> Option<ExitStatus> {
        // One that is dead already keeps the status it died with.
        let _ = self.child.kill();
        let status = self.child.wait().ok();
        // No process but the worker has the other end, so that the thread ends with it.
        self.listener.take().map(JoinHandle::join);
        status
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.bury();
    }
}

/// Hands events on until the worker is gone or says what it must not, of which `words` are then kept.
fn hear_events(
    mut events: BufReader<Paced<UnixStream>>,
    asked: &AtomicBool,
    log: &LogBudget,
    words: &Mutex<String>,
    hear: &impl Fn(Option<Event>),
) {
    let give_up = |reason: String| {
        tracing::error!(reason, "A worker is given up");
        *words.lock().unwrap_or_else(PoisonError::into_inner) = reason;
    };
    loop {
        let event = match receive(&mut events) {
            Ok(event) => for_log_and_status(event),
            Err(error) => {
                if matches!(error.kind(), io::ErrorKind::InvalidData | io::ErrorKind::FileTooLarge) {
                    give_up(one_line(&format!("it said what is no message: {error}")));
                }
                return;
            }
        };
        events.get_mut().message();
        match event {
            Event::Log { .. } if !admit(log) => {}
            Event::Log { .. } | Event::Stage { .. } | Event::Step(_) => hear(Some(event)),
            answer if asked.swap(false, Ordering::Relaxed) => hear(Some(answer)),
            _ => return give_up("it gave an answer that nobody had asked for".to_owned()),
        }
    }
}

/// Whether a line of the worker may be written into the log. Tells how many were not.
fn admit(budget: &LogBudget) -> bool {
    let admitted = budget.admit(Instant::now());
    if let Some(suppressed) = admitted.filter(|&suppressed| suppressed > 0) {
        tracing::warn!(lines = suppressed, "A worker said more than is written into the log");
    }
    admitted.is_some()
}

fn listen(name: &str, work: impl FnOnce() + Send + 'static) -> io::Result<JoinHandle<()>> {
    thread::Builder::new().name(name.into()).spawn(work)
}

/// `was ended by SIGSEGV`, `ended with exit code 2`.
pub(super) fn in_words(status: Option<ExitStatus>) -> String {
    let signal = |number: i32| match number {
        libc::SIGABRT => "SIGABRT".to_owned(),
        libc::SIGBUS => "SIGBUS".to_owned(),
        libc::SIGFPE => "SIGFPE".to_owned(),
        libc::SIGILL => "SIGILL".to_owned(),
        libc::SIGKILL => "SIGKILL".to_owned(),
        libc::SIGSEGV => "SIGSEGV".to_owned(),
        libc::SIGTERM => "SIGTERM".to_owned(),
        libc::SIGTRAP => "SIGTRAP".to_owned(),
        libc::SIGXFSZ => "SIGXFSZ".to_owned(),
        number => format!("signal {number}"),
    };
    match status {
        Some(status) => match (status.signal(), status.code()) {
            (Some(number), _) => format!("was ended by {}", signal(number)),
            (None, Some(code)) => format!("ended with exit code {code}"),
            (None, None) => "ended".to_owned(),
        },
        None => "ended".to_owned(),
    }
}
