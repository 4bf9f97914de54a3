//! The number of clusters K.
//!
//! [`sweep`](mod@sweep) fits clusterers with every candidate number ([`clusterings`]) and collects the evidence for each, [`choice`]
//! chooses, [`table`] keeps the result. [`coherence`] says whether a label map shows regions or noise.

pub mod choice;
pub mod clusterings;
pub mod coherence;
pub mod sweep;
pub mod table;
