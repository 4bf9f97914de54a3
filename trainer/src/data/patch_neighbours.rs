//! Neighbouring patches. Tissue rarely changes within the width of a patch, so most neighbours show the same kind of tissue.

use std::collections::HashMap;

use rand::RngExt;
use rand::seq::IndexedRandom;
use rand_chacha::ChaCha8Rng;

use crate::data::origin::Origin;

/// The neighbours of every patch: those of the same section set that were cut at most a radius away.
#[derive(Debug)]
pub struct PatchNeighbours {
    /// Neighbours of patch `i` are `all[starts[i]..starts[i + 1]]`.
    starts: Vec<usize>,
    all: Vec<u32>,
}

impl PatchNeighbours {
    /// Of patches cut at `origins`; `radius` in model pixels, at least 1, between top-left corners.
    pub fn new(origins: &[Origin], radius: i64) -> Self {
        let square = |o: &Origin| (o.set, o.x.div_euclid(radius), o.y.div_euclid(radius));
        let mut squares: HashMap<_, Vec<u32>> = HashMap::new();
        for (i, origin) in (0u32..).zip(origins) {
            squares.entry(square(origin)).or_default().push(i);
        }
        let mut starts = vec![0];
        let mut all = Vec::new();
        for (i, here) in (0u32..).zip(origins) {
            let (set, col, row) = square(here);
            for (dx, dy) in (-1..=1).flat_map(|dy| (-1..=1).map(move |dx| (dx, dy))) {
                let near = squares.get(&(set, col + dx, row + dy)).into_iter().flatten().copied();
                all.extend(near.filter(|&j| {
                    let there = &origins[j as usize];
                    j != i && (there.x - here.x).pow(2) + (there.y - here.y).pow(2) <= radius * radius
                }));
            }
            starts.push(all.len());
        }
        Self { starts, all }
    }

    /// The neighbours of patch `index`.
    pub fn of(&self, index: usize) -> &[u32] {
        &self.all[self.starts[index]..self.starts[index + 1]]
    }

    /// A patch that should be in the same cluster as patch `index`: with the given probability a random neighbour, if it has one, otherwise
    /// the patch itself.
    pub fn partner(&self, index: i64, probability: f64, generator: &mut ChaCha8Rng) -> i64 {
        if generator.random::<f64>() >= probability {
            return index;
        }
        self.of(index as usize).choose(generator).map_or(index, |&neighbour| i64::from(neighbour))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use rand::SeedableRng;

    proptest! {
        #[test]
        fn neighbours_are_exactly_the_other_patches_of_the_set_within_the_radius(
            places in prop::collection::vec((0u32..3, -300i64..300, -300i64..300), 1..60), radius in 1i64..120,
        ) {
            let origins: Vec<Origin> = places.iter().map(|&(set, x, y)| Origin { set, x, y }).collect();
            let neighbours = PatchNeighbours::new(&origins, radius);
            for (i, a) in origins.iter().enumerate() {
                let mut found = neighbours.of(i).to_vec();
                found.sort_unstable();
                let within = |b: &Origin| a.set == b.set && (a.x - b.x).pow(2) + (a.y - b.y).pow(2) <= radius * radius;
                let expected: Vec<u32> = (0u32..).zip(&origins).filter(|&(j, b)| j as usize != i && within(b)).map(|(j, _)| j).collect();
                prop_assert_eq!(found, expected);
            }
        }
    }

    #[test]
    fn partners_are_neighbours_with_the_given_probability_and_lonely_patches_are_their_own() {
        let at = |set, x| Origin { set, x, y: 0 };
        let neighbours = PatchNeighbours::new(&[at(0, 0), at(0, 50), at(0, 90), at(1, 0)], 60);
        let mut generator = ChaCha8Rng::seed_from_u64(1);
        let mut draw = |index, probability| neighbours.partner(index, probability, &mut generator);
        assert!((0..50).all(|_| draw(0, 0.0) == 0 && draw(0, 1.0) == 1 && draw(3, 1.0) == 3));
        let own = (0..1000).filter(|_| draw(1, 0.5) == 1).count();
        assert!((450..550).contains(&own), "{own}");
    }
}
