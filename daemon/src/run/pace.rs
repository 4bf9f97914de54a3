//! How long a stage still takes, if it goes on as it went so far.

use std::time::Duration;

use crate::job::Step;

/// Less of a stage than this tells nothing about the rest: a model's first batch is slow.
const TELLING: f64 = 0.02;

/// The pace of the stage that is being worked on. It changes with a step and not with the clock, so that a status that
/// carries it changes with a step only.
#[derive(Debug, Default)]
pub(super) struct Pace {
    /// The first step of the stage that was seen, which need not be its beginning, and when that was.
    first: Option<(Step, Duration)>,
    last: Option<Step>,
    left: Option<Duration>,
}

impl Pace {
    /// Takes in where the work is `now`; how long the rest of the stage takes, whole seconds, if that can be told.
    pub(super) fn left(&mut self, step: Step, now: Duration) -> Option<Duration> {
        if self.last.replace(step) != Some(step) {
            let (first, since) = *self.first.get_or_insert((step, now));
            if first.stage == step.stage {
                let (done, took) = (step.progress() - first.progress(), now.saturating_sub(since));
                let rest = || took.mul_f64((1.0 - step.progress()) / done);
                self.left = (done >= TELLING).then(rest).map(whole_seconds);
            } else {
                self.first = Some((step, now));
                self.left = None;
            }
        }
        self.left
    }
}

/// Rounded up: work that has not ended does not end in no time.
fn whole_seconds(time: Duration) -> Duration {
    Duration::from_secs(time.as_secs() + u64::from(time.subsec_nanos() > 0))
}

#[cfg(test)]
mod tests {
    use tissuemap::road::{Progress, Stage};

    use super::*;
    use crate::job::JobProgress;

    /// What is left after steps of `(stage, hundredths, second)`.
    fn left(steps: &[(Stage, u64, u64)]) -> Option<u64> {
        let (progress, seen, _) = JobProgress::new();
        let mut pace = Pace::default();
        let mut left = None;
        for &(stage, hundredths, second) in steps {
            progress.stage(stage, hundredths, 100);
            left = pace.left(*seen.borrow(), Duration::from_secs(second));
        }
        left.map(|left| left.as_secs())
    }

    #[test]
    fn the_rest_of_a_stage_takes_as_long_as_its_beginning_did() {
        use Stage::{Infer, Register};
        assert_eq!(left(&[(Infer, 0, 100)]), None, "nothing is known yet");
        assert_eq!(left(&[(Infer, 0, 100), (Infer, 25, 110)]), Some(30));
        assert_eq!(left(&[(Infer, 0, 100), (Infer, 25, 110), (Infer, 25, 190)]), Some(30), "no step, no change");
        assert_eq!(left(&[(Infer, 0, 100), (Infer, 25, 110), (Infer, 100, 140)]), Some(0));
        assert_eq!(left(&[(Register, 0, 0), (Register, 90, 10), (Infer, 0, 11)]), None, "another stage");
        assert_eq!(left(&[(Register, 0, 0), (Register, 90, 10), (Infer, 0, 11), (Infer, 50, 21)]), Some(10));
        assert_eq!(left(&[(Infer, 0, 0), (Infer, 1, 60)]), None, "one hundredth tells nothing");
        assert_eq!(left(&[(Infer, 25, 100)]), None, "nobody knows how long the first quarter took");
        assert_eq!(left(&[(Infer, 25, 100), (Infer, 50, 110)]), Some(20));
    }
}
