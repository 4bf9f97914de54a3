//! Registrations as files: `<name>_transform.json` and, beside it, the displacement as a float TIFF.
//!
//! What is in them is explained to Python users in `docs/REGISTRATION_FILES.md`. [`write`] and [`read`] are each
//! other's inverse to the last bit of every displacement.

use std::fs::File;
use std::io::{BufReader, BufWriter, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use tiff::decoder::{Decoder, DecodingResult};
use tiff::encoder::{TiffEncoder, colortype::RGB32Float};
use tiff::tags::Tag;

use crate::deformation::{Deformation, DisplacementField, SectionMap};
use crate::durable::write_new;
use crate::escape::file_component;
use crate::overlay::RESEARCH_USE_ONLY;
use crate::placement::Registered;
use crate::register::RegistrationQuality;
use crate::slide::SlideInfo;
use crate::units::{Affine, Level0Rect, Mpp};
use crate::untrusted::{self, Bounded};

/// What the JSON says it is. A change that older readers would misunderstand gets a new number.
pub const FORMAT: &str = "tissuemap-transform/1";

const CONVENTION: &str = "Points of FIXED go to points of MOVING, in micrometres from the top-left corner of the top-left \
    pixel of each slide's level-0 canvas, x to the right, y down. The centre of the level-0 pixel (x, y), counted from 0, \
    lies at ((x + 0.5) * mpp, (y + 0.5) * mpp). moving = affine * (x, y, 1) + displacement(x, y).";
const INTERPOLATION: &str = "bilinear between nodes, constant beyond";
const SAMPLES: [&str; 3] = ["x displacement in µm", "y displacement in µm", "estimated error in µm"];

/// A transform that cannot be written or read.
#[derive(Debug, thiserror::Error)]
#[error("{}: {reason}", path.display())]
pub struct TransformError {
    pub path: PathBuf,
    pub reason: String,
    hint: &'static str,
}

impl TransformError {
    /// What a person can do about it.
    pub fn hint(&self) -> &'static str {
        self.hint
    }
}

/// A slide, and the canvas that coordinates are counted on.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SlideFrame {
    /// File name, without its folder.
    pub file: String,
    /// Micrometres per level-0 pixel.
    pub mpp: Mpp,
    /// Width and height of level 0 in pixels.
    pub size_px: [u32; 2],
    /// The scanned part.
    pub bounds_px: Level0Rect,
}

impl From<&SlideInfo> for SlideFrame {
    fn from(info: &SlideInfo) -> Self {
        Self {
            file: info.path.file_name().unwrap_or_default().to_string_lossy().into_owned(),
            mpp: info.mpp,
            size_px: [info.levels[0].width, info.levels[0].height],
            bounds_px: info.bounds,
        }
    }
}

/// What a transform's files hold. The figures of quality are not read back: they are for people.
#[derive(Debug, Clone, PartialEq)]
pub struct Transform {
    pub fixed: SlideFrame,
    pub moving: SlideFrame,
    pub map: SectionMap,
    /// Estimated error in micrometres at each node of the map's field; empty for an affine map.
    pub uncertainty_um: Vec<f32>,
}

/// Where the displacement lies, and on which nodes.
#[derive(Debug, Serialize, Deserialize)]
struct Displacement {
    /// Name of a file in the same folder.
    file: String,
    origin_um: [f64; 2],
    spacing_um: f64,
    cols: usize,
    rows: usize,
}

/// The part of the JSON that is read back.
#[derive(Debug, Serialize, Deserialize)]
struct Geometry {
    fixed: SlideFrame,
    moving: SlideFrame,
    affine: Affine,
    displacement: Option<Displacement>,
}

#[derive(Serialize)]
struct Document<'a> {
    format: &'static str,
    software: String,
    research_use_only: &'static str,
    convention: &'static str,
    interpolation: &'static str,
    samples: [&'static str; 3],
    #[serde(flatten)]
    geometry: Geometry,
    quality: &'a RegistrationQuality,
}

/// What this program calls itself in files.
pub fn software() -> String {
    format!("tissuemap {}", env!("CARGO_PKG_VERSION"))
}

/// Writes `<name>_transform.json` and, unless the map is affine, `<name>_displacement.tif` to `folder`; gives their names.
///
/// # Errors
/// A file cannot be written.
pub fn write(
    folder: &Path,
    name: &str,
    fixed: &SlideInfo,
    moving: &SlideInfo,
    found: &Registered,
) -> Result<Vec<String>, TransformError> {
    let map = found.map.deformation();
    let name = file_component(name);
    let mut files = vec![format!("{name}_transform.json")];
    if let Some(field) = &map.field {
        let file = format!("{name}_displacement.tif");
        let path = folder.join(&file);
        write_nodes(&path, field, &found.uncertainty_um).map_err(|reason| unwritten(&path, &reason))?;
        files.push(file);
    }
    let displacement = map.field.as_ref().map(|field| Displacement {
        file: files[1].clone(),
        origin_um: field.origin,
        spacing_um: field.spacing,
        cols: field.cols,
        rows: field.rows,
    });
    let document = Document {
        format: FORMAT,
        software: software(),
        research_use_only: RESEARCH_USE_ONLY,
        convention: CONVENTION,
        interpolation: INTERPOLATION,
        samples: SAMPLES,
        geometry: Geometry { fixed: fixed.into(), moving: moving.into(), affine: found.map.affine(), displacement },
        quality: &found.quality,
    };
    let path = folder.join(&files[0]);
    let text = serde_json::to_string_pretty(&document).map_err(|reason| unwritten(&path, &reason))?;
    write_new(&path, text + "\n").map_err(|reason| unwritten(&path, &reason))?;
    Ok(files)
}

fn unwritten(path: &Path, reason: &dyn std::fmt::Display) -> TransformError {
    TransformError { path: path.into(), reason: reason.to_string(), hint: "check free space and write permission" }
}

/// One pixel a node: displacement and estimated error, float32.
fn write_nodes(path: &Path, field: &DisplacementField, errors: &[f32]) -> Result<(), Box<dyn std::error::Error>> {
    assert_eq!(errors.len(), field.nodes.len(), "one estimated error a node");
    let mut file = BufWriter::new(File::create_new(path)?);
    let samples: Vec<f32> = field.nodes.iter().zip(errors).flat_map(|([x, y], error)| [*x, *y, *error]).collect();
    let mut encoder = TiffEncoder::new(&mut file)?;
    let mut image = encoder.new_image::<RGB32Float>(field.cols as u32, field.rows as u32)?;
    // TIFF's own text is 7-bit: "um".
    let description = format!("{FORMAT}: x displacement, y displacement, estimated error, all in um; one pixel a node");
    image.encoder().write_tag(Tag::ImageDescription, description.as_str())?;
    image.write_data(&samples)?;
    Ok(file.flush()?)
}

/// Reads a `*_transform.json` and the displacement beside it.
///
/// # Errors
/// [`TransformError`] naming the file that is missing, damaged, or of another format.
pub fn read(path: &Path) -> Result<Transform, TransformError> {
    let bad = |reason: String| TransformError {
        path: path.into(),
        reason,
        hint: "give a *_transform.json that `tissuemapctl register` wrote",
    };
    let text = untrusted::open_named(path, untrusted::SMALL).and_then(Bounded::text);
    let text = text.map_err(|error| bad(error.to_string()))?;
    let json: serde_json::Value = serde_json::from_str(&text).map_err(|error| bad(format!("not JSON: {error}")))?;
    let format = json["format"].as_str().unwrap_or_default();
    if format != FORMAT {
        return Err(bad(format!("its format is {format:?}, not {FORMAT:?}")));
    }
    let Geometry { fixed, moving, affine, displacement } =
        serde_json::from_value(json).map_err(|error| bad(error.to_string()))?;
    let mut transform = Transform { fixed, moving, map: affine.into(), uncertainty_um: Vec::new() };
    if let Some(displacement) = displacement {
        displacement.check().map_err(|reason| bad(reason.into()))?;
        let beside = path.with_file_name(&displacement.file);
        let (nodes, errors) =
            read_nodes(&beside, displacement.cols, displacement.rows).map_err(|reason| TransformError {
                path: beside,
                reason: reason.to_string(),
                hint: "keep the files of one registration together, and unchanged",
            })?;
        let Displacement { origin_um: origin, spacing_um: spacing, cols, rows, .. } = displacement;
        let field = Some(DisplacementField { origin, spacing, cols, rows, nodes });
        transform.map = SectionMap::new(Deformation { affine: affine.0, field });
        transform.uncertainty_um = errors;
    }
    Ok(transform)
}

impl Displacement {
    /// What arithmetic on the field relies on.
    fn check(&self) -> Result<(), &'static str> {
        // A file that somebody sends must not make us read elsewhere.
        if Path::new(&self.file).file_name().is_none_or(|name| name != self.file.as_str()) {
            return Err("displacement.file is not a plain file name");
        }
        if self.cols < 2 || self.rows < 2 {
            return Err("displacement.cols and rows must be at least 2");
        }
        if self.spacing_um <= 0.0 {
            return Err("displacement.spacing_um must be above 0");
        }
        Ok(())
    }
}

type Nodes = (Vec<[f32; 2]>, Vec<f32>);

fn read_nodes(path: &Path, cols: usize, rows: usize) -> Result<Nodes, Box<dyn std::error::Error>> {
    // The decoder's own limits refuse pictures beyond 256 MiB before they are read.
    let mut decoder = Decoder::new(BufReader::new(untrusted::open_large(path)?))?;
    let (width, height) = decoder.dimensions()?;
    if (width as usize, height as usize) != (cols, rows) {
        return Err(format!("it has {width} x {height} nodes, the JSON says {cols} x {rows}").into());
    }
    let DecodingResult::F32(samples) = decoder.read_image()? else { return Err("its samples are not float32".into()) };
    let pixels = samples.as_chunks::<3>();
    if pixels.0.len() != cols * rows || !pixels.1.is_empty() {
        return Err("it does not have three samples per pixel".into());
    }
    if !samples.iter().all(|sample| sample.is_finite()) {
        return Err("a node is not a finite number".into());
    }
    Ok(pixels.0.iter().map(|[x, y, error]| ([*x, *y], *error)).unzip())
}

#[cfg(test)]
mod tests;
