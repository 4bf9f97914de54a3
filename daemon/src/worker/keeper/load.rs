//! Loading the model that a seat is for.

use std::cell::Cell;
use std::path::PathBuf;
use std::sync::mpsc::Sender;
use std::time::Duration;

use super::{Keeper, Lost, Serving};
use crate::job::{Fault, ModelInfo};
use crate::worker::batches::Batches;
use crate::worker::engines::Engines;
use crate::worker::faults::{Bounds, MODEL_HINT, unexpected};
use crate::worker::protocol::{Event, Request};
use crate::worker::seat::Ready;

/// How the model is loaded.
pub(in crate::worker) struct Load {
    pub(in crate::worker) model: PathBuf,
    /// Of the model's file, as the supervisor has read it.
    pub(in crate::worker) sha256: String,
    pub(in crate::worker) providers: Vec<tissuemap::infer::Provider>,
    pub(in crate::worker) engines: Engines,
    pub(in crate::worker) batches: Batches,
    /// What this machine is called there.
    pub(in crate::worker) machine: String,
    /// `load_seconds`.
    pub(in crate::worker) limit: Duration,
}

impl Keeper {
    /// Has the worker load the model; `ready` hears the steps.
    pub(super) fn load(&mut self, serving: Serving, ready: &Sender<Ready>) -> Result<Serving, Lost> {
        let Some(load) = &self.duty.load else { return Ok(serving) };
        let request = Request::Load {
            model: load.model.clone(),
            providers: load.providers.clone(),
            engines: load.engines.folder().to_owned(),
            batches: load.batches.read(),
            machine: load.machine.clone(),
        };
        let (subject, limit) = (load.model.display().to_string(), load.limit);
        let bounds = Bounds { subject: &subject, limit, key: Some("load_seconds"), tells: false };
        let reached = Cell::new(None);
        let tell = |event| {
            if let Event::Step(step) = event {
                reached.set(Some(step));
                // Of a replacement, nobody hears any more.
                let _ = ready.send(Ready::Step(step));
            }
        };
        let asked = self.ask(serving, &request, &bounds, &tell);
        let (serving, answer) = asked.map_err(|Lost(fault)| {
            let step = reached.get().map(|step| format!(", in step {}", step.as_str())).unwrap_or_default();
            Lost(Fault::new(format!("{}{step}", fault.reason()), MODEL_HINT).with_id("model.worker-lost"))
        })?;
        let Event::Loaded { info, batch } = answer else { return Err(Lost(unexpected(answer))) };
        self.take_model(info, batch)?;
        Ok(serving)
    }

    fn take_model(&mut self, mut info: ModelInfo, batch: usize) -> Result<(), Lost> {
        let Some(load) = &self.duty.load else { return Ok(()) };
        if info.sha256 != load.sha256 {
            let reason = format!("{}: the file is not the model that serves any more", load.model.display());
            return Err(Lost(Fault::new(
                reason,
                "the disk may be damaged, or somebody has written there; restart tissuemapd",
            )));
        }
        // It is asked for by this path, whatever the worker says.
        info.path.clone_from(&load.model);
        load.engines.seal();
        load.batches.store(&info, &load.machine, batch);
        tracing::info!(provider = %info.provider, batch, "Model loaded");
        self.model = Some(info);
        Ok(())
    }
}
