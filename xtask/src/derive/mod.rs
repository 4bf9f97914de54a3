//! Derives a set of "serial sections" in five stains from one real HE slide.
//!
//! The HE section is the slide's own pixels, cropped, with a little noise. The others are imitations of immunostains:
//! stains are separated in optical density ([`stain`]), haematoxylin stays as the counterstain, a brown signal follows
//! the tissue's structure ([`antigen`]), and the section is bent by a known smooth warp ([`warp`]) and photographed
//! anew ([`camera`]). Everything random comes from one seed.

mod antigen;
mod camera;
mod plane;
mod spline;
mod stain;
mod warp;

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail, ensure};
use image::RgbImage;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use tissuemap::pyramid;
use tissuemap::slide::{self, OpenOptions};
use tissuemap::units::{Mpp, PixelRect, UmPoint};

use antigen::Antigen;
use camera::Camera;
use plane::Plane;
use stain::Separated;
use warp::{Section, Warp, Warps};

/// The finest level with at most this many pixels is taken; some ten float planes of it must fit a laptop's memory.
const MAX_SOURCE_PX: u64 = 32_000_000;

/// The reference stain: the real one.
const REFERENCE: &str = "HE";

/// Derive five differently stained serial sections, with their true warps, from one real HE slide
#[derive(clap::Args)]
pub(crate) struct Args {
    /// The HE slide; default: the one that comes with openslide-rs
    #[arg(long)]
    slide: Option<PathBuf>,
    /// Folder for the set; created when missing
    #[arg(long)]
    out: PathBuf,
    /// The same seed gives the same bytes
    #[arg(long)]
    seed: u64,
    /// Case name: files are called <case>_<stain>.tif
    #[arg(long, default_value = "demo")]
    case: String,
    /// Which stains to write
    #[arg(long, value_delimiter = ',', default_value = "HE,CD31,KI67,PANCK,COL1")]
    stains: Vec<String>,
}

/// How one stain looks.
struct Stain {
    name: &'static str,
    /// `None` is the real HE section.
    antigen: Option<Antigen>,
    /// Strength of the blue counterstain; laboratories differ, and pale ones are the hard ones to register.
    counterstain: f32,
    /// Strength of the brown.
    dab: f32,
}

const STAINS: [Stain; 5] = [
    Stain { name: REFERENCE, antigen: None, counterstain: 1.0, dab: 0.0 },
    Stain { name: "CD31", antigen: Some(Antigen::Vascular), counterstain: 0.75, dab: 1.5 },
    Stain { name: "KI67", antigen: Some(Antigen::Nuclear), counterstain: 0.9, dab: 1.7 },
    Stain { name: "PANCK", antigen: Some(Antigen::Epithelial), counterstain: 0.7, dab: 1.3 },
    Stain { name: "COL1", antigen: Some(Antigen::Stromal), counterstain: 0.4, dab: 1.1 },
];

pub(crate) fn run(args: &Args) -> anyhow::Result<()> {
    let path = args.slide.clone().map_or_else(crate::find_slide::find, Ok)?;
    let (source, mpp) = read_source(&path)?;
    fs::create_dir_all(&args.out).with_context(|| format!("{} cannot be created", args.out.display()))?;
    let stains = args.stains.iter().map(|name| known_stain(name)).collect::<anyhow::Result<Vec<_>>>()?;
    let derivation = Derivation::new(&source, mpp, args.seed);
    let mut warps = Warps {
        format: warp::FORMAT.into(),
        case: args.case.clone(),
        seed: args.seed,
        mpp,
        reference: REFERENCE.into(),
        reference_size_px: derivation.reference_size(),
        sections: [].into(),
    };
    for index in stains {
        let stain = &STAINS[index];
        let (image, warp) = derivation.section(index)?;
        let file = format!("{}_{}.tif", args.case, stain.name);
        let nature =
            if stain.antigen.is_some() { "immunostain imitated from the HE slide" } else { "HE slide, cropped" };
        let description = format!("tissuemap demo section {} {}: {nature}; seed {}", args.case, stain.name, args.seed);
        pyramid::write_rgb(&args.out.join(&file), &image, mpp, &description)?;
        let [x, y] = warps.reference_size_px.map(|side| f64::from(side) * mpp.get() / 2.0);
        let moved = warp.apply(UmPoint { x, y });
        println!(
            "{}: {} x {} px; the centre moved by ({:+.0}, {:+.0}) µm",
            args.out.join(&file).display(),
            image.width(),
            image.height(),
            moved.x - x,
            moved.y - y
        );
        warps.sections.insert(stain.name.into(), Section { file, size_px: [image.width(), image.height()], warp });
    }
    let write = |suffix: &str, text: String| {
        let path = args.out.join(format!("{}_{suffix}", args.case));
        fs::write(&path, text).with_context(|| format!("{} cannot be written", path.display()))
    };
    write("warps.json", serde_json::to_string_pretty(&warps)? + "\n")?;
    write("origin.txt", origin_text(&path, args.seed))
}

fn known_stain(name: &str) -> anyhow::Result<usize> {
    STAINS.iter().position(|stain| stain.name == name).with_context(|| {
        let known = STAINS.map(|stain| stain.name).join(", ");
        format!("no recipe for stain {name:?}; known: {known}")
    })
}

/// The pixels of the finest level that is small enough, and their resolution.
fn read_source(path: &Path) -> anyhow::Result<(RgbImage, Mpp)> {
    let slide = slide::open(path, &OpenOptions::default())?;
    let info = slide.info();
    let fits = |level: &slide::Level| u64::from(level.width) * u64::from(level.height) <= MAX_SOURCE_PX;
    let Some(index) = info.levels.iter().position(fits) else {
        bail!("{} has no level of at most {MAX_SOURCE_PX} pixels", path.display());
    };
    let level = info.levels[index];
    ensure!(level.width >= 64 && level.height >= 64, "{} is too small to derive sections from", path.display());
    let rect = PixelRect { x: 0, y: 0, width: level.width, height: level.height };
    Ok((slide.read_level(index, rect)?, Mpp::new(info.level_mpp(index))?))
}

/// One source slide on its way to sections. The reference frame is the HE section: the source less a cropped margin.
struct Derivation<'a> {
    source: &'a RgbImage,
    mpp: Mpp,
    seed: u64,
    separated: Separated,
    /// Margin cropped from the source to make the reference: left, top, right, bottom, in pixels.
    margin: [u32; 4],
}

/// What a random stream is for. Each (stain, purpose, row) has its own, so that leaving out a stain changes no other.
#[derive(Clone, Copy)]
enum Purpose {
    Geometry,
    Antigen,
    Camera,
    Noise,
}

impl<'a> Derivation<'a> {
    fn new(source: &'a RgbImage, mpp: Mpp, seed: u64) -> Self {
        let mut rng = stream(seed, 0, Purpose::Geometry, 0);
        let (width, height) = source.dimensions();
        // Up to 2 % of each side: enough that no two sections share a corner.
        let margin = [width, height, width, height].map(|side| rng.random_range(0..=side / 50));
        Self { source, mpp, seed, separated: stain::separate(source), margin }
    }

    fn reference_size(&self) -> [u32; 2] {
        let [left, top, right, bottom] = self.margin;
        [self.source.width() - left - right, self.source.height() - top - bottom]
    }

    /// The section of stain number `index` and its true warp.
    fn section(&self, index: usize) -> anyhow::Result<(RgbImage, Warp)> {
        match STAINS[index].antigen {
            None => Ok((self.crop(index), Warp::IDENTITY)),
            Some(antigen) => self.bend(index, &self.restain(index, antigen)),
        }
    }

    /// The reference section: the source's own pixels.
    fn crop(&self, index: usize) -> RgbImage {
        let [left, top, ..] = self.margin;
        let size_px = self.reference_size();
        let scene = |x, y| self.source.get_pixel(x + left, y + top).0.map(f32::from);
        self.camera(index, size_px).noise_only().photograph(size_px, self.mpp.get(), self.noise(index), scene)
    }

    /// Bends the section with these concentrations of counterstain and DAB, and photographs it.
    fn bend(&self, index: usize, stains: &[Plane; 2]) -> anyhow::Result<(RgbImage, Warp)> {
        let mpp = self.mpp.get();
        let mut rng = stream(self.seed, index, Purpose::Geometry, 1);
        let reference_px = self.reference_size();
        // The operator's scan area: a little narrower or wider than the reference's.
        let size_px = reference_px.map(|side| (f64::from(side) * rng.random_range(0.97..=1.06)).round() as u32);
        let um = |px: [u32; 2]| px.map(|side| f64::from(side) * mpp);
        let warp = Warp::random(&mut rng, um(reference_px), um(size_px));
        let [left, top, ..] = self.margin.map(f64::from);
        let image = {
            let to_reference = warp.inverse()?;
            let scene = |x: u32, y: u32| {
                let point = to_reference(UmPoint::from_pixels(f64::from(x) + 0.5, f64::from(y) + 0.5, self.mpp));
                let (x, y) = point.to_pixels(self.mpp);
                let [h, dab] = sample(stains, x + left, y + top);
                stain::transmitted(self.separated.glass, [(h, stain::HAEMATOXYLIN), (dab, stain::DAB)])
            };
            self.camera(index, size_px).photograph(size_px, mpp, self.noise(index), scene)
        };
        Ok((image, warp))
    }

    fn camera(&self, index: usize, size_px: [u32; 2]) -> Camera {
        let canvas_um = size_px.map(|side| f64::from(side) * self.mpp.get());
        Camera::random(&mut stream(self.seed, index, Purpose::Camera, 0), canvas_um)
    }

    /// The noise of each row.
    fn noise(&self, index: usize) -> impl Fn(u32) -> ChaCha8Rng + Sync + use<> {
        let seed = self.seed;
        move |row| stream(seed, index, Purpose::Noise, row)
    }

    /// Concentrations of counterstain and DAB over the source.
    fn restain(&self, index: usize, antigen: Antigen) -> [Plane; 2] {
        let stain = &STAINS[index];
        let mut rng = stream(self.seed, index, Purpose::Antigen, 0);
        let signal = antigen.signal(&self.separated, self.mpp, &mut rng);
        let (h, e) = (&self.separated.haematoxylin, &self.separated.eosin);
        let (width, height) = (h.width, h.height);
        // Haematoxylin also leaves a haze on everything eosin would have taken, and DAB a trace of it everywhere.
        let counterstain = Plane::from_fn(width, height, |x, y| {
            stain.counterstain * (1.1 * h.at(x, y).min(1.6) + 0.18 * e.at(x, y).min(1.6))
        });
        let dab = Plane::from_fn(width, height, |x, y| stain.dab * signal.at(x, y) + 0.05 * e.at(x, y).min(1.6));
        [counterstain, dab]
    }
}

/// Bilinear, in edge-based source pixels; nothing (clear glass) beyond the border.
fn sample(planes: &[Plane; 2], x: f64, y: f64) -> [f32; 2] {
    let (x, y) = (x - 0.5, y - 0.5);
    let (col, row) = (x.floor(), y.floor());
    let (fx, fy) = ((x - col) as f32, (y - row) as f32);
    let (col, row) = (col as i64, row as i64);
    planes.each_ref().map(|plane| {
        let inside = |c: i64, r: i64| (0..plane.width as i64).contains(&c) && (0..plane.height as i64).contains(&r);
        let at = |c, r| if inside(c, r) { plane.at(c as usize, r as usize) } else { 0.0 };
        let top = at(col, row) * (1.0 - fx) + at(col + 1, row) * fx;
        let bottom = at(col, row + 1) * (1.0 - fx) + at(col + 1, row + 1) * fx;
        top * (1.0 - fy) + bottom * fy
    })
}

fn stream(seed: u64, stain: usize, purpose: Purpose, row: u32) -> ChaCha8Rng {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    rng.set_stream((stain as u64) << 40 | (purpose as u64) << 32 | u64::from(row));
    rng
}

fn origin_text(slide: &Path, seed: u64) -> String {
    let name = slide.file_name().unwrap_or_default().to_string_lossy();
    format!(
        "Where these sections come from\n\
         \n\
         REAL: the tissue and its HE stain, from one slide, {name}. The HE section is that slide's own pixels, cropped,\n\
         with a little sensor noise added. (The slide that comes with openslide-rs is CMU-1-Small-Region, from the freely\n\
         distributable OpenSlide test data.)\n\
         \n\
         DERIVED, not real: every other stain. No antibody was ever used. Haematoxylin and eosin were separated by\n\
         Macenko's method, haematoxylin was kept as the blue counterstain, and a brown signal was computed from the\n\
         tissue's structure. Which cells are positive is drawn at random. The sections are one section bent five ways, so\n\
         even single nuclei recur, which real serial sections do not show.\n\
         \n\
         The bends are known exactly: see the warps file. Seed: {seed}.\n\
         \n\
         Good for: trying the software. Not good for: any statement about tissue, stains or accuracy in practice.\n"
    )
}

#[cfg(test)]
mod tests;
