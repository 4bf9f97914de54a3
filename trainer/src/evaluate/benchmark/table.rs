//! The results as a table and in words.

use std::collections::BTreeMap;

use crate::vectors::agreement::Agreement;

/// Name of this method in the table.
pub(super) const THIS_METHOD: &str = "tissuemap";
/// Features of the full method in the table.
pub(super) const FULL_METHOD: &str = "latent of views";

/// Role of a method in the comparison, in the order of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Role {
    /// Another method.
    Baseline,
    /// This method with one augmentation switched.
    Variant,
    /// This method as configured.
    Whole,
}

/// A compared method, in the order of the table.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct ComparedMethod {
    pub(super) role: Role,
    pub(super) name: String,
    pub(super) features: String,
    /// Whether predictions are smoothed over the neighbouring patches.
    pub(super) context: bool,
}

impl ComparedMethod {
    /// From the names in the table.
    pub(super) fn new(name: &str, features: &str, context: bool) -> Self {
        let role = match (name, features) {
            (THIS_METHOD, FULL_METHOD) => Role::Whole,
            (THIS_METHOD, _) => Role::Variant,
            _ => Role::Baseline,
        };
        Self { role, name: name.to_owned(), features: features.to_owned(), context }
    }
}

/// The agreement of each method for each seed.
pub(super) type Figures = BTreeMap<ComparedMethod, Vec<Agreement>>;

/// The figures as CSV: mean and standard deviation over the seeds.
pub(super) fn table(figures: &Figures) -> String {
    let mut text = "method,features,context,accuracy,accuracy_sd,nmi,nmi_sd,ari,ari_sd\n".to_owned();
    for (ComparedMethod { name, features, context, .. }, all) in figures {
        let fields = Agreement::spread(all).map(|(mean, deviation)| format!("{mean:.4},{deviation:.4}"));
        let context = if *context { "yes" } else { "no" };
        text.extend([name, ",", features, ",", context, ",", &fields.join(","), "\n"]);
    }
    text
}

/// The results of the full method with context.
pub(super) fn full_method(figures: &Figures) -> Option<&[Agreement]> {
    let found = figures.iter().find(|(method, _)| method.role == Role::Whole && method.context);
    found.map(|(_, all)| all.as_slice())
}

/// Whether the method is better than every baseline by more than a standard deviation (the larger of the two), in NMI and ARI. Empty
/// without baselines.
pub(super) fn verdicts(figures: &Figures) -> Vec<String> {
    let Some(ours) = full_method(figures) else { return Vec::new() };
    let compare = |context: bool, index: usize, name: &str| {
        let (own, own_deviation) = Agreement::spread(ours)[index];
        let others = figures.iter().filter(|(method, _)| method.role == Role::Baseline && method.context == context);
        let ahead = |(method, all): (&ComparedMethod, &Vec<Agreement>)| {
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

/// Difference of each variant, with context, from the full method: mean over seeds, and its standard error if there are several seeds. Both
/// use the same split of the images.
pub(super) fn differences(figures: &Figures) -> Vec<String> {
    let Some(ours) = full_method(figures) else { return Vec::new() };
    let variants = figures.iter().filter(|(method, _)| method.role == Role::Variant && method.context);
    let line = |(method, all): (&ComparedMethod, &Vec<Agreement>)| {
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
