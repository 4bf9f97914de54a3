//! What errands and integration tests share.

/// Judging registrations against a known truth.
pub mod evaluate;
/// Tissue whose number of kinds is known.
pub mod planted;
