//! Points in a vector space and their clusterings, without any network.
//!
//! [`points::Points`] are vectors, [`labels::Labels`] is the cluster or class of each. [`kmeans`] and [`mixture`] cluster points;
//! [`pca`] and [`umap`] reduce their dimensions. [`indices`] says how well a clustering fits its points, [`agreement`] how far
//! two labelings of the same samples agree.
//!
//! k-means and Gaussian mixtures are written here because `linfa-clustering` 0.8 would bring sixteen crates into the build (four of
//! linfa, sprs, kdtree, older versions of rand) and has no PCA for images.

pub mod agreement;
pub mod indices;
pub mod kmeans;
pub mod labels;
pub mod mixture;
pub mod pca;
pub mod points;
pub mod umap;
