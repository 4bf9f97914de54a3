//! What the sections of a report are made from.

use rand::SeedableRng;
use rand::seq::index;
use rand_chacha::ChaCha8Rng;
use tch::Tensor;
use tissuemap::contract::{Cluster, MAX_CLUSTERS, ModelContract, clusters_default};

use super::baselines::BaselineResult;
use super::slide_maps::SlideMaps;
use crate::choose_k::choice::{Choice, Evidence};
use crate::config::Config;
use crate::data::patches::PatchSet;
use crate::fit::{FittedModel, evaluate};
use crate::system::error::TrainError;
use crate::system::tensors::to_vec;
use crate::vectors::labels::Labels;
use crate::vectors::points::Points;

/// Patches in the plane: more hide each other.
const MAX_POINTS: usize = 5000;

/// Everything that a report is made from.
pub struct ReportInputs<'a> {
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
    pub fitted: &'a FittedModel,
    /// What it was fitted to.
    pub patches: &'a PatchSet,
    /// The table of metrics as the fit wrote it; empty where it is gone.
    pub metrics: &'a str,
    /// Maps of the section sets.
    pub maps: &'a SlideMaps,
    /// What a sweep over the number of clusters found, in rising order, and what follows from it.
    pub sweep: Option<(&'a [Evidence], &'a Choice)>,
    /// Other methods on the same patches.
    pub comparison: &'a [BaselineResult],
    /// Known class of each training patch.
    pub classes: Option<&'a Labels>,
}

/// What the sections look at.
pub(super) struct ReportData<'a> {
    pub(super) inputs: &'a ReportInputs<'a>,
    /// `[N, K]` of the training patches.
    pub(super) probabilities: Vec<f32>,
    /// Of each training patch, and of each held-out one.
    pub(super) train_error: Vec<f32>,
    pub(super) held_out_error: Vec<f32>,
    /// `[set][cluster]`: training patches.
    pub(super) counts: Vec<Vec<usize>>,
    /// Training patches, in rising order, that stand for all where all would be too many.
    pub(super) sample: Vec<usize>,
    /// Their latent vectors.
    pub(super) sampled_latent: Points,
}

impl<'a> ReportData<'a> {
    pub(super) fn new(inputs: &'a ReportInputs<'a>) -> Result<Self, TrainError> {
        let ReportInputs { config, fitted, patches, .. } = inputs;
        let of = |patches| evaluate(&fitted.autoencoder, &fitted.clusterer, patches);
        let (train, held_out) = (of(&patches.train)?, of(&patches.held_out)?);
        let mut counts = vec![vec![0; fitted.assignment.sizes.len()]; patches.sets.len()];
        for (origin, &cluster) in patches.train.origins().iter().zip(&fitted.assignment.cluster) {
            counts[origin.set as usize][cluster as usize] += 1;
        }
        let sample = sample(patches.train.count() as usize, MAX_POINTS, config.seed);
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
    pub(super) fn clusters(&self) -> &'a [Cluster] {
        &self.inputs.contract.clusters
    }

    pub(super) fn color(&self, cluster: usize) -> [u8; 3] {
        self.clusters()[cluster].color
    }

    /// Training patches.
    pub(super) fn count(&self) -> usize {
        self.inputs.fitted.assignment.cluster.len()
    }

    /// Cluster of a training patch.
    pub(super) fn cluster(&self, patch: usize) -> usize {
        self.inputs.fitted.assignment.cluster[patch] as usize
    }

    pub(super) fn probability(&self, patch: usize, cluster: usize) -> f32 {
        self.probabilities[patch * self.clusters().len() + cluster]
    }

    /// Training patches of a cluster.
    pub(super) fn size(&self, cluster: usize) -> usize {
        self.inputs.fitted.assignment.sizes[cluster]
    }

    pub(super) fn share(&self, cluster: usize) -> f64 {
        self.size(cluster) as f64 / self.count().max(1) as f64
    }

    /// Training patches of a section set.
    pub(super) fn set_size(&self, set: usize) -> usize {
        self.counts[set].iter().sum()
    }

    /// A colour for each section set.
    pub(super) fn set_colors(&self) -> Vec<[u8; 3]> {
        let sets = self.inputs.patches.sets.len();
        let colors = clusters_default(sets.min(MAX_CLUSTERS as usize) as u8);
        colors.iter().cycle().take(sets).map(|color| color.color).collect()
    }
}

/// At most `most` of `count`, drawn by `seed`, in rising order.
pub(super) fn sample(count: usize, most: usize, seed: u64) -> Vec<usize> {
    let mut chosen = index::sample(&mut ChaCha8Rng::seed_from_u64(seed), count, most.min(count)).into_vec();
    chosen.sort_unstable();
    chosen
}
