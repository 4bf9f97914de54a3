//! How many clusters: what the sweep over their number found.

use maud::{Markup, html};

use crate::choose_k::choice::{Choice, ChoiceRule, Evidence};
use crate::report::chart::{LineChart, Series, figure};
use crate::report::data::ReportData;
use crate::report::page::ReportSection;
use crate::report::page::{absent, cite};
use crate::vectors::indices::Indices;

/// With a smaller margin of rank between the best two numbers of clusters, a few other patches could turn the choice. By
/// likelihood, any margin lies beyond a standard error already.
const CLEAR_MARGIN: f64 = 0.05;

const INK: [u8; 3] = [0, 90, 140];

/// Name, whether higher is better, value.
type IndexFigure = (&'static str, bool, fn(&Indices) -> f64);

pub(in crate::report) const INDICES: [IndexFigure; 6] = [
    ("Silhouette", true, |i| i.silhouette),
    ("Davies–Bouldin", false, |i| i.davies_bouldin),
    ("Caliński–Harabasz", true, |i| i.calinski_harabasz),
    ("Dunn", true, |i| i.dunn),
    ("Generalised Dunn", true, |i| i.generalised_dunn),
    ("Xie–Beni", false, |i| i.xie_beni),
];

/// How K came about, for the summary.
pub(in crate::report) fn in_words(data: &ReportData<'_>) -> String {
    let fitted = data.inputs.config.clusters;
    match data.inputs.sweep {
        None => "set in the configuration".to_owned(),
        Some((_, choice)) if choice.clusters == fitted => format!("by the sweep, margin {}", figure(choice.margin)),
        Some((_, choice)) => format!("set by hand; the sweep says {}", choice.clusters),
    }
}

pub(in crate::report) fn warnings(data: &ReportData<'_>) -> Vec<String> {
    let Some((evidence, choice)) = data.inputs.sweep else { return Vec::new() };
    let mut warnings = Vec::new();
    let unclear = match choice.rule {
        ChoiceRule::Rank => choice.margin < CLEAR_MARGIN,
        ChoiceRule::Likelihood => choice.margin == 0.0,
    };
    if let (true, Some(next)) = (unclear, next_best(evidence, choice)) {
        warnings.push(format!(
            "The number of clusters is unclear: {} and {next} score almost the same (margin {}).",
            choice.clusters,
            figure(choice.margin)
        ));
    }
    if choice.clusters != data.inputs.config.clusters {
        warnings.push(format!(
            "The model has {} clusters, the sweep over their number says {}.",
            data.inputs.config.clusters, choice.clusters
        ));
    }
    warnings
}

/// The number of clusters that would be chosen were it not for the one that is.
fn next_best(evidence: &[Evidence], choice: &Choice) -> Option<u32> {
    let others = evidence.iter().zip(&choice.scores).filter(|(e, _)| e.clusters != choice.clusters);
    others.min_by(|a, b| a.1.total_cmp(b.1)).map(|(e, _)| e.clusters)
}

pub(in crate::report) fn section(data: &ReportData<'_>) -> ReportSection {
    let body = match data.inputs.sweep {
        Some((evidence, choice)) if !evidence.is_empty() => found(evidence, choice),
        _ => absent(html! {
            "No sweep over the number of clusters was run; the number is that of the configuration. "
            code { "tissuemap-train sweep" }
            " fits several numbers with several seeds each and keeps what it found beside the model."
        }),
    };
    ReportSection { id: "number", title: "Number of clusters", body }
}

fn better(higher: bool) -> &'static str {
    if higher { "higher is better" } else { "lower is better" }
}

fn found(evidence: &[Evidence], choice: &Choice) -> Markup {
    let chart = |name: &str, note: &str, value: &dyn Fn(usize, &Evidence) -> Option<f64>| {
        let points = evidence.iter().enumerate();
        let points: Vec<(f64, f64)> = points.filter_map(|(i, e)| Some((f64::from(e.clusters), value(i, e)?))).collect();
        let series = vec![Series { name: "K", color: INK, dashed: false, points }];
        let alt = format!("{name} over the number of clusters");
        let marker = Some(f64::from(choice.clusters));
        let picture = LineChart { alt, x_label: "clusters", series, bands: Vec::new(), marker, aspect: 0.62 }.draw();
        html! { figure class="small" { figcaption { b { (name) } " " span class="note" { (note) } } (picture) } }
    };
    let (first, last) = (evidence[0].clusters, evidence[evidence.len() - 1].clusters);
    html! {
        p {
            b { (choice.clusters) " clusters" } " are best among " (first) " to " (last)
            @if let Some(next) = next_best(evidence, choice) {
                "; the next best are " (next) ", behind by a margin of " (figure(choice.margin))
            }
            ". The dashed line marks the choice in every chart. No single index is reliable: each prefers certain shapes of "
            "clusters. Values are means over seeds."
        }
        div class="multiples" {
            (chart("Score", "decides the choice; lower is better", &|i, _| choice.scores.get(i).copied()))
            @if evidence.iter().any(|e| e.bic.is_some()) {
                (chart("BIC", "of mixtures with so many components; lower is better", &|_, e| e.bic))
            }
            @if evidence.iter().any(|e| e.stability.is_some()) {
                (chart("Stability", "ARI between seeds; higher is better", &|_, e| e.stability))
            }
            @if evidence.iter().any(|e| e.coherence.is_some()) {
                (chart("Spatial coherence", "higher is better", &|_, e| e.coherence))
            }
        }
        h3 { "In the latent space" }
        div class="multiples" {
            @for (name, higher, value) in INDICES { (chart(name, better(higher), &|_, e| Some(value(&e.latent)))) }
        }
        @if evidence.iter().any(|e| e.umap.is_some()) {
            h3 { "On the UMAP coordinates" }
            div class="multiples" {
                @for (name, higher, value) in INDICES {
                    (chart(name, better(higher), &|_, e| e.umap.as_ref().map(value)))
                }
            }
        }
        p class="note" {
            (cite("Rousseeuw 1987", "10.1016/0377-0427(87)90125-7")) ", "
            (cite("Davies & Bouldin 1979", "10.1109/TPAMI.1979.4766909")) ", "
            (cite("Caliński & Harabasz 1974", "10.1080/03610927408827101")) ", "
            (cite("Dunn 1974", "10.1080/01969727408546059")) ", "
            (cite("Bezdek & Pal 1998", "10.1109/3477.678624")) ", "
            (cite("Xie & Beni 1991", "10.1109/34.85677")) "."
        }
    }
}
