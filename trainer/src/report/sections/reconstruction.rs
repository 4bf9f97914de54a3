//! What the autoencoder keeps of a patch: originals beside reconstructions, and figures for each stain.

use maud::{Markup, html};
use rayon::prelude::*;
use tch::{Kind, Tensor};

use crate::data::patches::Patches;
use crate::fit::FittedModel;
use crate::model::layers::Mode;
use crate::report::chart::{LineChart, Series, figure, legend, mean_and_deviation};
use crate::report::data::ReportData;
use crate::report::page::ReportSection;
use crate::report::page::cite;
use crate::report::picture::{address, strip};
use crate::report::ssim::{WINDOW, ssim};
use crate::system::error::TrainError;
use crate::system::tensors::CHUNK;

/// Held-out patches that figures are computed from: enough for three digits of their means.
const MOST: usize = 1000;
/// Patches of the gallery, by the share of held-out patches that are reconstructed better.
const GALLERY: [(&str, f64); 6] = [
    ("best", 0.0),
    ("lower quartile", 0.25),
    ("median", 0.5),
    ("upper quartile", 0.75),
    ("95th percentile", 0.95),
    ("worst", 1.0),
];
/// Differences are shown larger than they are, or most could not be seen.
const GAIN: f64 = 2.0;
const BINS: usize = 40;
const TRAINED: [u8; 3] = [0, 114, 178];
const HELD_OUT: [u8; 3] = [213, 94, 0];

/// Figures of one stain over held-out patches, of 8-bit values.
#[derive(Debug, Clone, Copy, PartialEq)]
struct StainFigures {
    /// Mean squared error, grey levels squared.
    mse: f64,
    /// Mean over patches and colours; none where patches are smaller than the window.
    ssim: Option<f64>,
    /// Standard deviation over patches.
    ssim_deviation: Option<f64>,
}

/// How held-out patches are reconstructed.
pub(in crate::report) struct Reconstruction {
    stains: Vec<StainFigures>,
    measured: usize,
}

/// Patches and what the model makes of them, uint8 `[N, 3·S, P, P]` each.
fn originals_and_copies(fitted: &FittedModel, patches: &Patches, chosen: &[i64]) -> Result<[Tensor; 2], TrainError> {
    let _frozen = tch::no_grad_guard();
    let autoencoder = &fitted.autoencoder;
    let original = patches.gather(chosen)?;
    let decoded = autoencoder.decode(&autoencoder.encode(&autoencoder.normalise(&original), Mode::Eval), Mode::Eval);
    let (mean, deviation) = autoencoder.normalisation();
    let copy = (decoded * deviation + mean).round().clamp(0.0, 255.0).to_kind(Kind::Uint8).to_device(tch::Device::Cpu);
    Ok([original, copy])
}

impl Reconstruction {
    pub(in crate::report) fn new(data: &ReportData<'_>) -> Result<Self, TrainError> {
        let held_out = &data.inputs.patches.held_out;
        let stains = data.inputs.contract.stains.len();
        let chosen: Vec<i64> = crate::report::data::sample(held_out.count() as usize, MOST, data.inputs.config.seed)
            .into_iter()
            .map(|i| i as i64)
            .collect();
        // [stain][patch]: squared error and similarity.
        let mut found: Vec<Vec<(f64, Option<f64>)>> = vec![Vec::new(); stains];
        for part in chosen.chunks(CHUNK as usize) {
            let [original, copy] = originals_and_copies(data.inputs.fitted, held_out, part)?;
            let side = original.size()[3] as usize;
            let [a, b] = [original, copy].map(|x| Vec::<u8>::try_from(x.contiguous().view([-1])));
            let (a, b, channel) = (a?, b?, side * side);
            let per_stain = a.par_chunks_exact(3 * channel).zip(b.par_chunks_exact(3 * channel));
            let measured: Vec<_> = per_stain.map(|(a, b)| measure(a, b, side)).collect();
            measured.into_iter().enumerate().for_each(|(i, figures)| found[i % stains].push(figures));
        }
        let stains = found.iter().map(|figures| StainFigures::new(figures)).collect();
        Ok(Self { stains, measured: chosen.len() })
    }

    /// Mean over stains; none where patches are too small.
    pub(in crate::report) fn ssim(&self) -> Option<f64> {
        let all: Vec<f64> = self.stains.iter().map(|stain| stain.ssim).collect::<Option<_>>()?;
        Some(all.iter().sum::<f64>() / all.len() as f64)
    }

    pub(in crate::report) fn section(&self, data: &ReportData<'_>) -> Result<ReportSection, TrainError> {
        let gallery = gallery(data)?;
        let variances = variances(data)?;
        let body = html! {
            p {
                "Held-out patches, which no loss has seen, in the order of their reconstruction error. Grey in a difference "
                "means equal, brighter means that the reconstruction is too bright; differences are drawn " (GAIN)
                " times as large as they are."
            }
            (gallery)
            h3 { "Figures for each stain" }
            table class="narrow" {
                thead {
                    tr {
                        th scope="col" { "Stain" } th scope="col" class="n" { "MSE" }
                        th scope="col" class="n" { "MSE of the mean colour" } th scope="col" class="n" { "SSIM" }
                    }
                }
                tbody {
                    @for ((stain, found), variance) in data.inputs.contract.stains.iter().zip(&self.stains).zip(&variances) {
                        tr {
                            th scope="row" { (stain.name) }
                            td class="n" { (figure(found.mse)) }
                            td class="n" { (figure(*variance)) }
                            td class="n" {
                                @match (found.ssim, found.ssim_deviation) {
                                    (Some(mean), Some(sd)) => (mean_and_deviation(mean, sd)),
                                    _ => "–",
                                }
                            }
                        }
                    }
                }
            }
            p class="note" {
                "Over " (self.measured) " held-out patches, of 8-bit values. MSE: mean squared error in grey levels squared, beside "
                "that of a reconstruction by the mean colour of the training patches. SSIM: structural similarity ("
                (cite("Wang et al. 2004", "10.1109/TIP.2003.819861")) "), mean ± standard deviation over patches; 1 is equal"
                @if self.ssim().is_none() { "; patches below " (WINDOW) " pixels have none" }
                "."
            }
            h3 { "Novelty" }
            (self::novelty(data))
        };
        Ok(ReportSection { id: "reconstruction", title: "Reconstruction", body })
    }
}

impl StainFigures {
    fn new(figures: &[(f64, Option<f64>)]) -> Self {
        let count = figures.len() as f64;
        let ssims: Option<Vec<f64>> = figures.iter().map(|(_, ssim)| *ssim).collect();
        let mean = ssims.as_ref().map(|values| values.iter().sum::<f64>() / count);
        let squares = |mean: f64| ssims.iter().flatten().map(|v| (v - mean).powi(2)).sum::<f64>();
        Self {
            mse: figures.iter().map(|(mse, _)| mse).sum::<f64>() / count,
            ssim: mean,
            ssim_deviation: mean.map(|mean| (squares(mean) / (count - 1.0).max(1.0)).sqrt()),
        }
    }
}

/// Mean squared error and SSIM of one stain's three channels.
fn measure(original: &[u8], copy: &[u8], side: usize) -> (f64, Option<f64>) {
    let squares: f64 = original.iter().zip(copy).map(|(a, b)| (f64::from(*a) - f64::from(*b)).powi(2)).sum();
    let channels = original.chunks_exact(side * side).zip(copy.chunks_exact(side * side));
    let similar: Option<Vec<f64>> = channels.map(|(a, b)| ssim(a, b, side)).collect();
    (squares / original.len() as f64, similar.map(|values| values.iter().sum::<f64>() / values.len() as f64))
}

/// Of each stain: the mean over its channels of their variance over the training patches.
fn variances(data: &ReportData<'_>) -> Result<Vec<f64>, TrainError> {
    let (_, deviation) = data.inputs.fitted.autoencoder.normalisation();
    let deviations = crate::system::tensors::to_vec(deviation)?;
    Ok(deviations.chunks_exact(3).map(|d| d.iter().map(|d| f64::from(*d).powi(2)).sum::<f64>() / 3.0).collect())
}

fn gallery(data: &ReportData<'_>) -> Result<Markup, TrainError> {
    let errors = &data.held_out_error;
    let mut order: Vec<usize> = (0..errors.len()).collect();
    order.sort_by(|&a, &b| errors[a].total_cmp(&errors[b]).then(a.cmp(&b)));
    let last = (order.len() - 1) as f64;
    let chosen: Vec<usize> = GALLERY.iter().map(|(_, share)| order[(share * last).round() as usize]).collect();
    let indices: Vec<i64> = chosen.iter().map(|&i| i as i64).collect();
    let [original, copy] = originals_and_copies(data.inputs.fitted, &data.inputs.patches.held_out, &indices)?;
    let signed = copy.to_kind(Kind::Float) - original.to_kind(Kind::Float);
    let difference = (signed * GAIN + 128.0).clamp(0.0, 255.0).to_kind(Kind::Uint8);
    let row = |stain: usize, name: &str, what: &str, patches: &Tensor| {
        let image = address(&strip(patches, stain, GALLERY.len())?)?;
        Ok::<_, TrainError>(
            html! { span class="what" { (what) } img src=(image) alt=(format!("{name}: {what}, from best to worst")); },
        )
    };
    let stains = data.inputs.contract.stains.iter().enumerate().map(|(i, stain)| {
        let rows = [("original", &original), ("reconstruction", &copy), ("difference", &difference)]
            .map(|(what, patches)| row(i, &stain.name, what, patches));
        let [first, second, third] = rows;
        Ok(html! { span class="stain" { (stain.name) } div class="rows" { (first?) (second?) (third?) } })
    });
    let stains: Vec<Markup> = stains.collect::<Result<_, TrainError>>()?;
    Ok(html! {
        div class="gallery" {
            span {}
            div class="rows" {
                span {}
                div class="heads" {
                    @for ((name, _), &i) in GALLERY.iter().zip(&chosen) {
                        span { (name) br; small { (figure(f64::from(errors[i]))) } }
                    }
                }
            }
            @for stain in &stains { (stain) }
        }
    })
}

/// Distribution of the reconstruction error, and the threshold above which tissue is called unfamiliar.
fn novelty(data: &ReportData<'_>) -> Markup {
    let both = || data.train_error.iter().chain(&data.held_out_error).copied();
    let (low, high) = both().fold((f32::INFINITY, 0f32), |(low, high), v| (low.min(v), high.max(v)));
    let width = f64::from(high - low).max(f64::MIN_POSITIVE) / BINS as f64;
    let outline = |errors: &[f32]| {
        let mut counts = [0usize; BINS];
        errors.iter().for_each(|&v| counts[((f64::from(v - low) / width) as usize).min(BINS - 1)] += 1);
        let share = |count: usize| 100.0 * count as f64 / errors.len() as f64;
        let corners = counts
            .iter()
            .enumerate()
            .flat_map(|(i, &count)| [i, i + 1].map(|edge| (f64::from(low) + edge as f64 * width, share(count))));
        corners.collect::<Vec<_>>()
    };
    let line = |name, color, errors: &[f32]| Series { name, color, dashed: false, points: outline(errors) };
    let threshold = data.inputs.contract.novelty_threshold;
    let chart = LineChart {
        alt: "Distribution of the reconstruction error of training and held-out patches".to_owned(),
        x_label: "reconstruction error",
        series: vec![line("training", TRAINED, &data.train_error), line("held out", HELD_OUT, &data.held_out_error)],
        bands: Vec::new(),
        marker: threshold.map(f64::from),
        aspect: 0.42,
    };
    html! {
        figure class="half" {
            (legend(&[("training patches", TRAINED), ("held-out patches", HELD_OUT)]))
            (chart.draw())
            figcaption {
                "Patches in percent, by their mean squared reconstruction error in units of each channel's variance. "
                @match threshold {
                    Some(threshold) => {
                        "The dashed line is the novelty threshold, " b { (figure(f64::from(threshold))) }
                        ", the 99th percentile of held-out patches: where more than a tenth of a slide's tissue lies above it, "
                        "its map says so."
                    },
                    None => "The model has no novelty threshold.",
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_of_a_stain_are_means_over_its_patches() {
        let found = StainFigures::new(&[(10.0, Some(0.5)), (20.0, Some(0.7))]);
        assert_eq!((found.mse, found.ssim), (15.0, Some(0.6)));
        assert!((found.ssim_deviation.expect("two patches") - 0.02f64.sqrt()).abs() < 1e-12);
        assert_eq!(StainFigures::new(&[(10.0, None)]), StainFigures { mse: 10.0, ssim: None, ssim_deviation: None });
    }

    #[test]
    fn an_equal_copy_has_no_error_and_a_shifted_one_its_square() {
        let original: Vec<u8> = (0..3 * 144).map(|i| (i * 31 % 200) as u8).collect();
        let (mse, same) = measure(&original, &original, 12);
        assert!(mse == 0.0 && (same.expect("a window fits") - 1.0).abs() < 1e-12);
        let brighter: Vec<u8> = original.iter().map(|v| v + 4).collect();
        assert_eq!(measure(&original, &brighter, 12).0, 16.0);
        assert_eq!(measure(&original[..192], &original[..192], 8).1, None);
    }
}
