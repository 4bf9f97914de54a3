//! The report: one HTML file for the lab meeting, made from what a fit leaves behind.
//!
//! The page refers to nothing outside itself, works without scripts, and prints. The same inputs give the same bytes. Each
//! module under this one makes one section from the [`View`]: what was found ([`Inputs`]) and what several sections need.

mod baselines;
mod batch;
mod chart;
mod clusters;
mod command;
mod comparison;
mod composition;
mod density;
mod number;
mod page;
mod picture;
mod plane;
mod reconstruction;
mod slides;
mod summary;
mod training;

use rand::SeedableRng;
use rand::seq::index;
use rand_chacha::ChaCha8Rng;
use tch::Tensor;
use tissuemap::contract::{Cluster, MAX_CLUSTERS, ModelContract, clusters_default};

use crate::choose_k::{Choice, Evidence};
use crate::config::Config;
use crate::dataset::PatchSet;
use crate::distances::Points;
use crate::error::TrainError;
use crate::fit::{Fitted, evaluate};
use crate::labels::Labels;
use crate::layers::to_vec;
use batch::BatchEffect;
pub use command::{ReportCommand, Source};
pub use comparison::{Method, Spread};
use page::Section;
use plane::Plane;
use reconstruction::Reconstruction;
pub use slides::{MOST_SETS, SlideMaps};
use training::Curves;

/// Patches in the plane: more hide each other.
const MOST_POINTS: usize = 5000;

/// Everything that a report is made from.
pub struct Inputs<'a> {
    /// What the model is called.
    pub name: &'a str,
    /// When the report is made.
    pub date: &'a str,
    /// As the model was fitted with.
    pub config: &'a Config,
    /// What the exported model says of itself.
    pub contract: &'a ModelContract,
    /// Of the exported model's file, hexadecimal.
    pub sha256: &'a str,
    /// The model before its export.
    pub fitted: &'a Fitted,
    /// What it was fitted to.
    pub patches: &'a PatchSet,
    /// The table of metrics as the fit wrote it; empty where it is gone.
    pub metrics: &'a str,
    /// Maps of the section sets.
    pub maps: &'a SlideMaps,
    /// What a sweep over the number of clusters found, in rising order, and what follows from it.
    pub sweep: Option<(&'a [Evidence], &'a Choice)>,
    /// Other methods on the same patches.
    pub comparison: &'a [Method],
    /// Known class of each training patch.
    pub classes: Option<&'a Labels>,
}

/// What the sections look at.
struct View<'a> {
    inputs: &'a Inputs<'a>,
    /// `[N, K]` of the training patches.
    probabilities: Vec<f32>,
    /// Of each training patch, and of each held-out one.
    train_error: Vec<f32>,
    held_out_error: Vec<f32>,
    /// `[set][cluster]`: training patches.
    counts: Vec<Vec<usize>>,
    /// Training patches, in rising order, that stand for all where all would be too many.
    sample: Vec<usize>,
    /// Their latent vectors.
    sampled_latent: Points,
}

impl<'a> View<'a> {
    fn new(inputs: &'a Inputs<'a>) -> Result<Self, TrainError> {
        let Inputs { config, fitted, patches, .. } = inputs;
        let of = |patches| evaluate(&fitted.autoencoder, &fitted.clusterer, patches);
        let (train, held_out) = (of(&patches.train)?, of(&patches.held_out)?);
        let mut counts = vec![vec![0; fitted.assignment.sizes.len()]; patches.sets.len()];
        for (origin, &cluster) in patches.train.origins().iter().zip(&fitted.assignment.cluster) {
            counts[origin.set as usize][cluster as usize] += 1;
        }
        let sample = sample(patches.train.count() as usize, MOST_POINTS, config.seed);
        let rows: Vec<i64> = sample.iter().map(|&i| i as i64).collect();
        let sampled_latent = Points::from_tensor(&train.latent.index_select(0, &Tensor::from_slice(&rows)))
            .map_err(|error| TrainError::Torch(format!("latent vectors: {error}")))?;
        Ok(Self {
            inputs,
            probabilities: to_vec(&train.log_probs.exp())?,
            train_error: to_vec(&train.reconstruction_error)?,
            held_out_error: to_vec(&held_out.reconstruction_error)?,
            counts,
            sample,
            sampled_latent,
        })
    }

    /// Names and colours.
    fn clusters(&self) -> &'a [Cluster] {
        &self.inputs.contract.clusters
    }

    fn color(&self, cluster: usize) -> [u8; 3] {
        self.clusters()[cluster].color
    }

    /// Training patches.
    fn count(&self) -> usize {
        self.inputs.fitted.assignment.cluster.len()
    }

    /// Cluster of a training patch.
    fn cluster(&self, patch: usize) -> usize {
        self.inputs.fitted.assignment.cluster[patch] as usize
    }

    fn probability(&self, patch: usize, cluster: usize) -> f32 {
        self.probabilities[patch * self.clusters().len() + cluster]
    }

    /// Training patches of a cluster.
    fn size(&self, cluster: usize) -> usize {
        self.inputs.fitted.assignment.sizes[cluster]
    }

    fn share(&self, cluster: usize) -> f64 {
        self.size(cluster) as f64 / self.count().max(1) as f64
    }

    /// Training patches of a section set.
    fn set_size(&self, set: usize) -> usize {
        self.counts[set].iter().sum()
    }

    /// A colour for each section set.
    fn set_colors(&self) -> Vec<[u8; 3]> {
        let sets = self.inputs.patches.sets.len();
        let colors = clusters_default(sets.min(MAX_CLUSTERS as usize) as u8);
        colors.iter().cycle().take(sets).map(|color| color.color).collect()
    }
}

/// At most `most` of `count`, drawn by `seed`, in rising order.
fn sample(count: usize, most: usize, seed: u64) -> Vec<usize> {
    let mut chosen = index::sample(&mut ChaCha8Rng::seed_from_u64(seed), count, most.min(count)).into_vec();
    chosen.sort_unstable();
    chosen
}

/// The page as HTML.
///
/// # Errors
/// [`TrainError`] when patches cannot be read, or what libtorch says.
pub fn render(inputs: &Inputs<'_>) -> Result<String, TrainError> {
    let view = View::new(inputs)?;
    let plane = Plane::new(&view)?;
    let reconstruction = Reconstruction::new(&view)?;
    let sets: Vec<i64> = inputs.patches.train.origins().iter().map(|origin| i64::from(origin.set)).collect();
    let batch = BatchEffect::new(&sets, &inputs.fitted.assignment.cluster, inputs.config.seed);
    let curves = Curves::read(inputs.metrics);
    let warnings = [
        number::warnings(&view),
        clusters::warnings(&view),
        batch::warnings(&view, batch.as_ref()),
        curves.warnings(),
        plane.warnings(),
    ]
    .concat();
    let sections = [
        summary::section(&view, &reconstruction, batch.as_ref(), &warnings),
        slides::section(&view)?,
        clusters::section(&view)?,
        plane.section(&view),
        composition::section(&view),
        number::section(&view),
        reconstruction.section(&view)?,
        batch::section(&view, batch.as_ref()),
        comparison::section(&view),
        training::section(&view, &curves),
    ];
    Ok(page::page(inputs.name, inputs.date, &sections))
}

#[cfg(test)]
mod tests;
