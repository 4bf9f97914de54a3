//! The account of what was done: a line in the log for every slide, an entry in the audit log for every job.

use std::path::PathBuf;

use super::Daemon;
use super::jobs::Running;
use crate::audit::{Audit, Event, JobEnd};
use crate::journal::JobState;

impl Daemon {
    /// The same daemon, which writes down who asked for what and what it did.
    #[must_use]
    pub fn audited(self, audit: Audit) -> Self {
        Self { audit: Some(audit), ..self }
    }

    pub(super) fn note(&mut self, event: Event) {
        if let Some(audit) = &mut self.audit {
            audit.add(event);
        }
    }

    pub(super) fn note_start(&mut self) {
        self.note(Event::Started { version: env!("CARGO_PKG_VERSION").into(), model: self.models.serving_in_words() });
    }

    /// A model serves from now on, or will not.
    pub(super) fn note_model(&mut self, name: &str, sha256: Option<&str>, outcome: &str, reason: &str) {
        self.note(Event::Model {
            name: name.into(),
            model: sha256.map(str::to_owned),
            outcome: outcome.into(),
            reason: reason.into(),
        });
    }

    /// A try of a job has come to its end in this state.
    pub(super) fn account(
        &mut self,
        running: &Running,
        state: JobState,
        reason: &str,
        outputs: &[PathBuf],
        seconds: f64,
    ) {
        let (job, set) = (running.waiting.job, running.set());
        let model = running.runner.model().sha256.clone();
        let (case, result) = (&set.case, state.as_str());
        for (stain, slide) in &running.job.set.slides {
            tracing::info!(job = %job, case, stain, slide = %slide.display(), model, result, "Slide {result}");
        }
        let content = |stain: &str| running.waiting.contents.get(stain).cloned();
        let slides = running.job.set.slides.iter();
        let inputs = slides.map(|(stain, slide)| (stain.clone(), (slide.clone(), content(stain)))).collect();
        self.note(Event::Job(Box::new(JobEnd {
            job,
            set: set.to_string(),
            outcome: result.into(),
            reason: reason.into(),
            model,
            inputs,
            outputs: outputs.to_vec(),
            seconds,
        })));
    }
}
