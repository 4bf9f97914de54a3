//! Batch effect: whether clusters tell section sets apart rather than tissue.

use maud::html;
use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;

use crate::report::chart::{percent, swatch};
use crate::report::data::ReportData;
use crate::report::page::ReportSection;
use crate::report::page::absent;
use crate::vectors::agreement::Agreement;
use crate::vectors::labels::Labels;

/// Enough for the 95th percentile to be the tenth largest value.
const SHUFFLES: usize = 200;
/// Of the way from chance to complete separation: what is called small, and above what it is called large. Neighbouring
/// tissue differs between any two blocks, so that some of the way is no fault of staining.
const SMALL: f64 = 0.05;
const LARGE: f64 = 0.25;
/// A cluster is of one set where so much of it comes from a set that has much less of all patches.
const OF_ONE_SET: f64 = 0.9;

/// How much clusters know about section sets.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(in crate::report) struct BatchEffect {
    /// Normalised mutual information of cluster and set.
    pub(in crate::report) nmi: f64,
    /// Mean and 95th percentile of the same with sets shuffled over the patches.
    shuffled: (f64, f64),
    /// What it would be at most: no cluster is shared between sets.
    separated: f64,
}

impl BatchEffect {
    /// Of each sample's set and cluster; none where there is one set, or one cluster, only.
    pub(in crate::report) fn new(sets: &[i64], clusters: &[i64], seed: u64) -> Option<Self> {
        let (set_labels, found) = (Labels::new(sets), Labels::new(clusters));
        if set_labels.kinds() < 2 || found.kinds() < 2 {
            return None;
        }
        let mut generator = ChaCha8Rng::seed_from_u64(seed);
        let mut order = sets.to_vec();
        let mut shuffled: Vec<f64> = (0..SHUFFLES)
            .map(|_| {
                order.shuffle(&mut generator);
                Agreement::new(&Labels::new(&order), &found).nmi
            })
            .collect();
        shuffled.sort_by(f64::total_cmp);
        let mean = shuffled.iter().sum::<f64>() / SHUFFLES as f64;
        let (of_sets, of_clusters) = (entropy(&set_labels), entropy(&found));
        Some(Self {
            nmi: Agreement::new(&set_labels, &found).nmi,
            shuffled: (mean, shuffled[SHUFFLES * 95 / 100 - 1]),
            separated: 2.0 * of_sets.min(of_clusters) / (of_sets + of_clusters),
        })
    }

    /// How far from chance (0) to complete separation (1).
    fn way(&self) -> f64 {
        ((self.nmi - self.shuffled.0) / (self.separated - self.shuffled.0).max(f64::EPSILON)).max(0.0)
    }

    fn in_words(&self) -> &'static str {
        match self.way() {
            _ if self.nmi <= self.shuffled.1 => {
                "No more than chance: which cluster a patch falls into says nothing about the set it comes from."
            }
            way if way < SMALL => {
                "Small: clusters are shared between the sets. Sets differ a little in what tissue they hold, or in staining."
            }
            way if way < LARGE => {
                "Moderate: some clusters prefer some sets. Look at those rows in the table, and at their patches, before \
                 comparing sets."
            }
            _ => {
                "Large: clusters tell sets apart. Unless the sets hold different tissue, staining or scanning is what was \
                 clustered; do not compare sets by these clusters."
            }
        }
    }

    fn is_large(&self) -> bool {
        self.nmi > self.shuffled.1 && self.way() >= LARGE
    }
}

fn three(value: f64) -> String {
    format!("{value:.3}")
}

/// Nats.
fn entropy(labels: &Labels) -> f64 {
    let share = |&size: &usize| size as f64 / labels.count() as f64;
    labels.sizes().iter().map(share).map(|share| -share * share.ln()).sum()
}

pub(in crate::report) fn warnings(data: &ReportData<'_>, effect: Option<&BatchEffect>) -> Vec<String> {
    let Some(effect) = effect else {
        let only = "All patches come from one section set: whether the clusters hold for another is unknown.";
        return if data.inputs.patches.sets.len() == 1 { vec![only.to_owned()] } else { Vec::new() };
    };
    let mut warnings = Vec::new();
    if effect.is_large() {
        warnings.push(format!(
            "The batch effect is large: cluster and section set share {} of the information they could \
             (normalised mutual information {}).",
            percent(effect.way()),
            three(effect.nmi)
        ));
    }
    for (c, cluster) in data.clusters().iter().enumerate() {
        for (set, name) in data.inputs.patches.sets.iter().enumerate() {
            let of_cluster = data.counts[set][c] as f64 / data.size(c).max(1) as f64;
            let of_all = data.set_size(set) as f64 / data.count() as f64;
            if of_cluster > OF_ONE_SET && of_all < OF_ONE_SET * 0.75 {
                warnings.push(format!("{} is {} from the section set {name}.", cluster.name, percent(of_cluster)));
            }
        }
    }
    warnings
}

pub(in crate::report) fn section(data: &ReportData<'_>, effect: Option<&BatchEffect>) -> ReportSection {
    let sets = &data.inputs.patches.sets;
    let share = |set: usize, c: usize| data.counts[set][c] as f64 / data.set_size(set).max(1) as f64;
    let all = || (0..sets.len()).flat_map(|set| (0..data.clusters().len()).map(move |c| (set, c)));
    let largest = all().map(|(set, c)| share(set, c)).fold(f64::MIN_POSITIVE, f64::max);
    let body = html! {
        @match effect {
            None => (absent("There is one section set only, so clusters cannot follow sets. Train on several to find out.")),
            Some(effect) => {
                p { b { (effect.in_words()) } }
                p {
                    "Normalised mutual information of cluster and section set is " b { (three(effect.nmi)) } ". With the sets "
                    "shuffled over the patches it is " (three(effect.shuffled.0)) " on average and below "
                    (three(effect.shuffled.1)) " in 95 of 100 of " (SHUFFLES) " shuffles; it would be "
                    (three(effect.separated)) " if no cluster were shared between sets. Neighbouring patches look alike, so "
                    "real sets exceed shuffled ones even without a batch effect."
                }
            }
        }
        div class="wide" {
            table class="heat" {
                caption { "Share of each section set's patches in each cluster" }
                thead {
                    tr {
                        th scope="col" { "Cluster" }
                        @for name in sets { th scope="col" { (name) } }
                    }
                }
                tbody {
                    @for (c, cluster) in data.clusters().iter().enumerate() {
                        tr {
                            th scope="row" { (swatch(cluster.color)) (cluster.name) }
                            @for set in 0..sets.len() {
                                @let depth = share(set, c) / largest;
                                @let style = format!("--depth:{:.0}%", 100.0 * depth);
                                td class=(if depth > 0.55 { "deep" } else { "" }) style=(style) {
                                    (percent(share(set, c)))
                                }
                            }
                        }
                    }
                }
            }
        }
    };
    ReportSection { id: "batch", title: "Batch effect", body }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn effect(cluster: impl Fn(i64) -> i64) -> BatchEffect {
        let sets: Vec<i64> = (0..600).map(|i| i % 2).collect();
        let clusters: Vec<i64> = (0..600).map(cluster).collect();
        BatchEffect::new(&sets, &clusters, 1).expect("two of each")
    }

    #[test]
    fn clusters_that_are_sets_reach_what_separated_sets_would_have() {
        let same = effect(|i| i % 2);
        assert!((same.nmi - 1.0).abs() < 1e-12 && (same.separated - 1.0).abs() < 1e-12 && same.is_large());
        // Four clusters, two for each set: ln 2 nats shared of ln 2 and ln 4.
        let split = effect(|i| i % 4);
        assert!((split.nmi - 2.0 / 3.0).abs() < 1e-12 && (split.separated - 2.0 / 3.0).abs() < 1e-12);
        assert!((split.way() - 1.0).abs() < 1e-9);
    }

    #[test]
    fn clusters_that_know_nothing_of_sets_are_within_chance() {
        let unrelated = effect(|i| i / 2 % 3);
        assert!(unrelated.nmi < 1e-9 && unrelated.in_words().starts_with("No more than chance"), "{unrelated:?}");
        // Three clusters by two sets of 600: the bias of mutual information is (3−1)(2−1)/(2·600) nats, over mean entropy.
        let expected = (2.0 / 1200.0) / (0.5 * (2f64.ln() + 3f64.ln()));
        assert!((unrelated.shuffled.0 / expected - 1.0).abs() < 0.25, "{unrelated:?} {expected}");
        assert!(unrelated.shuffled.1 > unrelated.shuffled.0);
    }

    #[test]
    fn a_preference_lies_in_between_and_one_set_has_no_effect() {
        let prefers = effect(|i| if i % 10 < 4 { i % 2 } else { i / 10 % 2 });
        assert!(prefers.way() > SMALL && prefers.way() < LARGE, "{prefers:?}");
        assert_eq!(BatchEffect::new(&[3, 3], &[0, 1], 1), None);
    }
}
