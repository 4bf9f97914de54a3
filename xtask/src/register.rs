//! Registration as a whole process, for measuring what it costs.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context, bail};
use tissuemap::placement::{Placement, place, registration_mpp, unheard};
use tissuemap::register::{RegisterParams, register};
use tissuemap::slide::{self, OpenOptions, SlideSource};
use tissuemap::units::Mpp;
use xtask::evaluate::read_landmarks;

/// Register two pictures of sections and carry landmarks from one to the other
#[derive(clap::Args)]
pub(crate) struct PairArgs {
    /// The picture the landmarks are on
    #[arg(long)]
    fixed: PathBuf,
    /// The picture they are carried to
    #[arg(long)]
    moving: PathBuf,
    /// Micrometres per pixel of both
    #[arg(long)]
    mpp: f64,
    /// Landmarks (id, x, y) in pixels, pixel centres at integers
    #[arg(long)]
    landmarks: PathBuf,
    /// The CSV file to write, as --landmarks is; without it the pictures are decoded and nothing else is done
    #[arg(long)]
    out: Option<PathBuf>,
}

pub(crate) fn pair(args: &PairArgs) -> anyhow::Result<()> {
    let read = |path: &PathBuf| {
        let image = image::open(path).with_context(|| format!("{} cannot be read", path.display()))?;
        anyhow::Ok(image.into_rgb8())
    };
    let (fixed, moving) = (read(&args.fixed)?, read(&args.moving)?);
    let landmarks = read_landmarks(&args.landmarks)?;
    let Some(out) = &args.out else { return Ok(()) };
    let found = register(&fixed, &moving, Mpp::new(args.mpp)?, &RegisterParams::default())?;
    let mut table = csv::Writer::from_path(out).with_context(|| format!("{} cannot be written", out.display()))?;
    table.write_record(["id", "x", "y"])?;
    for (id, (x, y)) in landmarks {
        let (x, y) = found.map.apply(x, y);
        table.serialize((id, x, y))?;
    }
    table.flush()?;
    Ok(())
}

/// Register slides as the daemon does, from their levels, and tell how far each can be trusted
#[derive(clap::Args)]
pub(crate) struct SlidesArgs {
    /// The section that the others are registered to
    reference: PathBuf,
    #[arg(required = true)]
    others: Vec<PathBuf>,
    /// Pixels along the long side of the thumbnails
    #[arg(long, default_value_t = 1400)]
    long_side: u32,
}

pub(crate) fn slides(args: &SlidesArgs) -> anyhow::Result<()> {
    let open = |path: &PathBuf| slide::open(path, &OpenOptions::default());
    let reference = open(&args.reference)?;
    let others: Vec<Arc<dyn SlideSource>> = args.others.iter().map(open).collect::<Result<_, _>>()?;
    let others: Vec<&Arc<dyn SlideSource>> = others.iter().collect();
    let all: Vec<&Arc<dyn SlideSource>> = std::iter::once(&reference).chain(others.iter().copied()).collect();
    let mpp = registration_mpp(&all, args.long_side);
    let placements = place(&reference, &others, mpp, &RegisterParams::default(), &unheard)?;
    for (path, placement) in args.others.iter().zip(&placements) {
        match placement {
            Placement::Registered(found) => println!(
                "{}: {}, expected error {:.0} µm {}",
                path.display(),
                found.quality.verdict,
                found.quality.estimated_error_um,
                found.quality.reasons.join("; ")
            ),
            Placement::LeftOut { reason, .. } => bail!("{}: {reason}", path.display()),
            Placement::Reference | Placement::Missing => {}
        }
    }
    Ok(())
}
