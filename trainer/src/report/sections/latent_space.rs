//! UMAP of the latent space, coloured by cluster and by section set.

use maud::{PreEscaped, html};

use crate::report::chart::{cloud, figure, legend};
use crate::report::data::ReportData;
use crate::report::page::ReportSection;
use crate::report::page::{absent, cite};
use crate::system::error::TrainError;
use crate::vectors::points::Points;
use crate::vectors::umap::{trustworthiness, umap};

/// Neighbours that the map is asked to keep.
const NEIGHBOURS: usize = 15;
/// Below this, distances in the map say little about those in the latent space.
const TRUSTED: f64 = 0.85;

/// A map of the sampled patches.
pub(in crate::report) struct LatentSpace {
    points: Points,
    /// None for too few patches.
    trust: Option<f64>,
}

impl LatentSpace {
    pub(in crate::report) fn new(data: &ReportData<'_>) -> Result<Self, TrainError> {
        let points = umap(&data.sampled_latent, data.inputs.config.seed)?;
        let enough = points.count() > 2 * NEIGHBOURS;
        let trust = enough.then(|| trustworthiness(&data.sampled_latent, &points, NEIGHBOURS));
        Ok(Self { points, trust })
    }

    pub(in crate::report) fn warnings(&self) -> Vec<String> {
        let low = self.trust.filter(|&trust| trust < TRUSTED);
        low.map(|trust| {
            format!("The UMAP keeps neighbourhoods poorly (trustworthiness {trust:.3}); judge clusters by the maps.")
        })
        .into_iter()
        .collect()
    }

    pub(in crate::report) fn section(&self, data: &ReportData<'_>) -> ReportSection {
        let points: Vec<(f64, f64)> = self.points.rows().map(|xy| (f64::from(xy[0]), f64::from(xy[1]))).collect();
        let clusters: Vec<usize> = data.sample.iter().map(|&i| data.cluster(i)).collect();
        let origins = data.inputs.patches.train.origins();
        let sets: Vec<usize> = data.sample.iter().map(|&i| origins[i].set as usize).collect();
        let cluster_colors: Vec<[u8; 3]> = data.clusters().iter().map(|cluster| cluster.color).collect();
        let cluster_names = data.clusters().iter().map(|cluster| cluster.name.as_str());
        let set_colors = data.set_colors();
        let set_names = data.inputs.patches.sets.iter().map(String::as_str);
        let groups = cluster_colors.len().max(set_colors.len());
        let body = html! {
            @if points.is_empty() { (absent("There are no training patches.")) }
            style { (PreEscaped(highlighting(groups))) }
            div class="pair" {
                figure class="umap" {
                    (cloud(&points, &clusters, &cluster_colors, "UMAP of training patches, coloured by cluster"))
                    (legend(&cluster_names.zip(cluster_colors.iter().copied()).collect::<Vec<_>>()))
                    figcaption { "By cluster. Point at a name to see its patches alone." }
                }
                figure class="umap" {
                    (cloud(&points, &sets, &set_colors, "UMAP of training patches, coloured by section set"))
                    (legend(&set_names.zip(set_colors.iter().copied()).collect::<Vec<_>>()))
                    figcaption { "By section set. Sets that are separated differ in more than their tissue." }
                }
            }
            p {
                (points.len()) " of " (data.count()) " training patches, " (data.inputs.contract.latent_dim)
                " latent values each, mapped by UMAP ("
                (cite("McInnes et al. 2018", "10.48550/arXiv.1802.03426")) ", 15 neighbours). "
                @match self.trust {
                    Some(trust) => {
                        "Trustworthiness (" (cite("Venna & Kaski 2001", "10.1007/3-540-44668-0_68")) ") is " b { (figure(trust)) }
                        " with " (NEIGHBOURS) " neighbours: 1 if neighbours in the UMAP are neighbours in the latent space. "
                    }
                    None => "There are too few patches to compute the trustworthiness. ",
                }
                "Distances between islands, their sizes and their shapes mean nothing."
            }
        };
        ReportSection { id: "umap", title: "Latent space", body }
    }
}

/// Rules that fade the other groups while a name in the legend is pointed at.
fn highlighting(groups: usize) -> String {
    let rule = |group: usize| {
        format!(".umap:has(.legend li:nth-child({}):hover) path:not(.g{group}){{opacity:.06}}", group + 1)
    };
    (0..groups).map(rule).collect()
}
