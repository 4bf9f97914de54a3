//! Planted tissue from the command line.

use std::path::PathBuf;

use xtask::planted::{self, MOST_KINDS, Plan};

/// Draw synthetic HE slides with a known number of tissue kinds, and the truth beside them
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Folder for the slides; created when missing
    #[arg(long)]
    out: PathBuf,
    /// How many kinds of tissue
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..=MOST_KINDS as u64))]
    kinds: u64,
    /// Which kinds, where, and everything else that is random
    #[arg(long)]
    seed: u64,
    /// How many slides
    #[arg(long, default_value_t = 2)]
    slides: u32,
    /// Width and height of a slide in pixels, which are micrometres
    #[arg(long, num_args = 2, default_values_t = [3600, 2800])]
    size: Vec<u32>,
}

pub(crate) fn run(args: &Args) -> anyhow::Result<()> {
    let plan =
        Plan { kinds: args.kinds as usize, slides: args.slides, size: (args.size[0], args.size[1]), seed: args.seed };
    let names = planted::plant(&plan, &args.out)?;
    println!("{}: {} slides of {}", args.out.display(), args.slides, names.join(", "));
    Ok(())
}
