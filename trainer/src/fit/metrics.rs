//! Figures of a running fit: a text for the progress bar, and a CSV table beside the model.

use std::fmt::Write as _;

/// Header of the metrics table. A field is empty if the phase does not have the term.
const HEADER: &str = "phase,epoch,loss,reconstruction,invariance,vat,view,conditional_entropy,marginal_entropy,held_out_reconstruction\n";

/// Means over the batches of one epoch.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct EpochMetrics {
    /// The minimised value.
    pub loss: f64,
    /// Mean squared difference in normalised units.
    pub reconstruction: Option<f64>,
    /// Difference between the latent vectors of two views ([`crate::model::invariance`]).
    pub invariance: Option<f64>,
    /// R_VAT, the divergence between two views (0 without), H(Y|X), H(Y), in nats.
    pub imsat: Option<[f64; 4]>,
    /// The reconstruction term on held-out patches after the epoch.
    pub held_out_reconstruction: Option<f64>,
}

impl EpochMetrics {
    /// The text for the progress bar.
    pub fn brief(&self) -> String {
        let mut text = format!("loss {:.4}", self.loss);
        if let Some(value) = self.reconstruction {
            let _ = write!(text, "  reconstruction {value:.4}");
        }
        if let Some(value) = self.held_out_reconstruction {
            let _ = write!(text, "  held-out {value:.4}");
        }
        if let Some(value) = self.invariance {
            let _ = write!(text, "  invariance {value:.4}");
        }
        if let Some([vat, view, conditional, marginal]) = self.imsat {
            let _ = write!(text, "  R_VAT {vat:.4}  views {view:.4}  H(Y|X) {conditional:.4}  H(Y) {marginal:.4}");
        }
        text
    }
}

/// The metrics table as CSV text.
#[derive(Debug, Clone, PartialEq)]
pub struct MetricsTable(String);

impl MetricsTable {
    /// A table without rows.
    pub fn new() -> Self {
        Self(HEADER.to_owned())
    }

    /// The table stored in a checkpoint; an empty table if the text is not such a table.
    pub fn restore(text: String) -> Self {
        if text.starts_with(HEADER) { Self(text) } else { Self::new() }
    }

    /// Adds an epoch (counted from 1 within its phase).
    pub fn push(&mut self, phase: &str, epoch: u32, metrics: &EpochMetrics) {
        let field = |value: Option<f64>| value.map(|v| format!("{v:.6}")).unwrap_or_default();
        let [vat, view, conditional, marginal] = metrics.imsat.map_or([None; 4], |terms| terms.map(Some));
        let fields = [
            phase.to_owned(),
            epoch.to_string(),
            field(Some(metrics.loss)),
            field(metrics.reconstruction),
            field(metrics.invariance),
            field(vat),
            field(view),
            field(conditional),
            field(marginal),
            field(metrics.held_out_reconstruction),
        ];
        self.0.push_str(&fields.join(","));
        self.0.push('\n');
    }

    /// The table as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Default for MetricsTable {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_has_as_many_fields_as_the_header() {
        let mut table = MetricsTable::new();
        table.push("autoencoder", 1, &EpochMetrics { loss: 0.5, reconstruction: Some(0.5), ..Default::default() });
        table.push(
            "clusterer",
            1,
            &EpochMetrics { loss: -0.5, imsat: Some([0.1, 0.0, 0.2, 0.3]), ..Default::default() },
        );
        let columns: Vec<usize> = table.as_str().lines().map(|line| line.split(',').count()).collect();
        assert_eq!(columns, [10, 10, 10]);
        assert_eq!(MetricsTable::restore(table.as_str().to_owned()), table);
    }
}
