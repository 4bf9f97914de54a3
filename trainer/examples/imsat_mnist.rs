//! The anchor of the IMSAT code: handwritten digits, clustered from raw pixels with the published settings. Hu et al.
//! 2017 report 98.4 % accuracy. What runs is the code that clusters tissue.
//!
//!     cargo run --release -p tissuemap-trainer --example imsat_mnist -- --data FOLDER
//!
//! `FOLDER` holds `train-images-idx3-ubyte.gz` and `train-labels-idx1-ubyte.gz` as published.

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, ensure};
use clap::Parser;
use flate2::read::GzDecoder;
use tch::{Kind, Tensor};
use tissuemap_trainer::config::ImsatConfig;
use tissuemap_trainer::model::imsat::vectors::{assign, fit_vectors};
use tissuemap_trainer::system::device;
use tissuemap_trainer::vectors::agreement::Agreement;
use tissuemap_trainer::vectors::labels::Labels;

/// Clusters MNIST's training digits with IMSAT and says how many are right (Hungarian matching).
#[derive(Parser)]
struct Cli {
    /// Folder of the published idx files.
    #[arg(long)]
    data: PathBuf,
    /// Digits, from the first.
    #[arg(long, default_value_t = 60_000)]
    samples: usize,
    /// Seeds, one fit each.
    #[arg(long, value_delimiter = ',', default_value = "1,2,3")]
    seeds: Vec<u64>,
    /// Epochs; 50 as published.
    #[arg(long, default_value_t = ImsatConfig::default().epochs)]
    epochs: u32,
    /// Where to compute: cpu, cuda or cuda:N.
    #[arg(long, default_value = "cpu")]
    device: String,
    /// Threads of libtorch.
    #[arg(long, default_value_t = 2)]
    cpu_threads: i32,
}

fn main() -> anyhow::Result<()> {
    let cli = Cli::parse();
    let device = device::parse(&cli.device)?;
    tch::set_num_threads(cli.cpu_threads);
    let (pixels, digits) = digits(&cli.data, cli.samples)?;
    let pixels = pixels.to_device(device);
    let config = ImsatConfig { epochs: cli.epochs, ..ImsatConfig::published() };
    ensure!(pixels.size()[0] >= i64::from(config.batch), "--samples: at least one batch of {}", config.batch);
    let mut stdout = io::stdout();
    let mut accuracies = Vec::new();
    for &seed in &cli.seeds {
        let begun = Instant::now();
        let measure = |clusterer: &_| -> anyhow::Result<Agreement> {
            Ok(Agreement::new(&digits, &Labels::new(&assign(clusterer, &pixels)?)))
        };
        let mut outcome = Ok(());
        let clusterer = fit_vectors(&pixels, 10, &config, seed, &mut |epoch, clusterer| {
            let line = measure(clusterer).and_then(|Agreement { accuracy, nmi, ari, .. }| {
                let seconds = begun.elapsed().as_secs();
                Ok(writeln!(
                    stdout,
                    "seed {seed} epoch {epoch:2}: accuracy {accuracy:.4} NMI {nmi:.4} ARI {ari:.4}, {seconds} s"
                )?)
            });
            outcome = std::mem::replace(&mut outcome, Ok(())).and(line);
        });
        outcome?;
        accuracies.push(measure(&clusterer)?.accuracy);
    }
    let mean = accuracies.iter().sum::<f64>() / accuracies.len() as f64;
    writeln!(stdout, "accuracy, mean of {} seeds on {} digits: {mean:.4}", accuracies.len(), digits.count())?;
    Ok(())
}

/// Pixels `[N, 784]` in [−1, 1] and which digit each is.
fn digits(folder: &Path, most: usize) -> anyhow::Result<(Tensor, Labels)> {
    let images = idx(&folder.join("train-images-idx3-ubyte.gz"), 16)?;
    let labels = idx(&folder.join("train-labels-idx1-ubyte.gz"), 8)?;
    let count = most.min(labels.len());
    ensure!(images.len() == 784 * labels.len(), "{}: not as many images as labels", folder.display());
    let pixels = Tensor::from_slice(&images[..784 * count]).to_kind(Kind::Float).view([-1, 784]) / 127.5 - 1.0;
    Ok((pixels, Labels::new(&labels[..count].iter().map(|&digit| i64::from(digit)).collect::<Vec<_>>())))
}

/// What follows the header of a gzipped idx file.
fn idx(path: &Path, header: usize) -> anyhow::Result<Vec<u8>> {
    let named = || path.display().to_string();
    let mut bytes = Vec::new();
    GzDecoder::new(File::open(path).with_context(named)?).read_to_end(&mut bytes).with_context(named)?;
    ensure!(bytes.len() > header, "{}: too short", path.display());
    Ok(bytes.split_off(header))
}
