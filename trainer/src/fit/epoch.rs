//! One epoch: its batches, and the loss of a batch in each phase.

use std::thread;

use rand::RngExt;
use rand::seq::SliceRandom;
use tch::{Kind, Tensor};

use super::latents::Latents;
use super::networks::evaluate;
use super::phase::Phase;
use super::training::{TrainingRun, stream};
use crate::config::AutoencoderConfig;
use crate::data::loader;
use crate::fit::metrics::EpochMetrics;
use crate::model::adam::Adam;
use crate::model::augment;
use crate::model::autoencoder::Autoencoder;
use crate::model::imsat::{self, LossTerms};
use crate::model::invariance::invariance_loss;
use crate::model::layers::Mode;
use crate::system::error::TrainError;
use crate::system::tensors::chunks;
use crate::system::tensors::upload;

/// Offset of the random number streams for the views of the frozen latent vectors; the streams below are those of the epochs.
const VIEW_STREAMS: u32 = 1 << 31;

/// The pixels of a batch, uint8: a view of each patch and, if views are used, another view of its partner.
struct Pixels {
    patches: Tensor,
    partners: Option<Tensor>,
}

/// One batch.
struct Batch {
    /// Indices of its patches, `[N]`.
    indices: Tensor,
    /// Index of the partner of each patch: the patch itself or a neighbour.
    partners: Tensor,
    /// Number of the frozen view for the comparison.
    view: usize,
    /// None in the phase of the clusterer.
    pixels: Option<Pixels>,
}

/// The loss of one batch and its terms.
struct BatchLoss {
    loss: Tensor,
    reconstruction: Option<Tensor>,
    invariance: Option<Tensor>,
    terms: Option<LossTerms>,
}

impl TrainingRun<'_> {
    /// The latent vectors of the training patches with the present encoder. `index` is the index of `phase`.
    pub(super) fn latents(&self, phase: Phase, index: usize) -> Result<Latents, TrainError> {
        let imsat = &self.config.imsat;
        let values = self.encoded(&|patches| Ok(patches))?;
        let radius = imsat::radius(&values, imsat);
        let wanted = if phase == Phase::Clusterer && self.config.uses_view_term() { imsat.views } else { 0 };
        let view = |view: u32| {
            let generator = std::cell::RefCell::new(stream(self.config.seed, index, VIEW_STREAMS + view));
            self.encoded(&|patches| augment::views(&patches, &self.config.augment, &mut generator.borrow_mut()))
        };
        Ok(Latents { values, radius, views: (0..wanted).map(view).collect::<Result<_, _>>()? })
    }

    /// The latent vectors `[N, D]` of the training patches after `change`.
    fn encoded(&self, change: &dyn Fn(Tensor) -> Result<Tensor, TrainError>) -> Result<Tensor, TrainError> {
        let _frozen = tch::no_grad_guard();
        let (train, autoencoder) = (&self.patches.train, &self.networks.autoencoder);
        let encode = |(from, to)| {
            let patches = change(train.range(from, to)?)?;
            Ok(autoencoder.encode(&autoencoder.normalise(&patches), Mode::Eval))
        };
        let parts: Vec<Tensor> = chunks(train.count()).map(encode).collect::<Result<_, TrainError>>()?;
        Ok(Tensor::cat(&parts, 0))
    }

    /// One pass over all training patches in random order; `None` if interrupted. An incomplete last batch is left out, because its BatchNorm
    /// statistics and marginal entropy would differ. Its patches are in the next epoch.
    pub(super) fn epoch(
        &self,
        phase: Phase,
        index: usize,
        epoch: u32,
        adam: &mut Adam,
        latents: Option<&Latents>,
    ) -> Result<Option<EpochMetrics>, TrainError> {
        let (config, train) = (self.config, &self.patches.train);
        let mut generator = stream(config.seed, index, epoch);
        tch::manual_seed(generator.random());
        let mut order: Vec<i64> = (0..train.count()).collect();
        order.shuffle(&mut generator);
        let partner = |&i| self.neighbours.partner(i, config.augment.neighbours, &mut generator);
        let partners: Vec<i64> = order.iter().map(partner).collect();
        let device = self.networks.store.device();
        let mut sums = Tensor::zeros([7], (Kind::Double, device));
        let mut steps = 0;
        let size = phase.settings(config).batch;
        let count = order.len() / size;
        let views: Vec<usize> = (0..count).map(|_| generator.random_range(0..config.imsat.views as usize)).collect();
        // All indices are copied at once: with one copy per batch the device would wait.
        let [indices_there, partners_there] = [&order, &partners].map(|all| Tensor::from_slice(all).to_device(device));
        let make = |batch: usize| {
            let gathered = |all: &[i64]| -> Result<Tensor, TrainError> {
                Ok(upload(train.gather(&all[batch * size..(batch + 1) * size])?, device))
            };
            let patches = gathered(&order)?;
            if !config.augment.changes() {
                return Ok(Pixels { patches, partners: None });
            }
            // Every batch has its own random numbers, because batches are made in parallel. Stream 0 is that of the order.
            let mut generator = stream(config.seed, index, epoch);
            generator.set_stream(batch as u64 + 1);
            let mut view = |patches: &Tensor| augment::views(patches, &config.augment, &mut generator);
            let partners = if config.augment.neighbours > 0.0 { gathered(&partners)? } else { patches.shallow_clone() };
            Ok(Pixels { partners: Some(view(&partners)?), patches: view(&patches)? })
        };
        let whole = thread::scope(|scope| {
            // The phase of the clusterer uses latent vectors only.
            let mut pixels = (phase != Phase::Clusterer)
                .then(|| loader::prefetch(scope, count, loader::prefetch_threads(device), make));
            for (batch, &view) in views.iter().enumerate() {
                if (self.context.interrupted)() {
                    return Ok(false);
                }
                let pixels = pixels.as_mut().and_then(Iterator::next).transpose()?;
                let [indices, partners] =
                    [&indices_there, &partners_there].map(|all| all.narrow(0, (batch * size) as i64, size as i64));
                let step = self.step(Batch { indices, partners, view, pixels }, latents);
                adam.minimise(&step.loss);
                sums += step.values();
                steps += 1;
            }
            Ok::<_, TrainError>(true)
        })?;
        if !whole {
            return Ok(None);
        }
        let means = Vec::<f64>::try_from(sums / f64::from(steps))?;
        let reconstructs = phase != Phase::Clusterer;
        Ok(Some(EpochMetrics {
            loss: means[0],
            reconstruction: reconstructs.then(|| means[1]),
            invariance: (reconstructs && config.augment.changes()).then(|| means[2]),
            imsat: (phase != Phase::Autoencoder).then(|| [means[3], means[4], means[5], means[6]]),
            held_out_reconstruction: reconstructs.then(|| self.held_out_reconstruction()).transpose()?,
        }))
    }

    fn step(&self, batch: Batch, latents: Option<&Latents>) -> BatchLoss {
        let (config, device) = (self.config, self.networks.store.device());
        let weights = config.imsat.weights();
        let Some(pixels) = batch.pixels else {
            // Only the phase of the clusterer has no pixels, and it has latent vectors.
            let terms = latents.map(|all| {
                let [latent, radius] = [&all.values, &all.radius].map(|of| of.index_select(0, &batch.indices));
                let view = all.views.get(batch.view).map(|view| view.index_select(0, &batch.partners));
                imsat::loss_terms(
                    &self.networks.clusterer,
                    &latent,
                    view.as_ref(),
                    &radius,
                    &weights,
                    &latent.randn_like(),
                )
            });
            let loss = terms.as_ref().map_or_else(|| Tensor::zeros([], (Kind::Float, device)), |t| t.loss(&weights));
            return BatchLoss { loss, reconstruction: None, invariance: None, terms };
        };
        let autoencoder = &self.networks.autoencoder;
        let x = autoencoder.normalise(&pixels.patches);
        let latent = autoencoder.encode(&x, Mode::Train);
        let error = Autoencoder::reconstruction_error(&x, &autoencoder.decode(&latent, Mode::Train)).mean(Kind::Float);
        let view = pixels.partners.map(|patches| autoencoder.encode(&autoencoder.normalise(&patches), Mode::Train));
        let AutoencoderConfig { invariance_weight, redundancy_weight, .. } = config.autoencoder;
        let invariance = view.as_ref().map(|view| invariance_loss(&latent, view, redundancy_weight));
        let terms = latents.map(|all| {
            let radius = all.radius.index_select(0, &batch.indices);
            let view = view.as_ref().filter(|_| config.uses_view_term());
            imsat::loss_terms(&self.networks.clusterer, &latent, view, &radius, &weights, &latent.randn_like())
        });
        let joint = &config.joint;
        let own = if terms.is_some() { &error * joint.reconstruction_weight } else { error.shallow_clone() };
        let others = [
            invariance.as_ref().map(|invariance| invariance * invariance_weight),
            terms.as_ref().map(|terms| terms.loss(&weights) * joint.imsat_weight),
        ];
        // Not in place: the reconstruction term is also reported by itself.
        let loss = others.into_iter().flatten().fold(own, |sum, term| sum + term);
        BatchLoss { loss, reconstruction: Some(error), invariance, terms }
    }

    fn held_out_reconstruction(&self) -> Result<f64, TrainError> {
        let evaluation = evaluate(&self.networks.autoencoder, &self.networks.clusterer, &self.patches.held_out)?;
        Ok(evaluation.reconstruction_error.mean(Kind::Double).double_value(&[]))
    }
}

impl BatchLoss {
    /// Loss, reconstruction, invariance, R_VAT, divergence of views, H(Y|X), H(Y); 0 if the phase does not have the term.
    fn values(&self) -> Tensor {
        let zero = Tensor::zeros([], (Kind::Float, self.loss.device()));
        let or_zero = |term: Option<&Tensor>| term.unwrap_or(&zero).shallow_clone();
        let terms = self.terms.as_ref();
        let values = [
            self.loss.shallow_clone(),
            or_zero(self.reconstruction.as_ref()),
            or_zero(self.invariance.as_ref()),
            or_zero(terms.map(|terms| &terms.vat)),
            or_zero(terms.and_then(|terms| terms.view.as_ref())),
            or_zero(terms.map(|terms| &terms.conditional_entropy)),
            or_zero(terms.map(|terms| &terms.marginal_entropy)),
        ];
        Tensor::stack(&values, 0).detach().to_kind(Kind::Double)
    }
}
