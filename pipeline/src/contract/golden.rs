//! Golden patches: a few inputs that travel with the model, together with what the trainer computed for them.

use std::io::{Read, Write};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use flate2::Compression;
use flate2::read::ZlibDecoder;
use flate2::write::ZlibEncoder;
use serde::{Deserialize, Serialize};

use super::Signature;

/// Largest difference that golden outputs may show on another machine, for values up to 1 and relative to the largest
/// value of the output above that. float32 kernels that sum in another order differ by about 1e-6; a wrong weight, channel
/// order or normalisation by more than 1e-2.
pub const GOLDEN_TOLERANCE: f32 = 1e-4;

/// Golden patches a model may carry; a handful proves the point, and they are decompressed before anything else.
pub const MAX_GOLDEN: usize = 64;

/// Their bytes, unpacked: 64 five-stain patches of 128 pixels are 15 MiB.
const MAX_GOLDEN_BYTES: usize = 64 << 20;

/// Rows of `cluster_probs` sum to 1 within this: 254 float32 terms lose less than 1e-4.
pub(crate) const PROBS_SUM_TOLERANCE: f32 = 1e-3;

/// n inputs and their expected outputs, row-major and in the same order.
///
/// The trainer should pick patches whose most probable cluster is clear: labels must be equal everywhere.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Golden {
    /// n·3S·P·P, as the model's input.
    pub patches: Vec<u8>,
    /// n·K.
    pub probs: Vec<f32>,
    /// n·D.
    pub latent: Vec<f32>,
    /// n.
    pub reconstruction_error: Vec<f32>,
}

impl Golden {
    /// How many patches.
    pub fn len(&self) -> usize {
        self.reconstruction_error.len()
    }

    /// True where there is none, which no valid contract has.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Lengths that fit together, finite values, rows that are probabilities; the error is the reason in words.
    pub(super) fn validate(&self, signature: &Signature) -> Result<(), String> {
        let n = self.len();
        check_count(n, signature)?;
        let lengths = [
            ("patches", self.patches.len(), signature.tensor_len()),
            ("cluster_probs", self.probs.len(), signature.clusters as usize),
            ("latent", self.latent.len(), signature.latent_dim as usize),
        ];
        for (name, found, each) in lengths {
            if found != n * each {
                return Err(format!("{name} has {found} values; {n} patches need {}", n * each));
            }
        }
        if !self.probs.iter().chain(&self.latent).chain(&self.reconstruction_error).all(|value| value.is_finite()) {
            return Err("an expected output is not finite".to_owned());
        }
        let is_distribution = |row: &[f32]| (row.iter().sum::<f32>() - 1.0).abs() <= PROBS_SUM_TOLERANCE;
        if !self.probs.chunks(signature.clusters as usize).all(is_distribution) {
            return Err("a row of cluster_probs does not sum to 1".to_owned());
        }
        Ok(())
    }

    pub(super) fn pack(&self) -> PackedGolden {
        PackedGolden {
            count: self.len(),
            patches: deflate(&self.patches),
            cluster_probs: deflate(&to_bytes(&self.probs)),
            latent: deflate(&to_bytes(&self.latent)),
            reconstruction_error: deflate(&to_bytes(&self.reconstruction_error)),
        }
    }
}

/// How golden patches are written: each array little-endian, zlib-compressed, in base64.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct PackedGolden {
    pub(super) count: usize,
    patches: String,
    cluster_probs: String,
    latent: String,
    reconstruction_error: String,
}

impl PackedGolden {
    /// Decompresses no more than `signature` and `count` promise.
    pub(super) fn unpack(&self, signature: &Signature) -> Result<Golden, String> {
        check_count(self.count, signature)?;
        let floats =
            |text: &str, each: u32| inflate(text, 4 * self.count * each as usize).map(|bytes| from_bytes(&bytes));
        Ok(Golden {
            patches: inflate(&self.patches, self.count * signature.tensor_len())?,
            probs: floats(&self.cluster_probs, signature.clusters)?,
            latent: floats(&self.latent, signature.latent_dim)?,
            reconstruction_error: floats(&self.reconstruction_error, 1)?,
        })
    }
}

fn check_count(count: usize, signature: &Signature) -> Result<(), String> {
    if !(1..=MAX_GOLDEN).contains(&count) || count * signature.tensor_len() > MAX_GOLDEN_BYTES {
        return Err(format!(
            "{count} golden patches; 1 to {MAX_GOLDEN} of together {MAX_GOLDEN_BYTES} bytes are allowed"
        ));
    }
    Ok(())
}

pub(super) fn to_bytes(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

pub(super) fn from_bytes(bytes: &[u8]) -> Vec<f32> {
    bytes.as_chunks().0.iter().map(|four| f32::from_le_bytes(*four)).collect()
}

pub(super) fn deflate(bytes: &[u8]) -> String {
    let mut encoder = ZlibEncoder::new(Vec::new(), Compression::best());
    // Writing into a Vec cannot fail; were it to, the packed value would be short and reading it back says so.
    let packed = encoder.write_all(bytes).and_then(|()| encoder.finish()).unwrap_or_default();
    STANDARD.encode(packed)
}

pub(super) fn inflate(text: &str, expected: usize) -> Result<Vec<u8>, String> {
    let packed = STANDARD.decode(text).map_err(|e| format!("not base64: {e}"))?;
    let mut bytes = Vec::new();
    // One byte more than expected tells "too long" from "just right" without unpacking a bomb.
    ZlibDecoder::new(packed.as_slice())
        .take(expected as u64 + 1)
        .read_to_end(&mut bytes)
        .map_err(|e| format!("not zlib data: {e}"))?;
    if bytes.len() == expected {
        Ok(bytes)
    } else {
        Err(format!("unpacks to other than the expected {expected} bytes"))
    }
}
