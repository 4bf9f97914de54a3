//! Progress bar for the work on section sets, with the remaining time. It also passes an interruption by the user on to the pipeline.

use std::sync::atomic::{AtomicU64, Ordering};

use indicatif::{ProgressBar, ProgressStyle};
use tissuemap::road::{Progress, Stage};

use crate::system::progress;

/// Steps of one set on the bar. Opening, registration and tissue detection take the first ones, sampling the rest. The real fractions depend on
/// slides and stains; these are estimates.
const STEPS: u64 = 100;
const OPENED: u64 = 2;
const REGISTERED: u64 = 58;
const PREPARED: u64 = 60;

/// Progress over section sets.
pub struct SamplingProgress<'a> {
    interrupted: &'a (dyn Fn() -> bool + Sync),
    bar: ProgressBar,
    /// Position on the bar at which the present set begins.
    start: AtomicU64,
}

impl<'a> SamplingProgress<'a> {
    /// A bar for `count` sets, of which `done` are finished. `what` is the title.
    pub fn over(what: &'static str, count: usize, done: usize, interrupted: &'a (dyn Fn() -> bool + Sync)) -> Self {
        let bar = progress::bar(STEPS * count as u64);
        if let Ok(style) = ProgressStyle::with_template("{prefix:>12} {bar:30} {percent:>3} % {eta}  {msg}") {
            bar.set_style(style);
        }
        bar.set_prefix(what);
        bar.set_position(STEPS * done as u64);
        // Sets of an earlier run do not count for the speed.
        bar.reset_eta();
        Self { interrupted, bar, start: AtomicU64::new(STEPS * done as u64) }
    }

    /// Begins with set `name`, number `index`.
    pub fn begin(&self, index: usize, name: &str) {
        self.start.store(STEPS * index as u64, Ordering::Relaxed);
        self.bar.set_position(STEPS * index as u64);
        self.bar.set_message(name.to_owned());
    }

    /// `done` of `total` patches of the present set are sampled.
    pub fn drawn(&self, done: usize, total: usize) {
        self.advance(PREPARED, STEPS, done as u64, total as u64);
    }

    /// Calls `words` while the bar is hidden.
    pub fn say(&self, words: impl FnOnce()) {
        self.bar.suspend(words);
    }

    fn advance(&self, from: u64, to: u64, done: u64, total: u64) {
        let start = self.start.load(Ordering::Relaxed);
        self.bar.set_position(start + from + (to - from) * done / total.max(1));
    }
}

impl Progress for SamplingProgress<'_> {
    fn stage(&self, stage: Stage, done: u64, total: u64) {
        match stage {
            Stage::Open => self.advance(0, OPENED, done, total),
            Stage::Register => self.advance(OPENED, REGISTERED, done, total),
            Stage::Tissue | Stage::Refine | Stage::Infer | Stage::Overlay => {
                self.advance(REGISTERED, PREPARED, done, total);
            }
        }
    }

    fn cancelled(&self) -> bool {
        (self.interrupted)()
    }
}

impl Drop for SamplingProgress<'_> {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bar_goes_forward_only_and_each_set_has_its_share() {
        let progress = SamplingProgress::over("patches", 3, 1, &|| false);
        let mut positions = vec![progress.bar.position()];
        for index in 1..3 {
            progress.begin(index, "set");
            for (stage, total) in [(Stage::Open, 5), (Stage::Register, 8), (Stage::Tissue, 1)] {
                (0..=total).for_each(|done| {
                    progress.stage(stage, done, total);
                    positions.push(progress.bar.position());
                });
            }
            progress.drawn(1, 2);
            positions.push(progress.bar.position());
            progress.drawn(2, 2);
            positions.push(progress.bar.position());
        }
        assert!(positions.is_sorted(), "{positions:?}");
        assert_eq!((positions[0], positions.last()), (STEPS, Some(&(3 * STEPS))));
    }
}
