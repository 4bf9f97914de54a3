//! What the networks and their losses are told by the configuration.

/// The shape of an autoencoder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shape {
    /// Planes of a patch: 3 per stain.
    pub channels: i64,
    /// Side of a patch in pixels; divisible by 2^`widths.len()`.
    pub patch_px: i64,
    /// Output channels of the encoder's convolutions, first to last.
    pub widths: Vec<i64>,
    /// Values per latent vector.
    pub latent_dim: i64,
}

impl Shape {
    /// Side of the innermost feature map in pixels.
    pub fn inner_px(&self) -> i64 {
        self.patch_px >> self.widths.len()
    }

    /// Channels of the innermost feature map.
    pub fn inner_channels(&self) -> i64 {
        self.widths.last().copied().unwrap_or(self.channels)
    }

    pub(crate) fn inner_len(&self) -> i64 {
        self.inner_channels() * self.inner_px() * self.inner_px()
    }
}

/// Weights of the loss and the perturbation's settings.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Weights {
    /// λ: weight of the mutual information against R_VAT.
    pub lambda: f64,
    /// μ: weight of the marginal entropy within the mutual information.
    pub mu: f64,
    /// ξ: length of the probe with which the adversarial direction is found.
    pub xi: f64,
    /// Weight of the divergence between views against R_VAT; 0: other views have no say.
    pub view: f64,
}
