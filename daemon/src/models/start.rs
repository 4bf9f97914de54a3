//! Which models serve when the daemon begins.

use std::collections::VecDeque;
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use tissuemap::infer::ProofStep;

use super::Models;
use super::inbox::Inbox;
use super::proof::{Proved, load};
use super::registry::{ModelState, Registry};
use super::store::{Store, Stored};
use crate::config::Config;
use crate::job::{Backend, Fault};
use crate::status::{Wait, proof_in_words};
use crate::worker::unwritable;

/// What to tell where the memory of models is damaged, or missing although there were models.
fn lost(file: &Path, there: bool, aside: Option<&Path>, store: &Store) -> Option<String> {
    let forgotten = "which models served, were rolled back or refused is forgotten, and files in the model folder are taken \
                     for new; hint: see which models serve, and check the disk; this is told until the next start";
    match aside {
        Some(aside) => Some(format!("{}: damaged, moved to {}: {forgotten}", file.display(), aside.display())),
        None if !there && !store.is_empty() => {
            tracing::error!(file = %file.display(), "MODEL MEMORY MISSING, although models were kept before");
            Some(format!("{}: missing, although models were kept before: {forgotten}", file.display()))
        }
        None => None,
    }
}

/// Hears the name of a model, since when it is proved, and the step.
type Tell<'a> = &'a dyn Fn(&str, SystemTime, ProofStep);

fn load_telling(stored: Stored, backend: &dyn Backend, tell: Tell) -> Result<Proved, Fault> {
    let (name, since) = (stored.name.clone(), SystemTime::now());
    load(stored, backend, &|step| tell(&name, since, step))
}

impl Models {
    /// Loads the models that served last, and the configured one where it is new. Blocks.
    ///
    /// # Errors
    /// The state folder cannot be used, or no model that should serve can.
    pub fn start(config: &Config, backend: &dyn Backend) -> Result<Self, Fault> {
        Self::start_telling(config, backend, &|_| {})
    }

    /// As [`Models::start`]; `tell` hears which model is being proved.
    ///
    /// # Errors
    /// As [`Models::start`].
    pub fn start_telling(config: &Config, backend: &dyn Backend, tell: &dyn Fn(Wait)) -> Result<Self, Fault> {
        let limit = Some(config.worker.load_limit());
        let tell = &|name: &str, since: SystemTime, step: ProofStep| {
            tell(Wait { what: proof_in_words(name, step), since, limit });
        };
        let (state, folder) = (config.state_folder(), config.model_folder());
        let trouble = |error: std::io::Error| unwritable(&state, &error);
        let store = Store::open(&state, config.models.keys()).map_err(trouble)?;
        if config.models.folder.is_none() {
            std::fs::create_dir_all(&folder).map_err(trouble)?;
        }
        let file = state.join(super::FILE);
        let there = file.exists();
        let (registry, aside) = Registry::read(&file).map_err(trouble)?;
        let lost = lost(&file, there, aside.as_deref(), &store);
        let mut models = Self {
            inbox: Inbox::new(folder, config.models.settle()),
            store: Arc::new(store),
            registry,
            file,
            unwritten: None,
            serving: Vec::new(),
            fallen: None,
            lost,
            keep: config.models.keep,
            rejections: VecDeque::new(),
        };
        models.bring_back(backend, tell)?;
        if let Some(model) = &config.model {
            models.begin_with(model, backend, tell)?;
        }
        Ok(models)
    }

    /// Loads what served when the daemon ended; in place of one that cannot be loaded any more, the one before it.
    fn bring_back(&mut self, backend: &dyn Backend, tell: Tell) -> Result<(), Fault> {
        let active = self.registry.rows().iter().filter(|row| row.state == ModelState::Active);
        let active: Vec<(String, String)> = active.map(|row| (row.sha256.clone(), row.name.clone())).collect();
        for (sha256, name) in active {
            let before = self.registry.before(&sha256).into_iter().map(|row| (row.sha256.clone(), row.name.clone()));
            let candidates: Vec<(String, String)> =
                std::iter::once((sha256.clone(), name.clone())).chain(before).collect();
            let mut first = None;
            for (candidate, its_name) in candidates {
                match self.store.get(&candidate, &its_name).and_then(|stored| load_telling(stored, backend, tell)) {
                    Ok(proved) => {
                        match first.take() {
                            Some(fault) => self.fall_back(&sha256, &name, &fault, proved),
                            None => drop(self.serve(proved.runner)),
                        }
                        break;
                    }
                    Err(fault) => first = first.or(Some(fault)),
                }
            }
            if let Some(fault) = first {
                return Err(fault);
            }
        }
        Ok(())
    }

    fn fall_back(&mut self, sha256: &str, name: &str, fault: &Fault, instead: Proved) {
        let its_name = instead.stored.name.clone();
        tracing::error!(model = name, instead = its_name, reason = %fault, "MODEL LOST; the one before it serves");
        self.go_back(sha256, &format!("could not be loaded at the start: {}", fault.reason()), instead);
        self.fallen = Some(format!("model {name} cannot be loaded any more, and {its_name} serves instead: {fault}"));
    }

    /// The configured model is like one that is dropped: it comes to serve once, when it is new.
    fn begin_with(&mut self, model: &Path, backend: &dyn Backend, tell: Tell) -> Result<(), Fault> {
        let known = |stored: &Stored| self.registry.get(&stored.sha256).map(|row| row.state);
        let outcome = self.store.take_in(model).and_then(|stored| match known(&stored) {
            Some(ModelState::Active | ModelState::Standby) => Ok(None),
            Some(ModelState::Rejected) | None => load_telling(stored, backend, tell).map(Some),
        });
        match outcome {
            Ok(None) => Ok(()),
            Ok(Some(proved)) => {
                self.activate(proved, "configured as `model`");
                Ok(())
            }
            Err(fault) if self.serving.is_empty() => Err(fault),
            Err(fault) => {
                let name = model.file_name().unwrap_or_default().to_string_lossy().into_owned();
                tracing::error!(model = name, reason = %fault, "Configured model refused; what served before serves");
                self.fallen = Some(format!("the configured model is refused: {fault}"));
                self.tell_rejection(&name, &fault);
                Ok(())
            }
        }
    }
}
