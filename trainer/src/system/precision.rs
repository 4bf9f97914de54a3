//! The figures that compare two precisions of a model.

/// Two precisions of one model, compared on the same patches.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PrecisionAgreement {
    /// Patches compared.
    pub patches: usize,
    /// Fraction of them with the same most probable cluster.
    pub labels: f64,
    /// Largest difference of a probability.
    pub largest: f64,
    /// Mean absolute difference of all probabilities.
    pub mean: f64,
}

impl std::fmt::Display for PrecisionAgreement {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { patches, labels, largest, mean } = self;
        let percent = 100.0 * labels;
        write!(f, "same cluster for {percent:.2} % of {patches} held-out patches, ")?;
        write!(f, "probabilities off by {largest:.1e} at most, {mean:.1e} on average")
    }
}
