//! The model card: what a model file says about itself, for people who have to decide whether to use it.
//!
//! Everything in it comes from the file, so the two cannot disagree. The head is what model hubs read.

use std::fmt::Write;
use std::path::{Path, PathBuf};

use serde_json::Value;
use tissuemap::contract::{ModelContract, Precision, TYPICAL_SHARE};
use tissuemap::infer::Model;
use tissuemap::overlay::RESEARCH_USE_ONLY;

/// The card that belongs to a model file: `model.card.md` beside `model.onnx`.
pub fn path_beside(model: &Path) -> PathBuf {
    model.with_extension("card.md")
}

/// The card of `model`, whose file has `bytes` bytes; Markdown.
pub fn markdown(model: &Model, bytes: usize) -> String {
    let contract = model.contract();
    let parts = [
        head(contract),
        use_and_limits(contract),
        data(contract),
        clusters(contract),
        figures(contract, model.precision()),
        parameters(contract),
        format!(
            "## File\n\n{bytes} bytes, contract version {}, {} golden patches, SHA-256\n`{}`\n",
            contract.version,
            contract.golden.len(),
            model.sha256()
        ),
    ];
    parts.join("\n")
}

fn head(contract: &ModelContract) -> String {
    format!(
        "---\nlibrary_name: tissuemap\npipeline_tag: image-feature-extraction\ntags: [histology, clustering, onnx]\n---\n\n\
         # Tissue clusters on {}\n\n**{RESEARCH_USE_ONLY}**\n\nA convolutional autoencoder with a clusterer on its latent, \
         trained without labels by {}{}.\n",
        stains(contract),
        text(contract, "/program").unwrap_or_else(|| "an unknown program".to_owned()),
        contract.training["revision"].as_u64().map_or_else(String::new, |number| format!(": revision {number}")),
    )
}

fn use_and_limits(contract: &ModelContract) -> String {
    let side = f64::from(contract.patch_px) * contract.mpp.get();
    format!(
        "## Use and limits\n\n\
         - **Made for** maps of tissue clusters beside whole-slide images, by `tissuemapd`, stained {} and registered to the \
         {} section. Patches are {} pixels at {} µm per pixel ({side} µm).\n\
         - **Not for** diagnosis, nor any decision about a patient.\n\
         - A cluster is what looks alike to the model, not a kind of tissue. Its name, if it has one, was given afterwards.\n\
         - It knows the tissue, scanner and staining of its training data. On others it still names a cluster for every \
         patch; {} {}\n\
         - Structures much smaller or larger than a patch are not seen.\n",
        stains(contract),
        contract.reference,
        contract.patch_px,
        contract.mpp.get(),
        match contract.novelty_threshold {
            Some(threshold) =>
                format!("patches with a reconstruction error above {threshold} are reported as unfamiliar."),
            None => "it cannot tell which patches are unfamiliar.".to_owned(),
        },
        match &contract.typicality {
            Some(_) => format!(
                "Patches farther from their cluster's centre than {:.0} % of its held-out patches are reported as untypical.",
                100.0 * TYPICAL_SHARE
            ),
            None => "It cannot tell which patches are untypical of their cluster.".to_owned(),
        }
    )
}

fn data(contract: &ModelContract) -> String {
    let rows = [
        ("section sets", "/section_sets"),
        ("patches trained on", "/training_patches"),
        ("patches held out", "/held_out_patches"),
    ];
    let rows = rows.map(|(name, pointer)| format!("| {name} | {} |\n", shown(contract, pointer)));
    format!("## Data\n\n| | |\n|---|---|\n{}\nNames of cases and files are not kept in a model.\n", rows.concat())
}

fn clusters(contract: &ModelContract) -> String {
    let sizes = contract.training["cluster_sizes"].as_array();
    let total: u64 = sizes.into_iter().flatten().filter_map(Value::as_u64).sum();
    let mut out = format!("## Clusters\n\n{}\n\n", choice(contract));
    out += "| id | name | colour | training patches | share | typical distance from the centre |\n|---|---|---|---|---|---|\n";
    for (i, cluster) in contract.clusters.iter().enumerate() {
        let [r, g, b] = cluster.color;
        let size = sizes.and_then(|sizes| sizes.get(i)?.as_u64());
        let share = size.filter(|_| total > 0).map(|size| format!("{:.1} %", 100.0 * size as f64 / total as f64));
        let bound = contract.typicality.as_ref().and_then(|typicality| typicality.bounds[i]);
        let or_unknown = |value: Option<String>| value.unwrap_or_else(|| "unknown".to_owned());
        // Writing into a String cannot fail.
        let _ = writeln!(
            out,
            "| {} | {} | #{r:02x}{g:02x}{b:02x} | {} | {} | {} |",
            cluster.id,
            cell(&cluster.name),
            or_unknown(size.map(|size| size.to_string())),
            or_unknown(share),
            or_unknown(bound.map(|bound| format!("at most {bound:.3}"))),
        );
    }
    out
}

/// Why there are so many clusters: the table of a sweep where there was one.
fn choice(contract: &ModelContract) -> String {
    let count = contract.clusters.len();
    let rows: Vec<_> =
        contract.training["sweep"].as_array().into_iter().flatten().filter_map(Value::as_object).collect();
    let Some(first) = rows.first() else {
        return format!("{count}, as configured; no other number was tried.");
    };
    let columns: Vec<&String> = first.keys().collect();
    let line = |cells: Vec<String>| format!("| {} |", cells.join(" | "));
    let mut lines = vec![line(columns.iter().map(|name| cell(name)).collect()), "|---".repeat(columns.len()) + "|"];
    lines.extend(rows.iter().map(|row| {
        line(columns.iter().map(|name| row.get(*name).map_or_else(String::new, |v| cell(&v.to_string()))).collect())
    }));
    format!("{count}, after these were tried:\n\n{}", lines.join("\n"))
}

fn figures(contract: &ModelContract, precision: Precision) -> String {
    let mut out = format!(
        "## Figures\n\n| | |\n|---|---|\n\
         | reconstruction error on held-out patches (1: no better than the mean colour) | {} |\n\
         | entropy of one prediction, nats (0: certain) | {} |\n\
         | entropy of the mean prediction, nats (ln K = {:.3}: all clusters equally full) | {} |\n\
         | precision | {precision} |\n",
        shown(contract, "/held_out_reconstruction_error"),
        shown(contract, "/conditional_entropy"),
        (contract.clusters.len() as f64).ln(),
        shown(contract, "/marginal_entropy"),
    );
    if precision != Precision::Fp32 {
        let _ = writeln!(
            out,
            "| same cluster as in float32 | {} of {} held-out patches |\n\
             | probabilities off from float32 | {} at most, {} on average |",
            contract
                .training
                .pointer("/agreement_with_fp32/same_cluster")
                .and_then(Value::as_f64)
                .map_or_else(|| "an unknown share".to_owned(), |share| format!("{:.2} %", 100.0 * share)),
            shown(contract, "/agreement_with_fp32/patches"),
            shown(contract, "/agreement_with_fp32/largest_difference"),
            shown(contract, "/agreement_with_fp32/mean_difference"),
        );
    }
    out
}

fn parameters(contract: &ModelContract) -> String {
    let configuration = serde_json::to_string_pretty(&contract.training["configuration"]).unwrap_or_default();
    format!("## Parameters\n\n```json\n{configuration}\n```\n")
}

fn stains(contract: &ModelContract) -> String {
    contract.stains.iter().map(|stain| stain.name.as_str()).collect::<Vec<_>>().join(", ")
}

/// A figure of the training as people read it.
fn shown(contract: &ModelContract, pointer: &str) -> String {
    match contract.training.pointer(pointer) {
        Some(Value::Number(number)) => match number.as_f64() {
            Some(value) if number.is_f64() && value.abs() < 0.01 => format!("{value:.1e}"),
            Some(value) if number.is_f64() => format!("{value:.4}"),
            _ => number.to_string(),
        },
        _ => text(contract, pointer).unwrap_or_else(|| "unknown".to_owned()),
    }
}

fn text(contract: &ModelContract, pointer: &str) -> Option<String> {
    contract.training.pointer(pointer)?.as_str().map(str::to_owned)
}

/// Text that cannot end a table's cell.
fn cell(text: &str) -> String {
    text.replace('|', "\\|")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::example_model;
    use serde_json::json;

    #[test]
    fn a_card_says_what_the_file_says() {
        let Some((model, bytes)) = example_model(|contract| {
            contract.clusters[1].name = "a | b".to_owned();
            contract.training = json!({
                "program": "tissuemap-train 9.9.9", "section_sets": 3, "training_patches": 4000, "held_out_patches": 400,
                "cluster_sizes": [1000, 3000, 0, 0], "held_out_reconstruction_error": 0.125,
                "configuration": {"seed": 77}, "revision": 3,
            });
        }) else {
            return;
        };
        let card = markdown(&model, bytes.len());
        for part in [
            "Research use only",
            "tissuemap-train 9.9.9: revision 3.",
            "| section sets | 3 |",
            "| patches held out | 400 |",
            "| 2 | a \\| b | #56b4e9 | 3000 | 75.0 % | unknown |",
            "4, as configured",
            "| 0.1250 |",
            "| precision | fp32 |",
            "\"seed\": 77",
            "above 0.1 are reported as unfamiliar",
            "cannot tell which patches are untypical",
            model.sha256(),
        ] {
            assert!(card.contains(part), "{part:?} missing in\n{card}");
        }
        assert!(!card.contains("float32 |"), "a float32 model is not compared with itself");
        assert!(card.contains(&format!("{} bytes", bytes.len())));
    }

    #[test]
    fn a_sweep_is_shown_as_the_reason_for_the_number_of_clusters() {
        let Some((model, bytes)) = example_model(|contract| {
            contract.training = json!({"sweep": [{"clusters": 3, "score": 0.5}, {"clusters": 4, "score": 0.25}]});
        }) else {
            return;
        };
        let card = markdown(&model, bytes.len());
        assert!(
            card.contains("4, after these were tried:\n\n| clusters | score |\n|---|---|\n| 3 | 0.5 |\n| 4 | 0.25 |"),
            "{card}"
        );
        assert!(card.contains("| section sets | unknown |"), "what the file does not say is not made up");
    }

    #[test]
    fn the_card_lies_beside_its_model() {
        assert_eq!(path_beside(Path::new("a/model.fp16.onnx")), Path::new("a/model.fp16.card.md"));
    }
}
