//! One worker process as its supervisor holds it.

use std::fs;
use std::io::{self, BufRead, BufReader};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use super::log::{one_line, repeat};
use super::protocol::{Event, Level, Request, receive, send};

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
        let mut process = Self { child, socket, last_words, listener: None };
        let mut events = BufReader::new(process.socket.try_clone()?);
        listen("worker events", move || {
            let error = loop {
                match receive(&mut events) {
                    Ok(event) => hear(Some(event)),
                    Err(error) => break error,
                }
            };
            if matches!(error.kind(), io::ErrorKind::InvalidData | io::ErrorKind::FileTooLarge) {
                let reason = one_line(&format!("it said what is no message: {error}"));
                tracing::error!(reason, "A worker is given up");
                *refused.lock().unwrap_or_else(PoisonError::into_inner) = reason;
            }
            hear(None);
        })?;
        process.listener = Some(listen("worker stderr", move || {
            let lines = stderr.into_iter().flat_map(|stderr| BufReader::new(stderr).split(b'\n'));
            for line in lines.map_while(Result::ok) {
                let line = one_line(&String::from_utf8_lossy(&line));
                repeat(Level::Warn, &line);
                if !line.trim().is_empty() {
                    *words.lock().unwrap_or_else(PoisonError::into_inner) = line;
                }
            }
        })?);
        Ok(process)
    }

    pub(super) fn id(&self) -> u32 {
        self.child.id()
    }

    pub(super) fn send(&mut self, request: &Request) -> io::Result<()> {
        send(&mut self.socket, request)
    }

    /// Bytes of memory that it holds, pages of files included.
    pub(super) fn resident(&self) -> Option<u64> {
        let text = fs::read_to_string(format!("/proc/{}/statm", self.id())).ok()?;
        let pages: u64 = text.split(' ').nth(1)?.parse().ok()?;
        Some(pages * rustix::param::page_size() as u64)
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
