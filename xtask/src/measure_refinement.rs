//! What the finer look at a registration gains: real pairs are registered on small images, as large slides are, and then
//! refined at full resolution.

use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, Result};
use tissuemap::fine;
use tissuemap::placement::{Placement, place, registration_mpp};
use tissuemap::register::RegisterParams;
use tissuemap::slide::{self, OpenOptions, SlideSource, SyntheticSlide};
use tissuemap::units::{Mpp, UmPoint};
use xtask::evaluate::{SmoothWarp, read_pairs};

/// Micrometres per pixel of the section images.
const SECTION_MPP: f64 = 3.48;
/// Long sides of the images that stand for a thumbnail of a large slide.
const LONG_SIDES_PX: [u32; 2] = [200, 450];

/// Prints the median and 90th percentile rTRE of every pair before and after refinement.
pub(crate) fn run(data: &Path) -> Result<()> {
    let sets = data.join("section-sets");
    let mpp = Mpp::new(SECTION_MPP)?;
    let advance = |_: u64, _: u64| ControlFlow::Continue(());
    println!("thumbnail  pair               verdict  before           after            seconds  blocks  correction um");
    for long_side in LONG_SIDES_PX {
        let mut means = [0.0; 2];
        let pairs = read_pairs(&sets)?;
        for pair in &pairs {
            let case = pair.read(&sets)?;
            let slide =
                |image: &image::RgbImage| -> Arc<dyn SlideSource> { Arc::new(SyntheticSlide::new(image.clone(), mpp)) };
            let (fixed, moving) = (slide(&case.fixed), slide(&case.moving));
            let coarse = registration_mpp(&[&fixed, &moving], long_side);
            let params = RegisterParams::default();
            let placed = place(&fixed, &[&moving], coarse, &params, &advance)?.pop().context("one section")?;
            let (verdict, placed) = match placed {
                Placement::Registered(found) => (found.quality.verdict.to_string(), found),
                Placement::LeftOut { refused: Some(found), .. } => ("refused".into(), *found),
                other => anyhow::bail!("{}: {other:?}", pair.pair),
            };
            let begun = Instant::now();
            let (refined, gain) = fine::refine(&fixed, &moving, &placed, mpp, &params, &|_, _| true, &advance)?;
            let seconds = begun.elapsed().as_secs_f64();
            let [before, after] = [&placed, &refined].map(|found| {
                case.rtre(|x, y| {
                    let p = found.map.apply(UmPoint::from_pixels(x + 0.5, y + 0.5, mpp)).to_pixels(mpp);
                    (p.0 - 0.5, p.1 - 0.5)
                })
            });
            means = [means[0] + before.median, means[1] + after.median];
            println!(
                "{long_side:<10} {:<18} {verdict:<8} {:.4} / {:.4}  {:.4} / {:.4}  {seconds:<7.2}  {:<6}  {:.1}",
                pair.pair, before.median, before.p90, after.median, after.p90, gain.blocks, gain.median_correction_um
            );
        }
        let image = slide::open(&data.join("slides/cmu_small_region.svs"), &OpenOptions::default())?;
        let finest = Mpp::new(1.0)?;
        let image = slide::thumbnail(&image, finest)?;
        for seed in 0..3 {
            let warp = SmoothWarp::random(seed, image.width(), image.height(), 0.03);
            let slide = |image: &image::RgbImage| -> Arc<dyn SlideSource> {
                Arc::new(SyntheticSlide::new(image.clone(), finest))
            };
            let (fixed, moving) = (slide(&image), slide(&warp.image(&image)));
            let coarse = registration_mpp(&[&fixed, &moving], long_side);
            let params = RegisterParams::default();
            let Some(Placement::Registered(placed)) = place(&fixed, &[&moving], coarse, &params, &advance)?.pop()
            else {
                println!("failed");
                continue;
            };
            let (refined, _) = fine::refine(&fixed, &moving, &placed, finest, &params, &|_, _| true, &advance)?;
            let mask = tissuemap::tissue::find_tissue(&image, 1.0, &Default::default());
            let [b, a] = [&placed, &refined].map(|found| {
                let mut e: Vec<f64> = (0..mask.tissue.len())
                    .step_by(37)
                    .filter(|i| mask.tissue[*i])
                    .map(|i| {
                        let (x, y) = ((i as u32 % mask.width) as f64, (i as u32 / mask.width) as f64);
                        let p = found.map.apply(UmPoint::from_pixels(x + 0.5, y + 0.5, finest)).to_pixels(finest);
                        let t = warp.apply([x, y]);
                        (p.0 - 0.5 - t[0]).hypot(p.1 - 0.5 - t[1])
                    })
                    .collect();
                e.sort_by(f64::total_cmp);
                (xtask::evaluate::quantile(&e, 0.5), xtask::evaluate::quantile(&e, 0.9))
            });
            println!("warp {seed}: {b:.3?} -> {a:.3?} um");
        }
        let count = pairs.len() as f64;
        println!(
            "{long_side:<10} mean of the medians         {:.5}          {:.5}",
            means[0] / count,
            means[1] / count
        );
    }
    Ok(())
}
