//! The choice of the number of clusters.
//!
//! **By likelihood**, if it is known. Gaussian mixtures with 2, 3, … components are fitted to the leading principal components of the
//! latent space and compared by the Bayesian information criterion (Schwarz 1978; Fraley & Raftery 1998): one more component must raise
//! the likelihood by more than its parameters cost. A component counts as a kind of tissue only if it forms regions on the slides
//! ([`crate::choose_k::coherence::regions`]). Patches across the border of two kinds look like neither; they make one or two components
//! that never form a region. Two components can also share one kind of tissue. Such components are counted with the component around
//! them. A candidate is represented by the mixtures with this number of kinds. The one with the lowest BIC is chosen.
//!
//! **By rank** otherwise. No single index is reliable: each prefers certain shapes of clusters, and their scales cannot be compared.
//! Therefore they vote. For each criterion the candidates are ranked from best to worst, and the rank is scaled to 0 (best) … 1 (worst).
//! Candidates with the same value share the mean of their ranks. Criteria of the same kind form one group, so that six geometric indices do
//! not outvote everything else:
//!
//! | group | criteria |
//! |---|---|
//! | latent space | silhouette, Davies–Bouldin, Caliński–Harabasz, Dunn, generalised Dunn, Xie–Beni |
//! | UMAP coordinates | the same |
//! | stability | mean adjusted Rand index between seeds, in hundredths |
//! | coherence | of the label maps, in hundredths |
//!
//! The score of a candidate is the mean over groups of the mean over the criteria of the group. The lowest score is chosen.
//!
//! Likelihood has priority because ranks fail on synthetic tissue: kinds of tissue are similar in pairs, so few coarse clusters are compact,
//! far apart, stable and coherent. Their mean rank is best near the smallest candidate, whatever the true number is. For round clusters
//! at equal distances both rules are right. The choice by rank is stored as a second opinion.

use serde::{Deserialize, Serialize};

use crate::vectors::indices::Indices;

/// The evidence for one number of clusters: means over seeds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Evidence {
    /// K.
    pub clusters: u32,
    /// Indices in the latent space.
    pub latent: Indices,
    /// Indices on the UMAP coordinates.
    #[serde(alias = "plane")]
    pub umap: Option<Indices>,
    /// Mean ARI between seeds ([`crate::vectors::agreement::stability`]).
    pub stability: Option<f64>,
    /// Coherence of the label maps ([`crate::choose_k::coherence::JoinCount::coherence`]).
    pub coherence: Option<f64>,
    /// Lowest BIC of Gaussian mixtures with so many components ([`crate::vectors::mixture::Mixture::bic`]).
    pub bic: Option<f64>,
    /// How many kinds of region the components of that mixture form ([`crate::choose_k::coherence::regions`]).
    pub regions: Option<u32>,
}

/// The rule of a choice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ChoiceRule {
    /// BIC of mixtures. Scores: half of the distance to the lowest of all, per sample, in nats; that of the worst mixture
    /// where no mixture has so many kinds.
    Likelihood,
    /// Mean rank. Scores: 0, best by every criterion, … 1, worst by every criterion.
    Rank,
}

/// The chosen number of clusters and its margin.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Choice {
    /// The rule. It defines scores and margin.
    pub rule: ChoiceRule,
    /// K.
    pub clusters: u32,
    /// The next best candidate.
    pub next: Option<u32>,
    /// Score of the next best candidate minus that of the chosen one; 0 where there is no other.
    pub margin: f64,
    /// Score of each candidate, in the order given; lower is better.
    pub scores: Vec<f64>,
}

/// One figure of a candidate, so turned that more is better.
type Criterion = fn(&Evidence) -> Option<f64>;

const GROUPS: [&[Criterion]; 4] = [
    &[
        |e| Some(e.latent.silhouette),
        |e| Some(-e.latent.davies_bouldin),
        |e| Some(e.latent.calinski_harabasz),
        |e| Some(e.latent.dunn),
        |e| Some(e.latent.generalised_dunn),
        |e| Some(-e.latent.xie_beni),
    ],
    &[
        |e| e.umap.map(|i| i.silhouette),
        |e| e.umap.map(|i| -i.davies_bouldin),
        |e| e.umap.map(|i| i.calinski_harabasz),
        |e| e.umap.map(|i| i.dunn),
        |e| e.umap.map(|i| i.generalised_dunn),
        |e| e.umap.map(|i| -i.xie_beni),
    ],
    &[|e| e.stability.map(hundredths)],
    &[|e| e.coherence.map(hundredths)],
];

/// With a few seeds or slides, more digits are chance.
fn hundredths(value: f64) -> f64 {
    (value * 100.0).round()
}

/// Chooses among `candidates`, whose evidence is of so many `samples`: by likelihood where every candidate has its
/// figures and one of them is met, otherwise by rank. None without candidates.
pub fn choose(candidates: &[Evidence], samples: usize) -> Option<Choice> {
    let known = candidates.iter().map(|e| e.bic.zip(e.regions)).collect::<Option<Vec<(f64, u32)>>>();
    let known = known.filter(|known| candidates.iter().any(|e| known.iter().any(|&(_, kinds)| kinds == e.clusters)));
    let Some(known) = known else { return choose_by_rank(candidates) };
    let extreme = |pick: fn(f64, f64) -> f64| known.iter().map(|(bic, _)| *bic).reduce(pick).unwrap_or(0.0);
    let (lowest, highest) = (extreme(f64::min), extreme(f64::max));
    let score = |e: &Evidence| {
        let of_so_many = known.iter().filter(|(_, kinds)| *kinds == e.clusters);
        0.5 * (of_so_many.map(|(bic, _)| *bic).fold(highest, f64::min) - lowest) / samples as f64
    };
    lowest_of(candidates, candidates.iter().map(score).collect(), ChoiceRule::Likelihood)
}

/// Chooses by rank alone. A group counts only if every candidate has its figures.
pub fn choose_by_rank(candidates: &[Evidence]) -> Option<Choice> {
    let groups: Vec<Vec<f64>> = GROUPS.iter().filter_map(|criteria| group_ranks(candidates, criteria)).collect();
    lowest_of(candidates, means(&groups), ChoiceRule::Rank)
}

fn lowest_of(candidates: &[Evidence], scores: Vec<f64>, rule: ChoiceRule) -> Option<Choice> {
    let mut order: Vec<usize> = (0..candidates.len()).collect();
    order.sort_by(|&a, &b| scores[a].total_cmp(&scores[b]).then(candidates[a].clusters.cmp(&candidates[b].clusters)));
    let best = *order.first()?;
    let next = order.get(1).copied();
    let margin = next.map_or(0.0, |next| scores[next] - scores[best]);
    let clusters = |i: usize| candidates[i].clusters;
    Some(Choice { rule, clusters: clusters(best), next: next.map(clusters), margin, scores })
}

/// Mean rank of each candidate over `criteria`; none where a candidate lacks a figure.
fn group_ranks(candidates: &[Evidence], criteria: &[Criterion]) -> Option<Vec<f64>> {
    let ranks_by = |criterion: &Criterion| Some(ranks(&candidates.iter().map(criterion).collect::<Option<Vec<_>>>()?));
    Some(means(&criteria.iter().map(ranks_by).collect::<Option<Vec<_>>>()?))
}

/// Rank of each value, 0 for the largest … 1 for the smallest; equal values share the mean of their places.
fn ranks(values: &[f64]) -> Vec<f64> {
    let others = (values.len().max(2) - 1) as f64;
    let place = |value: &f64| {
        let larger = values.iter().filter(|other| other.total_cmp(value).is_gt()).count();
        let equal = values.iter().filter(|other| other.total_cmp(value).is_eq()).count();
        (larger as f64 + (equal - 1) as f64 / 2.0) / others
    };
    values.iter().map(place).collect()
}

/// Means of equally long rows, place by place; empty without rows.
fn means(rows: &[Vec<f64>]) -> Vec<f64> {
    let length = rows.first().map_or(0, Vec::len);
    (0..length).map(|i| rows.iter().map(|row| row[i]).sum::<f64>() / rows.len() as f64).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::planted_points;
    use crate::vectors::agreement::stability;
    use crate::vectors::indices::indices;
    use crate::vectors::kmeans::kmeans;
    use crate::vectors::labels::Labels;
    use crate::vectors::mixture::mixture;
    use crate::vectors::umap::umap;

    const SEEDS: u64 = 3;
    /// A covariance in 8 dimensions has 36 values.
    const PER_COMPONENT: usize = 130;

    fn sweep(seed: u64, components: usize) -> Vec<Evidence> {
        let (points, _) = planted_points(seed, components, PER_COMPONENT * components, 8, 4.0);
        let umap_indices = umap(&points, seed).expect("maps");
        let evidence = |clusters: u32| {
            let fits = (0..SEEDS).map(|s| Labels::new(&kmeans(&points, clusters as usize, s).cluster));
            let fits: Vec<Labels> = fits.collect();
            let space = |points| Indices::mean(&indices(points, &fits).expect("indices")).expect("fits");
            let (latent, umap) = (space(&points), Some(space(&umap_indices)));
            let bic = mixture(&points, clusters as usize, seed).expect("fits").bic(&points, clusters as usize);
            Evidence {
                clusters,
                latent,
                umap,
                stability: stability(&fits),
                coherence: None,
                bic: Some(bic),
                regions: Some(clusters),
            }
        };
        (2..=20).map(evidence).collect()
    }

    #[test]
    fn planted_components_are_counted_by_both_rules() {
        let mut exact = 0;
        for (components, seed) in [(5, 1), (5, 2), (9, 1), (9, 2), (13, 1), (13, 2)] {
            let candidates = sweep(seed, components);
            for choice in [choose(&candidates, PER_COMPONENT * components), choose_by_rank(&candidates)] {
                let choice = choice.expect("candidates");
                let found = choice.clusters as usize;
                assert!(found.abs_diff(components) <= 1, "{components} components: {choice:?}");
                exact += usize::from(found == components);
            }
        }
        assert!(exact >= 11, "{exact} of 12 exact");
    }

    #[test]
    fn a_candidate_stands_for_the_mixtures_with_so_many_kinds() {
        let with = |clusters, bic, regions| Evidence {
            bic: Some(bic),
            regions,
            ..evidence(clusters, 9.0 - f64::from(clusters), 0.5)
        };
        // Three and four components are three kinds, the fourth lies between them; five are four; none are five.
        let known =
            [with(2, 140.0, Some(2)), with(3, 110.0, Some(3)), with(4, 100.0, Some(3)), with(5, 130.0, Some(4))];
        let choice = choose(&known, 10).expect("choice");
        assert_eq!(
            (choice.rule, choice.clusters, choice.next, choice.margin),
            (ChoiceRule::Likelihood, 3, Some(4), 1.5)
        );
        assert_eq!(choice.scores, [2.0, 0.0, 1.5, 2.0]);
        let chosen = |known: &[Evidence]| choose(known, 10).map(|choice| (choice.rule, choice.clusters));
        assert_eq!(chosen(&[known[0], with(3, 1.0, None)]), Some((ChoiceRule::Rank, 2)), "not known of all");
        assert_eq!(chosen(&[with(2, 1.0, Some(1)), with(3, 2.0, Some(1))]), Some((ChoiceRule::Rank, 2)), "none is met");
    }

    fn evidence(clusters: u32, good: f64, stability: f64) -> Evidence {
        let latent = Indices {
            silhouette: good,
            davies_bouldin: -good,
            calinski_harabasz: good,
            dunn: good,
            generalised_dunn: good,
            xie_beni: -good,
        };
        Evidence { clusters, latent, umap: None, stability: Some(stability), coherence: None, bic: None, regions: None }
    }

    #[test]
    fn groups_have_one_vote_each_and_the_margin_is_the_distance_to_the_next() {
        // Geometry ranks 0, ½, 1; stability ½, 0, 1.
        let choice =
            choose_by_rank(&[evidence(2, 3.0, 0.8), evidence(3, 2.0, 0.9), evidence(4, 1.0, 0.1)]).expect("choice");
        assert_eq!(
            (choice.clusters, choice.margin, choice.scores),
            (2, 0.0, vec![0.25, 0.25, 1.0]),
            "fewest of equals"
        );
        let clear = choose_by_rank(&[evidence(2, 1.0, 0.1), evidence(3, 3.0, 0.9)]).expect("choice");
        assert_eq!((clear.clusters, clear.margin), (3, 1.0));
        assert_eq!(choose_by_rank(&[]), None);
        assert_eq!(choose_by_rank(&[evidence(7, 1.0, 1.0)]).map(|only| (only.clusters, only.margin)), Some((7, 0.0)));
    }

    #[test]
    fn differences_in_stability_below_a_hundredth_do_not_count() {
        let choice = choose_by_rank(&[evidence(2, 1.0, 0.999), evidence(3, 2.0, 0.997)]).expect("choice");
        assert_eq!(choice.scores, [0.75, 0.25]);
    }
}
