//! How the training went, what it was asked to do, and with what.

use maud::{Markup, html};

use crate::report::chart::{LineChart, Series, figure, legend};
use crate::report::data::ReportData;
use crate::report::page::ReportSection;
use crate::report::page::absent;

/// Columns of the metrics table with their names in legends.
const HELD_OUT: (&str, &str) = ("held_out_reconstruction", "held out");
const MARGINAL: (&str, &str) = ("marginal_entropy", "H(Y), high: clusters equally full");
const CONDITIONAL: (&str, &str) = ("conditional_entropy", "H(Y|X), low: certain");
const FIRST: [u8; 3] = [0, 114, 178];
const SECOND: [u8; 3] = [213, 94, 0];
/// By so much the held-out error may end above its lowest, and above the training error, before that is called
/// overfitting.
const RISE: f64 = 1.05;
const APART: f64 = 1.3;

/// The metrics table, column by column; epochs of all phases in one row.
#[derive(Debug, Default, PartialEq)]
pub(in crate::report) struct TrainingCurves {
    /// Name of each phase with its number of epochs, in order.
    phases: Vec<(String, usize)>,
    /// Name, and a value for each epoch; none where the phase has no such term.
    columns: Vec<(String, Vec<Option<f64>>)>,
}

impl TrainingCurves {
    /// Of a metrics table (CSV with a header). Lines that are no rows of it are left out.
    pub(in crate::report) fn read(table: &str) -> Self {
        let mut reader = csv::Reader::from_reader(table.as_bytes());
        let header: Vec<String> =
            reader.headers().map(|names| names.iter().map(str::to_owned).collect()).unwrap_or_default();
        let columns = header.iter().map(|name| (name.clone(), Vec::new())).collect();
        let mut curves = Self { phases: Vec::new(), columns };
        for row in reader.records().flatten() {
            let phase = header.iter().position(|name| name == "phase").and_then(|at| row.get(at)).unwrap_or_default();
            match curves.phases.last_mut() {
                Some((last, epochs)) if last == phase => *epochs += 1,
                _ => curves.phases.push((phase.to_owned(), 1)),
            }
            for ((_, values), field) in curves.columns.iter_mut().zip(row.iter()) {
                values.push(field.parse().ok());
            }
        }
        curves
    }

    /// Empty where the table has no such column.
    fn points(&self, column: &str) -> Vec<(f64, f64)> {
        let values = self.columns.iter().filter(|(name, _)| name == column).flat_map(|(_, values)| values);
        (1..).zip(values).filter_map(|(epoch, value)| Some((f64::from(epoch), (*value)?))).collect()
    }

    /// One line for each phase that has values: none leads across a phase without them, nor from one kind of loss to
    /// another.
    fn series<'a>(&self, column: &str, name: &'a str, color: [u8; 3]) -> Vec<Series<'a>> {
        let mut end = 0.0;
        let ends: Vec<f64> = self
            .phases
            .iter()
            .map(|&(_, epochs)| {
                end += epochs as f64;
                end
            })
            .collect();
        let phase = |epoch: f64| ends.iter().position(|&end| epoch <= end);
        let points = self.points(column);
        let of_phases = points.chunk_by(|a, b| phase(a.0) == phase(b.0));
        of_phases.map(|points| Series { name, color, dashed: false, points: points.to_vec() }).collect()
    }

    fn chart(&self, title: &str, lines: &[(&str, &'static str)]) -> Markup {
        let named = lines.iter().zip([FIRST, SECOND]);
        let series: Vec<Series> =
            named.clone().flat_map(|(&(column, name), color)| self.series(column, name, color)).collect();
        if series.is_empty() {
            return html! {};
        }
        let mut begin = 0.5;
        let bands = self.phases.iter().map(|(name, epochs)| {
            let from = begin;
            begin += *epochs as f64;
            (from, begin, name.as_str())
        });
        let bands = bands.collect();
        let alt = format!("{title} by epoch");
        let chart = LineChart { alt, x_label: "epoch", series, bands, marker: None, aspect: 0.55 }.draw();
        html! {
            figure class="small" {
                figcaption { b { (title) } }
                (chart)
                @if lines.len() > 1 {
                    (legend(&named.map(|(&(_, name), color)| (name, color)).collect::<Vec<_>>()))
                }
            }
        }
    }

    /// Whether held-out patches got worse while the training ones got better.
    pub(in crate::report) fn warnings(&self) -> Vec<String> {
        let held_out = self.points("held_out_reconstruction");
        let (Some(&(epoch, last)), Some(&(_, trained))) = (held_out.last(), self.points("reconstruction").last())
        else {
            return Vec::new();
        };
        let (best_epoch, best) = held_out.iter().fold((epoch, last), |a, &b| if b.1 < a.1 { b } else { a });
        let mut warnings = Vec::new();
        if last > RISE * best {
            warnings.push(format!(
                "The autoencoder overfits: the error on held-out patches was {} in epoch {best_epoch} and ended at {}.",
                figure(best),
                figure(last)
            ));
        } else if last > APART * trained {
            warnings.push(format!(
                "The autoencoder overfits: its error is {} on held-out patches, {} on those it was trained on.",
                figure(last),
                figure(trained)
            ));
        }
        warnings
    }
}

pub(in crate::report) fn section(data: &ReportData<'_>, curves: &TrainingCurves) -> ReportSection {
    let inputs = data.inputs;
    let configuration = toml::to_string(inputs.config).unwrap_or_default();
    let program = inputs.contract.training.get("program").and_then(|value| value.as_str()).unwrap_or("unknown");
    let (assignment, contract, patches) = (&inputs.fitted.assignment, inputs.contract, inputs.patches);
    let entropies = [assignment.conditional_entropy, assignment.marginal_entropy, (assignment.sizes.len() as f64).ln()];
    let (px, mpp, stride) = (contract.patch_px, contract.mpp.get(), contract.stride_px);
    let facts = [
        ("Section sets", patches.sets.join(", ")),
        ("Stains, in their order", contract.stains.iter().map(|s| s.name.as_str()).collect::<Vec<_>>().join(", ")),
        ("Reference stain", contract.reference.clone()),
        ("Patches", format!("{} trained on, {} held out", patches.train.count(), patches.held_out.count())),
        ("Patch", format!("{px} px, each {mpp} µm wide; a map cell every {stride} px")),
        ("Latent values", contract.latent_dim.to_string()),
        ("H(Y|X), H(Y), ln K", format!("{} nats", entropies.map(figure).join(", "))),
        ("Novelty threshold", contract.novelty_threshold.map_or("none".to_owned(), |v| figure(f64::from(v)))),
        ("Trained by", program.to_owned()),
        ("Report by", concat!("tissuemap-train ", env!("CARGO_PKG_VERSION")).to_owned()),
        ("Model contract", format!("version {}", contract.version)),
    ];
    let body = html! {
        @if curves.phases.is_empty() {
            (absent("The table of metrics is not there: curves cannot be drawn."))
        }
        div class="multiples two" {
            (curves.chart("Reconstruction error", &[("reconstruction", "training"), HELD_OUT]))
            (curves.chart("Loss (of another kind in each phase)", &[("loss", "loss")]))
            (curves.chart("Entropies, nats", &[MARGINAL, CONDITIONAL]))
            (curves.chart("R_VAT, nats", &[("vat", "R_VAT")]))
        }
        h3 { "Data and model" }
        dl class="record" {
            @for (name, value) in &facts { div { dt { (name) } dd { (value) } } }
            div { dt { "SHA-256 of the model" } dd class="hash" { (inputs.sha256) } }
        }
        details {
            summary { "The whole configuration" }
            pre { (configuration) }
        }
        p class="note" {
            "Autoencoder and clusterer (IMSAT, "
            (crate::report::page::cite("Hu et al. 2017", "10.48550/arXiv.1702.08720"))
            ") are explained in the README of tissuemap-train, with the terms of these charts."
        }
    };
    ReportSection { id: "training", title: "Training and parameters", body }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEADER: &str = "phase,epoch,loss,reconstruction,held_out_reconstruction";

    #[test]
    fn phases_follow_each_other_and_gaps_stay_gaps() {
        let table = format!("{HEADER}\na,1,3,0.9,0.95\na,2,2,0.8,0.85\nb,1,1,,\nc,1,0.5,0.7,0.8\n");
        let curves = TrainingCurves::read(&table);
        assert_eq!(curves.phases, [("a".to_owned(), 2), ("b".to_owned(), 1), ("c".to_owned(), 1)]);
        assert_eq!(curves.points("reconstruction"), [(1.0, 0.9), (2.0, 0.8), (4.0, 0.7)]);
        let lines = curves.series("reconstruction", "training", FIRST);
        assert_eq!(lines.iter().map(|line| line.points.len()).collect::<Vec<_>>(), [2, 1]);
        let lines = curves.series("loss", "loss", FIRST);
        assert_eq!(lines.iter().map(|line| line.points.len()).collect::<Vec<_>>(), [2, 1, 1], "one for each phase");
        assert!(curves.points("absent").is_empty() && curves.warnings().is_empty());
        assert_eq!(TrainingCurves::read(""), TrainingCurves::default());
    }

    #[test]
    fn overfitting_is_told_by_a_rise_or_a_distance() {
        let table = |rows: &[(f64, f64)]| {
            let rows = rows.iter().enumerate().map(|(i, (a, b))| format!("a,{},{a},{a},{b}\n", i + 1));
            TrainingCurves::read(&format!("{HEADER}\n{}", rows.collect::<String>())).warnings()
        };
        assert!(table(&[(0.9, 0.9), (0.6, 0.62), (0.5, 0.7)])[0].contains("was 0.620 in epoch 2 and ended at 0.700"));
        assert!(table(&[(0.9, 0.9), (0.3, 0.5)])[0].contains("0.500 on held-out patches, 0.300 on those"));
        assert_eq!(table(&[(0.9, 0.9), (0.6, 0.62), (0.59, 0.63)]), Vec::<String>::new());
    }
}
