//! A card for every cluster: how large, how certain, what its patches look like, what it is confused with.

use maud::{Markup, html};
use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;

use crate::data::origin::Origin;
use crate::report::chart::{percent, swatch};
use crate::report::data::ReportData;
use crate::report::page::ReportSection;
use crate::report::picture::{address, strip};
use crate::system::error::TrainError;

/// Patches in a row.
const SAMPLES: usize = 6;
/// Clusters that a cluster is said to be confused with, and the least probability that is worth a word.
const CONFUSIONS: usize = 3;
const MIN_CONFUSION: f64 = 0.01;
/// Below this share a cluster is too small to say much about: at the usual 2,000 patches a set, 20 of them.
const TINY: f64 = 0.01;
/// Where the most probable cluster has less than this on average, borders on the map mean little.
const UNCERTAIN: f64 = 0.5;

/// What is known of one cluster.
struct Facts {
    members: Vec<usize>,
    /// Mean probability of the own cluster over its patches.
    certainty: f64,
    /// Mean probability that its patches give to other clusters, largest first.
    confusions: Vec<(usize, f64)>,
}

impl Facts {
    fn new(data: &ReportData<'_>, cluster: usize) -> Self {
        let members: Vec<usize> = (0..data.count()).filter(|&i| data.cluster(i) == cluster).collect();
        let mean = |other: usize| {
            members.iter().map(|&i| f64::from(data.probability(i, other))).sum::<f64>() / members.len().max(1) as f64
        };
        let means: Vec<f64> = (0..data.clusters().len()).map(mean).collect();
        let mut confusions: Vec<(usize, f64)> =
            means.iter().copied().enumerate().filter(|&(c, _)| c != cluster).collect();
        confusions.sort_by(|a, b| b.1.total_cmp(&a.1));
        confusions.truncate(CONFUSIONS);
        confusions.retain(|&(_, probability)| probability >= MIN_CONFUSION);
        Self { members, certainty: means[cluster], confusions }
    }

    /// Patches that show the cluster at its clearest, and some by chance; both from places that do not overlap, where
    /// there are enough.
    fn samples(&self, data: &ReportData<'_>, cluster: usize) -> [Vec<i64>; 2] {
        let mut surest = self.members.clone();
        surest.sort_by(|&a, &b| data.probability(b, cluster).total_cmp(&data.probability(a, cluster)).then(a.cmp(&b)));
        let mut random = self.members.clone();
        random.shuffle(&mut ChaCha8Rng::seed_from_u64(data.inputs.config.seed ^ cluster as u64));
        let origins = data.inputs.patches.train.origins();
        let side = i64::from(data.inputs.contract.patch_px);
        [surest, random].map(|order| apart(&order, origins, side, SAMPLES))
    }
}

/// The first `wanted` of `order` no two of which overlap; filled up with the first of the others where there are too few.
fn apart(order: &[usize], origins: &[Origin], side: i64, wanted: usize) -> Vec<i64> {
    let overlap = |a: &Origin, b: &Origin| a.set == b.set && (a.x - b.x).abs() < side && (a.y - b.y).abs() < side;
    let mut chosen: Vec<usize> = Vec::new();
    for &i in order {
        if chosen.len() < wanted && !chosen.iter().any(|&other| overlap(&origins[i], &origins[other])) {
            chosen.push(i);
        }
    }
    let rest: Vec<usize> = order.iter().copied().filter(|i| !chosen.contains(i)).take(wanted - chosen.len()).collect();
    chosen.into_iter().chain(rest).map(|i| i as i64).collect()
}

pub(in crate::report) fn section(data: &ReportData<'_>) -> Result<ReportSection, TrainError> {
    let cards: Vec<Markup> = (0..data.clusters().len()).map(|cluster| card(data, cluster)).collect::<Result<_, _>>()?;
    let body = html! {
        p {
            "Each patch belongs to the cluster that the model finds most probable. " b { "Certainty" }
            " is that probability, averaged over the cluster's patches; " b { "next" }
            " are the clusters that get most of the rest. Clusters are numbered from the darkest tissue to the brightest. "
            "Every column is one place of tissue, seen in all stains."
        }
        @for card in &cards { (card) }
    };
    Ok(ReportSection { id: "clusters", title: "Clusters", body })
}

fn card(data: &ReportData<'_>, cluster: usize) -> Result<Markup, TrainError> {
    let facts = Facts::new(data, cluster);
    let name = &data.clusters()[cluster].name;
    let head = html! {
        h3 { (swatch(data.color(cluster))) (name) }
        dl class="facts" {
            div { dt { "Patches" } dd { (facts.members.len()) " (" (percent(data.share(cluster))) ")" } }
            @if !facts.members.is_empty() {
                div { dt { "Certainty" } dd { (percent(facts.certainty)) } }
                div {
                    dt { "Next" }
                    dd {
                        @if facts.confusions.is_empty() { "none above 1 %" }
                        @for (i, (other, probability)) in facts.confusions.iter().enumerate() {
                            @if i > 0 { ", " }
                            (swatch(data.color(*other))) (data.clusters()[*other].name) " " (percent(*probability))
                        }
                    }
                }
            }
        }
    };
    if facts.members.is_empty() {
        return Ok(html! { article class="card" { (head) p class="absent" { "No training patch belongs to it." } } });
    }
    let samples = facts.samples(data, cluster).map(|chosen| data.inputs.patches.train.gather(&chosen));
    let [surest, random] = samples;
    let (surest, random) = (surest?, random?);
    let rows = data.inputs.contract.stains.iter().enumerate().map(|(i, stain)| {
        let [surest, random] = [&surest, &random].map(|patches| address(&strip(patches, i, SAMPLES)?));
        Ok(html! {
            span class="stain" { (stain.name) }
            img src=(surest?) alt=(format!("{name}, {}: the surest patches", stain.name));
            img src=(random?) alt=(format!("{name}, {}: patches drawn at random", stain.name));
        })
    });
    let rows: Vec<Markup> = rows.collect::<Result<_, TrainError>>()?;
    Ok(html! {
        article class="card" {
            (head)
            div class="samples" {
                span {} span class="over" { "surest" } span class="over" { "at random" }
                @for row in &rows { (row) }
            }
        }
    })
}

/// What a person should know before trusting the clusters.
pub(in crate::report) fn warnings(data: &ReportData<'_>) -> Vec<String> {
    let name = |cluster: usize| &data.clusters()[cluster].name;
    let mut warnings = Vec::new();
    for cluster in 0..data.clusters().len() {
        match data.size(cluster) {
            0 => warnings.push(format!("{} is empty: fewer clusters would do.", name(cluster))),
            size if data.share(cluster) < TINY => warnings.push(format!(
                "{} is tiny: {size} patches, {} of all. It may be an artefact; look at its patches.",
                name(cluster),
                percent(data.share(cluster))
            )),
            _ => {}
        }
    }
    let certainty = (0..data.count()).map(|i| f64::from(data.probability(i, data.cluster(i)))).sum::<f64>();
    let certainty = certainty / data.count().max(1) as f64;
    if certainty < UNCERTAIN {
        warnings.push(format!(
            "The model is undecided: its most probable cluster has {} on average. Train longer, or with fewer clusters.",
            percent(certainty)
        ));
    }
    warnings
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_do_not_overlap_while_there_are_others() {
        let origin = |x: i64| Origin { set: 0, x, y: 0 };
        let origins = [origin(0), origin(5), origin(20), Origin { set: 1, x: 0, y: 0 }, origin(9)];
        assert_eq!(apart(&[0, 1, 2, 3, 4], &origins, 10, 3), [0, 2, 3]);
        assert_eq!(apart(&[0, 1, 4], &origins, 10, 3), [0, 1, 4], "better the same place than nothing");
        assert_eq!(apart(&[1], &origins, 10, 3), [1]);
    }
}
