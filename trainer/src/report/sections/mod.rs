//! The sections of the report, one module each.

pub(super) mod batch;
pub(super) mod clusters;
pub(super) mod comparison;
pub(super) mod composition;
pub(super) mod density;
pub(super) mod number;
pub(super) mod plane;
pub(super) mod reconstruction;
pub(super) mod slides;
pub(super) mod summary;
pub(super) mod training;
