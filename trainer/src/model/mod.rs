//! Networks, losses and the optimiser.
//!
//! [`autoencoder`] and the clusterer of [`imsat`] are built of [`layers`]. [`augment`] makes the views of a patch, whose latent vectors
//! [`invariance`] makes alike. [`adam`] minimises.

pub mod adam;
pub mod augment;
pub mod autoencoder;
pub mod imsat;
pub mod invariance;
pub mod layers;
pub mod random;
