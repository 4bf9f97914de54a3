//! Slides.
mod openslide_ffi;
pub use openslide_ffi::load as load_openslide;
