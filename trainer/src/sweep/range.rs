//! Candidates for the number of clusters.

use std::ops::RangeInclusive;

use serde::{Deserialize, Serialize};

use crate::evaluate::range;

/// From the first to the last, written `2-20`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ClusterRange {
    /// At least 2.
    pub first: u32,
    /// At least `first`.
    pub last: u32,
}

impl ClusterRange {
    /// All candidates in rising order.
    pub fn all(self) -> RangeInclusive<u32> {
        self.first..=self.last
    }
}

impl TryFrom<String> for ClusterRange {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let (first, last) = range(&text)?.into_inner();
        Ok(Self { first, last })
    }
}

impl From<ClusterRange> for String {
    fn from(range: ClusterRange) -> Self {
        format!("{}-{}", range.first, range.last)
    }
}
