//! The sweep: fits with every candidate number of clusters on the latent vectors of the autoencoder, and the evidence for each.
//!
//! Steps: [`fit_autoencoder`] → [`candidate_fits`] (IMSAT with each number of clusters and each seed) → indices in the latent space
//! and on its UMAP, agreement between seeds, coherence on the slides → [`choose`]. Finished steps are not repeated: the autoencoder
//! continues from the same checkpoint as `fit`, and each fit and the whole sweep have files in the run folder. A file is used only if
//! its fingerprint is equal.

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::path::Path;

use rayon::prelude::*;
use sha2::{Digest, Sha256};
use tissuemap::hex::hex;

use crate::choose_k::candidate_fits::{self, Clustering, Fits};
use crate::choose_k::choice::{Evidence, choose, choose_by_rank};
use crate::choose_k::coherence::{JoinCount, regions};
use crate::choose_k::table::{Candidate, FitSummary, Sweep};
use crate::config::Config;
use crate::data::origin::Origin;
use crate::data::patch_neighbours::PatchNeighbours;
use crate::data::patches::PatchSet;
use crate::fit::run_folder::RunFolder;
use crate::fit::{FitContext, autoencoder_fingerprint, clusterer_device, fit_autoencoder};
use crate::system::device::single_threaded;
use crate::system::error::TrainError;
use crate::system::files::write_whole;
use crate::vectors::agreement::{Agreement, stability};
use crate::vectors::indices::{Indices, indices};
use crate::vectors::labels::Labels;
use crate::vectors::mixture::mixture;
use crate::vectors::pca::Pca;
use crate::vectors::points::Points;
use crate::vectors::umap::umap;

/// Number of principal components in which mixtures are fitted. A covariance has 55 values there. In 64 dimensions it has 2080, more
/// than a cluster has patches.
const MIXTURE_DIMS: i64 = 10;

/// Sweeps over the candidates of `config`, or reads the result of an earlier sweep with the same configuration and patches from `run`.
/// Every file of the run folder is written as soon as its content is known.
///
/// # Errors
/// [`TrainError`] as for a fit; [`TrainError::Collapsed`] if no candidate has two fits that found clusters.
pub fn sweep(
    config: &Config,
    patches: &PatchSet,
    context: &FitContext<'_>,
    run: &RunFolder,
) -> Result<Sweep, TrainError> {
    let fits_fingerprint = fits_fingerprint(config, patches);
    let range = String::from(config.sweep.clusters);
    let fingerprint = digest(&[&fits_fingerprint, &range, &config.sweep.seeds.to_string()]);
    if let Some(found) = Sweep::read(&run.sweep()).filter(|found| found.fingerprint == fingerprint) {
        tracing::info!("{}: the sweep is done already", run.sweep().display());
        return Ok(found);
    }
    let place = clusterer_device(&config.sweep.hidden, context.device);
    let latents = fit_autoencoder(config, patches, context)?.to_device(place);
    let neighbours = PatchNeighbours::new(patches.train.origins(), config.neighbour_radius());
    let fits = Fits {
        config,
        neighbours: &neighbours,
        fingerprint: &fits_fingerprint,
        folder: &run.sweep_fits(),
        interrupted: context.interrupted,
    };
    let found = fits.all(&latents)?;
    let points = Points::from_tensor(&latents.values).map_err(|error| TrainError::Torch(error.to_string()))?;
    let candidates = collect_evidence(&points, &neighbours, config, &found)?;
    // Part of libtorch has one thread count per process, and the fits have set it to one.
    tch::set_num_threads(i32::try_from(config.cpu_threads).unwrap_or(1));
    let evidence: Vec<Evidence> = candidates.iter().map(|candidate| candidate.evidence).collect();
    let (Some(choice), Some(by_rank)) = (choose(&evidence, points.count()), choose_by_rank(&evidence)) else {
        return Err(TrainError::Collapsed("no number of clusters has two fits that found clusters".to_owned()));
    };
    write_map(&run.sweep_map(), patches, &found, choice.clusters)?;
    let sweep = Sweep { fingerprint, patches: points.count(), choice, by_rank, candidates };
    sweep.write(&run.sweep(), &run.sweep_table())?;
    Ok(sweep)
}

/// The evidence for each candidate that has at least two usable fits.
fn collect_evidence(
    points: &Points,
    neighbours: &PatchNeighbours,
    config: &Config,
    found: &[Clustering],
) -> Result<Vec<Candidate>, TrainError> {
    tracing::info!("comparing {} clusterings of {} patches", found.len(), points.count());
    let umap_indices = umap(points, config.seed)?;
    let beside = |i: usize| neighbours.of(i).iter().map(move |&j| (i, j as usize)).filter(|(i, j)| i < j);
    let pairs: Vec<(usize, usize)> = (0..points.count()).flat_map(beside).collect();
    let (usable, labelings): (Vec<&Clustering>, Vec<Labels>) = found
        .iter()
        .map(|fit| (fit, Labels::new(&fit.labels)))
        .filter(|(fit, labels)| fit.collapse.is_none() && labels.kinds() > 1)
        .unzip();
    let no_points = |error| TrainError::Torch(format!("{error}"));
    let in_latent = indices(points, &labelings).map_err(no_points)?;
    let in_map = indices(&umap_indices, &labelings).map_err(no_points)?;
    let mixtures = mixtures(points, neighbours, config)?;
    let mut candidates = Vec::new();
    for clusters in config.sweep.clusters.all() {
        let of: Vec<usize> = (0..usable.len()).filter(|&i| usable[i].clusters == clusters).collect();
        if of.len() < 2 {
            tracing::warn!("{clusters} clusters: {} of {} fits found clusters; left out", of.len(), config.sweep.seeds);
            continue;
        }
        let own: Vec<Labels> = of.iter().map(|&i| labelings[i].clone()).collect();
        let over = |all: &[Indices]| Indices::mean(&of.iter().map(|&i| all[i]).collect::<Vec<_>>());
        let (Some(latent), umap) = (over(&in_latent), over(&in_map)) else { continue };
        let coherences: Option<Vec<f64>> =
            own.iter().map(|labels| JoinCount::of_pairs(&pairs, labels).map(|joins| joins.coherence())).collect();
        let coherence = coherences.map(|all| all.iter().sum::<f64>() / all.len() as f64);
        let (bic, regions) = mixtures.get(&clusters).copied().unzip();
        let evidence = Evidence { clusters, latent, umap, stability: stability(&own), coherence, bic, regions };
        let fits = found.iter().filter(|fit| fit.clusters == clusters).map(FitSummary::new).collect();
        candidates.push(Candidate { evidence, fits });
    }
    Ok(candidates)
}

/// For each number of components: the lowest BIC over seeds, and the number of region kinds that the components of this mixture form.
fn mixtures(
    points: &Points,
    neighbours: &PatchNeighbours,
    config: &Config,
) -> Result<BTreeMap<u32, (f64, u32)>, TrainError> {
    let samples = points.to_tensor();
    let leading = Pca::fit(&samples, MIXTURE_DIMS, config.seed)?.project(&samples);
    let leading = Points::from_tensor(&leading).map_err(|error| TrainError::Torch(error.to_string()))?;
    let wanted: Vec<u32> = config.sweep.clusters.all().collect();
    let best_of_seeds = |&components: &u32| {
        let fit = |seed: u32| {
            let found = mixture(&leading, components as usize, config.seed.wrapping_add(u64::from(seed)))?;
            Ok((found.bic(&leading, components as usize), regions(&found.cluster, neighbours)))
        };
        let fits: Vec<(f64, u32)> = (1..=config.sweep.seeds).map(fit).collect::<Result<_, TrainError>>()?;
        Ok(fits.into_iter().min_by(|a, b| a.0.total_cmp(&b.0)).map(|best| (components, best)))
    };
    let found: Vec<Option<(u32, (f64, u32))>> = single_threaded(config.cpu_threads)?
        .install(|| wanted.par_iter().map(best_of_seeds).collect::<Result<_, TrainError>>())?;
    Ok(found.into_iter().flatten().collect())
}

/// Writes the positions of the training patches and their clusters in the most typical fit with the chosen number: the fit that agrees
/// most with the others.
fn write_map(path: &Path, patches: &PatchSet, found: &[Clustering], clusters: u32) -> Result<(), TrainError> {
    let fits: Vec<Labels> =
        found.iter().filter(|fit| fit.clusters == clusters).map(|fit| Labels::new(&fit.labels)).collect();
    let agreement = |labels: &Labels| fits.iter().map(|other| Agreement::new(other, labels).ari).sum::<f64>();
    let Some(typical) = fits.iter().max_by(|a, b| agreement(a).total_cmp(&agreement(b))) else { return Ok(()) };
    let rows = patches.train.origins().iter().zip(typical.of());
    let row = |(origin, label): (&Origin, &u32)| {
        format!("{},{},{},{label}\n", patches.sets[origin.set as usize], origin.x, origin.y)
    };
    write_whole(path, ("set,x,y,cluster\n".to_owned() + &rows.map(row).collect::<String>()).as_bytes())
}

/// A digest of everything that determines a fit with a given number of clusters and seed.
fn fits_fingerprint(config: &Config, patches: &PatchSet) -> String {
    digest(&[
        &format!("{:?}", autoencoder_fingerprint(config, patches)),
        &format!("{:?}", candidate_fits::settings(config)),
    ])
}

fn digest(parts: &[&str]) -> String {
    let mut hash = Sha256::new();
    parts.iter().for_each(|part| hash.update(format!("{part}\n")));
    hex(hash.finalize())
}
