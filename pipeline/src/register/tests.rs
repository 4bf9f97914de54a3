//! Whole registrations of synthetic sections, and the derivative of the distance.
