//! Developers' errands.

mod measure_registration;

use std::path::PathBuf;

use clap::Parser;

#[derive(Parser)]
#[command(about)]
enum Errand {
    /// Register the landmark pairs and their rotated, shifted and mirrored variants; write maps and a table of errors.
    MeasureRegistration {
        /// Folder that holds pairs.csv.
        #[arg(long)]
        data: PathBuf,
        /// Folder for one CSV of mapped landmarks per pair, and variants.csv.
        #[arg(long)]
        out: PathBuf,
    },
}

fn main() -> anyhow::Result<()> {
    match Errand::parse() {
        Errand::MeasureRegistration { data, out } => measure_registration::run(&data, &out),
    }
}
