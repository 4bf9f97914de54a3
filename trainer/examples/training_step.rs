//! Training steps per second, with nothing but the step: the default autoencoder on five stains at 64 px, and the clusterer
//! with its adversarial passes on the latent. `benches/training_step.py` runs it beside the same networks in PyTorch.
// A command-line tool's answer goes to stdout.
#![allow(clippy::print_stdout)]

use std::error::Error;
use std::time::Instant;

use clap::Parser;
use tch::nn::VarStore;
use tch::{Cuda, Device, Kind, Tensor};
use tissuemap_trainer::config::{AutoencoderShape, Config, ImsatConfig};
use tissuemap_trainer::model::adam::Adam;
use tissuemap_trainer::model::autoencoder::Autoencoder;
use tissuemap_trainer::model::imsat::{Clusterer, loss_terms, neighbour_distance};
use tissuemap_trainer::model::layers::Mode;
use tissuemap_trainer::system::device;

const PLANES: i64 = 15;
const SIDE: i64 = 64;
const CLUSTERS: i64 = 8;

#[derive(Parser)]
struct Arguments {
    #[arg(long, default_value_t = 128)]
    batch: i64,
    /// Steps that are timed, after three that are not.
    #[arg(long, default_value_t = 10)]
    steps: u32,
    #[arg(long, default_value = "cpu")]
    device: String,
    #[arg(long, default_value_t = 2)]
    cpu_threads: i32,
}

fn main() -> Result<(), Box<dyn Error>> {
    let Arguments { batch, steps, device, cpu_threads } = Arguments::parse();
    let device = device::parse(&device)?;
    tch::set_num_threads(cpu_threads);
    tch::manual_seed(1);
    let config = Config::default();
    let widths = config.autoencoder.widths.iter().copied().map(i64::from).collect();
    let latent_dim = i64::from(config.autoencoder.latent_dim);
    let shape = AutoencoderShape { channels: PLANES, patch_px: SIDE, widths, latent_dim };
    let patches = Tensor::randint(256, [batch, PLANES, SIDE, SIDE], (Kind::Uint8, Device::Cpu));

    let store = VarStore::new(device);
    let autoencoder = Autoencoder::new(&store.root(), &shape, &[128.0; PLANES as usize], &[64.0; PLANES as usize]);
    let mut adam = Adam::new(&store, "", config.autoencoder.learning_rate);
    let autoencoder_step = || {
        let x = autoencoder.normalise(&patches);
        let decoded = autoencoder.decode(&autoencoder.encode(&x, Mode::Train), Mode::Train);
        adam.minimise(&Autoencoder::reconstruction_error(&x, &decoded).mean(Kind::Float));
    };
    println!("autoencoder {:.6}", seconds(steps, device, autoencoder_step));

    let store = VarStore::new(device);
    let hidden: Vec<i64> = ImsatConfig::published().hidden.iter().copied().map(i64::from).collect();
    let clusterer = Clusterer::new(&store.root(), latent_dim, &hidden, CLUSTERS);
    let mut adam = Adam::new(&store, "", config.imsat.learning_rate);
    let latent = Tensor::randn([batch, latent_dim], (Kind::Float, device));
    let radius = neighbour_distance(&latent, i64::from(config.imsat.neighbour)) * config.imsat.radius_factor;
    let weights = config.imsat.weights();
    let clusterer_step = || {
        let terms = loss_terms(&clusterer, &latent, None, &radius, &weights, &latent.randn_like());
        adam.minimise(&terms.loss(&weights));
    };
    println!("imsat {:.6}", seconds(steps, device, clusterer_step));
    Ok(())
}

/// Mean seconds of a step.
fn seconds(steps: u32, device: Device, mut step: impl FnMut()) -> f64 {
    let settle = || {
        if let Device::Cuda(index) = device {
            Cuda::synchronize(index as i64);
        }
    };
    (0..3).for_each(|_| step());
    settle();
    let begun = Instant::now();
    (0..steps).for_each(|_| step());
    settle();
    begun.elapsed().as_secs_f64() / f64::from(steps)
}
