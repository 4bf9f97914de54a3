//! `result.json`: everything needed to trust, repeat or refuse a result.

use std::fs;
use std::io::{self, Read};
use std::path::Path;
use std::time::UNIX_EPOCH;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::{OverlayError, RESEARCH_USE_ONLY, RESULT_JSON, Run};
use crate::durable::RecordKind;
use crate::hex::hex;
use crate::infer::Provider;
use crate::map::{LabelMap, UNFAMILIAR, UNTYPICAL};
use crate::placement::{Placement, PlacementKind};
use crate::road::{Section, StainVerdict};
use crate::section_set::SetKey;
use crate::slide::SlideInfo;
use crate::units::{Level0Rect, Mpp};
use crate::untrusted;

/// Format of the file; raised when a field changes its meaning.
pub(super) const FORMAT: u32 = 1;

/// The record of one slide's result.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Record {
    pub format: u32,
    pub notice: String,
    pub software: Software,
    /// The same for all slides of a set processed from the same bytes with the same model and parameters.
    pub run_id: String,
    pub set: SetKey,
    pub slide: SlideRecord,
    pub model: ModelRecord,
    /// All slides of the set that the model saw.
    pub inputs: Vec<Input>,
    /// The other files of this result; empty in records from before they were fingerprinted.
    #[serde(default)]
    pub outputs: Vec<OutputFile>,
    /// What is wrong or unusual, in plain words; empty when nothing is.
    pub warnings: Vec<String>,
    /// Per stain, in the model's order: placement, map and quality figures.
    pub sections: Vec<SectionRecord>,
    /// How each registered stain was judged, in the model's order; empty in records from before there were verdicts.
    #[serde(default)]
    pub registration: Vec<StainVerdict>,
    /// Outcome and share of tissue on the reference section.
    pub tissue: Value,
    pub map: MapRecord,
    pub clusters: Vec<ClusterRecord>,
    pub parameters: Value,
    pub times: Times,
    /// The seal: SHA-256 of this file with this value left empty. None in records from before there was one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub record_sha256: Option<String>,
}

/// One stain of the set. Fields are in the order of the alphabet, as older versions wrote them.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct SectionRecord {
    /// The map that was found, a refused one too.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub map: Option<Value>,
    pub placement: PlacementKind,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quality: Option<Value>,
    /// Why no map was found.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    pub stain: String,
}

/// What wrote the record.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Software {
    pub name: String,
    pub version: String,
    pub openslide: String,
}

/// The slide that this folder belongs to.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct SlideRecord {
    pub file: String,
    pub stain: String,
    pub vendor: String,
    pub mpp: Mpp,
    /// Level-0 pixels of the canvas.
    pub width: u32,
    /// Level-0 pixels of the canvas.
    pub height: u32,
    /// The scanned part: coordinates in `clusters.geojson` and `overlay.png` begin at its corner.
    pub bounds: Level0Rect,
}

/// The model that made the labels.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ModelRecord {
    pub sha256: String,
    pub contract_version: u32,
    pub stains: Vec<String>,
    pub patch_px: u32,
    pub stride_px: u32,
    pub mpp: Mpp,
    /// What computed; none in records from before it was told.
    #[serde(default)]
    pub provider: Option<Provider>,
}

/// A slide file as it was when it was read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Input {
    pub stain: String,
    pub file: String,
    pub bytes: u64,
    pub modified_unix_ns: u64,
    pub sha256: String,
}

/// A file of the result as it was written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OutputFile {
    pub file: String,
    pub bytes: u64,
    pub sha256: String,
}

impl OutputFile {
    /// The file of this name in the result folder.
    pub(crate) fn read(folder: &Path, name: &str) -> io::Result<Self> {
        let (bytes, sha256) = sha256_of(&folder.join(name), &mut |_| {})?;
        Ok(Self { file: name.into(), bytes, sha256 })
    }
}

/// Where the cells of `clusters.png` lie.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct MapRecord {
    pub cols: u32,
    pub rows: u32,
    pub cell_um: f64,
    /// Top-left corner of cell (0, 0), level-0 pixels of the full canvas.
    pub origin_level0: [f64; 2],
    /// Resolution of `overlay.png`, whose pixel (0, 0) begins at the bounds' corner.
    pub overlay_mpp: Mpp,
    /// Cells of the reference grid that the model labelled.
    pub tissue_cells: usize,
    /// Median over the labelled cells of the highest cluster probability.
    pub median_confidence: Option<f32>,
    /// Share of this slide's labelled cells that are unlike the model's training data; none where the model cannot tell.
    pub unfamiliar_fraction: Option<f64>,
}

/// One cluster on this slide.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ClusterRecord {
    pub id: u8,
    pub name: String,
    pub color: [u8; 3],
    pub cells: u64,
    pub area_um2: f64,
    /// Share of all labelled cells of this slide.
    pub fraction_of_tissue: f64,
    /// Share of its cells that are unlike the model's training data; none without cells, or where the model cannot tell.
    pub unfamiliar_fraction: Option<f64>,
    /// Share of its cells that lie far from the cluster's centre; about 0.05 is expected. None without cells, or where the
    /// model cannot tell.
    pub untypical_fraction: Option<f64>,
}

/// When the work was done. The only part of a record that differs between equal runs.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Times {
    pub started: Timestamp,
    pub finished: Timestamp,
}

impl Record {
    pub(super) fn new(
        run: &Run,
        warnings: &[String],
        inputs: &[Input],
        section: &Section,
        slide: &SlideInfo,
        labels: &LabelMap,
        overlay_mpp: Mpp,
    ) -> Self {
        let contract = run.model.contract();
        let counts = labels.counts();
        let labelled: u64 = counts[1..].iter().sum();
        let (unfamiliar, untypical) = (labels.unusual_counts(UNFAMILIAR), labels.unusual_counts(UNTYPICAL));
        let share = |cells: u64, of: u64| (of > 0).then(|| cells as f64 / of as f64);
        let tells_unfamiliar = contract.novelty_threshold.is_some();
        let tells_untypical =
            |id: u8| contract.typicality.as_ref().is_some_and(|t| t.bounds[usize::from(id) - 1].is_some());
        let clusters = contract.clusters.iter().map(|cluster| {
            let cells = counts[cluster.id as usize];
            ClusterRecord {
                id: cluster.id,
                name: cluster.name.clone(),
                color: cluster.color,
                cells,
                area_um2: cells as f64 * labels.cell_um * labels.cell_um,
                fraction_of_tissue: share(cells, labelled).unwrap_or_default(),
                unfamiliar_fraction: share(unfamiliar[cluster.id as usize], cells).filter(|_| tells_unfamiliar),
                untypical_fraction: share(untypical[cluster.id as usize], cells)
                    .filter(|_| tells_untypical(cluster.id)),
            }
        });
        let origin = labels.origin.to_level0(slide.mpp);
        let parameters = serde_json::to_value(run.params).unwrap_or_default();
        Self {
            format: FORMAT,
            notice: RESEARCH_USE_ONLY.into(),
            software: Software {
                name: "tissuemap".into(),
                version: env!("CARGO_PKG_VERSION").into(),
                openslide: crate::slide::openslide_version().unwrap_or_else(|e| e.to_string()),
            },
            run_id: run_id(run.model.sha256(), inputs, &parameters),
            set: run.key.clone(),
            slide: SlideRecord {
                file: file_name(&slide.path),
                stain: section.stain.clone(),
                vendor: slide.vendor.clone(),
                mpp: slide.mpp,
                width: slide.levels[0].width,
                height: slide.levels[0].height,
                bounds: slide.bounds,
            },
            model: ModelRecord {
                sha256: run.model.sha256().into(),
                contract_version: contract.version,
                stains: contract.stains.iter().map(|s| s.name.clone()).collect(),
                patch_px: contract.patch_px,
                stride_px: contract.stride_px,
                mpp: contract.mpp,
                provider: Some(run.model.provider()),
            },
            inputs: inputs.to_vec(),
            outputs: Vec::new(),
            warnings: warnings.to_vec(),
            sections: run.prepared.sections.iter().map(section_record).collect(),
            registration: run.prepared.sections.iter().filter_map(Section::verdict).collect(),
            tissue: serde_json::to_value(run.prepared.tissue).unwrap_or_default(),
            map: MapRecord {
                cols: labels.cols,
                rows: labels.rows,
                cell_um: labels.cell_um,
                origin_level0: [origin.x, origin.y],
                overlay_mpp,
                tissue_cells: run.prepared.cells.len(),
                median_confidence: median(&run.inferred.confidence),
                unfamiliar_fraction: share(unfamiliar[1..].iter().sum(), labelled).filter(|_| tells_unfamiliar),
            },
            clusters: clusters.collect(),
            parameters,
            times: Times { started: run.started, finished: Timestamp::now() },
            record_sha256: Some(String::new()),
        }
    }
}

/// What [`durable`](crate::durable) has to know of `result.json`.
pub const RECORD: RecordKind = RecordKind {
    name: RESULT_JSON,
    is_of_older_version: is_as_written,
    with_warnings: |text, warnings| {
        let mut record: Record = serde_json::from_slice(text).ok()?;
        record.warnings.extend_from_slice(warnings);
        record.record_sha256 = Some(String::new());
        serde_json::to_string_pretty(&record).ok()
    },
};

/// Whether these bytes are a whole record, and what would be written of it again.
fn is_as_written(text: &[u8]) -> bool {
    let record = serde_json::from_slice::<Record>(text);
    record.and_then(|record| serde_json::to_vec_pretty(&record)).is_ok_and(|again| again == text)
}

fn section_record(section: &Section) -> SectionRecord {
    let found = section.placement.found();
    let reason = match &section.placement {
        Placement::LeftOut { reason, refused: None } => Some(reason.clone()),
        _ => None,
    };
    SectionRecord {
        map: found.map(|found| json!(found.map.summary())),
        placement: section.placement.kind(),
        quality: found.map(|found| json!(found.quality)),
        reason,
        stain: section.stain.clone(),
    }
}

/// Hash over what decides the result: model, input bytes, parameters.
pub(crate) fn run_id(model: &str, inputs: &[Input], parameters: &Value) -> String {
    let mut hash = Sha256::new();
    hash.update(model);
    for input in inputs {
        hash.update(&input.stain);
        hash.update(&input.sha256);
    }
    hash.update(parameters.to_string());
    hex(hash.finalize())[..32].to_owned()
}

fn median(values: &[f32]) -> Option<f32> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f32::total_cmp);
    sorted.get(sorted.len() / 2).copied()
}

/// Fingerprints the slide files that the run used.
pub(super) fn inputs(sections: &[Section]) -> Result<Vec<Input>, OverlayError> {
    let used = sections.iter().filter(|s| !matches!(s.placement, Placement::Missing));
    used.filter_map(|section| section.slide.as_ref().map(|slide| (&section.stain, &slide.info().path)))
        .map(|(stain, path)| {
            fingerprint(stain, path).map_err(|source| OverlayError::Fingerprint { path: path.clone(), source })
        })
        .collect()
}

fn fingerprint(stain: &str, path: &Path) -> io::Result<Input> {
    let metadata = fs::metadata(path)?;
    let modified = metadata.modified()?.duration_since(UNIX_EPOCH).unwrap_or_default();
    let (_, sha256) = sha256_of(path, &mut |_| {})?;
    Ok(Input {
        stain: stain.into(),
        file: file_name(path),
        bytes: metadata.len(),
        modified_unix_ns: modified.as_nanos() as u64,
        sha256,
    })
}

/// Length and SHA-256 of a file; `read` hears of every piece how many bytes it has.
///
/// # Errors
/// The file cannot be read.
pub fn sha256_of(path: &Path, read: &mut dyn FnMut(u64)) -> io::Result<(u64, String)> {
    sha256_of_read(untrusted::open_large(path)?, read)
}

/// As [`sha256_of`], of an open file.
pub(crate) fn sha256_of_read(mut from: impl Read, read: &mut dyn FnMut(u64)) -> io::Result<(u64, String)> {
    let mut hash = Sha256::new();
    let (mut buffer, mut bytes) = (vec![0; 1 << 20], 0);
    loop {
        match from.read(&mut buffer)? {
            0 => return Ok((bytes, hex(hash.finalize()))),
            n => {
                hash.update(&buffer[..n]);
                bytes += n as u64;
                read(n as u64);
            }
        }
    }
}

pub(super) fn file_name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}
