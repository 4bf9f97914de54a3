//! Other ways to cluster the same patches, beside the model.

use maud::html;

use crate::report::baselines::{Method, Spread};
use crate::report::chart::{figure, mean_and_deviation};
use crate::report::page::Section;
use crate::report::page::absent;
use crate::report::sections::number::INDICES;
use crate::report::view::View;
use crate::vectors::agreement::Agreement;
use crate::vectors::indices::{Indices, indices};
use crate::vectors::labels::Labels;

impl Method {
    /// The fitted model itself.
    pub(in crate::report) fn of_model(view: &View<'_>) -> Self {
        let sampled: Vec<i64> = view.sample.iter().map(|&i| view.cluster(i) as i64).collect();
        // None where all sampled patches are in one cluster, which has no indices.
        let indices = indices(&view.sampled_latent, &[Labels::new(&sampled)]).ok().and_then(|all| Indices::mean(&all));
        let agreement = view.inputs.classes.map(|classes| {
            let found = Agreement::new(classes, &Labels::new(&view.inputs.fitted.assignment.cluster));
            [found.accuracy, found.nmi, found.ari].map(|mean| Spread { mean, deviation: None })
        });
        Self { method: "autoencoder with IMSAT".to_owned(), features: "latent".to_owned(), indices, agreement }
    }
}

pub(in crate::report) fn section(view: &View<'_>) -> Section {
    let model = Method::of_model(view);
    let others = view.inputs.comparison;
    let with_classes = model.agreement.is_some() || others.iter().any(|row| row.agreement.is_some());
    let number = |value: Option<f64>| value.map_or("–".to_owned(), figure);
    let row = |row: &Method, class: &str| {
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
                                Some(Spread { mean, deviation: Some(sd) }) => (mean_and_deviation(mean, sd)),
                                Some(Spread { mean, deviation: None }) => (format!("{mean:.3}")),
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
            "Does the model find more than simple means would? Indices are computed in the features that a method clusters, "
            "so they compare methods on the same features; only agreement with known classes compares them all. "
            "For the model they are those of the " (view.sample.len()) " patches in the plane above."
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
    Section { id: "baselines", title: "Baselines", body }
}
