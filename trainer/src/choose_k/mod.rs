//! The number of clusters K.
//!
//! [`sweep`](mod@sweep) fits clusterers with every candidate number ([`candidate_fits`]) and collects the evidence for each, [`choice`]
//! chooses, [`table`] keeps the result. [`coherence`] says whether a label map shows regions or noise.

pub mod candidate_fits;
pub mod choice;
pub mod coherence;
pub mod sweep;
pub mod table;
