//! Training patches, from folders of slides to batches.
//!
//! [`sampling`] draws patches from section sets into a [`store`] on the disk. [`patches::PatchSet`] gives them from there, or from
//! memory. [`loader`] makes batches in the background. [`patch_neighbours`] knows which patches lie side by side. [`inspect`] shows what
//! a configuration would train on.

pub mod inspect;
pub mod loader;
pub mod origin;
pub mod patch_neighbours;
pub mod patches;
pub mod sampling;
pub mod store;
