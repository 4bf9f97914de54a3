//! How large the clusters are, and of which clusters each section set is made.

use maud::{Markup, html};

use crate::report::chart::{percent, rgb, swatch};
use crate::report::data::ReportData;
use crate::report::page::ReportSection;

fn head(row: &str, bar: &str) -> Markup {
    html! { thead { tr { th scope="col" { (row) } th scope="col" { (bar) } th scope="col" class="n" { "Patches" } } } }
}

pub(in crate::report) fn section(data: &ReportData<'_>) -> ReportSection {
    let largest = (0..data.clusters().len()).map(|c| data.share(c)).fold(f64::MIN_POSITIVE, f64::max);
    let body = html! {
        h3 { "Cluster sizes" }
        table class="bars" {
            (head("Cluster", "Share of the training patches"))
            tbody {
                @for (c, cluster) in data.clusters().iter().enumerate() {
                    tr {
                        th scope="row" { (swatch(cluster.color)) (cluster.name) }
                        td class="track" {
                            @let width = 80.0 * data.share(c) / largest;
                            span class="bar" style=(format!("width:{width:.2}%;background:{}", rgb(cluster.color))) {}
                            span class="value" { (percent(data.share(c))) }
                        }
                        td class="n" { (data.size(c)) }
                    }
                }
            }
        }
        h3 { "Composition of each section set" }
        table class="bars" {
            (head("Section set", "Clusters, in their order"))
            tbody {
                @for (set, name) in data.inputs.patches.sets.iter().enumerate() {
                    @let total = data.set_size(set);
                    tr {
                        th scope="row" { (name) }
                        td class="stack" {
                            div {
                                @for (c, cluster) in data.clusters().iter().enumerate() {
                                    @let share = data.counts[set][c] as f64 / total.max(1) as f64;
                                    @if share > 0.0 {
                                        span title=(format!("{}: {}", cluster.name, percent(share)))
                                            style=(format!("width:{:.3}%;background:{}", 100.0 * share, rgb(cluster.color))) {
                                            @if share > 0.06 { (c + 1) }
                                        }
                                    }
                                }
                            }
                        }
                        td class="n" { (total) }
                    }
                }
            }
        }
        p class="note" {
            "As many patches are drawn from a small piece of tissue as from a large one; shares are of patches, not of area."
        }
    };
    ReportSection { id: "sizes", title: "Sizes and composition", body }
}
