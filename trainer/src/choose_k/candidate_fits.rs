//! The fits of the sweep: every number of clusters with every seed, in parallel, each stored in its own file.
//!
//! Every fit has its own random number generator and runs on one thread, so it depends neither on the number of threads nor on earlier
//! fits. Files appear under their names only when they are complete. They can be used even if the program was killed.

use std::fs;
use std::path::{Path, PathBuf};

use rand::seq::{IndexedRandom, SliceRandom};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rayon::iter::{ParallelBridge, ParallelIterator};
use serde::{Deserialize, Serialize};
use tch::nn::VarStore;
use tch::{Device, Kind, Tensor};

use tissuemap::untrusted;

use crate::config::{Config, ImsatConfig};
use crate::data::patch_neighbours::PatchNeighbours;
use crate::fit::Latents;
use crate::fit::assignment::Assignment;
use crate::model::adam::Adam;
use crate::model::imsat::{Clusterer, loss_terms};
use crate::model::layers::Mode;
use crate::model::random::normals;
use crate::system::error::TrainError;
use crate::system::files::file_error;
use crate::system::files::write_whole;
use crate::system::progress;

/// Far more than any genuine file of this kind has.
const MAX_BYTES: u64 = 1 << 30;

/// The result of one fit.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Clustering {
    /// Digest of everything that determines it, hexadecimal.
    pub fingerprint: String,
    /// K, empty clusters included.
    pub clusters: u32,
    /// From 1.
    pub seed: u32,
    /// The reason, if the clustering collapsed.
    pub collapse: Option<String>,
    /// H(Y|X) and H(Y), nats.
    pub entropies: [f64; 2],
    /// Cluster of each training patch, from 0.
    pub labels: Vec<i64>,
}

/// The latent vectors to cluster. Every fit gets its own handle of the same memory, because threads cannot share a tensor.
struct Samples {
    latent: Tensor,
    /// Radius of the perturbation for each vector.
    radius: Tensor,
    /// Latent vectors of other views of the patches; may be empty.
    views: Vec<Tensor>,
}

impl Samples {
    fn view(&self) -> Self {
        let views = self.views.iter().map(Tensor::shallow_clone).collect();
        Self { latent: self.latent.shallow_clone(), radius: self.radius.shallow_clone(), views }
    }
}

/// What all fits of a sweep have in common.
pub(super) struct Fits<'a> {
    pub(super) config: &'a Config,
    pub(super) neighbours: &'a PatchNeighbours,
    pub(super) fingerprint: &'a str,
    pub(super) folder: &'a Path,
    pub(super) interrupted: &'a (dyn Fn() -> bool + Sync),
}

impl Fits<'_> {
    /// All fits on these latent vectors, by number of clusters and then by seed. Fits with a stored result are read.
    pub(super) fn all(&self, latents: &Latents) -> Result<Vec<Clustering>, TrainError> {
        fs::create_dir_all(self.folder).map_err(|source| file_error(self.folder, source))?;
        let range = self.config.sweep.clusters;
        let wanted: Vec<(u32, u32)> =
            range.all().flat_map(|clusters| (1..=self.config.sweep.seeds).map(move |seed| (clusters, seed))).collect();
        let missing: Vec<(u32, u32)> = wanted.iter().copied().filter(|&fit| self.stored(fit).is_none()).collect();
        self.fit(latents, &missing)?;
        let stored = |&fit: &(u32, u32)| {
            let gone = || file_error(&self.path(fit), std::io::ErrorKind::NotFound.into());
            self.stored(fit).ok_or_else(gone)
        };
        wanted.iter().map(stored).collect()
    }

    fn fit(&self, latents: &Latents, missing: &[(u32, u32)]) -> Result<(), TrainError> {
        if missing.is_empty() {
            return Ok(());
        }
        let settings = &settings(self.config);
        let Latents { values, radius, views } = latents;
        let views = views.iter().map(Tensor::shallow_clone).collect();
        let samples = Samples { latent: values.shallow_clone(), radius: radius.shallow_clone(), views };
        // On the CPU one fit per thread; on a GPU one after the other.
        let threads = if values.device() == Device::Cpu { self.config.cpu_threads } else { 1 };
        let threads = crate::system::device::single_threaded(threads)?;
        let bar = progress::bar(missing.len() as u64);
        bar.set_prefix("sweep");
        // Initial weights come from the one generator of the process, so they are drawn in order, when the fits are handed out.
        let fresh = missing
            .iter()
            .map(move |&(clusters, seed)| Fit::new(samples.view(), self.config.seed, settings, clusters, seed));
        let run = |fit: Fit| {
            let found = fit.run(self, settings)?;
            self.keep(&found)?;
            bar.inc(1);
            Ok(())
        };
        let outcome = threads.install(|| fresh.par_bridge().try_for_each(run));
        bar.finish_and_clear();
        outcome
    }

    fn path(&self, (clusters, seed): (u32, u32)) -> PathBuf {
        self.folder.join(format!("{clusters:02}-{seed}.json"))
    }

    /// The stored result of a fit, if its fingerprint is equal.
    fn stored(&self, fit: (u32, u32)) -> Option<Clustering> {
        let found: Clustering = serde_json::from_slice(&untrusted::read(&self.path(fit), MAX_BYTES).ok()?).ok()?;
        let belongs = found.fingerprint == self.fingerprint && (found.clusters, found.seed) == fit;
        belongs.then_some(found)
    }

    fn keep(&self, found: &Clustering) -> Result<(), TrainError> {
        let path = self.path((found.clusters, found.seed));
        let text = serde_json::to_string(found).map_err(|error| file_error(&path, error.into()))?;
        write_whole(&path, text.as_bytes())
    }
}

/// [imsat] with the smaller settings of [sweep].
pub(super) fn settings(config: &Config) -> ImsatConfig {
    ImsatConfig {
        hidden: config.sweep.hidden.clone(),
        restarts: 1,
        epochs: config.sweep.epochs,
        ..config.imsat.clone()
    }
}

/// A clusterer before its fit.
struct Fit {
    samples: Samples,
    clusters: u32,
    seed: u32,
    store: VarStore,
    clusterer: Clusterer,
    generator: ChaCha8Rng,
}

impl Fit {
    fn new(samples: Samples, base_seed: u64, settings: &ImsatConfig, clusters: u32, seed: u32) -> Self {
        let mut generator = ChaCha8Rng::seed_from_u64(base_seed);
        generator.set_stream(u64::from(clusters) << 32 | u64::from(seed));
        tch::manual_seed(generator.random());
        let store = VarStore::new(samples.latent.device());
        let hidden: Vec<i64> = settings.hidden.iter().copied().map(i64::from).collect();
        let clusterer = Clusterer::new(&store.root(), samples.latent.size()[1], &hidden, i64::from(clusters));
        Self { samples, clusters, seed, store, clusterer, generator }
    }

    fn run(mut self, of: &Fits<'_>, settings: &ImsatConfig) -> Result<Clustering, TrainError> {
        let (count, device) = (self.samples.latent.size()[0], self.samples.latent.device());
        let mut adam = Adam::new(&self.store, "", settings.learning_rate);
        let weights = settings.weights();
        let mut order: Vec<i64> = (0..count).collect();
        for _ in 0..settings.epochs {
            order.shuffle(&mut self.generator);
            for batch in order.chunks_exact(settings.batch as usize) {
                if (of.interrupted)() {
                    return Err(TrainError::Interrupted { checkpoint: Some(of.folder.to_owned()) });
                }
                let view = self.view(of, batch);
                let chosen = Tensor::from_slice(batch).to_device(device);
                let Samples { latent, radius, .. } = &self.samples;
                let (latent, radius) = (latent.index_select(0, &chosen), radius.index_select(0, &chosen));
                let noise = self.noise(&latent);
                let terms = loss_terms(&self.clusterer, &latent, view.as_ref(), &radius, &weights, &noise);
                adam.minimise(&terms.loss(&weights));
            }
        }
        let _frozen = tch::no_grad_guard();
        let log_probs = self.clusterer.log_probs(&self.samples.latent, Mode::Eval).to_device(Device::Cpu);
        let found = Assignment::new(&log_probs)?;
        Ok(Clustering {
            fingerprint: of.fingerprint.to_owned(),
            clusters: self.clusters,
            seed: self.seed,
            collapse: found.collapse(),
            entropies: [found.conditional_entropy, found.marginal_entropy],
            labels: found.cluster,
        })
    }

    /// The latent vectors of another view of each patch of `batch` or of a neighbour; none if views are not used.
    fn view(&mut self, of: &Fits<'_>, batch: &[i64]) -> Option<Tensor> {
        let view = self.samples.views.choose(&mut self.generator)?;
        let probability = of.config.augment.neighbours;
        let partner = |&i: &i64| of.neighbours.partner(i, probability, &mut self.generator);
        let partners: Vec<i64> = batch.iter().map(partner).collect();
        Some(view.index_select(0, &Tensor::from_slice(&partners).to_device(view.device())))
    }

    /// Standard normal numbers in the shape of `latent`.
    fn noise(&mut self, latent: &Tensor) -> Tensor {
        let values: Vec<f32> = normals(&mut self.generator).take(latent.numel()).collect();
        Tensor::from_slice(&values).view_as(latent).to_device(latent.device()).to_kind(Kind::Float)
    }
}
