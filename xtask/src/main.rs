//! Developers' errands: one subcommand per module.
// A command-line tool's answer goes to stdout.
#![allow(clippy::print_stdout)]

mod derive;
mod find_slide;
mod measure_refinement;
mod measure_registration;
mod plant;
mod pyramid;
mod register;

use std::path::PathBuf;

use clap::Parser;

#[derive(Parser)]
#[command(about)]
enum Errand {
    Derive(derive::Args),
    /// Print the path of the real HE slide that comes with the crate openslide-rs (CMU-1-Small-Region).
    FindSlide,
    /// Register pairs with landmarks and their variants, known deformations and bad pairs; write maps, errors and verdicts.
    MeasureRegistration {
        /// Folder that holds section-sets, slides and patches.
        #[arg(long)]
        data: PathBuf,
        /// Folder for one CSV of mapped landmarks per pair, runs.csv and a plot of the errors.
        #[arg(long)]
        out: PathBuf,
    },
    /// Register the landmark pairs on small images, refine at full resolution, print what that gains.
    MeasureRefinement {
        /// Folder that holds section-sets.
        #[arg(long)]
        data: PathBuf,
    },
    Plant(plant::Args),
    Pyramid(pyramid::Args),
    RegisterPair(register::PairArgs),
    RegisterSlides(register::SlidesArgs),
}

fn main() -> anyhow::Result<()> {
    match Errand::parse() {
        Errand::Derive(args) => derive::run(&args),
        Errand::FindSlide => find_slide::run(),
        Errand::MeasureRegistration { data, out } => measure_registration::run(&data, &out),
        Errand::MeasureRefinement { data } => measure_refinement::run(&data),
        Errand::Plant(args) => plant::run(&args),
        Errand::Pyramid(args) => pyramid::run(&args),
        Errand::RegisterPair(args) => register::pair(&args),
        Errand::RegisterSlides(args) => register::slides(&args),
    }
}
