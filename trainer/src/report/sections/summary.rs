//! The summary: key figures and warnings.

use maud::html;

use crate::report::data::ReportData;
use crate::report::page::ReportSection;
use crate::report::sections::batch::BatchEffect;
use crate::report::sections::cluster_count;
use crate::report::sections::reconstruction::Reconstruction;

pub(in crate::report) fn section(
    data: &ReportData<'_>,
    reconstruction: &Reconstruction,
    batch: Option<&BatchEffect>,
    warnings: &[String],
) -> ReportSection {
    let (inputs, contract) = (data.inputs, data.inputs.contract);
    let stains = contract.stains.iter().map(|stain| stain.name.as_str()).collect::<Vec<_>>().join(", ");
    let sets = inputs.patches.sets.len();
    let patches = inputs.patches.train.count() + inputs.patches.held_out.count();
    let tile = |value: String, name: &str, note: String| {
        html! { div { dd { (value) } dt { (name) } p { (note) } } }
    };
    let body = html! {
        dl class="tiles" {
            (tile(contract.clusters.len().to_string(), "clusters", cluster_count::in_words(data)))
            (tile(sets.to_string(), if sets == 1 { "section set" } else { "section sets" },
                format!("reference stain {}", contract.reference)))
            (tile(contract.stains.len().to_string(), if contract.stains.len() == 1 { "stain" } else { "stains" }, stains))
            (tile(patches.to_string(), "patches", format!("{} of them held out", inputs.patches.held_out.count())))
            (tile(reconstruction.ssim().map_or("–".to_owned(), |v| format!("{v:.3}")), "SSIM",
                "of held-out patches, mean of stains".to_owned()))
            (tile(batch.map_or("–".to_owned(), |effect| format!("{:.3}", effect.nmi)), "NMI with sets",
                if batch.is_some() { "0: no batch effect" } else { "one set only" }.to_owned()))
        }
        @if warnings.is_empty() {
            p class="good" { "No problems were found." }
        } @else {
            div class="warnings" role="note" {
                h3 { "Before you use this model" }
                ul { @for warning in warnings { li { (warning) } } }
            }
        }
        p class="note" {
            "Seed " (inputs.config.seed) " · tissuemap-train " (env!("CARGO_PKG_VERSION")) " · model SHA-256 "
            span class="hash" { (inputs.sha256.get(..16).unwrap_or(inputs.sha256)) "…" }
        }
    };
    ReportSection { id: "summary", title: "Summary", body }
}
