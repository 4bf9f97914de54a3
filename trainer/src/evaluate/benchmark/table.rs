//! What was reached, as a table and in words.

use std::collections::BTreeMap;

use crate::vectors::agreement::Agreement;

/// The method itself, in the table.
pub(super) const OURS: &str = "tissuemap";
/// What the method as it is configured looks at, in the table.
pub(super) const WHOLE: &str = "latent of views";

/// What something is in the comparison, in the order of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Part {
    /// What the method has to beat.
    Baseline,
    /// The method with something about it changed.
    Variant,
    /// The method as it is configured.
    Whole,
}

/// How something was clustered, in the order of the table.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Method {
    pub(super) part: Part,
    pub(super) name: String,
    pub(super) features: String,
    /// Whether the patches around have a say.
    pub(super) context: bool,
}

impl Method {
    /// By the names in the table.
    pub(super) fn new(name: &str, features: &str, context: bool) -> Self {
        let part = match (name, features) {
            (OURS, WHOLE) => Part::Whole,
            (OURS, _) => Part::Variant,
            _ => Part::Baseline,
        };
        Self { part, name: name.to_owned(), features: features.to_owned(), context }
    }
}

/// What each method reached with each seed.
pub(super) type Figures = BTreeMap<Method, Vec<Agreement>>;

/// The figures as CSV: mean and standard deviation over the seeds.
pub(super) fn table(figures: &Figures) -> String {
    let mut text = "method,features,context,accuracy,accuracy_sd,nmi,nmi_sd,ari,ari_sd\n".to_owned();
    for (Method { name, features, context, .. }, all) in figures {
        let fields = Agreement::spread(all).map(|(mean, deviation)| format!("{mean:.4},{deviation:.4}"));
        let context = if *context { "yes" } else { "no" };
        text.extend([name, ",", features, ",", context, ",", &fields.join(","), "\n"]);
    }
    text
}

/// What the whole method reached in context.
pub(super) fn whole(figures: &Figures) -> Option<&[Agreement]> {
    let found = figures.iter().find(|(method, _)| method.part == Part::Whole && method.context);
    found.map(|(_, all)| all.as_slice())
}

/// Whether the method lies above every baseline by more than a standard deviation (the larger of the two), in NMI and ARI;
/// nothing where there are no baselines.
pub(super) fn verdicts(figures: &Figures) -> Vec<String> {
    let Some(ours) = whole(figures) else { return Vec::new() };
    let compare = |context: bool, index: usize, name: &str| {
        let (own, own_deviation) = Agreement::spread(ours)[index];
        let others = figures.iter().filter(|(method, _)| method.part == Part::Baseline && method.context == context);
        let ahead = |(method, all): (&Method, &Vec<Agreement>)| {
            let (mean, deviation) = Agreement::spread(all)[index];
            let named = format!("{} on {}", method.name, method.features);
            (own - mean - deviation.max(own_deviation), mean, deviation, named)
        };
        let (ahead, mean, deviation, strongest) = others.map(ahead).min_by(|a, b| a.0.total_cmp(&b.0))?;
        let word = if ahead > 0.0 { "above" } else { "NOT above" };
        let same = if context { " with the same context" } else { "" };
        Some(format!(
            "{name}: {own:.3} ± {own_deviation:.3} is {word} every baseline{same} by more than a standard deviation; the \
             strongest is {strongest}, {mean:.3} ± {deviation:.3}"
        ))
    };
    let wanted = [(false, 1, "NMI"), (false, 2, "ARI"), (true, 1, "NMI"), (true, 2, "ARI")];
    wanted.into_iter().filter_map(|(context, index, name)| compare(context, index, name)).collect()
}

/// How far each variant of the method, in context, lies from the whole method: mean of the differences seed by seed, which
/// part the images alike, and the standard error of that mean, which one seed does not tell.
pub(super) fn differences(figures: &Figures) -> Vec<String> {
    let Some(ours) = whole(figures) else { return Vec::new() };
    let variants = figures.iter().filter(|(method, _)| method.part == Part::Variant && method.context);
    let line = |(method, all): (&Method, &Vec<Agreement>)| {
        let pairs = || all.iter().zip(ours);
        let of = |differences: Vec<f64>| {
            let count = differences.len() as f64;
            let mean = differences.iter().sum::<f64>() / count;
            let squares: f64 = differences.iter().map(|d| (d - mean).powi(2)).sum();
            let error = (squares / (count - 1.0) / count).sqrt();
            if error.is_finite() { format!("{mean:+.3} ± {error:.3}") } else { format!("{mean:+.3}") }
        };
        let nmi = of(pairs().map(|(own, whole)| own.nmi - whole.nmi).collect());
        let ari = of(pairs().map(|(own, whole)| own.ari - whole.ari).collect());
        let seeds = if all.len() == 1 { "one seed".to_owned() } else { format!("standard error, {} seeds", all.len()) };
        format!("{}: NMI {nmi}, ARI {ari} against the whole method ({seeds})", method.features)
    };
    variants.map(line).collect()
}
