//! Accuracy and cost of registration on pairs with landmarks: as they are, and with the moving image turned, shifted and
//! mirrored.

use std::fs;
use std::path::Path;
use std::time::Instant;

use anyhow::{Context, Result};
use tissuemap::register::evaluate::{Case, Rtre, Variant, read_pairs};
use tissuemap::register::{RegisterParams, register};

/// Pairs, in the order of pairs.csv, that are also measured in all variants: the first four are those with HE.
const PAIRS_WITH_VARIANTS: usize = 7;

/// Registers every pair of `data`/pairs.csv with default parameters. Writes the mapped landmarks of each pair as
/// `<pair>.csv` (id, x, y) and the figures of all runs as `variants.csv` to `out`; prints the figures.
pub(crate) fn run(data: &Path, out: &Path) -> Result<()> {
    fs::create_dir_all(out).with_context(|| format!("cannot create {}", out.display()))?;
    let mut table = csv::Writer::from_path(out.join("variants.csv"))?;
    table.write_record(["pair", "variant", "median_rtre", "p90_rtre", "wall_s", "cpu_s", "ncc", "search_margin"])?;
    println!(
        "pair               variant  median  p90     wall s  cpu s  overlap  det     NGF before  after   NCC    score  margin"
    );
    for (index, pair) in read_pairs(data)?.iter().enumerate() {
        let case = pair.read(data)?;
        let map = measure(&pair.pair, "as is", &case, &mut table)?;
        let mut landmarks = csv::Writer::from_path(out.join(format!("{}.csv", pair.pair)))?;
        landmarks.write_record(["id", "x", "y"])?;
        for (id, (x, y)) in &case.fixed_landmarks {
            let (x, y) = map.apply(*x, *y);
            landmarks.serialize((id, x, y))?;
        }
        landmarks.flush()?;
        if index < PAIRS_WITH_VARIANTS && std::env::var("QUICK").is_err() {
            for variant in Variant::ALL {
                measure(&pair.pair, variant.name(), &case.with(variant), &mut table)?;
            }
        }
    }
    table.flush()?;
    Ok(())
}

fn measure(pair: &str, variant: &str, case: &Case, table: &mut csv::Writer<fs::File>) -> Result<tissuemap::deformation::PixelMap> {
    let mut params = RegisterParams::default();
    if let Ok(v) = std::env::var("P") { params = serde_json::from_str(&v).unwrap(); }
    let (wall, cpu) = (Instant::now(), cpu_seconds());
    let found = register(&case.fixed, &case.moving, tissuemap::units::Mpp::new(3.48).unwrap(), &params)
        .with_context(|| format!("{pair}, {variant}"))?;
    let (wall, cpu) = (wall.elapsed().as_secs_f64(), cpu_seconds() - cpu);
    let Rtre { median, p90 } = case.rtre(|x, y| found.map.apply(x, y));
    let q = &found.quality;
    let margin = q.search_margin.map_or_else(String::new, |margin| format!("{margin:.3}"));
    println!(
        "{pair:<18} {variant:<8} {median:.4}  {p90:.4}  {wall:<6.2}  {cpu:<5.2} um {:.1} est {:.1} {:.1} tov {:.3} ov {:.3} det {:.3} jac {:.2} {:.2} ngf {:.4} {:.4} {:.4} ncc {:.3} edge {:.3} score {:.3} margin {margin}",
        median * 1110.0 * 3.48, q.estimated_error_um, q.estimated_error_p90_um, q.tissue_overlap_fraction, q.overlap_fraction, q.determinant, q.jacobian_min, q.jacobian_max, q.ngf_before, q.ngf_affine, q.ngf_after, q.ncc, q.edge_correlation, q.search_score
    );
    let figures = [median, p90, wall, cpu, q.ncc].map(|figure| format!("{figure:.5}"));
    table
        .write_record([pair, variant].into_iter().chain(figures.iter().map(String::as_str)).chain([margin.as_str()]))?;
    Ok(found.map)
}

/// Processor time of this process so far, all threads, in seconds; 0 where the system does not tell.
fn cpu_seconds() -> f64 {
    // Fields 14 and 15 of proc_pid_stat(5), counted from the state after the parenthesised name, in ticks of 10 ms.
    let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields = stat.rsplit(')').next().unwrap_or_default().split_whitespace();
    fields.skip(11).take(2).filter_map(|ticks| ticks.parse::<f64>().ok()).sum::<f64>() / 100.0
}
