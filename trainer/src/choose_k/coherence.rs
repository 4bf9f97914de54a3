//! Coherence: whether a label map shows regions or noise.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use crate::data::patch_neighbours::PatchNeighbours;
use crate::vectors::labels::Labels;

/// A label forms regions where this share of its neighbours has it, too. On four sets of planted slides .4 counted the same, .6 one
/// kind fewer on one of them.
const MOST: f64 = 0.5;

/// Cliff & Ord's join count of equal labels, over pairs of neighbours.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct JoinCount {
    /// Pairs of neighbours.
    pub pairs: usize,
    /// Share of them with equal labels.
    pub equal: f64,
    /// The share that labels shuffled over the same places would have on average: that of any two of them.
    pub expected: f64,
}

impl JoinCount {
    /// Of the labels of cells at different places (column, row), in any order, neighbours sharing an edge; cells without
    /// tissue are simply absent. None without any neighbouring pair.
    ///
    /// # Panics
    /// Where there are not as many places as labels.
    pub fn new(places: &[(u32, u32)], labels: &Labels) -> Option<Self> {
        assert_eq!(places.len(), labels.count(), "each cell has a place and a label");
        let at: HashMap<(u32, u32), usize> = places.iter().copied().zip(0..).collect();
        let right_and_below = |&(x, y): &(u32, u32)| [(x + 1, y), (x, y + 1)];
        let joins = places.iter().enumerate().flat_map(|(i, place)| {
            right_and_below(place).into_iter().filter_map(|other| at.get(&other)).map(move |&other| (i, other))
        });
        Self::of_pairs(&joins.collect::<Vec<_>>(), labels)
    }

    /// Over these pairs of samples; none without any.
    pub fn of_pairs(pairs: &[(usize, usize)], labels: &Labels) -> Option<Self> {
        let equal = pairs.iter().filter(|&&(a, b)| labels.of()[a] == labels.of()[b]).count();
        let cells = labels.count() as f64;
        let alike: f64 = labels.sizes().iter().map(|&size| size as f64 * (size as f64 - 1.0)).sum();
        let expected = alike / (cells * (cells - 1.0));
        (!pairs.is_empty()).then(|| Self { pairs: pairs.len(), equal: equal as f64 / pairs.len() as f64, expected })
    }

    /// (equal − expected) / (1 − expected), as Cohen's κ: 0 for labels thrown at random, 1 where neighbours are always
    /// equal. Comparable between numbers of clusters, which `equal` is not. 0 for a map of one label, which shows
    /// nothing.
    pub fn coherence(&self) -> f64 {
        if self.expected < 1.0 { (self.equal - self.expected) / (1.0 - self.expected) } else { 0.0 }
    }
}

/// How many kinds of region the labels form. A label forms regions where most of the neighbours of its patches have it, too.
/// One that does not lies along borders, or two share the same ground: the one with the smallest such share is given to
/// the label that most of its other neighbours have, until every label that is left forms regions. Labels whose patches have no
/// neighbours count.
pub fn regions(labels: &[i64], neighbours: &PatchNeighbours) -> u32 {
    let numbers: BTreeMap<i64, usize> = labels.iter().copied().collect::<BTreeSet<_>>().into_iter().zip(0..).collect();
    // How often a patch of the row's label has a neighbour of the column's.
    let mut joins = vec![vec![0_u64; numbers.len()]; numbers.len()];
    for (i, label) in labels.iter().enumerate() {
        for &j in neighbours.of(i) {
            joins[numbers[label]][numbers[&labels[j as usize]]] += 1;
        }
    }
    let mut left: Vec<usize> = (0..numbers.len()).collect();
    loop {
        let share = |&a: &usize| {
            let all: u64 = left.iter().map(|&b| joins[a][b]).sum();
            (all > 0).then(|| joins[a][a] as f64 / all as f64)
        };
        let shares = left.iter().filter_map(|a| Some((*a, share(a)?)));
        let weakest = shares.min_by(|(_, x), (_, y)| x.total_cmp(y)).filter(|(_, share)| *share < MOST);
        let Some((weak, _)) = weakest else { return left.len() as u32 };
        left.retain(|&label| label != weak);
        // Below a half, there is another label among the neighbours.
        let Some(&heir) = left.iter().max_by_key(|&&label| joins[weak][label]) else { return 1 };
        for &label in &left {
            joins[label][heir] += joins[label][weak];
        }
        let inherited: Vec<u64> = joins[weak].clone();
        joins[heir].iter_mut().zip(&inherited).for_each(|(own, more)| *own += more);
        joins[heir][heir] += inherited[weak];
    }
}

#[cfg(test)]
mod tests {
    use rand::seq::SliceRandom;
    use rand::{RngExt, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    use super::*;
    use crate::data::origin::Origin;

    fn grid(side: u32, label: impl Fn(u32, u32) -> i64) -> (Vec<(u32, u32)>, Labels) {
        let places: Vec<(u32, u32)> = (0..side * side).map(|i| (i % side, i / side)).collect();
        let labels: Vec<i64> = places.iter().map(|&(x, y)| label(x, y)).collect();
        (places, Labels::new(&labels))
    }

    #[test]
    fn counts_equal_hand_counted_ones() {
        // a a b
        // a . b . b    3 of 4 pairs are equal; 3 cells each of a and b: expected 2·3·2 / (6·5).
        let places = [(0, 0), (1, 0), (2, 0), (0, 1), (2, 1), (4, 1)];
        let found = JoinCount::new(&places, &Labels::new(&[0, 0, 1, 0, 1, 1])).expect("pairs");
        assert_eq!((found.pairs, found.equal, found.expected), (4, 0.75, 0.4));
        assert!((found.coherence() - 0.35 / 0.6).abs() < 1e-12);
        assert_eq!(JoinCount::new(&places[4..], &Labels::new(&[0, 1])), None);
    }

    #[test]
    fn what_lies_along_borders_forms_no_region() {
        let origins: Vec<Origin> = (0..900).map(|i| Origin { set: 0, x: i % 30, y: i / 30 }).collect();
        let neighbours = PatchNeighbours::new(&origins, 1);
        // Three stripes; the label of the borders between them takes parts of a column; another is strewn.
        let label = |o: &Origin| match (o.x, o.y) {
            (x, y) if x % 7 == 3 && y % 5 == 0 => 4,
            (10 | 20, y) if y % 2 == 0 => 3,
            (x, _) => x / 11,
        };
        let labels: Vec<i64> = origins.iter().map(label).collect();
        assert_eq!(Labels::new(&labels).kinds(), 5);
        assert_eq!(regions(&labels, &neighbours), 3);
        let apart: Vec<Origin> = (0..900).map(|i| Origin { set: i, x: 0, y: 0 }).collect();
        assert_eq!(regions(&labels, &PatchNeighbours::new(&apart, 1)), 5, "nothing speaks against them");
    }

    #[test]
    fn labels_that_share_a_ground_are_one_kind() {
        let origins: Vec<Origin> = (0..900).map(|i| Origin { set: 0, x: i % 30, y: i / 30 }).collect();
        let neighbours = PatchNeighbours::new(&origins, 1);
        // Two halves: a chessboard of two labels, and three labels that take turns.
        let label = |o: &Origin| if o.x < 15 { (o.x + o.y) % 2 } else { 2 + (o.x + o.y) % 3 };
        let labels: Vec<i64> = origins.iter().map(label).collect();
        assert_eq!(Labels::new(&labels).kinds(), 5);
        assert_eq!(regions(&labels, &neighbours), 2);
    }

    #[test]
    fn regions_are_coherent_noise_is_not_and_a_chessboard_is_the_opposite() {
        let coherence =
            |(places, labels): (Vec<_>, Labels)| JoinCount::new(&places, &labels).expect("pairs").coherence();
        assert!(coherence(grid(30, |x, y| i64::from(x / 10 + 3 * (y / 10)))) > 0.85);
        assert!(coherence(grid(30, |x, y| i64::from((x + y) % 2))) < -0.99);
        assert_eq!(coherence(grid(5, |_, _| 0)), 0.0);
        let (places, _) = grid(30, |_, _| 0);
        let mut generator = ChaCha8Rng::seed_from_u64(1);
        let noise: Vec<i64> = places.iter().map(|_| generator.random_range(0..5)).collect();
        assert!(coherence((places, Labels::new(&noise))).abs() < 0.05);
    }

    #[test]
    fn the_expectation_is_the_mean_over_shuffled_labels() {
        let (places, labels) = grid(6, |x, _| i64::from(x / 4));
        let mut numbers: Vec<i64> = labels.of().iter().map(|&label| i64::from(label)).collect();
        let mut generator = ChaCha8Rng::seed_from_u64(1);
        let draws = 4000;
        let total: f64 = (0..draws)
            .map(|_| {
                numbers.shuffle(&mut generator);
                JoinCount::new(&places, &Labels::new(&numbers)).expect("pairs").equal
            })
            .sum();
        let expected = JoinCount::new(&places, &labels).expect("pairs").expected;
        assert!((total / f64::from(draws) - expected).abs() < 0.005, "{total} {expected}");
    }
}
