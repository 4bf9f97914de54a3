//! The training patches in memory, as uint8, exactly as the pipeline makes them.

use sha2::{Digest, Sha256};
use tch::{Kind, Tensor};

use crate::layers::rows;

/// Patches per step when all are walked through: bounds the memory of float copies.
pub const CHUNK: i64 = 256;

/// A plane that varies less than one grey level (a stain that is blank everywhere) is not stretched to unit variance.
const SMALLEST_DEVIATION: f64 = 1.0;

/// Patches to train on and patches kept apart; both uint8 `[N, 3·S, P, P]`, stains in contract order, on the CPU.
#[derive(Debug)]
pub struct PatchSet {
    /// What the losses see.
    pub train: Tensor,
    /// What they never see: novelty threshold, golden patches, validation.
    pub held_out: Tensor,
    /// How many section sets they come from.
    pub sets: usize,
}

impl PatchSet {
    /// Mean and standard deviation per plane over the training patches, in uint8 units.
    pub fn plane_statistics(&self) -> (Vec<f32>, Vec<f32>) {
        let size = self.train.size();
        let mut sum = Tensor::zeros([size[1]], (Kind::Double, tch::Device::Cpu));
        let mut square_sum = sum.copy();
        for (from, to) in chunks(size[0]) {
            let x = rows(&self.train, from, to).to_kind(Kind::Double);
            sum += x.sum_dim_intlist([0i64, 2, 3].as_slice(), false, Kind::Double);
            square_sum += x.square().sum_dim_intlist([0i64, 2, 3].as_slice(), false, Kind::Double);
        }
        let count = (size[0] * size[2] * size[3]) as f64;
        let mean = sum / count;
        let deviation = (square_sum / count - mean.square()).clamp_min(0.0).sqrt().clamp_min(SMALLEST_DEVIATION);
        let floats = |x: &Tensor| x.iter::<f64>().map(|v| v.map(|v| v as f32).collect()).unwrap_or_default();
        (floats(&mean), floats(&deviation))
    }

    /// SHA-256 over all patches: tells whether a checkpoint belongs to this data.
    ///
    /// # Errors
    /// What libtorch says.
    pub fn digest(&self) -> Result<[u8; 32], tch::TchError> {
        let mut hash = Sha256::new();
        for patches in [&self.train, &self.held_out] {
            hash.update(format!("{:?}", patches.size()));
            for (from, to) in chunks(patches.size()[0]) {
                hash.update(Vec::<u8>::try_from(rows(patches, from, to).reshape([-1]))?);
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
    use tch::Device;

    fn set(train: Tensor) -> PatchSet {
        PatchSet { held_out: train.copy(), train, sets: 1 }
    }

    #[test]
    fn plane_statistics_equal_those_of_libtorch_over_several_chunks() {
        let _turn = crate::testing::seeded(1);
        let train = Tensor::randint(200, [CHUNK + 7, 3, 4, 4], (Kind::Uint8, Device::Cpu));
        let (mean, deviation) = set(train.copy()).plane_statistics();
        let x = train.to_kind(Kind::Double);
        let dims = [0i64, 2, 3];
        let expected_mean = x.mean_dim(dims.as_slice(), false, Kind::Double);
        let expected_deviation = x.std_dim(dims.as_slice(), false, false);
        assert!(Tensor::from_slice(&mean).to_kind(Kind::Double).allclose(&expected_mean, 1e-5, 1e-5, false));
        assert!(Tensor::from_slice(&deviation).to_kind(Kind::Double).allclose(&expected_deviation, 1e-5, 1e-5, false));
    }

    #[test]
    fn a_blank_plane_is_not_stretched() {
        let (mean, deviation) = set(Tensor::full([5, 3, 4, 4], 255, (Kind::Uint8, Device::Cpu))).plane_statistics();
        assert_eq!((mean, deviation), (vec![255.0; 3], vec![1.0; 3]));
    }

    #[test]
    fn digest_changes_with_one_pixel() {
        let patches = || Tensor::zeros([300, 3, 4, 4], (Kind::Uint8, Device::Cpu));
        let same = set(patches()).digest().expect("digest");
        assert_eq!(same, set(patches()).digest().expect("digest"));
        let changed = patches();
        let _ = changed.get(299).fill_(1);
        assert_ne!(same, set(changed).digest().expect("digest"));
    }
}
