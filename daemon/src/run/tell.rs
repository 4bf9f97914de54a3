//! The status value, as it follows from the daemon's state.

use std::collections::HashSet;
use std::sync::Arc;

use tissuemap::escape::for_people;

use super::waits::Awaited;
use super::{Daemon, Phase};
use crate::folder::Folder;
use crate::job::Fault;
use crate::status::{CurrentJob, State, stage_name};

impl Daemon {
    /// Publishes the status if it has changed.
    pub(super) fn tell(&mut self) {
        if std::mem::take(&mut self.untold) {
            self.tell_jobs();
        }
        let now = self.now();
        if self.running.is_none() {
            self.waits.end(Awaited::Cancellation);
        }
        let view = &mut self.view;
        view.state = match (self.phase, &self.running) {
            (Phase::Draining(_) | Phase::Cancelling(_), _) => State::Draining,
            (Phase::Serving, Some(_)) => State::Busy,
            (Phase::Serving, None) => State::Idle,
        };
        view.job = self.running.as_mut().map(|running| {
            let step = running.step();
            let left = running.pace.left(step, now);
            let (id, set) = (running.waiting.job, running.set().to_string());
            CurrentJob { id, set, stage: stage_name(step.stage), progress: step.progress(), left }
        });
        view.waits = self.waits.told();
        view.paused = self.paused;
        view.disk = self.full.shortage().cloned();
        view.waiting = self.folders.iter().flat_map(Folder::waiting).collect();
        let products = view.outcomes.iter().filter_map(|job| Some((&job.set, job.result.as_ref().ok()?)));
        let moved = products.flat_map(|(set, made)| made.moved.iter().map(move |moved| format!("set {set}: {moved}")));
        view.notes = self.folders.iter().flat_map(Folder::notes).chain(moved).collect();
        view.arriving = self.folders.iter().flat_map(Folder::arriving).collect();
        if view.models.as_slice() != self.models.rows() {
            view.models = Arc::new(self.models.rows().to_vec());
            view.model = self.models.serving_in_words();
            view.provider = self.models.providers_in_words();
        }
        if view.rejections.back() != self.models.rejections.back() {
            view.rejections.clone_from(&self.models.rejections);
        }
        // What concerns all comes before what may be twenty thousand slides: others are told the first thousand.
        let mut problems: Vec<String> = self.stalled.iter().map(ToString::to_string).collect();
        problems.extend(view.disk.as_ref().map(|shortage| Fault::from(shortage).to_string()));
        problems.extend(self.models.problems());
        problems.extend(self.blocked.problems());
        problems.extend(self.folders.iter().filter_map(|folder| folder.unanswered(now)));
        problems.extend(self.folders.iter().flat_map(Folder::problems));
        // Names in them come from whoever writes into the folders.
        let problems: Vec<String> = problems.iter().map(|problem| for_people(problem).to_string()).collect();
        let known: HashSet<&String> = view.problems.iter().collect();
        if let Some(new) = problems.iter().rfind(|problem| !known.contains(problem)) {
            view.last_error.clone_from(new);
        }
        view.problems = problems;
        self.status.send_if_modified(|told| {
            let changed = told != view;
            if changed {
                told.clone_from(view);
            }
            changed
        });
    }

    /// What is long and seldom changes.
    fn tell_jobs(&mut self) {
        let jobs = self.journal.open_jobs();
        if let Some(jobs) = self.checked(jobs) {
            self.view.jobs = Arc::new(jobs);
        }
        let queue = self.queue.in_order(self.config.schedule.order);
        self.view.queued = Arc::new(queue.iter().map(|waiting| waiting.job).collect());
        self.view.queue = queue.into_iter().map(|waiting| waiting.key.to_string()).collect();
    }
}
