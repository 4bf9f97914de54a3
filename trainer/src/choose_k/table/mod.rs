//! What a sweep leaves: JSON with everything, CSV with a row per candidate.

use std::fmt::Write as _;
use std::path::Path;

use serde::{Deserialize, Serialize};

use tissuemap::untrusted;

use crate::choose_k::candidate_fits::Clustering;
use crate::choose_k::choice::{Choice, ChoiceRule, Evidence};
use crate::system::error::TrainError;
use crate::system::files::write_whole;
use crate::vectors::indices::Indices;

/// The evidence for each number of clusters, and the choice.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Sweep {
    /// What decided it, as hexadecimal digits.
    pub fingerprint: String,
    /// Training patches.
    pub patches: usize,
    /// The number of clusters and its margin.
    pub choice: Choice,
    /// What the ranks of the indices, stability and coherence alone would choose.
    pub by_rank: Choice,
    /// By rising number of clusters; those left out of which no two fits found clusters.
    pub candidates: Vec<Candidate>,
}

/// One number of clusters.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Candidate {
    /// Means over its usable fits.
    pub evidence: Evidence,
    /// All its fits.
    pub fits: Vec<FitSummary>,
}

/// A fit without its labels.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FitSummary {
    /// From 1.
    pub seed: u32,
    /// Patches of each cluster, 0 for empty ones.
    pub sizes: Vec<usize>,
    /// Why the fit is not usable, if it is not.
    pub collapse: Option<String>,
    /// H(Y|X) and H(Y) over all patches, nats.
    pub entropies: [f64; 2],
}

impl FitSummary {
    pub(super) fn new(fit: &Clustering) -> Self {
        let mut sizes = vec![0; fit.clusters as usize];
        fit.labels.iter().for_each(|&label| sizes[label as usize] += 1);
        Self { seed: fit.seed, sizes, collapse: fit.collapse.clone(), entropies: fit.entropies }
    }
}

const HEADER: &str = "clusters,score,chosen,bic,regions,rank,silhouette,davies_bouldin,calinski_harabasz,dunn,generalised_dunn,xie_beni,\
    map_silhouette,map_davies_bouldin,map_calinski_harabasz,map_dunn,map_generalised_dunn,map_xie_beni,stability,\
    coherence,fits,collapsed,used_clusters,smallest_share,largest_share\n";

impl Sweep {
    /// What [`Sweep::write`] left; none where there is nothing, or nothing readable.
    pub fn read(path: &Path) -> Option<Self> {
        serde_json::from_slice(&untrusted::read(path, untrusted::SMALL).ok()?).ok()
    }

    /// Writes JSON and CSV; each replaces an older one in one step, the JSON, which stands for the whole, last.
    ///
    /// # Errors
    /// [`TrainError::File`].
    pub fn write(&self, json: &Path, table: &Path) -> Result<(), TrainError> {
        write_whole(table, self.csv().as_bytes())?;
        let text = serde_json::to_string_pretty(self);
        let text = text.map_err(|e| TrainError::File { path: json.to_owned(), source: e.into() })?;
        write_whole(json, text.as_bytes())
    }

    /// A row per candidate. Empty fields: not known. Shares are of the training patches, means over fits.
    pub fn csv(&self) -> String {
        let scores = self.choice.scores.iter().zip(&self.by_rank.scores);
        let rows =
            self.candidates.iter().zip(scores).map(|(candidate, (&score, &rank))| self.row(candidate, score, rank));
        HEADER.to_owned() + &rows.collect::<String>()
    }

    fn row(&self, candidate: &Candidate, score: f64, rank: f64) -> String {
        let six = |i: Indices| {
            [i.silhouette, i.davies_bouldin, i.calinski_harabasz, i.dunn, i.generalised_dunn, i.xie_beni].map(Some)
        };
        let Evidence { clusters, latent, umap, stability, coherence, bic, regions } = candidate.evidence;
        let figures = [&six(latent)[..], &umap.map_or([None; 6], six), &[stability, coherence]].concat();
        let chosen = u8::from(clusters == self.choice.clusters);
        let bic = bic.map(|bic| format!("{bic:.1}")).unwrap_or_default();
        let regions = regions.map(|regions| regions.to_string()).unwrap_or_default();
        let mut row = format!("{clusters},{score:.4},{chosen},{bic},{regions},{rank:.4}");
        for figure in figures {
            let _ = write!(row, ",{}", figure.map(|f| format!("{f:.6}")).unwrap_or_default());
        }
        let fits = &candidate.fits;
        let collapsed = fits.iter().filter(|fit| fit.collapse.is_some()).count();
        let mean = |of: &dyn Fn(&FitSummary) -> usize| fits.iter().map(of).sum::<usize>() as f64 / fits.len() as f64;
        let used = mean(&|fit| fit.sizes.iter().filter(|&&size| size > 0).count());
        let share = |size: f64| size / self.patches as f64;
        let smallest = share(mean(&|fit| fit.sizes.iter().copied().filter(|&size| size > 0).min().unwrap_or(0)));
        let largest = share(mean(&|fit| fit.sizes.iter().copied().max().unwrap_or(0)));
        let _ = writeln!(row, ",{},{collapsed},{used:.2},{smallest:.4},{largest:.4}", fits.len());
        row
    }

    /// `9 clusters, by a margin of 0.12 over 8 (nats per patch, BIC)`.
    pub fn verdict(&self) -> String {
        let Choice { rule, clusters, margin, next, .. } = &self.choice;
        let unit = match rule {
            ChoiceRule::Likelihood => "nats per patch, BIC",
            ChoiceRule::Rank => "mean rank",
        };
        let over = next.map(|next| format!(", by a margin of {margin:.3} over {next} ({unit})"));
        let last = self.candidates.last().is_some_and(|last| last.evidence.clusters == *clusters);
        let end = if last { "; it is the last candidate, there may be more: raise sweep.clusters" } else { "" };
        format!("{clusters} clusters{}{end}", over.unwrap_or_default())
    }
}

#[cfg(test)]
mod tests;
