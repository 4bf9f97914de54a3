//! What IMSAT has to beat: the customary clusterers and features, on the same samples.
//!
//! k-means and Gaussian mixtures are our own few lines rather than those of `linfa-clustering` 0.8, which would bring
//! sixteen crates into the build (linfa's own four, sprs, kdtree, older ones of rand) and still leave PCA of images to be
//! written.

pub mod colour;
pub mod kmeans;
pub mod mixture;
pub mod pca;
