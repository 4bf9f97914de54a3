//! The training patches, uint8, exactly as the pipeline makes them.

use std::sync::Arc;

use rayon::prelude::*;
use sha2::{Digest, Sha256};
use tch::{Kind, Tensor};

use crate::data::origin::Origin;
use crate::data::store::Store;
use crate::system::error::TrainError;
use crate::system::tensors::chunks;

/// Smallest standard deviation in grey levels: a channel with a smaller one (a blank stain) is not scaled to unit variance.
const SMALLEST_DEVIATION: f64 = 1.0;

/// Patches uint8 `[N, 3·S, P, P]`, stains in contract order, each with its origin. Their pixels are in memory or in a
/// store on disk, which may be larger than memory. Both give the same bits.
#[derive(Debug)]
pub struct Patches {
    pixels: Pixels,
    /// Channels 3·S and side P.
    channels: i64,
    side: i64,
    origins: Vec<Origin>,
}

#[derive(Debug)]
enum Pixels {
    /// One patch after the other.
    Memory(Vec<u8>),
    /// The row of each patch.
    Stored { store: Arc<Store>, rows: Vec<u64> },
}

impl Patches {
    /// Of pixels uint8 `[N, 3·S, P, P]` with N origins.
    ///
    /// # Panics
    /// When `pixels` has another shape or type.
    pub fn new(pixels: &Tensor, origins: Vec<Origin>) -> Self {
        let &[count, channels, side, width] = pixels.size().as_slice() else { panic!("pixels [N, 3·S, P, P]") };
        assert!(count == origins.len() as i64 && side == width, "square patches with an origin each");
        let mut bytes = vec![0; pixels.numel()];
        pixels.contiguous().copy_data(&mut bytes, pixels.numel());
        Self { pixels: Pixels::Memory(bytes), channels, side, origins }
    }

    /// Of rows of a store, each with its origin.
    fn stored(store: &Arc<Store>, (rows, origins): (Vec<u64>, Vec<Origin>)) -> Self {
        let (channels, side) = store.shape();
        Self { pixels: Pixels::Stored { store: Arc::clone(store), rows }, channels, side, origins }
    }

    /// N.
    pub fn count(&self) -> i64 {
        self.origins.len() as i64
    }

    /// Channels of a patch: 3·S.
    pub fn channels(&self) -> i64 {
        self.channels
    }

    /// Position of each patch.
    pub fn origins(&self) -> &[Origin] {
        &self.origins
    }

    /// The patches of these indices, in this order; on the CPU.
    ///
    /// # Errors
    /// [`TrainError`] if they cannot be read.
    ///
    /// # Panics
    /// When an index is not below N.
    pub fn gather(&self, indices: &[i64]) -> Result<Tensor, TrainError> {
        let length = self.patch_bytes();
        let mut bytes = vec![0; length * indices.len()];
        bytes
            .par_chunks_exact_mut(length)
            .zip(indices)
            .try_for_each(|(patch, &index)| self.read(index as usize, patch))?;
        Ok(Tensor::f_from_data_size(&bytes, &self.size(indices.len()), Kind::Uint8)?)
    }

    /// The patches `from..to`; on the CPU.
    ///
    /// # Errors
    /// [`TrainError`] if they cannot be read.
    ///
    /// # Panics
    /// When `to` is above N.
    pub fn range(&self, from: i64, to: i64) -> Result<Tensor, TrainError> {
        self.gather(&(from..to).collect::<Vec<_>>())
    }

    fn read(&self, index: usize, patch: &mut [u8]) -> Result<(), TrainError> {
        match &self.pixels {
            Pixels::Memory(bytes) => patch.copy_from_slice(&bytes[index * patch.len()..][..patch.len()]),
            Pixels::Stored { store, rows } => store.read(rows[index], patch)?,
        }
        Ok(())
    }

    fn patch_bytes(&self) -> usize {
        (self.channels * self.side * self.side) as usize
    }

    fn size(&self, count: usize) -> [i64; 4] {
        [count as i64, self.channels, self.side, self.side]
    }

    /// Adds everything that distinguishes these patches from others.
    fn digest_into(&self, hash: &mut Sha256) {
        hash.update(format!("{:?} {:?}", self.size(self.origins.len()), self.origins));
        match &self.pixels {
            Pixels::Memory(bytes) => hash.update(bytes),
            // Hashed when they were drawn; reading them all again would take longer than many an epoch.
            Pixels::Stored { store, .. } => store.attributes().sets.iter().for_each(|set| hash.update(&set.sha256)),
        }
    }
}

/// Training patches and held-out patches.
#[derive(Debug)]
pub struct PatchSet {
    /// Used by the losses.
    pub train: Patches,
    /// Never used by the losses: for novelty threshold, golden patches, validation.
    pub held_out: Patches,
    /// Names of their section sets.
    pub sets: Vec<String>,
}

impl PatchSet {
    /// The patches of a store. They stay on disk; each takes 32 bytes of memory.
    ///
    /// # Errors
    /// [`TrainError`] if the store cannot be read.
    pub fn stored(store: Store) -> Result<Self, TrainError> {
        let sets = store.attributes().sets.iter().map(|set| set.name.clone()).collect();
        let (mut train, mut held_out) = ((Vec::new(), Vec::new()), (Vec::new(), Vec::new()));
        for (row, (origin, is_held_out)) in (0..).zip(store.origins_and_split()?) {
            let (rows, origins) = if is_held_out { &mut held_out } else { &mut train };
            rows.push(row);
            origins.push(origin);
        }
        let store = Arc::new(store);
        Ok(Self { train: Patches::stored(&store, train), held_out: Patches::stored(&store, held_out), sets })
    }

    /// Mean and standard deviation per channel over the training patches, in uint8 units.
    ///
    /// # Errors
    /// [`TrainError`] if patches cannot be read.
    pub fn channel_statistics(&self) -> Result<(Vec<f32>, Vec<f32>), TrainError> {
        let mut sum = Tensor::zeros([self.train.channels()], (Kind::Double, tch::Device::Cpu));
        let mut square_sum = sum.copy();
        let mut values = 0;
        for (from, to) in chunks(self.train.count()) {
            let x = self.train.range(from, to)?.to_kind(Kind::Double);
            sum += x.sum_dim_intlist([0i64, 2, 3].as_slice(), false, Kind::Double);
            square_sum += x.square().sum_dim_intlist([0i64, 2, 3].as_slice(), false, Kind::Double);
            values += x.numel();
        }
        let count = (values as i64 / self.train.channels()) as f64;
        let mean = sum / count;
        let deviation = (square_sum / count - mean.square()).clamp_min(0.0).sqrt().clamp_min(SMALLEST_DEVIATION);
        let floats = |x: &Tensor| x.iter::<f64>().map(|v| v.map(|v| v as f32).collect()).unwrap_or_default();
        Ok((floats(&mean), floats(&deviation)))
    }

    /// SHA-256 over all patches: tells whether a checkpoint belongs to this data.
    pub fn digest(&self) -> [u8; 32] {
        let mut hash = Sha256::new();
        self.train.digest_into(&mut hash);
        self.held_out.digest_into(&mut hash);
        hash.finalize().into()
    }
}

#[cfg(test)]
mod tests;
