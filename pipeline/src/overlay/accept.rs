//! Is what a worker has drawn the result that was asked for? Looked at before it is published (hazard h27): a slide or a
//! model may have taken the worker over, and its results must not speak for another set or another model.

use std::fs::File;
use std::io::{self, BufReader, Read};
use std::path::Path;

use serde::Deserialize;
use serde::de::IgnoredAny;

use super::record::{FORMAT, file_name, run_id};
use super::{CLUSTERS_GEOJSON, LABELS_PNG, OVERLAY_PNG, OutputFile, RESULT_JSON, Record};
use crate::durable::is_as_sealed;
use crate::escape::for_people;
use crate::infer::Provider;
use crate::road::RoadParams;
use crate::section_set::SectionSet;
use crate::untrusted::{self, UntrustedError};

/// A record of a thousand stains has less.
const MAX_RECORD_BYTES: u64 = 64 << 20;

/// What the worker was asked for.
#[derive(Debug, Clone, Copy)]
pub struct Assignment<'a> {
    pub set: &'a SectionSet,
    /// Of the model's file.
    pub model_sha256: &'a str,
    /// The model's stains, in its order.
    pub model_stains: &'a [String],
    pub provider: Provider,
    pub params: &'a RoadParams,
}

/// Why a result is not accepted.
#[derive(Debug, thiserror::Error)]
pub enum NotAccepted {
    #[error(transparent)]
    Unreadable(#[from] UntrustedError),
    #[error("{file} is not well-formed: {reason}")]
    Malformed { file: &'static str, reason: String },
    #[error("{RESULT_JSON} names another {what} than the job: {}", for_people(told))]
    OfAnotherJob { what: &'static str, told: String },
    #[error("the worker and {RESULT_JSON} do not agree about the {what}")]
    Inconsistent { what: &'static str },
}

/// Reads the result of stain `stain` in `folder`, whose files are those that the worker told of, and gives its record.
///
/// # Errors
/// What speaks against it.
pub fn accept(
    folder: &Path,
    stain: &str,
    files: &[OutputFile],
    assignment: &Assignment,
) -> Result<Record, NotAccepted> {
    let text = untrusted::read(&folder.join(RESULT_JSON), MAX_RECORD_BYTES)?;
    let record: Record = serde_json::from_slice(&text).map_err(|error| malformed(RESULT_JSON, &error))?;
    // Without its seal, it would be taken for a file that a person has changed.
    if is_as_sealed(&text) != Some(true) {
        return Err(NotAccepted::Malformed { file: RESULT_JSON, reason: "its seal is not that of its text".into() });
    }
    identity(&record, stain, assignment)?;
    if !record.outputs.iter().eq(files.iter().filter(|named| named.file != RESULT_JSON)) {
        return Err(NotAccepted::Inconsistent { what: "files" });
    }
    let polygons = untrusted::open_large(&folder.join(CLUSTERS_GEOJSON))?;
    let read: Result<Polygons, _> = serde_json::from_reader(BufReader::new(polygons));
    let Polygons { kind: Kind::FeatureCollection, features: IgnoredAny } =
        read.map_err(|error| malformed(CLUSTERS_GEOJSON, &error))?;
    let labels = png_header(&folder.join(LABELS_PNG)).map_err(|error| malformed(LABELS_PNG, &error))?;
    if (labels.width, labels.height) != (record.map.cols, record.map.rows) {
        return Err(NotAccepted::Inconsistent { what: "size of the map" });
    }
    png_header(&folder.join(OVERLAY_PNG)).map_err(|error| malformed(OVERLAY_PNG, &error))?;
    Ok(record)
}

#[derive(Deserialize)]
struct Polygons {
    #[serde(rename = "type")]
    kind: Kind,
    features: IgnoredAny,
}

#[derive(Deserialize)]
enum Kind {
    FeatureCollection,
}

fn malformed(file: &'static str, error: &dyn std::error::Error) -> NotAccepted {
    NotAccepted::Malformed { file, reason: for_people(&error.to_string()).to_string() }
}

/// What the record says of itself must be what was asked for.
fn identity(record: &Record, stain: &str, assignment: &Assignment) -> Result<(), NotAccepted> {
    let same = |what: &'static str, told: String, asked: &str| {
        if told == asked { Ok(()) } else { Err(NotAccepted::OfAnotherJob { what, told }) }
    };
    let Assignment { set, model_sha256, model_stains, provider, params } = *assignment;
    same("format", record.format.to_string(), &FORMAT.to_string())?;
    same("stain", record.slide.stain.clone(), stain)?;
    if record.set != set.key {
        return Err(NotAccepted::OfAnotherJob { what: "set", told: record.set.to_string() });
    }
    let file_of = |stain: &str| set.slides.get(stain).map(|slide| file_name(slide));
    same("slide", record.slide.file.clone(), &file_of(stain).unwrap_or_default())?;
    same("model", record.model.sha256.clone(), model_sha256)?;
    same("list of stains", record.model.stains.join(", "), &model_stains.join(", "))?;
    same("provider", record.model.provider.map_or_else(String::new, |p| p.to_string()), &provider.to_string())?;
    for (place, input) in record.inputs.iter().enumerate() {
        same("slide", input.file.clone(), &file_of(&input.stain).unwrap_or_default())?;
        if record.inputs[..place].iter().any(|other| other.stain == input.stain) {
            return Err(NotAccepted::OfAnotherJob { what: "list of slides", told: format!("{} twice", input.stain) });
        }
    }
    if !record.inputs.iter().any(|input| input.stain == stain) {
        return Err(NotAccepted::OfAnotherJob { what: "list of slides", told: format!("none of stain {stain}") });
    }
    let parameters = serde_json::to_value(params).unwrap_or_default();
    if record.parameters != parameters {
        return Err(NotAccepted::OfAnotherJob { what: "set of parameters", told: record.parameters.to_string() });
    }
    same("run", record.run_id.clone(), &run_id(model_sha256, &record.inputs, &parameters))
}

struct PngHeader {
    width: u32,
    height: u32,
}

/// The beginning and the end of a PNG, without a decoder: nothing of a worker is decoded here.
fn png_header(path: &Path) -> io::Result<PngHeader> {
    const BEGIN: [u8; 16] = *b"\x89PNG\r\n\x1a\n\0\0\0\x0dIHDR";
    const END: [u8; 12] = *b"\0\0\0\0IEND\xae\x42\x60\x82";
    const LARGEST_SIDE: u32 = 1 << 20;
    let mut file = untrusted::open_large(path).map_err(io::Error::from)?;
    let mut head = [0; BEGIN.len() + 8];
    file.read_exact(&mut head)?;
    let side = |at: usize| u32::from_be_bytes(head[at..at + 4].try_into().unwrap_or_default());
    let header = PngHeader { width: side(BEGIN.len()), height: side(BEGIN.len() + 4) };
    let sides = 1..=LARGEST_SIDE;
    let whole = head.starts_with(&BEGIN)
        && sides.contains(&header.width)
        && sides.contains(&header.height)
        && ends_with(&mut file, &END)?;
    whole.then_some(header).ok_or_else(|| io::Error::other("no whole PNG"))
}

fn ends_with(file: &mut File, end: &[u8; 12]) -> io::Result<bool> {
    use std::io::{Seek, SeekFrom};
    file.seek(SeekFrom::End(-12))?;
    let mut last = [0; 12];
    file.read_exact(&mut last)?;
    Ok(last == *end)
}
