//! The `benchmark` command: clusters labelled images by this and other methods, and compares the clusters with the labels.
//!
//! With `--ablate` the full method is compared with variants of itself that lack one augmentation.

mod ablation;
mod labelled;
mod results;
mod table;

use std::collections::BTreeSet;
use std::io;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::atomic::Ordering;

use regex::Regex;
use sha2::{Digest, Sha256};
use tch::{Device, Kind, Tensor};
use tissuemap::context;
use tissuemap::hex::hex;
use tissuemap::units::Cell;

pub use self::ablation::Augmentation;
pub use self::labelled::{LabelRules, LabelledImage, LabelledImages, LabelledPatches};
use self::results::FitResults;
use self::table::{ComparedMethod, FULL_METHOD, Figures, THIS_METHOD};
use crate::config::{AutoencoderConfig, Config, ImsatConfig, JointConfig, PatchConfig};
use crate::data::patches::{PatchSet, Patches};
use crate::evaluate::colour::{raw_colour_statistics, standardised};
use crate::fit::{FitContext, autoencoder_latents, evaluate, fit};
use crate::system::device;
use crate::system::error::TrainError;
use crate::system::interrupt;
use crate::system::tensors::to_vec;
use crate::vectors::agreement::Agreement;
use crate::vectors::kmeans::kmeans;
use crate::vectors::labels::Labels;
use crate::vectors::mixture::mixture;
use crate::vectors::pca::Pca;
use crate::vectors::points::Points;

/// Training steps of the autoencoder, of the clusterer, and of both together. They limit the time of five splits on two cores. Four times
/// as many steps did not give better clusters.
const STEPS: [u32; 3] = [250, 500, 40];
/// Half of the default widths, a quarter of the work, for the same reason. The default widths gave the same result.
const WIDTHS: [u32; 4] = [16, 32, 64, 64];
/// Number of principal components of the pixels.
const COMPONENTS: i64 = 32;

/// Arguments of `tissuemap-train benchmark`.
#[derive(Debug, Clone, clap::Args)]
pub struct BenchmarkCommand {
    /// Folder of labelled images (PNG, JPEG, TIFF); subfolders are searched, too.
    #[arg(long)]
    pub images: PathBuf,
    /// Regular expression on paths below the folder; its first matching group is the class [default: the name of the folder that
    /// contains the image].
    #[arg(long)]
    pub class: Option<Regex>,
    /// Regular expression on paths; its first matching group is the origin of an image. Images of the same origin are always in the
    /// same fold [default: every image has its own origin].
    #[arg(long)]
    pub parent: Option<Regex>,
    /// Another name of a class, as in 0=tumour. May be repeated.
    #[arg(long, value_name = "NAME=CLASS", value_parser = renaming)]
    pub same: Vec<(String, String)>,
    /// Side of a patch in image pixels.
    #[arg(long, default_value_t = 64)]
    pub patch_px: u32,
    /// Number of clusters [default: the number of classes].
    #[arg(long)]
    pub clusters: Option<u32>,
    /// Repetitions, each with another split into folds: a number of seeds, or the first and the last seed, as in 6-10.
    #[arg(long, default_value = "5")]
    pub seeds: Seeds,
    /// Number of folds. Each is evaluated with a fit to the others, so every image is evaluated once per seed.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(2..))]
    pub folds: u32,
    /// Maximum number of patches for the fit, and for the evaluation.
    #[arg(long, default_value_t = 6000)]
    pub most_patches: usize,
    /// Configuration of the method (TOML): augmentation, clusterer, weights of the losses, context. Its slides, patches, widths and
    /// epochs are not used.
    #[arg(long)]
    pub config: Option<PathBuf>,
    /// Compare the method with variants of itself instead of other methods: each variant switches one augmentation of [augment] on or
    /// off. Without names: every augmentation by itself, and all together.
    #[arg(long, value_enum, value_name = "AUGMENTATION", value_delimiter = ',', num_args = 0.., require_equals = true,
        default_missing_values = ["rotations", "flips", "shift", "stain-jitter", "hue-jitter", "neighbours", "all"])]
    pub ablate: Vec<Augmentation>,
    /// Table (CSV) for the result of every fit, written after each fold. The same command continues after its last row, also with
    /// more seeds.
    #[arg(long, value_name = "FILE")]
    pub each: Option<PathBuf>,
    /// Device: cpu, cuda or cuda:N.
    #[arg(long, default_value = "cpu")]
    pub device: String,
    /// Number of threads of libtorch.
    #[arg(long, default_value_t = 2)]
    pub cpu_threads: u32,
}

fn renaming(text: &str) -> Result<(String, String), String> {
    let (name, class) = text.split_once('=').ok_or_else(|| format!("{text:?} is no NAME=CLASS"))?;
    Ok((name.to_owned(), class.to_owned()))
}

/// The seeds of the repetitions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seeds(RangeInclusive<u64>);

impl FromStr for Seeds {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (first, last) = text.split_once('-').unwrap_or(("1", text));
        match (first.parse(), last.parse()) {
            (Ok(first), Ok(last)) if 1 <= first && first <= last => Ok(Self(first..=last)),
            _ => Err(format!(
                "{text:?} is neither a number of seeds, such as 5, nor the first and the last, such as 6-10"
            )),
        }
    }
}

impl BenchmarkCommand {
    /// Clusters and evaluates. The table is written to `say`.
    ///
    /// # Errors
    /// [`TrainError`].
    pub fn run(&self, say: &mut dyn io::Write) -> Result<(), TrainError> {
        let device = device::parse(&self.device)?;
        let told = |source| TrainError::File { path: PathBuf::from("standard output"), source };
        let interrupt = interrupt::listen()
            .map_err(|source| TrainError::File { path: PathBuf::from("signal handlers"), source })?;
        let interrupted = || interrupt.load(Ordering::Relaxed);
        let rules = LabelRules {
            class: self.class.clone(),
            parent: self.parent.clone(),
            same: self.same.iter().cloned().collect(),
        };
        let images = LabelledImages::find(&self.images, &rules)?;
        let base = self.config.as_deref().map_or_else(|| Ok(Config::default()), Config::read)?;
        let classes = images.classes.len();
        tracing::info!("{} images of {classes} classes: {}", images.images.len(), images.classes.join(", "));
        let fit_context = FitContext { device, checkpoint: None, metrics: None, interrupted: &interrupted };
        let mut each = FitResults::open(self.each.as_deref(), self.fingerprint(&images, &base))?;
        let mut figures = Figures::new();
        for seed in self.seeds.0.clone() {
            let mut of_folds = Figures::new();
            for (fold, parts) in images.folds(self.folds as usize, seed).into_iter().enumerate() {
                let mut rows = each.of(seed, fold);
                if rows.is_empty() {
                    let found =
                        self.run_fold(&images, parts, &base, seed, &fit_context).map_err(|error| match error {
                            TrainError::Interrupted { .. } if self.each.is_none() => TrainError::Stopped,
                            TrainError::Interrupted { .. } => {
                                TrainError::Interrupted { checkpoint: self.each.clone().filter(|path| path.exists()) }
                            }
                            other => other,
                        })?;
                    rows = each.add(seed, fold, found)?;
                }
                for row in rows {
                    of_folds.entry(row.method()).or_default().push(row.agreement());
                }
            }
            for (method, agreements) in of_folds {
                figures.entry(method).or_default().push(Agreement::mean(&agreements));
            }
            if let Some(last) = table::full_method(&figures).and_then(<[_]>::last) {
                tracing::info!(
                    "seed {seed} of {}: {THIS_METHOD} NMI {:.3} ARI {:.3}",
                    self.seeds.0.end(),
                    last.nmi,
                    last.ari
                );
            }
        }
        write!(say, "{}", table::table(&figures)).map_err(told)?;
        for line in table::verdicts(&figures).iter().chain(&table::differences(&figures)) {
            tracing::info!("{line}");
        }
        Ok(())
    }

    /// A digest of everything that the results depend on, except seed and fold. Images are identified by their paths.
    fn fingerprint(&self, images: &LabelledImages, base: &Config) -> String {
        let Self { patch_px, clusters, folds, most_patches, ablate, device, cpu_threads, .. } = self;
        let own = (patch_px, clusters, folds, most_patches, ablate, device, cpu_threads);
        let everything = format!("{} {STEPS:?} {WIDTHS:?} {own:?} {images:?} {base:?}", env!("CARGO_PKG_VERSION"));
        hex(Sha256::digest(everything))[..16].to_owned()
    }

    /// Fits every method once to some images and evaluates it on others.
    fn run_fold(
        &self,
        images: &LabelledImages,
        [fitted, judged]: [Vec<LabelledImage>; 2],
        base: &Config,
        seed: u64,
        fit_context: &FitContext<'_>,
    ) -> Result<Vec<(ComparedMethod, Agreement)>, TrainError> {
        let cut = |images: &[LabelledImage]| LabelledPatches::cut(images, self.patch_px, self.most_patches, seed);
        let (fitted, judged) = (cut(&fitted)?, cut(&judged)?);
        let classes = Labels::new(&judged.class);
        let clusters = self.clusters.unwrap_or(images.classes.len() as u32);
        let set = PatchSet { train: fitted.patches, held_out: judged.patches, sets: Vec::new() };
        tracing::info!("seed {seed}: fitting to {} patches, judging by {}", set.train.count(), set.held_out.count());
        let config = self.settings(base, clusters, set.train.count() as u32, seed);
        config.validate().map_err(|reason| TrainError::Config { path: self.images.clone(), reason })?;
        let mut found = Vec::new();
        let mut judge = |method: &str, features: &str, probs: &Tensor| -> Result<(), TrainError> {
            for context in [false, true] {
                let sigma = if context { config.context_cells } else { 0.0 };
                let labels = in_context(&set.held_out, probs, i64::from(self.patch_px), sigma)?;
                let agreement = Agreement::new(&classes, &Labels::new(&labels));
                found.push((ComparedMethod::new(method, features, context), agreement));
            }
            Ok(())
        };
        if self.ablate.is_empty() {
            baselines(&config, &set, fit_context, &mut judge)?;
        }
        let mut variants = vec![(FULL_METHOD, config.augment.clone())];
        for addition in &self.ablate {
            let (augment, name) = addition.toggled(&config.augment);
            variants.push((name, augment));
        }
        for (name, augment) in variants {
            let probs = match fit(&Config { augment, ..config.clone() }, &set, fit_context) {
                Ok(model) => evaluate(&model.autoencoder, &model.clusterer, &set.held_out)?.log_probs.exp(),
                // There is no model, so all patches are in one cluster. The other fits are still valid.
                Err(TrainError::Collapsed(reason)) => {
                    tracing::warn!(
                        "{THIS_METHOD}, {name}: the clustering collapsed: {reason}; it counts as a single cluster"
                    );
                    Tensor::ones([set.held_out.count(), 1], (Kind::Float, Device::Cpu))
                }
                Err(other) => return Err(other),
            };
            judge(THIS_METHOD, name, &probs)?;
        }
        Ok(found)
    }

    fn settings(&self, base: &Config, clusters: u32, patches: u32, seed: u64) -> Config {
        // The default, or fewer if there are fewer patches, and enough for the marginal entropy.
        let batch = |usual: u32| usual.max(8 * clusters).min(patches);
        let epochs = |steps: u32, batch: u32| steps.div_ceil((patches / batch).max(1));
        let (a, c, j) = (batch(base.autoencoder.batch), batch(base.imsat.batch), batch(128));
        Config {
            seed,
            clusters,
            cpu_threads: self.cpu_threads,
            patches: PatchConfig { patch_px: self.patch_px, stride_px: self.patch_px, ..base.patches.clone() },
            autoencoder: AutoencoderConfig {
                widths: WIDTHS.to_vec(),
                batch: a,
                epochs: epochs(STEPS[0], a),
                ..base.autoencoder.clone()
            },
            imsat: ImsatConfig { batch: c, epochs: epochs(STEPS[1], c), ..base.imsat.clone() },
            joint: JointConfig { batch: j, epochs: epochs(STEPS[2], j), ..base.joint.clone() },
            ..base.clone()
        }
    }
}

/// The baselines: k-means and Gaussian mixtures on colours, on pixels and on the latent vectors of a plain autoencoder, fitted to
/// `set.train`. `judge` gets the method, the features and the clusters of the held-out patches, one-hot `[N, K]`.
fn baselines(
    config: &Config,
    set: &PatchSet,
    fit_context: &FitContext<'_>,
    judge: &mut dyn FnMut(&str, &str, &Tensor) -> Result<(), TrainError>,
) -> Result<(), TrainError> {
    let (clusters, seed) = (config.clusters, config.seed);
    let alone = Config { augment: ablation::NONE, ..config.clone() };
    let raw = [raw_colour_statistics(&set.train)?, raw_colour_statistics(&set.held_out)?];
    let pixels = [set.train.range(0, set.train.count())?, set.held_out.range(0, set.held_out.count())?];
    let pca = Pca::fit(&pixels[0], COMPONENTS, seed)?;
    let spaces: [(&str, [Tensor; 2]); 3] = [
        ("colour statistics", [standardised(&raw[0], &raw[0]), standardised(&raw[1], &raw[0])]),
        ("pixels (PCA)", pixels.map(|pixels| pca.project(&pixels))),
        ("autoencoder latent", autoencoder_latents(&alone, set, fit_context)?),
    ];
    for (features, [fitted, judged]) in &spaces {
        let points = |x: &Tensor| Points::from_tensor(x).map_err(|error| TrainError::Torch(error.to_string()));
        let (fitted, judged) = (points(fitted)?, points(judged)?);
        let certain = |labels: &[i64]| Tensor::from_slice(labels).one_hot(i64::from(clusters));
        let by_means = kmeans(&fitted, clusters as usize, seed).assign(&judged);
        judge("k-means", features, &certain(&by_means))?;
        let by_mixture = mixture(&fitted, clusters as usize, seed)?.assign(&judged)?;
        judge("mixture", features, &certain(&by_mixture))?;
    }
    Ok(())
}

/// Most probable cluster of each patch. `probs` `[N, K]` are first smoothed over the patches of the image, as a map over its cells.
fn in_context(patches: &Patches, probs: &Tensor, side: i64, sigma: f64) -> Result<Vec<i64>, TrainError> {
    let clusters = probs.size()[1] as usize;
    let probs = to_vec(probs)?;
    let origins = patches.origins();
    let sets: BTreeSet<u32> = origins.iter().map(|origin| origin.set).collect();
    let mut labels = vec![0; origins.len()];
    for set in sets {
        let members: Vec<usize> = (0..origins.len()).filter(|&i| origins[i].set == set).collect();
        let cell = |&i: &usize| Cell { col: (origins[i].x / side) as u32, row: (origins[i].y / side) as u32 };
        let cells: Vec<Cell> = members.iter().map(cell).collect();
        let own: Vec<f32> = members.iter().flat_map(|&i| &probs[i * clusters..(i + 1) * clusters]).copied().collect();
        for (i, row) in members.iter().zip(context::smoothed(&cells, &own, clusters, sigma).chunks(clusters)) {
            labels[*i] = (0..clusters).fold(0, |best, c| if row[c] > row[best] { c } else { best }) as i64;
        }
    }
    Ok(labels)
}

#[cfg(test)]
mod tests;
