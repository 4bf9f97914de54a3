//! Other ways to cluster the same patches, beside the model.

use maud::html;

use crate::report::baselines::{BaselineResult, MeanDeviation};
use crate::report::chart::{figure, mean_and_deviation};
use crate::report::data::ReportData;
use crate::report::page::ReportSection;
use crate::report::page::absent;
use crate::report::sections::cluster_count::INDICES;
use crate::vectors::agreement::Agreement;
use crate::vectors::indices::{Indices, indices};
use crate::vectors::labels::Labels;

impl BaselineResult {
    /// The fitted model itself.
    pub(in crate::report) fn of_model(data: &ReportData<'_>) -> Self {
        let sampled: Vec<i64> = data.sample.iter().map(|&i| data.cluster(i) as i64).collect();
        // None where all sampled patches are in one cluster, which has no indices.
        let indices = indices(&data.sampled_latent, &[Labels::new(&sampled)]).ok().and_then(|all| Indices::mean(&all));
        let agreement = data.inputs.classes.map(|classes| {
            let found = Agreement::new(classes, &Labels::new(&data.inputs.fitted.assignment.cluster));
            [found.accuracy, found.nmi, found.ari].map(|mean| MeanDeviation { mean, deviation: None })
        });
        Self { method: "autoencoder with IMSAT".to_owned(), features: "latent".to_owned(), indices, agreement }
    }
}

pub(in crate::report) fn section(data: &ReportData<'_>) -> ReportSection {
    let model = BaselineResult::of_model(data);
    let others = data.inputs.comparison;
    let with_classes = model.agreement.is_some() || others.iter().any(|row| row.agreement.is_some());
    let number = |value: Option<f64>| value.map_or("–".to_owned(), figure);
    let row = |row: &BaselineResult, class: &str| {
        html! {
            tr class=(class) {
                th scope="row" { (row.method) }
                td { (row.features) }
                @for (_, _, value) in INDICES {
                    td class="n" { (number(row.indices.as_ref().map(value))) }
                }
                @if with_classes {
                    @for i in 0..3 {
                        td class="n" {
                            @match row.agreement.map(|agreement| agreement[i]) {
                                Some(MeanDeviation { mean, deviation: Some(sd) }) => (mean_and_deviation(mean, sd)),
                                Some(MeanDeviation { mean, deviation: None }) => (format!("{mean:.3}")),
                                None => "–",
                            }
                        }
                    }
                }
            }
        }
    };
    let body = html! {
        p {
            "Is the model better than simple methods? Indices are computed in the features of each method, "
            "so they compare methods on the same features; only agreement with known classes compares them all. "
            "For the model they are those of the " (data.sample.len()) " patches in the UMAP above."
        }
        div class="wide" {
            table {
                thead {
                    tr {
                        th scope="col" { "Method" } th scope="col" { "Features" }
                        @for (name, higher, _) in INDICES {
                            th scope="col" class="n" { (name) @if higher { " ↑" } @else { " ↓" } }
                        }
                        @if with_classes {
                            @for name in ["Accuracy ↑", "NMI ↑", "ARI ↑"] { th scope="col" class="n" { (name) } }
                        }
                    }
                }
                tbody {
                    (row(&model, "own"))
                    @for other in others { (row(other, "")) }
                }
            }
        }
        @if others.is_empty() {
            (absent("No other method was run on these patches."))
        }
        @if !with_classes {
            p class="note" {
                "Known classes (" code { "tissuemap-train report --labels FILE" } ") would add accuracy, NMI and ARI."
            }
        }
    };
    ReportSection { id: "baselines", title: "Baselines", body }
}
