//! Where a slide stands, as folders, queue, journal and the running job know it together.

use std::path::Path;
use std::time::SystemTime;

use tissuemap::overlay::result_folder;
use tissuemap::section_set::SetKey;

use super::Daemon;
use super::commands::refused;
use super::jobs::results;
use super::outcome::given_up;
use crate::explain::{Arriving, Explanation, Grouping, Processing, Situation, explain};
use crate::job::Fault;
use crate::journal::{JobRow, JobState};
use crate::status::stage_name;

impl Daemon {
    /// Says in plain words where a slide stands.
    pub(super) fn explain(&self, slide: &Path) -> Result<Explanation, Fault> {
        let situation = self.situation(slide)?;
        let mut told = explain(slide, &situation);
        if let Some(wait) = self.awaited_by(&situation, self.folder_of(slide).ok()) {
            told.sentence = format!("{}; waited for: {}", told.sentence, wait.in_words(SystemTime::now()));
        }
        Ok(told)
    }

    fn situation(&self, slide: &Path) -> Result<Situation, Fault> {
        let Ok(folder) = self.folder_of(slide) else {
            let folders = self.folders.iter().map(|folder| folder.watch().folder.clone()).collect();
            return Ok(Situation::Arriving(Arriving::Elsewhere { folders }));
        };
        if let Some(situation) = self.folders[folder].situation(slide, self.now()) {
            return Ok(situation);
        }
        match self.folders[folder].set_of(slide) {
            Some(key) => self.processing(folder, key, slide).map(Situation::Processing),
            None => Ok(Situation::Grouping(Grouping::Due)),
        }
    }

    fn processing(&self, folder: usize, key: &SetKey, slide: &Path) -> Result<Processing, Fault> {
        let set = key.to_string();
        let runs = self.running.as_ref().filter(|running| (running.waiting.folder, running.set()) == (folder, key));
        if let Some(running) = runs {
            let step = running.step();
            let percent = (100.0 * step.progress()) as u8;
            return Ok(Processing::Running { set, stage: stage_name(step.stage), percent });
        }
        let row = self.journal.job_of(&self.folders[folder].watch().folder, key).map_err(|error| refused(&error))?;
        let queue = self.queue.in_order(self.config.schedule.order);
        let place = queue.iter().position(|waiting| (waiting.folder, &waiting.key) == (folder, key));
        Ok(match (place, row) {
            (Some(place), Some(JobRow { state: JobState::Failed, reason, .. }))
                if queue[place].not_before > self.now() =>
            {
                let wait = queue[place].not_before.saturating_sub(self.now());
                Processing::Retrying { set, fault: reason.into_fault(), wait }
            }
            (None, Some(JobRow { state: JobState::Quarantined, attempts, reason, .. })) => {
                Processing::Failed { set, fault: given_up(attempts, reason.into_fault()) }
            }
            (None, Some(JobRow { state: JobState::Cancelled, .. })) => Processing::Cancelled { set },
            (None, Some(JobRow { state: JobState::Done, reason, .. })) => {
                Processing::Done { set, result: result_folder(slide), reason: reason.to_string() }
            }
            // What is not queued yet comes behind all that is.
            (place, _) => {
                let number = place.unwrap_or(queue.len()) + 1;
                match self.held_up(folder, key) {
                    Some(fault) => Processing::HeldUp { set, number, fault },
                    None => Processing::Queued { set, number },
                }
            }
        })
    }

    /// Why nothing is begun, or not this set.
    fn held_up(&self, folder: usize, key: &SetKey) -> Option<Fault> {
        let blocked = || {
            let job = self.folders[folder].queued(key)?;
            self.blocked.holds(&results(&job), self.now()).cloned()
        };
        let paused = self.paused.then(|| Fault::new("tissuemapd is paused", "resume it"));
        let full = || self.full.shortage().map(Fault::from);
        paused.or_else(full).or_else(blocked)
    }
}
