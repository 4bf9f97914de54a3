//! Developers' errands: one subcommand per module.
// A command-line tool's answer goes to stdout.
#![allow(clippy::print_stdout)]

mod derive;
mod find_slide;
mod measure_registration;
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
    /// Register the landmark pairs and their rotated, shifted and mirrored variants; write maps and a table of errors.
    MeasureRegistration {
        /// Folder that holds pairs.csv.
        #[arg(long)]
        data: PathBuf,
        /// Folder for one CSV of mapped landmarks per pair, and variants.csv.
        #[arg(long)]
        out: PathBuf,
    },
    Pyramid(pyramid::Args),
    RegisterPair(register::PairArgs),
    RegisterSlides(register::SlidesArgs),
}

fn main() -> anyhow::Result<()> {
    match Errand::parse() {
        Errand::Derive(args) => derive::run(&args),
        Errand::FindSlide => find_slide::run(),
        Errand::MeasureRegistration { data, out } => measure_registration::run(&data, &out),
        Errand::Pyramid(args) => pyramid::run(&args),
        Errand::RegisterPair(args) => register::pair(&args),
        Errand::RegisterSlides(args) => register::slides(&args),
    }
}
