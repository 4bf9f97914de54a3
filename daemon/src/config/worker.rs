//! `[worker]`: the process that opens slides and models.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use tissuemap::infer::Provider;

/// How the worker process is confined, and what it computes on.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Worker {
    pub sandbox: Sandbox,
    /// Execution providers, tried in this order.
    pub providers: Vec<Provider>,
    /// What one worker may allocate, in MiB.
    pub memory_mib: u64,
    /// A set that takes longer is given up.
    pub job_seconds: u64,
    /// A slide that takes longer to be looked into is given up.
    pub probe_seconds: u64,
    /// A model that takes longer to be loaded and proved is refused.
    pub load_seconds: u64,
    /// A worker that tells of no progress for so long is replaced.
    pub stall_seconds: u64,
}

/// What becomes of the worker where the kernel lacks a part of its confinement.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Sandbox {
    /// It does not start.
    Required,
    /// It starts, with what the kernel has and a warning.
    #[default]
    BestEffort,
}

impl Default for Worker {
    fn default() -> Self {
        Self {
            sandbox: Sandbox::default(),
            providers: vec![Provider::TensorRt, Provider::Cuda, Provider::Cpu],
            memory_mib: 8192,
            job_seconds: 2 * 3600,
            probe_seconds: 120,
            // TensorRT compiles a model for minutes, once.
            load_seconds: 900,
            // The longest step that tells nothing, one registration, takes a minute on a Raspberry Pi.
            stall_seconds: 900,
        }
    }
}

impl Worker {
    /// The key that cannot be used, and why.
    pub(super) fn problem(&self) -> Option<(&'static str, &'static str)> {
        let zero = [
            ("worker.memory_mib", self.memory_mib),
            ("worker.job_seconds", self.job_seconds),
            ("worker.probe_seconds", self.probe_seconds),
            ("worker.load_seconds", self.load_seconds),
            ("worker.stall_seconds", self.stall_seconds),
        ];
        let zero = zero.into_iter().find(|&(_, value)| value == 0).map(|(key, _)| (key, "must be at least 1"));
        let none = self.providers.is_empty().then_some(("worker.providers", "must name at least one, such as \"cpu\""));
        zero.or(none)
    }

    /// [`Worker::job_seconds`] as a duration.
    pub fn job_limit(&self) -> Duration {
        Duration::from_secs(self.job_seconds)
    }

    /// [`Worker::probe_seconds`] as a duration.
    pub fn probe_limit(&self) -> Duration {
        Duration::from_secs(self.probe_seconds)
    }

    /// [`Worker::load_seconds`] as a duration.
    pub fn load_limit(&self) -> Duration {
        Duration::from_secs(self.load_seconds)
    }

    /// [`Worker::stall_seconds`] as a duration.
    pub fn stall(&self) -> Duration {
        Duration::from_secs(self.stall_seconds)
    }
}
