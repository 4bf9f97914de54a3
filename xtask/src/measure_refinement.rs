//! What the finer look at a registration gains: sections are registered on small images, as large slides are, and then
//! refined at full resolution. Real pairs with landmarks, and known deformations of one slide.

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Result, bail};
use image::RgbImage;
use tissuemap::fine;
use tissuemap::placement::{Placement, Registered, place, registration_mpp, unheard};
use tissuemap::register::RegisterParams;
use tissuemap::slide::{self, OpenOptions, SlideSource, SyntheticSlide};
use tissuemap::tissue::{TissueParams, find_tissue};
use tissuemap::units::{Mpp, UmPoint};
use xtask::evaluate::{SmoothWarp, quantile, read_pairs};

/// Micrometres per pixel of the section images.
const SECTION_MPP: f64 = 3.48;
/// Long sides of the images that stand for a thumbnail of a large slide.
const LONG_SIDES_PX: [u32; 3] = [200, 300, 450];
/// Known deformations, and their largest displacement as a share of the diagonal.
const WARPS: u64 = 3;
const WARP_SHARE: f64 = 0.03;

/// Prints median and 90th percentile errors before and after refinement.
pub(crate) fn run(data: &Path) -> Result<()> {
    println!("thumbnail  sections           before           after             unit   seconds");
    for long_side in LONG_SIDES_PX {
        let means = pairs(&data.join("section-sets"), long_side)?;
        println!("{long_side:<10} mean of the medians {:.5}         {:.5}           rTRE", means[0], means[1]);
        warps(&data.join("slides/cmu_small_region.svs"), long_side)?;
    }
    Ok(())
}

/// The means over all pairs of the median rTRE.
fn pairs(sets: &Path, long_side: u32) -> Result<[f64; 2]> {
    let mpp = Mpp::new(SECTION_MPP)?;
    let pairs = read_pairs(sets)?;
    let mut means = [0.0; 2];
    for pair in &pairs {
        let case = pair.read(sets)?;
        let (found, seconds) = refine(&case.fixed, &case.moving, mpp, long_side)?;
        let [before, after] = found.map(|found| case.rtre(|x, y| carried(&found, mpp, x, y)));
        means = [means[0] + before.median / pairs.len() as f64, means[1] + after.median / pairs.len() as f64];
        println!(
            "{long_side:<10} {:<18} {:.4} / {:.4}  {:.4} / {:.4}   rTRE   {seconds:.2}",
            pair.pair, before.median, before.p90, after.median, after.p90
        );
    }
    Ok(means)
}

fn warps(path: &Path, long_side: u32) -> Result<()> {
    let mpp = Mpp::new(1.0)?;
    let fixed = slide::thumbnail(&slide::open(path, &OpenOptions::default())?, mpp)?;
    let mask = find_tissue(&fixed, mpp.get(), &TissueParams::default());
    for seed in 0..WARPS {
        let warp = SmoothWarp::random(seed, fixed.width(), fixed.height(), WARP_SHARE);
        let (found, seconds) = refine(&fixed, &warp.image(&fixed), mpp, long_side)?;
        let [before, after] = found.map(|found| {
            let tissue = fixed.enumerate_pixels().zip(&mask.tissue).filter(|(_, tissue)| **tissue).step_by(37);
            let mut errors: Vec<f64> = tissue
                .map(|((x, y, _), _)| {
                    let (x, y) = (f64::from(x), f64::from(y));
                    let (to, truth) = (carried(&found, mpp, x, y), warp.apply([x, y]));
                    (to.0 - truth[0]).hypot(to.1 - truth[1]) * mpp.get()
                })
                .collect();
            errors.sort_by(f64::total_cmp);
            [0.5, 0.9].map(|share| quantile(&errors, share))
        });
        println!(
            "{long_side:<10} deformation {seed:<6} {:<6.3} / {:<6.3}  {:<6.3} / {:<6.3}   um     {seconds:.2}",
            before[0], before[1], after[0], after[1]
        );
    }
    Ok(())
}

/// The map from small images and the refined one, and how long the refinement took.
fn refine(fixed: &RgbImage, moving: &RgbImage, mpp: Mpp, long_side: u32) -> Result<([Registered; 2], f64)> {
    let [fixed, moving] =
        [fixed, moving].map(|image| -> Arc<dyn SlideSource> { Arc::new(SyntheticSlide::new(image.clone(), mpp)) });
    let coarse = registration_mpp(&[&fixed, &moving], long_side);
    let params = RegisterParams::default();
    let placed = match place(&fixed, &[&moving], coarse, &params, &unheard)?.pop() {
        Some(Placement::Registered(found) | Placement::LeftOut { refused: Some(found), .. }) => *found,
        other => bail!("not registered: {other:?}"),
    };
    let begun = Instant::now();
    let (refined, _) = fine::refine(&fixed, &moving, &placed, mpp, &params, &|_, _| true, &unheard)?;
    Ok(([placed, refined], begun.elapsed().as_secs_f64()))
}

/// Where the pixel (`x`, `y`) of the fixed image lies, pixel centres at integers.
fn carried(found: &Registered, mpp: Mpp, x: f64, y: f64) -> (f64, f64) {
    let (x, y) = found.map.apply(UmPoint::from_pixels(x + 0.5, y + 0.5, mpp)).to_pixels(mpp);
    (x - 0.5, y - 0.5)
}
