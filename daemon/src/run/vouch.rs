//! The loop vouches for the daemon (hazard h12): that it turns, and that the work it waits for goes on.
//!
//! Looks into folders, examinations and the publishing of results are not waited for. On a share whose host is gone they
//! stand still in the kernel, where neither killing nor a restart helps; the folder becomes a problem for a person, and
//! the other folders go on.

use super::Daemon;
use crate::status::pulse::Pulse;

impl Daemon {
    /// Where it is felt whether this daemon is alive.
    pub fn pulse(&self) -> Pulse {
        self.heart.pulse()
    }

    /// Lets the heart beat if it is time and nothing stands still.
    pub(super) fn vouch(&mut self) {
        let health = self.backend.health();
        self.view.totals.worker_restarts = health.restarts;
        if !self.heart.is_due() {
            return;
        }
        if health.stalled.is_none() {
            self.heart.beat();
        }
        if let Some(fault) = health.stalled.as_ref().filter(|_| self.stalled.is_none()) {
            tracing::error!(reason = fault.reason(), hint = fault.hint(), "Not alive");
        }
        self.stalled = health.stalled;
    }
}
