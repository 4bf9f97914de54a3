//! The latent vectors on which clusterers are trained.

use tch::{Device, Tensor};

/// The latent vectors of all training patches.
pub(crate) struct Latents {
    /// Latent vectors of the patches without augmentation, `[N, D]`.
    pub(crate) values: Tensor,
    /// Radius of the perturbation for each, `[N]`.
    pub(crate) radius: Tensor,
    /// Latent vectors of other views; empty if views are not used, or while the encoder is trained.
    pub(crate) views: Vec<Tensor>,
}

impl Latents {
    /// Copies to another device.
    pub(crate) fn to_device(&self, device: Device) -> Self {
        let there = |tensor: &Tensor| tensor.to_device(device);
        Self { values: there(&self.values), radius: there(&self.radius), views: self.views.iter().map(there).collect() }
    }
}
