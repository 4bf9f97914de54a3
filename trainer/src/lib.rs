//! Builds the model that the scanner's computer runs: a convolutional autoencoder and an IMSAT clusterer on its latent,
//! trained together and exported as one ONNX file that carries its contract.
//!
//! The road: [`config`] → [`sampling`] (patches, through the same code as the daemon's, kept by [`store`]) → [`fit`]
//! ([`autoencoder`], [`imsat`], fed by [`loader`]) → [`export`] → [`report`].
//!
//! How good clusters are, and how many there should be: [`distances`] → [`indices`], [`umap`]; [`agreement`] between
//! fits and with known classes, [`coherence`] of maps; [`choose_k`]. [`sweep`] brings them together.
//! [`baselines`] are what IMSAT has to beat, and [`evaluate`] is the command over all of these.

pub mod adam;
pub mod agreement;
pub mod augment;
pub mod autoencoder;
pub mod baselines;
pub mod benchmark;
pub mod card;
pub mod checkpoint;
pub mod choose_k;
pub mod clusters;
pub mod coherence;
pub mod config;
pub mod dataset;
pub mod device;
pub mod distances;
pub mod error;
pub mod evaluate;
pub mod export;
pub mod fit;
pub mod imsat;
pub mod indices;
pub mod inspect;
pub mod interrupt;
pub mod invariance;
pub mod labels;
pub mod layers;
pub mod loader;
pub mod name;
pub mod neighbours;
pub mod progress;
pub mod random;
pub mod report;
pub mod run;
pub mod run_folder;
pub mod sampling;
pub mod ssim;
pub mod store;
pub mod sweep;
pub mod umap;

#[cfg(test)]
mod testing;
