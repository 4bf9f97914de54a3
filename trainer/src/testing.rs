//! What tests share.

use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use image::{Rgb, RgbImage};
use prost::Message;
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use tch::{Device, Kind, Tensor};
use tissuemap::contract::{ModelContract, StainSpec, example};
use tissuemap::infer::{InferOptions, Model, ModelError};
use tissuemap::pyramid;
use tissuemap::units::Mpp;

use crate::config::{AutoencoderConfig, Config, ImsatConfig, JointConfig, PatchConfig};
use crate::data::origin::Origin;
use crate::data::patches;
use crate::data::patches::PatchSet;
use crate::data::store::Attributes;
use crate::model::random::normals;
use crate::vectors::labels::Labels;
use crate::vectors::points::Points;

static GENERATOR: Mutex<()> = Mutex::new(());

/// Seeds libtorch's generator, of which a process has one only: tests that depend on its values take turns while they
/// hold the guard.
pub(crate) fn seeded(seed: i64) -> MutexGuard<'static, ()> {
    let guard = GENERATOR.lock().unwrap_or_else(PoisonError::into_inner);
    // libtorch looks for its part for GPUs once, when it is first used.
    test_device();
    tch::manual_seed(seed);
    guard
}

/// Where the tests of whole fits compute: on a machine with a GPU, `TISSUEMAP_TEST_DEVICE=cuda:0` has them run there.
pub(crate) fn test_device() -> Device {
    let name = std::env::var("TISSUEMAP_TEST_DEVICE").unwrap_or_else(|_| "cpu".to_owned());
    crate::system::device::parse(&name).expect("TISSUEMAP_TEST_DEVICE is a device")
}

/// Whether two fits that should be the same came out the same: to the bit on the CPU. A GPU sums in another order every time.
pub(crate) fn alike(a: &[Tensor], b: &[Tensor]) -> bool {
    let exactly = test_device() == Device::Cpu;
    let same = |(a, b): (&Tensor, &Tensor)| if exactly { a == b } else { a.allclose(b, 0.05, 0.05, false) };
    a.len() == b.len() && a.iter().zip(b).all(same)
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
    PatchSet { train: somewhere(&draw(240)), held_out: somewhere(&draw(30)), sets: vec!["a".to_owned()] }
}

/// Patches `[N, 3·S, P, P]` as if cut from one section set, ten in a row, too far apart to be neighbours.
pub(crate) fn somewhere(pixels: &Tensor) -> patches::Patches {
    let size = pixels.size();
    let origin = |i| Origin { set: 0, x: i % 10 * 8 * size[3], y: i / 10 * 8 * size[2] };
    patches::Patches::new(pixels, (0..size[0]).map(origin).collect())
}

/// What a store of patches says of itself before it has any.
pub(crate) fn new_attributes(fingerprint: &str, stains: usize, patch_px: u32) -> Attributes {
    Attributes {
        fingerprint: fingerprint.to_owned(),
        complete: false,
        stains: (1..=stains).map(|i| format!("S{i}")).collect(),
        mpp: 1.0,
        patch_px,
        sets: Vec::new(),
        left_out: Vec::new(),
    }
}

/// An untrained model of four clusters whose contract was changed, and its file; `None`, said loudly, without ONNX Runtime.
pub(crate) fn example_model(change: impl FnOnce(&mut ModelContract)) -> Option<(Model, Vec<u8>)> {
    let mpp = Mpp::new(0.5).expect("plausible");
    let mut model = example::model(&["HE", "CD3"], 16, mpp, 4);
    let mut contract = example::contract(&["HE", "CD3"], 16, mpp, 4);
    change(&mut contract);
    contract.write(&mut model);
    let bytes = model.encode_to_vec();
    match Model::from_bytes(&bytes, Path::new("example.onnx"), &InferOptions::default()) {
        Err(ModelError::Library(error)) => {
            eprintln!("SKIPPED: {error}");
            None
        }
        model => Some((model.expect("loads"), bytes)),
    }
}

/// What fits them in a second.
pub(crate) fn texture_config(stains: usize) -> Config {
    Config {
        clusters: 3,
        cpu_threads: 1,
        checkpoint_every_epochs: 2,
        reference: "S1".to_owned(),
        stains: (1..=stains).map(|i| StainSpec { name: format!("S{i}"), aliases: Vec::new() }).collect(),
        patches: PatchConfig { patch_px: 16, stride_px: 16, ..PatchConfig::default() },
        autoencoder: AutoencoderConfig {
            widths: vec![4, 8],
            latent_dim: 8,
            epochs: 4,
            batch: 40,
            learning_rate: 0.005,
            ..AutoencoderConfig::default()
        },
        imsat: ImsatConfig { hidden: vec![32, 32], epochs: 15, batch: 60, learning_rate: 0.005, ..Default::default() },
        joint: JointConfig { epochs: 3, batch: 60, ..JointConfig::default() },
        ..Config::default()
    }
}

/// A purple disc with some texture on white glass, 1 mm across at 1 µm per pixel.
fn section() -> RgbImage {
    RgbImage::from_fn(1200, 1200, |x, y| {
        let (dx, dy) = (f64::from(x) - 600.0, f64::from(y) - 600.0);
        let texture = ((x / 7 + y / 5) % 4 * 20) as u8;
        if dx.hypot(dy) < 500.0 { Rgb([150 + texture, 80 + texture, 150]) } else { Rgb([250; 3]) }
    })
}

/// What draws 50 patches of 32 px from each of [`slides`].
pub(crate) fn slides_config() -> Config {
    let mut config = Config::default();
    config.patches.patch_px = 32;
    config.patches.stride_px = 16;
    config.patches.per_set = 50;
    config.sets[0].folder = ".".into();
    config
}

/// Folder with the HE sections of two cases, or nothing when slides cannot be read here.
pub(crate) fn slides() -> Option<tempfile::TempDir> {
    if let Err(error) = tissuemap::slide::load_openslide() {
        eprintln!("SKIPPED: {error}");
        return None;
    }
    let folder = tempfile::tempdir().expect("folder");
    for case in ["a", "b"] {
        let path = folder.path().join(format!("{case}_HE.tif"));
        pyramid::write_rgb(&path, &section(), Mpp::new(1.0).expect("plausible"), "test").expect("written");
    }
    Some(folder)
}

/// `count` points of `dims` independent standard normal coordinates.
pub(crate) fn gaussian_points(seed: u64, count: usize, dims: usize) -> Points {
    let mut generator = ChaCha8Rng::seed_from_u64(seed);
    Points::new(normals(&mut generator).take(count * dims).collect(), dims).expect("whole points")
}

/// Points in turn of `components` unit-variance Gaussians whose centres are drawn with standard deviation `separation`,
/// and the component of each.
pub(crate) fn planted_points(
    seed: u64,
    components: usize,
    count: usize,
    dims: usize,
    separation: f64,
) -> (Points, Labels) {
    let mut generator = ChaCha8Rng::seed_from_u64(seed);
    let mut normal = normals(&mut generator);
    let centres: Vec<f32> = normal.by_ref().take(components * dims).map(|x| x * separation as f32).collect();
    let component = |i: usize| i % components;
    let noise = normal.take(count * dims).enumerate();
    let values = noise.map(|(v, x)| centres[component(v / dims) * dims + v % dims] + x);
    let points = Points::new(values.collect(), dims).expect("whole points");
    (points, Labels::new(&(0..count).map(|i| component(i) as i64).collect::<Vec<_>>()))
}
