//! The latent vectors on which clusterers are trained.

use tch::{Device, Tensor};

/// The latent vectors of all training patches.
pub(crate) struct Latents {
    /// Of the patches as they are, `[N, D]`.
    pub(crate) values: Tensor,
    /// The perturbation's radius for each, `[N]`.
    pub(crate) radius: Tensor,
    /// Of other views of them; empty where views do not differ, or where the encoder still moves.
    pub(crate) views: Vec<Tensor>,
}

impl Latents {
    /// The same on another device.
    pub(crate) fn to_device(&self, device: Device) -> Self {
        let there = |tensor: &Tensor| tensor.to_device(device);
        Self { values: there(&self.values), radius: there(&self.radius), views: self.views.iter().map(there).collect() }
    }
}
