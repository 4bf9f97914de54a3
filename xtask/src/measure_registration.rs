//! Accuracy, cost and honesty of registration: real pairs with landmarks, as they are and turned, shifted and mirrored;
//! known deformations of a real slide; and pairs that must not be trusted.

use std::fs;
use std::path::Path;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use image::RgbImage;
use serde::Serialize;
use tissuemap::register::{RegisterError, RegisterParams, Registration, Verdict, register};
use tissuemap::slide::{self, OpenOptions};
use tissuemap::tissue::{TissueParams, find_tissue};
use tissuemap::units::Mpp;
use xtask::evaluate::{Case, Rtre, SmoothWarp, Variant, bad_pairs, quantile, read_pairs, spearman};

mod plot;

/// Pairs, in the order of pairs.csv, that are also measured in all variants: eight times five and ten are fifty runs,
/// the four pairs with HE among them.
const PAIRS_WITH_VARIANTS: usize = 8;
/// Micrometres per pixel of the section images of lung-lesion_3: 5 % of a scan at 0.174.
const SECTION_MPP: f64 = 3.48;
/// Known deformations that are measured.
const WARPS: u64 = 8;
/// Largest displacement of a known deformation, as a share of the diagonal.
const WARP_SHARE: f64 = 0.03;
/// Long side of the slide that is deformed, as the daemon registers it.
const WARP_LONG_SIDE_PX: f64 = 1400.0;

/// One registration and what came of it.
#[derive(Debug, Clone, Serialize)]
struct Run {
    kind: &'static str,
    name: String,
    verdict: Verdict,
    /// Errors against landmarks or the known truth, as shares of the diagonal.
    median_rtre: Option<f64>,
    p90_rtre: Option<f64>,
    /// The median in micrometres, and what the registration itself expects.
    error_um: Option<f64>,
    estimated_error_um: Option<f64>,
    wall_s: f64,
    cpu_s: f64,
    figures: String,
}

/// Measures everything with default parameters. Writes the mapped landmarks of each pair as `<pair>.csv` (id, x, y) and
/// all runs as `runs.csv` and a plot of estimated against true errors to `out`; prints everything with a confusion table.
pub(crate) fn run(data: &Path, out: &Path) -> Result<()> {
    fs::create_dir_all(out).with_context(|| format!("cannot create {}", out.display()))?;
    let mut runs = Vec::new();
    landmarks(&data.join("section-sets"), out, &mut runs)?;
    warps(&data.join("slides/cmu_small_region.svs"), &mut runs)?;
    for pair in bad_pairs(data)? {
        let (found, mut run) = timed("bad", pair.name, &pair.fixed, &pair.moving, Mpp::new(SECTION_MPP)?)?;
        if let Err(error) = found {
            run.figures = error.to_string();
        }
        report(run, &mut runs);
    }
    let mut table = csv::Writer::from_path(out.join("runs.csv"))?;
    for run in &runs {
        table.serialize(run)?;
    }
    table.flush()?;
    summary(&runs);
    plot::write(&out.join("estimated_error.svg"), &points(&runs))
}

/// Estimated and true error of the runs that have both, with their kind.
fn points(runs: &[Run]) -> Vec<(&'static str, f64, f64)> {
    let both = |run: &Run| run.estimated_error_um.zip(run.error_um).map(|(x, y)| (run.kind, x, y));
    runs.iter().filter_map(both).collect()
}

fn summary(runs: &[Run]) {
    println!("\nverdict      good pairs  variants  warps  bad pairs");
    for verdict in [Verdict::Good, Verdict::Review, Verdict::Refused] {
        let count = |kind: &str| runs.iter().filter(|run| run.kind == kind && run.verdict == verdict).count();
        println!(
            "{:<12} {:>10}  {:>8}  {:>5}  {:>9}",
            verdict.to_string(),
            count("pair"),
            count("variant"),
            count("warp"),
            count("bad")
        );
    }
    let pairs: Vec<f64> = runs.iter().filter(|run| run.kind == "pair").filter_map(|run| run.median_rtre).collect();
    println!("\nmean of the pairs' median rTRE: {:.5}", pairs.iter().sum::<f64>() / pairs.len() as f64);
    for (name, kinds) in [
        ("pairs, variants and warps", &["pair", "variant", "warp"][..]),
        ("pairs and variants", &["pair", "variant"]),
        ("pairs", &["pair"]),
    ] {
        let of_kind = points(runs).into_iter().filter(|(kind, ..)| kinds.contains(kind));
        let (estimated, actual): (Vec<f64>, Vec<f64>) = of_kind.map(|(_, x, y)| (x, y)).unzip();
        println!(
            "estimated against true error, {name}: {} runs, Spearman {:.3}",
            actual.len(),
            spearman(&estimated, &actual)
        );
    }
}

fn landmarks(sets: &Path, out: &Path, runs: &mut Vec<Run>) -> Result<()> {
    for (index, pair) in read_pairs(sets)?.iter().enumerate() {
        let case = pair.read(sets)?;
        let found = measure("pair", &pair.pair, &case, runs)?;
        let mut landmarks = csv::Writer::from_path(out.join(format!("{}.csv", pair.pair)))?;
        landmarks.write_record(["id", "x", "y"])?;
        for (id, (x, y)) in &case.fixed_landmarks {
            let (x, y) = found.map.apply(*x, *y);
            landmarks.serialize((id, x, y))?;
        }
        landmarks.flush()?;
        if index < PAIRS_WITH_VARIANTS {
            for variant in Variant::ALL {
                measure("variant", &format!("{} {}", pair.pair, variant.name()), &case.with(variant), runs)?;
            }
        }
    }
    Ok(())
}

fn measure(kind: &'static str, name: &str, case: &Case, runs: &mut Vec<Run>) -> Result<Registration> {
    let mpp = Mpp::new(SECTION_MPP)?;
    let (found, mut run) = timed(kind, name.into(), &case.fixed, &case.moving, mpp)?;
    let found = found.with_context(|| name.to_owned())?;
    let Rtre { median, p90 } = case.rtre(|x, y| found.map.apply(x, y));
    let diagonal = f64::from(case.fixed.width()).hypot(f64::from(case.fixed.height()));
    (run.median_rtre, run.p90_rtre, run.error_um) = (Some(median), Some(p90), Some(median * diagonal * mpp.get()));
    report(run, runs);
    Ok(found)
}

fn warps(slide: &Path, runs: &mut Vec<Run>) -> Result<()> {
    let slide = slide::open(slide, &OpenOptions::default())?;
    let (width, height) = slide.info().bounds_um();
    let mpp = Mpp::new(width.max(height) / WARP_LONG_SIDE_PX)?;
    let fixed = slide::thumbnail(&slide, mpp)?;
    let mask = find_tissue(&fixed, mpp.get(), &TissueParams::default());
    let pixels = (0..mask.height).flat_map(|y| (0..mask.width).map(move |x| (x, y)));
    let tissue: Vec<(u32, u32)> = pixels.zip(&mask.tissue).filter(|(_, tissue)| **tissue).map(|(at, _)| at).collect();
    for seed in 0..WARPS {
        let warp = SmoothWarp::random(seed, fixed.width(), fixed.height(), WARP_SHARE);
        let moving = warp.image(&fixed);
        let (found, mut run) = timed("warp", format!("seed {seed}"), &fixed, &moving, mpp)?;
        let found = found.with_context(|| format!("warp {seed}"))?;
        let (mut errors, mut worst_inverse) = (Vec::new(), 0.0f64);
        let on_lattice = |(x, y): &(u32, u32)| x % 7 == 3 && y % 7 == 3;
        for (x, y) in tissue.iter().copied().filter(on_lattice) {
            let p = [f64::from(x), f64::from(y)];
            let (mapped, truth) = (found.map.0.apply(p), warp.apply(p));
            errors.push((mapped[0] - truth[0]).hypot(mapped[1] - truth[1]));
            let back = found.map.invert(mapped[0], mapped[1]).with_context(|| format!("warp {seed} folds at {p:?}"))?;
            worst_inverse = worst_inverse.max((back.0 - p[0]).hypot(back.1 - p[1]));
        }
        ensure!(!errors.is_empty(), "no tissue on the slide");
        errors.sort_by(f64::total_cmp);
        let diagonal = f64::from(fixed.width()).hypot(f64::from(fixed.height()));
        let [median, p90, p99] = [0.5, 0.9, 0.99].map(|share| quantile(&errors, share));
        (run.median_rtre, run.p90_rtre) = (Some(median / diagonal), Some(p90 / diagonal));
        run.error_um = Some(median * mpp.get());
        run.figures =
            format!("px: median {median:.2}, p99 {p99:.2}, inverse within {worst_inverse:.4}; {}", run.figures);
        report(run, runs);
    }
    Ok(())
}

/// One registration with its cost.
fn timed(
    kind: &'static str,
    name: String,
    fixed: &RgbImage,
    moving: &RgbImage,
    mpp: Mpp,
) -> Result<(Result<Registration, RegisterError>, Run)> {
    let (wall, cpu) = (Instant::now(), cpu_seconds());
    let found = register(fixed, moving, mpp, &RegisterParams::default());
    let (wall_s, cpu_s) = (wall.elapsed().as_secs_f64(), cpu_seconds() - cpu);
    let quality = found.as_ref().ok().map(|found| &found.quality);
    let run = Run {
        kind,
        name,
        verdict: quality.map_or(Verdict::Refused, |quality| quality.verdict),
        median_rtre: None,
        p90_rtre: None,
        error_um: None,
        estimated_error_um: quality.map(|quality| quality.estimated_error_um),
        wall_s,
        cpu_s,
        figures: quality.map_or(Ok(String::new()), serde_json::to_string)?,
    };
    Ok((found, run))
}

fn report(run: Run, runs: &mut Vec<Run>) {
    let show = |value: Option<f64>, digits: usize| value.map_or("-".into(), |v| format!("{v:.digits$}"));
    println!(
        "{:<8} {:<46} {:<8} rTRE {:>6} / {:>6}  {:>5} um, expected {:>5}  {:.2} s, {:.2} CPU-s  {}",
        run.kind,
        run.name,
        run.verdict.to_string(),
        show(run.median_rtre, 4),
        show(run.p90_rtre, 4),
        show(run.error_um, 1),
        show(run.estimated_error_um, 1),
        run.wall_s,
        run.cpu_s,
        run.figures
    );
    runs.push(run);
}

/// Processor time of this process so far, all threads, in seconds; 0 where the system does not tell.
fn cpu_seconds() -> f64 {
    // Fields 14 and 15 of proc_pid_stat(5), counted from the state after the parenthesised name, in ticks of 10 ms.
    let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields = stat.rsplit(')').next().unwrap_or_default().split_whitespace();
    fields.skip(11).take(2).filter_map(|ticks| ticks.parse::<f64>().ok()).sum::<f64>() / 100.0
}
