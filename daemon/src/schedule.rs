//! Which job is next: a pure function of what waits, the configured order and the time.

use std::cmp::Reverse;
use std::time::{Duration, SystemTime};

use tissuemap::section_set::SetKey;

use crate::config::Order;
use crate::journal::{Contents, JobId};

/// A job that waits for its turn.
#[derive(Debug, Clone, PartialEq)]
pub struct Waiting {
    pub job: JobId,
    /// Index of the watch folder.
    pub folder: usize,
    pub key: SetKey,
    /// When the newest file of the set was written.
    pub scanned: SystemTime,
    /// Tries that failed.
    pub attempts: u32,
    /// Tries in a row that found a slide or a worker out of reach. They count for nothing.
    pub unreached: u32,
    /// Not to be begun before this time of the daemon's clock.
    pub not_before: Duration,
    /// The journal says that it is done: only to be made sure of.
    pub done: bool,
    /// Results of another model do not count.
    pub renew: bool,
    /// A person wants it: results that were made with more stains are replaced.
    pub asked: bool,
    /// What is known of its slides' contents.
    pub contents: Contents,
}

/// All jobs that wait.
#[derive(Debug, Default)]
pub struct Queue(Vec<Waiting>);

impl Queue {
    /// Adds a job, in place of what waited under its id.
    pub fn push(&mut self, waiting: Waiting) {
        self.remove(waiting.job);
        self.0.push(waiting);
    }

    /// Takes a job out; `None` when it does not wait.
    pub fn remove(&mut self, job: JobId) -> Option<Waiting> {
        let index = self.0.iter().position(|waiting| waiting.job == job)?;
        Some(self.0.swap_remove(index))
    }

    /// Takes out the job that is to be begun at `now`, of those that `may` begin.
    pub fn next(&mut self, order: Order, now: Duration, may: impl Fn(&Waiting) -> bool) -> Option<Waiting> {
        let due = self.0.iter().filter(|waiting| waiting.not_before <= now && may(waiting));
        let job = due.min_by(|a, b| compare(order, a, b))?.job;
        self.remove(job)
    }

    /// All jobs, in no order.
    pub fn iter(&self) -> impl Iterator<Item = &Waiting> {
        self.0.iter()
    }

    /// When the first job is due that is not due at `now`.
    pub fn next_due(&self, now: Duration) -> Option<Duration> {
        self.0.iter().map(|waiting| waiting.not_before).filter(|due| *due > now).min()
    }

    /// All jobs, the next first; those that wait for another try come where they will be when their wait is over.
    pub fn in_order(&self, order: Order) -> Vec<&Waiting> {
        let mut all: Vec<&Waiting> = self.0.iter().collect();
        all.sort_by(|a, b| compare(order, a, b));
        all
    }
}

/// Sets written in the same moment go by name.
fn compare(order: Order, a: &Waiting, b: &Waiting) -> std::cmp::Ordering {
    let time = match order {
        Order::NewestFirst => Reverse(a.scanned).cmp(&Reverse(b.scanned)),
        Order::InOrder => a.scanned.cmp(&b.scanned),
    };
    time.then_with(|| (a.folder, &a.key).cmp(&(b.folder, &b.key)))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Job `id` of a set scanned at `scanned` that waits until `not_before`; both in seconds.
    fn waiting(id: i64, scanned: u64, not_before: u64) -> Waiting {
        Waiting {
            job: JobId(id),
            folder: 0,
            key: SetKey { case: format!("c{id:04}"), block: None },
            scanned: SystemTime::UNIX_EPOCH + Duration::from_secs(scanned),
            attempts: 0,
            unreached: 0,
            not_before: Duration::from_secs(not_before),
            done: false,
            renew: false,
            asked: false,
            contents: Contents::new(),
        }
    }

    proptest! {
        #[test]
        fn jobs_come_in_the_configured_order_whatever_order_they_were_asked_for_in(
            times in prop::collection::vec(0_u64..20, 1..30), shuffled in any::<prop::sample::Index>(), newest: bool,
        ) {
            let mut jobs: Vec<Waiting> =
                times.iter().zip(1..).map(|(&scanned, id)| waiting(id, scanned, 0)).collect();
            let by = shuffled.index(jobs.len());
            jobs.rotate_left(by);
            let order = if newest { Order::NewestFirst } else { Order::InOrder };
            let mut queue = Queue::default();
            jobs.into_iter().for_each(|job| queue.push(job));
            let listed: Vec<JobId> = queue.in_order(order).iter().map(|job| job.job).collect();
            let taken: Vec<Waiting> = std::iter::from_fn(|| queue.next(order, Duration::ZERO, |_| true)).collect();
            prop_assert_eq!(taken.len(), times.len());
            prop_assert_eq!(taken.iter().map(|job| job.job).collect::<Vec<_>>(), listed);
            for pair in taken.windows(2) {
                let key = |job: &Waiting| job.key.clone();
                let ordered = match pair[0].scanned.cmp(&pair[1].scanned) {
                    std::cmp::Ordering::Less => !newest,
                    std::cmp::Ordering::Greater => newest,
                    std::cmp::Ordering::Equal => key(&pair[0]) < key(&pair[1]),
                };
                prop_assert!(ordered, "{:?} before {:?}", pair[0], pair[1]);
            }
        }
    }

    #[test]
    fn a_job_that_waits_for_its_next_try_lets_others_pass() {
        let mut queue = Queue::default();
        queue.push(waiting(1, 9, 60));
        queue.push(waiting(2, 1, 0));
        let seconds = Duration::from_secs;
        assert_eq!(queue.next_due(seconds(0)), Some(seconds(60)));
        assert_eq!(queue.next(Order::NewestFirst, seconds(59), |_| true).map(|job| job.job), Some(JobId(2)));
        assert_eq!(queue.next(Order::NewestFirst, seconds(59), |_| true), None);
        assert_eq!(queue.next(Order::NewestFirst, seconds(60), |_| true).map(|job| job.job), Some(JobId(1)));
        assert_eq!(queue.next_due(seconds(0)), None);
    }

    #[test]
    fn a_job_waits_once() {
        let mut queue = Queue::default();
        queue.push(waiting(1, 9, 0));
        queue.push(waiting(1, 9, 60));
        assert_eq!(queue.in_order(Order::InOrder).len(), 1);
        assert_eq!(queue.remove(JobId(1)).map(|job| job.not_before), Some(Duration::from_mins(1)));
        assert_eq!(queue.remove(JobId(1)), None);
    }
}
