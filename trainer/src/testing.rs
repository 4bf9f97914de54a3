//! What tests share.

use std::sync::{Mutex, MutexGuard, PoisonError};

use tch::{Device, Kind, Tensor};
use tissuemap::contract::StainSpec;

use crate::config::{AutoencoderConfig, Config, ImsatConfig, JointConfig, Patches};
use crate::dataset::PatchSet;

static GENERATOR: Mutex<()> = Mutex::new(());

/// Seeds libtorch's generator, of which a process has one only: tests that depend on its values take turns while they
/// hold the guard.
pub(crate) fn seeded(seed: i64) -> MutexGuard<'static, ()> {
    let guard = GENERATOR.lock().unwrap_or_else(PoisonError::into_inner);
    tch::manual_seed(seed);
    guard
}

/// Three textures of different colour, 16 px, all stains alike: 240 patches and 30 held out, in turn of kinds 0, 1, 2.
pub(crate) fn texture_patches(stains: usize) -> PatchSet {
    let draw = |count: i64| {
        let kinds = Tensor::arange(count, (Kind::Int64, Device::Cpu)).remainder(3);
        let colours = Tensor::from_slice2(&[[200.0f32, 80.0, 120.0], [80.0, 60.0, 160.0], [230.0, 225.0, 235.0]]);
        let base = colours.index_select(0, &kinds).repeat([1, stains as i64]).view([count, -1, 1, 1]);
        let noise = Tensor::randn([count, 3 * stains as i64, 16, 16], (Kind::Float, Device::Cpu)) * 8.0;
        (base + noise).clamp(0.0, 255.0).to_kind(Kind::Uint8)
    };
    PatchSet { train: draw(240), held_out: draw(30), sets: 1 }
}

/// What fits them in a second.
pub(crate) fn texture_config(stains: usize) -> Config {
    Config {
        clusters: 3,
        cpu_threads: 1,
        checkpoint_every_epochs: 2,
        reference: "S1".to_owned(),
        stains: (1..=stains).map(|i| StainSpec { name: format!("S{i}"), aliases: Vec::new() }).collect(),
        patches: Patches { patch_px: 16, stride_px: 16, ..Patches::default() },
        autoencoder: AutoencoderConfig {
            widths: vec![4, 8],
            latent_dim: 8,
            epochs: 4,
            batch: 40,
            learning_rate: 0.005,
        },
        imsat: ImsatConfig { hidden: vec![32, 32], epochs: 15, batch: 60, learning_rate: 0.005, ..Default::default() },
        joint: JointConfig { epochs: 3, batch: 60, ..JointConfig::default() },
        ..Config::default()
    }
}
