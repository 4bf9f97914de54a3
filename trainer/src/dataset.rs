//! The training patches, as uint8, exactly as the pipeline makes them.

use sha2::{Digest, Sha256};
use tch::{Kind, Tensor};

use crate::error::TrainError;
use crate::layers::rows;

/// Patches per step when all are walked through: bounds the memory of float copies.
pub const CHUNK: i64 = 256;

/// A plane that varies less than one grey level (a stain that is blank everywhere) is not stretched to unit variance.
const SMALLEST_DEVIATION: f64 = 1.0;

/// Where a patch was cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Origin {
    /// Which section set: index into [`PatchSet::sets`].
    pub set: u32,
    /// Left edge, model pixels of the set's reference canvas.
    pub x: i64,
    /// Top edge, likewise.
    pub y: i64,
}

/// Patches uint8 `[N, 3·S, P, P]`, stains in contract order, each with its origin; on the CPU.
#[derive(Debug)]
pub struct Patches {
    pixels: Tensor,
    origins: Vec<Origin>,
}

impl Patches {
    /// Of pixels `[N, 3·S, P, P]` with N origins.
    pub fn new(pixels: Tensor, origins: Vec<Origin>) -> Self {
        debug_assert_eq!(pixels.size()[0], origins.len() as i64);
        Self { pixels, origins }
    }

    /// N.
    pub fn count(&self) -> i64 {
        self.origins.len() as i64
    }

    /// Planes of a patch: 3·S.
    pub fn planes(&self) -> i64 {
        self.pixels.size()[1]
    }

    /// Where each patch was cut.
    pub fn origins(&self) -> &[Origin] {
        &self.origins
    }

    /// The patches of these indices, in this order.
    ///
    /// # Errors
    /// [`TrainError`] when they cannot be read.
    pub fn gather(&self, indices: &[i64]) -> Result<Tensor, TrainError> {
        Ok(self.pixels.f_index_select(0, &Tensor::from_slice(indices))?)
    }

    /// The patches `from..to`.
    ///
    /// # Errors
    /// [`TrainError`] when they cannot be read.
    pub fn range(&self, from: i64, to: i64) -> Result<Tensor, TrainError> {
        Ok(rows(&self.pixels, from, to))
    }
}

/// Patches to train on and patches kept apart.
#[derive(Debug)]
pub struct PatchSet {
    /// What the losses see.
    pub train: Patches,
    /// What they never see: novelty threshold, golden patches, validation.
    pub held_out: Patches,
    /// Names of the section sets they come from.
    pub sets: Vec<String>,
}

impl PatchSet {
    /// Mean and standard deviation per plane over the training patches, in uint8 units.
    ///
    /// # Errors
    /// [`TrainError`] when patches cannot be read.
    pub fn plane_statistics(&self) -> Result<(Vec<f32>, Vec<f32>), TrainError> {
        let mut sum = Tensor::zeros([self.train.planes()], (Kind::Double, tch::Device::Cpu));
        let mut square_sum = sum.copy();
        let mut values = 0;
        for (from, to) in chunks(self.train.count()) {
            let x = self.train.range(from, to)?.to_kind(Kind::Double);
            sum += x.sum_dim_intlist([0i64, 2, 3].as_slice(), false, Kind::Double);
            square_sum += x.square().sum_dim_intlist([0i64, 2, 3].as_slice(), false, Kind::Double);
            values += x.numel();
        }
        let count = (values as i64 / self.train.planes()) as f64;
        let mean = sum / count;
        let deviation = (square_sum / count - mean.square()).clamp_min(0.0).sqrt().clamp_min(SMALLEST_DEVIATION);
        let floats = |x: &Tensor| x.iter::<f64>().map(|v| v.map(|v| v as f32).collect()).unwrap_or_default();
        Ok((floats(&mean), floats(&deviation)))
    }

    /// SHA-256 over all patches: tells whether a checkpoint belongs to this data.
    ///
    /// # Errors
    /// [`TrainError`] when patches cannot be read.
    pub fn digest(&self) -> Result<[u8; 32], TrainError> {
        let mut hash = Sha256::new();
        for patches in [&self.train, &self.held_out] {
            hash.update(patches.count().to_le_bytes());
            for origin in patches.origins() {
                hash.update(format!("{origin:?}"));
            }
            for (from, to) in chunks(patches.count()) {
                hash.update(Vec::<u8>::try_from(patches.range(from, to)?.reshape([-1]))?);
            }
        }
        Ok(hash.finalize().into())
    }
}

/// Index ranges of at most [`CHUNK`] that cover `0..count`.
pub fn chunks(count: i64) -> impl Iterator<Item = (i64, i64)> {
    (0..count).step_by(CHUNK as usize).map(move |from| (from, (from + CHUNK).min(count)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::somewhere;
    use tch::Device;

    fn set(train: &Tensor) -> PatchSet {
        PatchSet { train: somewhere(train), held_out: somewhere(train), sets: vec!["a".to_owned()] }
    }

    #[test]
    fn plane_statistics_equal_those_of_libtorch_over_several_chunks() {
        let _turn = crate::testing::seeded(1);
        let train = Tensor::randint(200, [CHUNK + 7, 3, 4, 4], (Kind::Uint8, Device::Cpu));
        let (mean, deviation) = set(&train).plane_statistics().expect("statistics");
        let x = train.to_kind(Kind::Double);
        let dims = [0i64, 2, 3];
        let expected_mean = x.mean_dim(dims.as_slice(), false, Kind::Double);
        let expected_deviation = x.std_dim(dims.as_slice(), false, false);
        assert!(Tensor::from_slice(&mean).to_kind(Kind::Double).allclose(&expected_mean, 1e-5, 1e-5, false));
        assert!(Tensor::from_slice(&deviation).to_kind(Kind::Double).allclose(&expected_deviation, 1e-5, 1e-5, false));
    }

    #[test]
    fn a_blank_plane_is_not_stretched() {
        let blank = set(&Tensor::full([5, 3, 4, 4], 255, (Kind::Uint8, Device::Cpu)));
        let (mean, deviation) = blank.plane_statistics().expect("statistics");
        assert_eq!((mean, deviation), (vec![255.0; 3], vec![1.0; 3]));
    }

    #[test]
    fn digest_changes_with_one_pixel() {
        let patches = || Tensor::zeros([300, 3, 4, 4], (Kind::Uint8, Device::Cpu));
        let same = set(&patches()).digest().expect("digest");
        assert_eq!(same, set(&patches()).digest().expect("digest"));
        let changed = patches();
        let _ = changed.get(299).fill_(1);
        assert_ne!(same, set(&changed).digest().expect("digest"));
    }
}
