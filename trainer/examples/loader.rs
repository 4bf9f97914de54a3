//! How fast batches come from a store on the disk, beside plain reading and beside a training step.
//! `benches/loader.py` runs it and explains the figures.
// A command-line tool's answer goes to stdout.
#![allow(clippy::print_stdout)]

use std::error::Error;
use std::fs::File;
use std::hint::black_box;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Instant;

use clap::{Parser, Subcommand};
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use tch::nn::VarStore;
use tch::{Device, Kind, Tensor};
use tissuemap_trainer::config::Config;
use tissuemap_trainer::data::loader::{batches, prefetch, prefetch_threads};
use tissuemap_trainer::data::patches::PatchSet;
use tissuemap_trainer::data::store::{Attributes, Store};
use tissuemap_trainer::model::adam::Adam;
use tissuemap_trainer::model::augment::views;
use tissuemap_trainer::model::autoencoder::Autoencoder;
use tissuemap_trainer::model::layers::Mode;
use tissuemap_trainer::system::error::TrainError;
use tissuemap_trainer::system::{device, tensors::upload};

/// Five stains at 64 px, the default batch.
const STAINS: usize = 5;
const PATCH_PX: u32 = 64;
const BATCH: usize = 128;
/// Batches that are not timed: whatever the first contact with a GPU and its page-locked memory cost is not the loader's.
const SETTLED: usize = 24;

#[derive(Parser)]
struct Arguments {
    /// Folder of the store.
    #[arg(long)]
    store: PathBuf,
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    /// Make the store, of random bytes.
    Fill {
        #[arg(long)]
        patches: usize,
    },
    /// Read the files of pixels from front to back.
    Floor,
    /// Load all batches of a random order, or two views of each patch, as the autoencoder's training does.
    Load {
        #[arg(long)]
        views: bool,
        #[arg(long, default_value = "cpu")]
        device: String,
    },
    /// Train the default autoencoder: on one batch over and over, then on loaded ones.
    Train {
        #[arg(long)]
        steps: usize,
        #[arg(long, default_value = "cpu")]
        device: String,
    },
}

fn main() -> Result<(), Box<dyn Error>> {
    let Arguments { store, what } = Arguments::parse();
    match what {
        What::Fill { patches } => fill(&store, patches),
        What::Floor => floor(&store),
        What::Load { views, device } => load(&store, views, &device),
        What::Train { steps, device } => train(&store, steps, &device),
    }
}

fn attributes() -> Attributes {
    Attributes {
        fingerprint: "loader".to_owned(),
        complete: false,
        stains: (1..=STAINS).map(|i| format!("S{i}")).collect(),
        mpp: 1.0,
        patch_px: PATCH_PX,
        sets: Vec::new(),
        left_out: Vec::new(),
    }
}

fn patch_bytes() -> usize {
    3 * STAINS * (PATCH_PX * PATCH_PX) as usize
}

fn fill(folder: &Path, patches: usize) -> Result<(), Box<dyn Error>> {
    let (mut store, _) = Store::open(folder, attributes())?;
    let mut generator = ChaCha8Rng::seed_from_u64(1);
    let mut set = store.begin_set();
    for from in (0..patches).step_by(256) {
        let corners: Vec<(i64, i64)> = (from..patches.min(from + 256)).map(|i| (i as i64, 0)).collect();
        let mut pixels = vec![0; corners.len() * patch_bytes()];
        generator.fill_bytes(&mut pixels);
        set.add(&pixels, &corners, false)?;
    }
    set.finish("random")?;
    store.complete()?;
    Ok(())
}

fn open(folder: &Path) -> Result<PatchSet, Box<dyn Error>> {
    Ok(PatchSet::stored(Store::open(folder, attributes())?.0)?)
}

fn floor(folder: &Path) -> Result<(), Box<dyn Error>> {
    let count = open(folder)?.train.count();
    let mut buffer = vec![0; BATCH * patch_bytes()];
    let begin = Instant::now();
    for chunk in 0..(count as usize).div_ceil(256) {
        let mut file = File::open(folder.join(format!("patches/c/{chunk}/0/0/0")))?;
        while file.read(&mut buffer)? > 0 {
            black_box(&buffer);
        }
    }
    print(count as usize, begin);
    Ok(())
}

fn load(folder: &Path, two_views: bool, device: &str) -> Result<(), Box<dyn Error>> {
    let patches = &open(folder)?.train;
    let order = &shuffled(patches.count());
    let augment = &Config::default().augment;
    let device = device::parse(device)?;
    thread::scope(|scope| {
        if two_views {
            let pair = move |batch: usize| -> Result<[Tensor; 2], TrainError> {
                let mut generator = ChaCha8Rng::seed_from_u64(batch as u64);
                let pixels = upload(patches.gather(&order[batch * BATCH..(batch + 1) * BATCH])?, device);
                let mut view = || views(&pixels, augment, &mut generator);
                Ok([view()?, view()?])
            };
            let pairs = prefetch(scope, order.len() / BATCH, prefetch_threads(device), pair);
            timed(pairs, |pair| pair.map(|[_, last]| last))
        } else {
            timed(batches(scope, patches, order, BATCH, device), |batch| batch)
        }
    })
}

/// Goes through `batches`, and prints how many patches came a second after the first [`SETTLED`] of them. `work` gives something
/// of which a value is read at both ends, so that a GPU has finished.
fn timed<T>(
    batches: impl Iterator<Item = T>,
    mut work: impl FnMut(T) -> Result<Tensor, TrainError>,
) -> Result<(), Box<dyn Error>> {
    let finished = |tensor: &Tensor| black_box(tensor.view([-1]).get(0).double_value(&[]));
    let (mut begin, mut count, mut last) = (Instant::now(), 0, Tensor::zeros([1], (Kind::Float, Device::Cpu)));
    for (number, batch) in batches.enumerate() {
        last = work(batch)?;
        count += BATCH;
        if number + 1 == SETTLED {
            finished(&last);
            (begin, count) = (Instant::now(), 0);
        }
    }
    finished(&last);
    print(count, begin);
    Ok(())
}

fn train(folder: &Path, steps: usize, device: &str) -> Result<(), Box<dyn Error>> {
    let patches = open(folder)?.train;
    let order = shuffled(patches.count());
    let order = &order[..((steps + SETTLED) * BATCH).min(order.len())];
    let device = device::parse(device)?;
    tch::set_num_threads(i32::try_from(Config::default().cpu_threads)?);
    let mut config = Config::default();
    config.stains = vec![config.stains[0].clone(); STAINS];
    let store = VarStore::new(device);
    let planes = 3 * STAINS;
    let autoencoder = Autoencoder::new(&store.root(), &config.shape(), &vec![128.0; planes], &vec![64.0; planes]);
    let mut adam = Adam::new(&store, "", config.autoencoder.learning_rate);
    let mut step = |pixels: &Tensor| {
        let x = autoencoder.normalise(pixels);
        let decoded = autoencoder.decode(&autoencoder.encode(&x, Mode::Train), Mode::Train);
        let loss = Autoencoder::reconstruction_error(&x, &decoded).mean(Kind::Float);
        adam.minimise(&loss);
        loss
    };
    let one = patches.range(0, BATCH as i64)?;
    timed(0..steps + SETTLED, |_| Ok(step(&one)))?;
    thread::scope(|scope| timed(batches(scope, &patches, order, BATCH, device), |batch| Ok(step(&batch?))))
}

fn shuffled(count: i64) -> Vec<i64> {
    let mut order: Vec<i64> = (0..count).collect();
    order.shuffle(&mut ChaCha8Rng::seed_from_u64(2));
    order
}

/// Patches a second.
fn print(patches: usize, begin: Instant) {
    println!("{:.0}", patches as f64 / begin.elapsed().as_secs_f64());
}
