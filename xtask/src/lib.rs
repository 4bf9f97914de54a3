//! What errands and integration tests share.

/// Judging registrations against a known truth.
pub mod evaluate;
