//! What a person may ask of the running daemon. The bus, or whoever else speaks for people, holds a [`Commander`]; the
//! daemon's loop takes one command at a time and answers it.

use std::fmt::{self, Display};
use std::path::PathBuf;

use tokio::sync::{mpsc, oneshot};

use crate::audit::Requester;
use crate::config::Config;
use crate::explain::Explanation;
use crate::job::Fault;
use crate::journal::JobId;
use crate::models::{ModelRow, Verified};

/// Where an answer goes; nobody may be waiting for it any more.
pub type Reply<T> = oneshot::Sender<Result<T, Refusal>>;

/// Why a wish is not fulfilled: what kind of reason it is, for programs, and the reason, for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    pub kind: RefusalKind,
    pub fault: Fault,
}

/// Kinds of reasons for which a program may want to do something else.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RefusalKind {
    /// The slide is in none of the watched folders.
    NotWatched,
    /// Slides are not there, or not complete yet.
    NotReady,
    NoSuchJob,
    /// No model is meant by that, or more than one.
    NoSuchModel,
    /// The model did not prove itself.
    ModelRefused,
    /// The job is in a state in which the wish makes no sense.
    WrongState,
    /// The daemon could not do it.
    Failed,
    /// The daemon is ending.
    Ending,
}

impl RefusalKind {
    /// This refusal, with what is wrong and what a person can do.
    pub fn because(self, reason: impl Into<String>, hint: impl Into<String>) -> Refusal {
        self.with(Fault::new(reason, hint))
    }

    /// This refusal, because of `fault`.
    pub fn with(self, fault: Fault) -> Refusal {
        Refusal { kind: self, fault }
    }
}

impl Refusal {
    /// What is wrong, and with what.
    pub fn reason(&self) -> &str {
        self.fault.reason()
    }
}

impl From<Fault> for Refusal {
    fn from(fault: Fault) -> Self {
        Self { kind: RefusalKind::Failed, fault }
    }
}

impl Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.fault.fmt(f)
    }
}

/// One wish: who has it, and what.
pub type Wish = (Requester, Command);

/// What is wished, and where the answer goes.
#[derive(Debug)]
pub enum Command {
    /// Process the set of this slide as it is now, also if stains are missing or it was given up.
    Submit {
        slide: PathBuf,
        reply: Reply<JobId>,
    },
    /// Do not process this job, or stop it.
    Cancel {
        job: JobId,
        reply: Reply<()>,
    },
    /// Process a job that failed, was given up or cancelled.
    Retry {
        job: JobId,
        reply: Reply<()>,
    },
    /// Begin nothing new, also after a restart. A running job goes on.
    Pause {
        reply: Reply<()>,
    },
    Resume {
        reply: Reply<()>,
    },
    /// Say in plain words where a slide stands.
    Explain {
        slide: PathBuf,
        reply: Reply<Explanation>,
    },
    /// List all models that are remembered, in the order they came.
    Models {
        reply: Reply<Vec<ModelRow>>,
    },
    /// Have this model (its name, or how its SHA-256 begins) serve from the next job on. Answered once it has proved
    /// itself, which may take minutes.
    Activate {
        which: String,
        reply: Reply<ModelRow>,
    },
    /// Have the model serve again that was replaced last. Nothing is begun until it has proved itself.
    Rollback {
        reply: Reply<ModelRow>,
    },
    /// Have this model repeat its golden patches in a worker process of its own.
    Verify {
        which: String,
        reply: Reply<Verified>,
    },
    /// Use these settings from now on.
    Reload {
        config: Box<Config>,
        reply: Reply<()>,
    },
}

/// Commands that wait for the loop at the same time; whoever sends more waits.
const PENDING: usize = 16;

/// A way to give commands to the daemon, in somebody's name.
#[derive(Debug, Clone)]
pub struct Commander {
    sender: mpsc::Sender<Wish>,
    by: Requester,
}

impl Commander {
    /// A commander, and where its commands arrive. Until told otherwise, it speaks for the daemon itself.
    pub fn new() -> (Self, mpsc::Receiver<Wish>) {
        let (sender, receiver) = mpsc::channel(PENDING);
        (Self { sender, by: Requester::Daemon }, receiver)
    }

    /// The same commander in this name; the audit log repeats it.
    pub fn on_behalf_of(&self, by: Requester) -> Self {
        Self { sender: self.sender.clone(), by }
    }

    /// [`Command::Submit`].
    ///
    /// # Errors
    /// The slide is in no watch folder, or is not ready.
    pub async fn submit(&self, slide: PathBuf) -> Result<JobId, Refusal> {
        self.ask(|reply| Command::Submit { slide, reply }).await
    }

    /// [`Command::Cancel`].
    ///
    /// # Errors
    /// There is no such job, or it is finished.
    pub async fn cancel(&self, job: JobId) -> Result<(), Refusal> {
        self.ask(|reply| Command::Cancel { job, reply }).await
    }

    /// [`Command::Retry`].
    ///
    /// # Errors
    /// There is no such job, it is done or under way, or its slides are not there.
    pub async fn retry(&self, job: JobId) -> Result<(), Refusal> {
        self.ask(|reply| Command::Retry { job, reply }).await
    }

    /// [`Command::Pause`].
    ///
    /// # Errors
    /// It cannot be written down.
    pub async fn pause(&self) -> Result<(), Refusal> {
        self.ask(|reply| Command::Pause { reply }).await
    }

    /// [`Command::Resume`].
    ///
    /// # Errors
    /// It cannot be written down.
    pub async fn resume(&self) -> Result<(), Refusal> {
        self.ask(|reply| Command::Resume { reply }).await
    }

    /// [`Command::Explain`].
    ///
    /// # Errors
    /// The journal cannot be read.
    pub async fn explain(&self, slide: PathBuf) -> Result<Explanation, Refusal> {
        self.ask(|reply| Command::Explain { slide, reply }).await
    }

    /// [`Command::Models`].
    ///
    /// # Errors
    /// The daemon is ending.
    pub async fn models(&self) -> Result<Vec<ModelRow>, Refusal> {
        self.ask(|reply| Command::Models { reply }).await
    }

    /// [`Command::Activate`].
    ///
    /// # Errors
    /// There is no such model, it is not kept, or it did not prove itself; then nothing has changed.
    pub async fn activate(&self, which: String) -> Result<ModelRow, Refusal> {
        self.ask(|reply| Command::Activate { which, reply }).await
    }

    /// [`Command::Rollback`].
    ///
    /// # Errors
    /// There is nothing to go back to, or it did not prove itself; then nothing has changed.
    pub async fn rollback(&self) -> Result<ModelRow, Refusal> {
        self.ask(|reply| Command::Rollback { reply }).await
    }

    /// [`Command::Verify`].
    ///
    /// # Errors
    /// There is no such model, it is not kept, or it did not prove itself.
    pub async fn verify(&self, which: String) -> Result<Verified, Refusal> {
        self.ask(|reply| Command::Verify { which, reply }).await
    }

    /// [`Command::Reload`].
    ///
    /// # Errors
    /// Something changed that needs a restart; then nothing is used.
    pub async fn reload(&self, config: Config) -> Result<(), Refusal> {
        self.ask(|reply| Command::Reload { config: Box::new(config), reply }).await
    }

    async fn ask<T>(&self, command: impl FnOnce(Reply<T>) -> Command) -> Result<T, Refusal> {
        let ending = || RefusalKind::Ending.because("tissuemapd is ending", "start it again");
        let (reply, answer) = oneshot::channel();
        self.sender.send((self.by.clone(), command(reply))).await.map_err(|_| ending())?;
        answer.await.map_err(|_| ending())?
    }
}
