use super::data::sample;
use super::*;
use crate::choose_k::choice::Evidence;
use crate::config::AugmentConfig;
use crate::config::Config;
use crate::data::origin::Origin;
use crate::data::patches::{PatchSet, Patches};
use crate::export::contract;
use crate::fit::metrics::EpochMetrics;
use crate::fit::metrics::MetricsTable;
use crate::fit::{FitContext, FittedModel, evaluate, fit};
use crate::testing::{seeded, texture_config, texture_patches};
use crate::vectors::indices::Indices;
use crate::vectors::labels::Labels;
use tissuemap::contract::ModelContract;

/// What a slide could be called by somebody who means harm.
const HOSTILE: &str = "</script><script>alert(\"1\")</script><img src=x onerror='alert(2)'>&amp;";

const SECTIONS: [&str; 10] =
    ["summary", "maps", "clusters", "umap", "sizes", "number", "reconstruction", "batch", "baselines", "training"];

/// A model of two stains fitted to patches of two section sets.
struct Small {
    config: Config,
    contract: ModelContract,
    patches: PatchSet,
    fitted: FittedModel,
    maps: SlideMaps,
    metrics: MetricsTable,
}

impl Small {
    fn new() -> Self {
        // The textures take turns, so that a neighbour is never of the same kind.
        let config =
            Config { augment: AugmentConfig { neighbours: 0.0, ..texture_config(2).augment }, ..texture_config(2) };
        let mut patches = texture_patches(2);
        let pixels = patches.train.range(0, patches.train.count()).expect("read");
        // Every other triple of textures: both sets hold all of them.
        let origin = |i: i64| Origin { set: (i / 3 % 2) as u32, x: i % 20 * 16, y: i / 20 * 16 };
        patches.train = Patches::new(&pixels, (0..240).map(origin).collect());
        patches.sets = vec!["case one".to_owned(), HOSTILE.to_owned()];
        let context = FitContext { device: tch::Device::Cpu, checkpoint: None, metrics: None, interrupted: &|| false };
        let fitted = fit(&config, &patches, &context).expect("fits");
        let evaluation = evaluate(&fitted.autoencoder, &fitted.clusterer, &patches.held_out).expect("evaluates");
        let mut contract = contract(&fitted, &patches, &config, &evaluation).expect("contract");
        contract.clusters[1].name = "stroma <b>".to_owned();
        let maps = SlideMaps::none(&patches.sets, "the slides of this test are <none>");
        let mut metrics = MetricsTable::new();
        for epoch in 1..=3 {
            let value = 1.0 / f64::from(epoch);
            let held_out_reconstruction = Some(value + 0.01);
            let reconstruction = Some(value);
            let row =
                EpochMetrics { loss: value, reconstruction, held_out_reconstruction, invariance: None, imsat: None };
            metrics.push("autoencoder", epoch, &row);
        }
        Self { config, contract, patches, fitted, maps, metrics }
    }

    fn page<'a>(&'a self, change: impl FnOnce(&mut ReportInputs<'a>)) -> String {
        let mut inputs = ReportInputs {
            name: "small & fine",
            date: "2026-01-31",
            config: &self.config,
            contract: &self.contract,
            sha256: "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef",
            fitted: &self.fitted,
            patches: &self.patches,
            metrics: self.metrics.as_str(),
            maps: &self.maps,
            sweep: None,
            comparison: &[],
            classes: None,
        };
        change(&mut inputs);
        render(&inputs).expect("renders")
    }
}

/// What lies between `<section id="…"` and the end of that section.
fn section<'a>(page: &'a str, id: &str) -> &'a str {
    let (_, rest) = page.split_once(&format!("<section id=\"{id}\"")).unwrap_or_else(|| panic!("no section {id}"));
    rest.split_once("</section>").expect("closed").0
}

#[test]
fn the_page_has_every_section_refers_to_nothing_outside_and_repeats_to_the_byte() {
    let _turn = seeded(1);
    let small = Small::new();
    let page = small.page(|_| ());
    for id in SECTIONS {
        assert!(page.contains(&format!("href=\"#{id}\"")), "{id} is not in the table of contents");
        assert!(section(&page, id).len() > 100, "{id}");
    }
    // Cards of three clusters: two stains, surest and random each; the gallery: two stains, three rows each.
    assert_eq!(section(&page, "clusters").matches("<img src=\"data:image/jpeg;base64,").count(), 3 * 2 * 2);
    assert_eq!(section(&page, "reconstruction").matches("<img src=\"data:image/jpeg;base64,").count(), 2 * 3);
    assert!(section(&page, "maps").contains("the slides of this test are &lt;none&gt;"));
    assert!(section(&page, "number").contains("No sweep over the number of clusters was run"));
    assert!(section(&page, "training").contains("Reconstruction error by epoch"));
    assert_eq!(page, small.page(|_| ()));

    // Nothing is fetched: sources are data, addresses are those of citations, the style sheet is without any.
    assert_eq!(page.matches(" src=\"").count(), page.matches(" src=\"data:image/jpeg;base64,").count());
    assert_eq!(page.matches("http").count(), page.matches("<a class=\"cite\" href=\"https://doi.org/").count());
    for forbidden in ["<script", "<link", "<iframe", "<object", "url(", "@import"] {
        assert!(!page.contains(forbidden), "{forbidden}");
    }
    let images = page.matches("<img ").count();
    assert!(
        page.split("<img ").skip(1).all(|image| image.split('>').next().is_some_and(|tag| tag.contains(" alt=\"")))
    );
    assert!(images >= 18, "{images}");
}

#[test]
fn names_are_text_wherever_they_come_from() {
    let _turn = seeded(1);
    let small = Small::new();
    let method =
        BaselineResult { method: HOSTILE.to_owned(), features: HOSTILE.to_owned(), indices: None, agreement: None };
    let page = small.page(|inputs| {
        inputs.comparison = std::slice::from_ref(&method);
        inputs.name = HOSTILE;
    });
    assert!(!page.contains("<script") && !page.contains("<img src=x") && !page.contains("stroma <b>"));
    assert!(page.contains("&lt;script&gt;alert(&quot;1&quot;)") && page.contains("stroma &lt;b&gt;"));
    assert!(page.contains("&amp;amp;"), "what looks escaped already is escaped too");
}

#[test]
fn a_sweep_classes_and_other_methods_fill_their_sections() {
    let _turn = seeded(1);
    let small = Small::new();
    let evidence = |clusters: u32| {
        let value = 1.0 / f64::from(clusters);
        let latent = Indices {
            silhouette: value,
            davies_bouldin: 1.0 - value,
            calinski_harabasz: 100.0 * value,
            dunn: value,
            generalised_dunn: value,
            xie_beni: 1.0 - value,
        };
        Evidence {
            clusters,
            latent,
            umap: Some(latent),
            stability: Some(value),
            coherence: None,
            bic: None,
            regions: None,
        }
    };
    let evidence: Vec<Evidence> = (2..=6).map(evidence).collect();
    let choice = crate::choose_k::choice::choose(&evidence, 240).expect("candidates");
    // Textures come in turn.
    let classes = Labels::new(&(0..240).map(|i| i % 3).collect::<Vec<_>>());
    let spread = MeanDeviation { mean: 0.75, deviation: Some(0.125) };
    let method = BaselineResult {
        method: "k-means".to_owned(),
        features: "colour statistics".to_owned(),
        indices: Some(evidence[0].latent),
        agreement: Some([spread; 3]),
    };
    let page = small.page(|inputs| {
        inputs.sweep = Some((&evidence, &choice));
        inputs.comparison = std::slice::from_ref(&method);
        inputs.classes = Some(&classes);
    });
    let number = section(&page, "number");
    // Score, stability, six indices in two spaces; each with its five candidates and the mark of the chosen one.
    assert_eq!(number.matches("<svg ").count(), 2 + 2 * 6);
    assert_eq!(number.matches("class=\"marker\"").count(), 14);
    assert_eq!(number.matches("<circle ").count(), 14 * 5);
    assert!(number.contains("<b>2 clusters</b> are best among 2 to 6; the next best are 3, behind by"), "{number}");
    assert!(section(&page, "summary").contains("The model has 3 clusters, the sweep over their number says 2."));
    let baselines = section(&page, "baselines");
    assert!(baselines.contains("0.750<span class=\"sd\"> ± 0.125</span>"), "{baselines}");
    assert!(baselines.contains("<td class=\"n\">1.000</td>"), "the model finds the three textures");
}

#[test]
fn one_set_and_a_missing_table_of_metrics_are_said() {
    let _turn = seeded(1);
    let mut small = Small::new();
    small.patches.sets.truncate(1);
    let pixels = small.patches.train.range(0, 240).expect("read");
    small.patches.train =
        Patches::new(&pixels, small.patches.train.origins().iter().map(|o| Origin { set: 0, ..*o }).collect());
    let page = small.page(|inputs| inputs.metrics = "");
    assert!(section(&page, "summary").contains("All patches come from one section set"));
    assert!(section(&page, "batch").contains("There is one section set only"));
    assert!(section(&page, "training").contains("The table of metrics is not there"));
}

#[test]
fn a_sample_is_in_order_without_repeats_and_follows_its_seed() {
    let drawn = sample(1000, 50, 3);
    assert!(drawn.len() == 50 && drawn.windows(2).all(|pair| pair[0] < pair[1]));
    assert_eq!(drawn, sample(1000, 50, 3));
    assert_ne!(drawn, sample(1000, 50, 4));
    assert_eq!(sample(4, 50, 3), [0, 1, 2, 3]);
}
