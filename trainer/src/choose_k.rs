//! The number of clusters, chosen by evidence.
//!
//! No single index can be trusted: each has shapes of clusters that it likes, and their scales cannot be compared. So
//! they vote by rank. For each criterion the candidates are ranked from best to worst, and the rank is scaled to 0 (best)
//! … 1 (worst); candidates of equal value share the mean of their places. Criteria that look at the same thing form one
//! group, so that six geometric indices do not outvote everything else:
//!
//! | group | criteria |
//! |---|---|
//! | latent space | silhouette, Davies–Bouldin, Caliński–Harabasz, Dunn, generalised Dunn, Xie–Beni |
//! | UMAP plane | the same |
//! | stability | mean adjusted Rand index between seeds, in hundredths |
//! | coherence | of the label maps, in hundredths |
//!
//! A candidate's score is the mean over groups of the mean over the group's criteria; the lowest score is chosen, of
//! equal ones the fewest clusters. The margin, the distance of the next best score, says how clear the choice is.

use crate::indices::Indices;

/// What is known of one number of clusters, as means over seeds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Evidence {
    /// K.
    pub clusters: u32,
    /// Indices in the latent space.
    pub latent: Indices,
    /// Indices in the UMAP plane.
    pub plane: Option<Indices>,
    /// Mean ARI between seeds ([`crate::agreement::stability`]).
    pub stability: Option<f64>,
    /// Coherence of the label maps ([`crate::coherence::JoinCount::coherence`]).
    pub coherence: Option<f64>,
}

/// The number of clusters, and how clear the choice is.
#[derive(Debug, Clone, PartialEq)]
pub struct Choice {
    /// K.
    pub clusters: u32,
    /// Score of the next best candidate minus that of the chosen one, 0…1; 0 where there is no other.
    pub margin: f64,
    /// Score of each candidate, in the order given: 0, best by every criterion, … 1, worst by every criterion.
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
        |e| e.plane.map(|i| i.silhouette),
        |e| e.plane.map(|i| -i.davies_bouldin),
        |e| e.plane.map(|i| i.calinski_harabasz),
        |e| e.plane.map(|i| i.dunn),
        |e| e.plane.map(|i| i.generalised_dunn),
        |e| e.plane.map(|i| -i.xie_beni),
    ],
    &[|e| e.stability.map(hundredths)],
    &[|e| e.coherence.map(hundredths)],
];

/// With a few seeds or slides, more digits are chance.
fn hundredths(value: f64) -> f64 {
    (value * 100.0).round()
}

/// Chooses among `candidates` by the rule above; none without candidates. A group counts only if every candidate has
/// its figures.
pub fn choose(candidates: &[Evidence]) -> Option<Choice> {
    let groups: Vec<Vec<f64>> = GROUPS.iter().filter_map(|criteria| group_ranks(candidates, criteria)).collect();
    let scores = means(&groups);
    let mut order: Vec<usize> = (0..candidates.len()).collect();
    order.sort_by(|&a, &b| scores[a].total_cmp(&scores[b]).then(candidates[a].clusters.cmp(&candidates[b].clusters)));
    let best = *order.first()?;
    let margin = order.get(1).map_or(0.0, |&next| scores[next] - scores[best]);
    Some(Choice { clusters: candidates[best].clusters, margin, scores })
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
    use crate::agreement::stability;
    use crate::baselines::kmeans::kmeans;
    use crate::indices::indices;
    use crate::labels::Labels;
    use crate::testing::planted_points;
    use crate::umap::umap;

    const SEEDS: u64 = 3;

    fn sweep(seed: u64, components: usize) -> Vec<Evidence> {
        let (points, _) = planted_points(seed, components, 65 * components, 12, 2.0);
        let plane = umap(&points, seed).expect("maps");
        let evidence = |clusters: u32| {
            let fits = (0..SEEDS).map(|s| Labels::new(&kmeans(&points, clusters as usize, s).cluster));
            let fits: Vec<Labels> = fits.collect();
            let space = |points| Indices::mean(&indices(points, &fits).expect("indices")).expect("fits");
            let (latent, plane) = (space(&points), Some(space(&plane)));
            Evidence { clusters, latent, plane, stability: stability(&fits), coherence: None }
        };
        (2..=20).map(evidence).collect()
    }

    #[test]
    fn planted_components_are_counted() {
        let mut exact = 0;
        for (components, seed) in [(5, 1), (5, 2), (9, 1), (9, 2), (13, 1), (13, 2)] {
            let choice = choose(&sweep(seed, components)).expect("candidates");
            let found = choice.clusters as usize;
            assert!(found.abs_diff(components) <= 1, "{components} components: {choice:?}");
            exact += usize::from(found == components);
        }
        assert!(exact >= 5, "{exact} of 6 exact");
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
        Evidence { clusters, latent, plane: None, stability: Some(stability), coherence: None }
    }

    #[test]
    fn groups_have_one_vote_each_and_the_margin_is_the_distance_to_the_next() {
        // Geometry ranks 0, ½, 1; stability ½, 0, 1.
        let choice = choose(&[evidence(2, 3.0, 0.8), evidence(3, 2.0, 0.9), evidence(4, 1.0, 0.1)]).expect("choice");
        assert_eq!(
            (choice.clusters, choice.margin, choice.scores),
            (2, 0.0, vec![0.25, 0.25, 1.0]),
            "fewest of equals"
        );
        let clear = choose(&[evidence(2, 1.0, 0.1), evidence(3, 3.0, 0.9)]).expect("choice");
        assert_eq!((clear.clusters, clear.margin), (3, 1.0));
        assert_eq!(choose(&[]), None);
        assert_eq!(choose(&[evidence(7, 1.0, 1.0)]).map(|only| (only.clusters, only.margin)), Some((7, 0.0)));
    }

    #[test]
    fn differences_in_stability_below_a_hundredth_do_not_count() {
        let choice = choose(&[evidence(2, 1.0, 0.999), evidence(3, 2.0, 0.997)]).expect("choice");
        assert_eq!(choice.scores, [0.75, 0.25]);
    }
}
