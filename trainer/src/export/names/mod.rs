//! Names and colours of clusters: the [`file`] that people write, or the [`proposal`] made from [`annotations`] that lie over maps of
//! the same model ([`overlap`]).

pub mod annotations;
pub mod file;
pub mod overlap;
pub mod proposal;
