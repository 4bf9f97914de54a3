//! `[schedule]`: what is processed when, and how often it is tried.

use std::time::Duration;

use serde::Deserialize;

/// Which of several waiting sets comes first.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Order {
    /// The set scanned last: somebody waits for today's slides, the backlog can wait for the night.
    #[default]
    NewestFirst,
    /// The set scanned first.
    InOrder,
}

/// The section of the configuration.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Schedule {
    pub order: Order,
    /// Failed tries after which a set is left alone.
    pub tries: u32,
    /// Time between the first and the second try; it doubles with every further one.
    pub retry_seconds: u64,
    /// The longest time between two tries.
    pub retry_max_seconds: u64,
    /// Less free space than this where results or state are written: nothing is begun.
    pub min_free_mib: u64,
}

impl Default for Schedule {
    /// A second try tells a passing trouble (a share that was away) from a slide that will never do. A set of five 40x
    /// slides leaves some hundred megabytes; the rest of a gibibyte is for the scanner's own files.
    fn default() -> Self {
        Self { order: Order::NewestFirst, tries: 2, retry_seconds: 60, retry_max_seconds: 3600, min_free_mib: 1024 }
    }
}

impl Schedule {
    /// How long a set waits after its `failures`-th failure in a row: 1, 2, 4, … times the first wait, up to the longest.
    pub fn retry_wait(&self, failures: u32) -> Duration {
        let doubled = 1_u64.checked_shl(failures.saturating_sub(1)).unwrap_or(u64::MAX);
        Duration::from_secs(self.retry_seconds.saturating_mul(doubled).min(self.retry_max_seconds))
    }

    /// [`Schedule::min_free_mib`] in bytes.
    pub fn min_free(&self) -> u64 {
        self.min_free_mib.saturating_mul(1 << 20)
    }

    /// The key that cannot be used, and why.
    pub(super) fn problem(&self) -> Option<(&'static str, &'static str)> {
        match self {
            Self { tries: 0, .. } => Some(("schedule.tries", "must be at least 1")),
            Self { retry_seconds: 0, .. } => Some(("schedule.retry_seconds", "must be at least 1")),
            _ if self.retry_max_seconds < self.retry_seconds => {
                Some(("schedule.retry_max_seconds", "must not be less than `retry_seconds`"))
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn waits_between_tries_double_up_to_the_longest(first in 1_u64..100_000, times in 1_u64..100_000,
                                                        failures in 1_u32..200) {
            let schedule =
                Schedule { retry_seconds: first, retry_max_seconds: first * times, ..Schedule::default() };
            let longest = Duration::from_secs(first * times);
            let (wait, next) = (schedule.retry_wait(failures), schedule.retry_wait(failures + 1));
            prop_assert_eq!(schedule.retry_wait(1), Duration::from_secs(first));
            prop_assert!(wait <= longest);
            prop_assert_eq!(next, (wait * 2).min(longest));
        }
    }
}
