//! `tissuemapctl queue`: all open jobs.

use std::fmt::Write;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use clap::Args;
use tissuemap::escape::for_people;

use super::bus::{connect, unavailable};
use crate::config::BusKind;
use crate::exit::{self, Failure};
use crate::explain::span;
use crate::status::dbus::JobEntry;

/// `tissuemapctl queue`
#[derive(Debug, Args)]
#[command(
    after_help = "Shows the set that is being processed, the queue in its order, then sets that failed or were cancelled.

Examples:
  tissuemapctl queue
  tissuemapctl queue --json | jq -r '.[] | select(.state == \"quarantined\") | .id'
"
)]
pub struct QueueArgs {
    /// Print a JSON array
    #[arg(long)]
    pub json: bool,
}

/// Prints the jobs that are neither done nor gone.
///
/// # Errors
/// There is no daemon.
pub async fn queue(kind: BusKind, args: QueueArgs) -> Result<(), Failure> {
    let jobs = connect(kind).await?.list_jobs().await.map_err(unavailable)?;
    if args.json {
        return exit::print(&exit::json(&jobs)?);
    }
    exit::print(&table(&jobs, SystemTime::now()))
}

fn table(jobs: &[JobEntry], now: SystemTime) -> String {
    let shown = |text: &str| for_people(text).to_string();
    let shown = |job: &JobEntry| JobEntry { set: shown(&job.set), reason: shown(&job.reason), ..job.clone() };
    let jobs: Vec<JobEntry> = jobs.iter().map(shown).collect();
    let widest = |cell: fn(&JobEntry) -> String, title: &str| {
        jobs.iter().map(|job| cell(job).chars().count()).chain([title.len()]).max().unwrap_or_default()
    };
    let (id, set) = (widest(|job| job.id.to_string(), "JOB"), widest(|job| job.set.clone(), "SET"));
    let state = widest(|job| job.state.clone(), "STATE");
    let mut out = format!("PLACE  {:>id$}  {:<set$}  {:<state$}  TRIES  WHY\n", "JOB", "SET", "STATE");
    for job in &jobs {
        let place = if job.place == 0 { "-".to_owned() } else { job.place.to_string() };
        let wait = (UNIX_EPOCH + Duration::from_secs(job.not_before)).duration_since(now);
        let wait = wait.map(|wait| format!("again in {}; ", span(wait))).unwrap_or_default();
        // Writing to a string cannot fail.
        let _ = writeln!(
            out,
            "{place:>5}  {:>id$}  {:<set$}  {:<state$}  {:>5}  {wait}{}",
            job.id, job.set, job.state, job.attempts, job.reason
        );
    }
    out.lines().map(|line| line.trim_end().to_owned() + "\n").collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up_and_a_job_that_waits_says_how_long() {
        let job = |id, set: &str, state: &str, place, not_before, reason: &str| JobEntry {
            id,
            set: set.into(),
            folder: "/slides".into(),
            state: state.into(),
            attempts: 1,
            not_before,
            place,
            reason: reason.into(),
        };
        let jobs = [
            job(7, "case7", "running", 0, 0, ""),
            job(12, "long-name", "failed", 1, 1_000_300, "no tissue; hint: scan again"),
        ];
        let now = UNIX_EPOCH + Duration::from_secs(1_000_000);
        assert_eq!(
            table(&jobs, now),
            "PLACE  JOB  SET        STATE    TRIES  WHY\n    \
             -    7  case7      running      1\n    \
             1   12  long-name  failed       1  again in 5 min; no tissue; hint: scan again\n"
        );
        assert_eq!(table(&[], now), "PLACE  JOB  SET  STATE  TRIES  WHY\n");
    }
}
