//! The parts of the configuration that networks and losses use.

/// The shape of an autoencoder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AutoencoderShape {
    /// Planes of a patch: 3 per stain.
    pub channels: i64,
    /// Side of a patch in pixels; divisible by 2^`widths.len()`.
    pub patch_px: i64,
    /// Output channels of the encoder's convolutions, first to last.
    pub widths: Vec<i64>,
    /// Values per latent vector.
    pub latent_dim: i64,
}

impl AutoencoderShape {
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

/// Weights of the IMSAT loss and the settings of its perturbation.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LossWeights {
    /// λ: weight of the mutual information against R_VAT.
    pub lambda: f64,
    /// μ: weight of the marginal entropy within the mutual information.
    pub mu: f64,
    /// ξ: length of the probe that finds the adversarial direction.
    pub xi: f64,
    /// Weight of the divergence between views against R_VAT; 0: views are not compared.
    pub view: f64,
}
