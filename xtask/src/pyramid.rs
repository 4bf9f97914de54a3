//! A plain picture becomes a slide.

use std::path::PathBuf;

use anyhow::Context;
use tissuemap::units::Mpp;

/// Convert a JPEG or PNG into a pyramidal TIFF that OpenSlide opens
///
/// The resolution is not in such files and must be given. Example: sections scanned at 0.174 µm per pixel and published
/// at 5 % of that size have 0.174 / 0.05 = 3.48 µm per pixel.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// The picture
    input: PathBuf,
    /// The slide to write
    output: PathBuf,
    /// Micrometres per pixel of the picture
    #[arg(long)]
    mpp: f64,
}

pub(crate) fn run(args: &Args) -> anyhow::Result<()> {
    let mut reader = image::ImageReader::open(&args.input)
        .with_context(|| format!("{} cannot be read", args.input.display()))?
        .with_guessed_format()?;
    // The picture is the developer's own and may be large; the default limit of 512 MiB is meant for web pages.
    reader.no_limits();
    let image = reader.decode().with_context(|| format!("{} cannot be decoded", args.input.display()))?.into_rgb8();
    tissuemap::pyramid::write_rgb(&args.output, &image, Mpp::new(args.mpp)?, "converted by xtask pyramid")?;
    println!("{}: {} x {} px, {} µm per pixel", args.output.display(), image.width(), image.height(), args.mpp);
    Ok(())
}
