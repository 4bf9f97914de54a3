//! Trains the tissue clustering model and exports it as one ONNX file.
//!
//! The model is a convolutional autoencoder and, on its latent vectors, a clusterer trained by information maximisation
//! (IMSAT). The exported file carries its contract: what the daemon must know to run it.
//!
//! Each module is a folder. They are listed in the order of the data; a module uses only modules above it:
//!
//! | module | contents |
//! |---|---|
//! | [`system`] | errors, files, devices, signals, progress bars |
//! | [`config`] | the configuration file |
//! | [`vectors`] | points and labels: distances, k-means, mixtures, PCA, UMAP, cluster indices, agreement |
//! | [`data`] | section sets → patches: sampling, the store on disk, batches, `inspect` |
//! | [`model`] | networks and losses: autoencoder, clusterer, augmentation, optimiser |
//! | [`fit`](mod@fit) | the three training phases, checkpoints, the run folder |
//! | [`choose_k`] | the number of clusters: sweep, evidence, choice |
//! | [`export`](mod@export) | the ONNX file, its precisions, model card, cluster names |
//! | [`evaluate`] | comparison with other methods: `evaluate`, `benchmark` |
//! | [`report`] | the HTML report |
//! | [`cli`] | the commands of `tissuemap-train` |
//!
//! Entry points: [`data::sampling::patches`] gives the patches of a configuration, [`fit::fit`] trains a model on them,
//! [`export::export`] writes the file. [`cli::fit::FitCommand`] calls the three in this order.

pub mod choose_k;
pub mod cli;
pub mod config;
pub mod data;
pub mod evaluate;
pub mod export;
pub mod fit;
pub mod model;
pub mod report;
pub mod system;
pub mod vectors;

#[cfg(test)]
mod testing;
