//! Comparison with other methods: on any vectors ([`vectors`]), and on labelled images ([`benchmark`]).

pub mod benchmark;
pub mod colour;
pub mod vectors;
