//! How far a sweep on planted tissue met the truth: reads the run folder and the folder that `xtask plant` wrote, and prints
//! the choice, its margin, and the agreement of its clusters with the planted kinds, patch by patch.
//!
//! A patch's kind is the one that fills most of it. `pure` counts patches of which one kind fills nine tenths.
// A program's answer goes to stdout.
#![allow(clippy::print_stdout)]

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use anyhow::{Context, ensure};
use clap::Parser;
use image::GrayImage;
use tissuemap_trainer::choose_k::table::Sweep;
use tissuemap_trainer::fit::run_folder::RunFolder;
use tissuemap_trainer::vectors::agreement::Agreement;
use tissuemap_trainer::vectors::labels::Labels;

#[derive(Parser)]
struct Args {
    /// The run folder: model.run
    #[arg(long)]
    run: PathBuf,
    /// The folder of the planted slides
    #[arg(long)]
    planted: PathBuf,
    /// Side of a patch in pixels of the slide
    #[arg(long, default_value_t = 64)]
    patch_px: u32,
}

fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let run = RunFolder::at(&args.run);
    let sweep = Sweep::read(&run.sweep()).with_context(|| format!("{} is no sweep", run.sweep().display()))?;
    let table = fs::read_to_string(run.sweep_map()).context("no sweep-map.csv")?;
    let mut truths: BTreeMap<String, GrayImage> = BTreeMap::new();
    let (mut kinds, mut clusters, mut pure) = (Vec::new(), Vec::new(), Vec::new());
    for line in table.lines().skip(1) {
        let fields: Vec<&str> = line.split(',').collect();
        ensure!(fields.len() == 4, "{line} has no four fields");
        if !truths.contains_key(fields[0]) {
            let path = args.planted.join("truth").join(format!("{}_HE.png", fields[0]));
            truths.insert(fields[0].to_owned(), image::open(&path)?.into_luma8());
        }
        let counts = counts(&truths[fields[0]], fields[1].parse()?, fields[2].parse()?, args.patch_px);
        // Glass is no kind.
        let most = (1..256).map(|kind| (kind, counts[kind])).max_by_key(|&(_, count)| count);
        let Some((kind, count)) = most.filter(|&(_, count)| count > 0) else { continue };
        kinds.push(kind as i64);
        clusters.push(fields[3].parse::<i64>()?);
        pure.push(count * 10 >= args.patch_px * args.patch_px * 9);
    }
    let agreement = |keep: &dyn Fn(usize) -> bool| {
        let of = |all: &[i64]| Labels::new(&(0..all.len()).filter(|&i| keep(i)).map(|i| all[i]).collect::<Vec<_>>());
        Agreement::new(&of(&kinds), &of(&clusters))
    };
    let (all, pure_only) = (agreement(&|_| true), agreement(&|i| pure[i]));
    println!(
        "planted {}, found {}, margin {:.3}, by rank {}, ARI {:.2} NMI {:.2}, pure patches ARI {:.2} NMI {:.2}",
        Labels::new(&kinds).kinds(),
        sweep.choice.clusters,
        sweep.choice.margin,
        sweep.by_rank.clusters,
        all.ari,
        all.nmi,
        pure_only.ari,
        pure_only.nmi
    );
    Ok(())
}

/// Pixels of each kind in the patch whose corner is at (x, y); what lies outside of the slide is glass.
fn counts(truth: &GrayImage, x: i64, y: i64, side: u32) -> [u32; 256] {
    let mut counts = [0; 256];
    for (column, row) in (0..i64::from(side)).flat_map(|row| (0..i64::from(side)).map(move |column| (column, row))) {
        let place = u32::try_from(x + column).ok().zip(u32::try_from(y + row).ok());
        let pixel = place.and_then(|(x, y)| truth.get_pixel_checked(x, y));
        counts[usize::from(pixel.map_or(0, |pixel| pixel.0[0]))] += 1;
    }
    counts
}
