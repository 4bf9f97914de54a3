use std::fs;
use std::sync::atomic::{AtomicU32, Ordering};

use tch::Device;

use super::*;
use crate::config::{ClusterRange, SweepConfig};
use crate::testing::{alike, seeded, test_device, texture_config, texture_patches};

const NEVER: &(dyn Fn() -> bool + Sync) = &|| false;

fn config() -> Config {
    let sweep = SweepConfig { clusters: ClusterRange { first: 2, last: 5 }, seeds: 2, hidden: vec![16], epochs: 12 };
    Config { sweep, ..texture_config(1) }
}

fn run(
    config: &Config,
    patches: &PatchSet,
    folder: &Path,
    interrupted: &(dyn Fn() -> bool + Sync),
) -> Result<Sweep, TrainError> {
    let run = RunFolder::at(folder);
    let checkpoint = run.checkpoint();
    let context = FitContext { device: test_device(), checkpoint: Some(&checkpoint), metrics: None, interrupted };
    sweep(config, patches, &context, &run)
}

#[test]
fn three_textures_are_counted() {
    let _turn = seeded(1);
    let folder = tempfile::tempdir().expect("folder");
    let found = run(&config(), &texture_patches(1), folder.path(), NEVER).expect("sweeps");
    assert_eq!(found.choice.clusters, 3, "{}", found.csv());
    let map = fs::read_to_string(RunFolder::at(folder.path()).sweep_map()).expect("written");
    // The kinds take turns.
    let clusters: Vec<&str> = map.lines().skip(1).filter_map(|line| line.rsplit(',').next()).collect();
    assert_eq!(clusters.len(), 240);
    assert!(clusters[..3].iter().zip(&clusters[3..6]).all(|(a, b)| a == b) && clusters[0] != clusters[1], "{map}");
}

#[test]
fn fits_side_by_side_are_those_one_after_the_other() {
    let _turn = seeded(1);
    let patches = texture_patches(1);
    let context = FitContext { device: test_device(), checkpoint: None, metrics: None, interrupted: NEVER };
    let latents = fit_autoencoder(&config(), &patches, &context).expect("fits");
    let neighbours = PatchNeighbours::new(patches.train.origins(), config().neighbour_radius());
    let [one, three] = [1, 3].map(|cpu_threads| {
        let folder = tempfile::tempdir().expect("folder");
        let config = Config { cpu_threads, ..config() };
        let (folder, neighbours) = (folder.path(), &neighbours);
        Fits { config: &config, neighbours, fingerprint: "same", folder, interrupted: NEVER }
            .all(&latents)
            .expect("fits")
    });
    assert_eq!(one.len(), 8);
    assert_eq!(one, three);
}

#[test]
fn a_sweep_that_was_interrupted_again_and_again_ends_like_one_that_was_not() {
    let _turn = seeded(1);
    let patches = texture_patches(1);
    let [whole, resumed] = [(); 2].map(|()| tempfile::tempdir().expect("folder"));
    let expected = run(&config(), &patches, whole.path(), NEVER).expect("sweeps");
    let mut interruptions = 0;
    let found = loop {
        let batches = AtomicU32::new(0);
        let interrupted = || batches.fetch_add(1, Ordering::Relaxed) == 150;
        match run(&config(), &patches, resumed.path(), &interrupted) {
            Ok(found) => break found,
            Err(TrainError::Interrupted { .. }) => interruptions += 1,
            Err(other) => panic!("{other}"),
        }
        assert!(interruptions < 50, "no progress");
    };
    assert!(interruptions >= 2, "{interruptions}");
    if test_device() == Device::Cpu {
        assert_eq!(found, expected);
    } else {
        // A GPU sums in another order every time.
        assert_eq!(found.choice.clusters, expected.choice.clusters);
    }
    // What is done is not done again, not even the autoencoder.
    let at_once = || true;
    assert_eq!(run(&config(), &patches, resumed.path(), &at_once).expect("read"), found);
    let other = Config { seed: 9, ..config() };
    assert!(matches!(run(&other, &patches, resumed.path(), &at_once), Err(TrainError::Interrupted { .. })));
}

#[test]
fn a_fit_goes_on_from_the_sweeps_autoencoder_and_ends_in_the_model_of_a_fit_alone() {
    let _turn = seeded(1);
    let patches = texture_patches(1);
    let folder = tempfile::tempdir().expect("folder");
    run(&config(), &patches, folder.path(), NEVER).expect("sweeps");
    let checkpoint = RunFolder::at(folder.path()).checkpoint();
    let fitted = |checkpoint| {
        let context = FitContext { device: test_device(), checkpoint, metrics: None, interrupted: NEVER };
        let fitted = crate::fit::fit(&config(), &patches, &context).expect("fits");
        crate::fit::evaluate(&fitted.autoencoder, &fitted.clusterer, &patches.held_out).expect("evaluates").log_probs
    };
    assert!(alike(&[fitted(Some(checkpoint.as_path()))], &[fitted(None)]));
}
