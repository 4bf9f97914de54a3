//! Registration of real, differently stained sections, judged by the landmarks two people set on them.

use tissuemap::register::evaluate::{Variant, read_pairs};
use tissuemap::register::{RegisterParams, register};

use crate::support;

/// Pairs tested in all variants; with five variants each, 35 runs.
const PAIRS_WITH_VARIANTS: usize = 7;
/// Median rTRE beyond which ANHIR counts a pair as not registered.
const BOUND: f64 = 0.02;

#[test]
fn all_lesion_pairs_and_variants_end_below_two_percent() {
    let Some(data) = support::data("all_lesion_pairs_and_variants_end_below_two_percent") else { return };
    let sets = data.join("section-sets");
    let mut failures = Vec::new();
    let mut runs = 0;
    for (index, pair) in read_pairs(&sets).unwrap().iter().enumerate() {
        let case = pair.read(&sets).unwrap();
        let variants = if index < PAIRS_WITH_VARIANTS { &Variant::ALL[..] } else { &[] };
        for variant in std::iter::once(None).chain(variants.iter().copied().map(Some)) {
            let case = variant.map_or_else(|| case.clone(), |variant| case.with(variant));
            let name = format!("{} {}", pair.pair, variant.map_or("as is", Variant::name));
            runs += 1;
            match register(&case.fixed, &case.moving, &RegisterParams::default()) {
                Ok(found) if case.rtre(&found.map).median < BOUND => {}
                Ok(found) => failures.push(format!("{name}: {:?}, {:?}", case.rtre(&found.map), found.quality)),
                Err(error) => failures.push(format!("{name}: {error}")),
            }
        }
    }
    assert!(runs >= 45, "only {runs} runs: pairs.csv is incomplete");
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}
