//! Candidates for the number of clusters.

use std::ops::RangeInclusive;

use serde::{Deserialize, Serialize};

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
        let (first, last) = cluster_range(&text)?.into_inner();
        Ok(Self { first, last })
    }
}

impl From<ClusterRange> for String {
    fn from(range: ClusterRange) -> Self {
        format!("{}-{}", range.first, range.last)
    }
}

/// Reads one number, `7`, or the first and the last, `2-20`.
///
/// # Errors
/// What a range must look like.
pub fn cluster_range(text: &str) -> Result<RangeInclusive<u32>, String> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    match (first.trim().parse(), last.trim().parse()) {
        (Ok(first), Ok(last)) if 2 <= first && first <= last => Ok(first..=last),
        _ => Err("give a number from 2, or two of them in rising order, as in 2-20".to_owned()),
    }
}
