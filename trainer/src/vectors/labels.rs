//! The cluster or class of each sample, numbered without gaps.

use std::collections::BTreeMap;

/// One label per sample: 0, 1, … each in use, in the order of the numbers they were given as.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Labels {
    of: Vec<u32>,
    sizes: Vec<usize>,
}

impl Labels {
    /// From any whole numbers; numbers that do not occur leave no gap.
    pub fn new(numbers: &[i64]) -> Self {
        let mut known: BTreeMap<i64, u32> = numbers.iter().map(|&number| (number, 0)).collect();
        known.values_mut().zip(0..).for_each(|(label, next)| *label = next);
        let of: Vec<u32> = numbers.iter().map(|number| known[number]).collect();
        let mut sizes = vec![0; known.len()];
        of.iter().for_each(|&label| sizes[label as usize] += 1);
        Self { of, sizes }
    }

    /// Number of samples.
    pub fn count(&self) -> usize {
        self.of.len()
    }

    /// Number of different labels.
    pub fn kinds(&self) -> usize {
        self.sizes.len()
    }

    /// Label of each sample.
    pub fn of(&self) -> &[u32] {
        &self.of
    }

    /// Samples per label; at least one each.
    pub fn sizes(&self) -> &[usize] {
        &self.sizes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_become_labels_without_gaps_in_their_order() {
        let labels = Labels::new(&[7, -2, 7, 40]);
        assert_eq!((labels.of(), labels.sizes()), ([1, 0, 1, 2].as_slice(), [1, 2, 1].as_slice()));
        assert_eq!(Labels::new(&[]).kinds(), 0);
    }
}
