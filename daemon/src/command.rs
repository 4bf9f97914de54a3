//! What a person may ask of the running daemon. The bus, or whoever else speaks for people, holds a [`Commander`]; the
//! daemon's loop takes one command at a time and answers it.

use std::path::PathBuf;

use tokio::sync::{mpsc, oneshot};

use crate::config::Config;
use crate::explain::Explanation;
use crate::job::Fault;
use crate::journal::JobId;

/// Where an answer goes; nobody may be waiting for it any more.
pub type Reply<T> = oneshot::Sender<Result<T, Fault>>;

/// One wish, and where the answer goes.
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
    /// Use these settings from now on.
    Reload {
        config: Box<Config>,
        reply: Reply<()>,
    },
}

/// Commands that wait for the loop at the same time; whoever sends more waits.
const PENDING: usize = 16;

/// A way to give commands to the daemon.
#[derive(Debug, Clone)]
pub struct Commander(mpsc::Sender<Command>);

impl Commander {
    /// A commander, and where its commands arrive.
    pub fn new() -> (Self, mpsc::Receiver<Command>) {
        let (sender, receiver) = mpsc::channel(PENDING);
        (Self(sender), receiver)
    }

    /// [`Command::Submit`].
    ///
    /// # Errors
    /// The slide is in no watch folder, or is not ready.
    pub async fn submit(&self, slide: PathBuf) -> Result<JobId, Fault> {
        self.ask(|reply| Command::Submit { slide, reply }).await
    }

    /// [`Command::Cancel`].
    ///
    /// # Errors
    /// There is no such job, or it is finished.
    pub async fn cancel(&self, job: JobId) -> Result<(), Fault> {
        self.ask(|reply| Command::Cancel { job, reply }).await
    }

    /// [`Command::Retry`].
    ///
    /// # Errors
    /// There is no such job, it is done or under way, or its slides are not there.
    pub async fn retry(&self, job: JobId) -> Result<(), Fault> {
        self.ask(|reply| Command::Retry { job, reply }).await
    }

    /// [`Command::Pause`].
    ///
    /// # Errors
    /// It cannot be written down.
    pub async fn pause(&self) -> Result<(), Fault> {
        self.ask(|reply| Command::Pause { reply }).await
    }

    /// [`Command::Resume`].
    ///
    /// # Errors
    /// It cannot be written down.
    pub async fn resume(&self) -> Result<(), Fault> {
        self.ask(|reply| Command::Resume { reply }).await
    }

    /// [`Command::Explain`].
    ///
    /// # Errors
    /// The journal cannot be read.
    pub async fn explain(&self, slide: PathBuf) -> Result<Explanation, Fault> {
        self.ask(|reply| Command::Explain { slide, reply }).await
    }

    /// [`Command::Reload`].
    ///
    /// # Errors
    /// Something changed that needs a restart; then nothing is used.
    pub async fn reload(&self, config: Config) -> Result<(), Fault> {
        self.ask(|reply| Command::Reload { config: Box::new(config), reply }).await
    }

    async fn ask<T>(&self, command: impl FnOnce(Reply<T>) -> Command) -> Result<T, Fault> {
        let ending = || Fault::new("tissuemapd is ending", "start it again");
        let (reply, answer) = oneshot::channel();
        self.0.send(command(reply)).await.map_err(|_| ending())?;
        answer.await.map_err(|_| ending())?
    }
}
