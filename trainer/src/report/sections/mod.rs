//! The sections of the report, one module each.

pub(super) mod batch;
pub(super) mod cluster_count;
pub(super) mod clusters;
pub(super) mod comparison;
pub(super) mod composition;
pub(super) mod density;
pub(super) mod latent_space;
pub(super) mod maps;
pub(super) mod reconstruction;
pub(super) mod summary;
pub(super) mod training;
