use super::*;
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::config::ImsatConfig;
use crate::testing::{alike, seeded, somewhere, test_device, texture_config, texture_patches};

const NEVER: &(dyn Fn() -> bool + Sync) = &|| false;

fn patches() -> PatchSet {
    texture_patches(1)
}

fn config() -> Config {
    texture_config(1)
}

fn context<'a>(checkpoint: Option<&'a Path>, interrupted: &'a (dyn Fn() -> bool + Sync)) -> FitContext<'a> {
    FitContext { device: test_device(), checkpoint, metrics: None, interrupted }
}

fn outputs(fitted: &FittedModel, patches: &PatchSet) -> [Tensor; 3] {
    let Evaluation { latent, log_probs, reconstruction_error } =
        evaluate(&fitted.autoencoder, &fitted.clusterer, &patches.held_out).expect("evaluates");
    [latent, log_probs, reconstruction_error]
}

#[test]
fn three_textures_become_three_clusters_ordered_dark_to_bright() {
    let _turn = seeded(1);
    let patches = patches();
    // With a log that is written, as in the program.
    let log = tracing_subscriber::fmt().with_writer(std::io::sink).finish();
    let folder = tempfile::tempdir().expect("folder");
    let table = folder.path().join("metrics.csv");
    let context = FitContext { metrics: Some(&table), ..context(None, NEVER) };
    let fitted = tracing::subscriber::with_default(log, || fit(&config(), &patches, &context)).expect("fits");
    assert_eq!(fitted.assignment.sizes, [80, 80, 80]);
    // Kinds by brightness: 1 (mean 100), 0 (133), 2 (230).
    assert_eq!(fitted.assignment.cluster[..6], [1, 0, 2, 1, 0, 2]);
    let rows = fs::read_to_string(&table).expect("written").lines().count();
    assert_eq!(rows, 1 + 4 + 15 + 3, "a header and a row an epoch");
}

#[test]
fn same_seed_gives_the_same_model_and_another_seed_another() {
    let _turn = seeded(1);
    let patches = patches();
    let run = |seed| {
        let config = Config { seed, ..config() };
        outputs(&fit(&config, &patches, &context(None, NEVER)).expect("fits"), &patches)
    };
    let first = run(4);
    assert!(alike(&first, &run(4)));
    assert!(!alike(&first, &run(5)));
}

#[test]
fn interrupted_and_resumed_fit_ends_in_the_model_of_an_uninterrupted_one() {
    let _turn = seeded(1);
    let patches = patches();
    let whole = outputs(&fit(&config(), &patches, &context(None, NEVER)).expect("fits"), &patches);

    let folder = tempfile::tempdir().expect("folder");
    // Stops in the middle of an epoch again and again, in every phase: 25 is no multiple of an epoch's 6 or 4 batches.
    let mut interruptions = 0;
    let resumed = loop {
        let batches = AtomicU32::new(0);
        let interrupted = || batches.fetch_add(1, Ordering::Relaxed) == 25;
        match fit(&config(), &patches, &context(Some(folder.path()), &interrupted)) {
            Ok(fitted) => break fitted,
            Err(TrainError::Interrupted { checkpoint: Some(_) }) => interruptions += 1,
            Err(other) => panic!("{other}"),
        }
    };
    assert!(interruptions >= 3, "{interruptions}");
    assert!(alike(&outputs(&resumed, &patches), &whole));
}

#[test]
fn of_several_starts_the_one_with_the_lowest_loss_goes_on() {
    let _turn = seeded(1);
    let (config, patches) = (config(), patches());
    let context = context(None, NEVER);
    let mut run = autoencoder_alone(&config, &patches, &context).expect("encodes");
    let latents = run.latents(Phase::Clusterer, 1).expect("latents");
    assert!(run.choose_restart(&latents).expect("starts"));
    let losses = run.restart_losses.clone();
    let best = (0..losses.len()).min_by(|&a, &b| losses[a].total_cmp(&losses[b])).expect("starts");
    assert!(losses.len() == config.imsat.restarts as usize && (1..losses.len() - 1).contains(&best), "{losses:?}");
    let weights = |run: &TrainingRun<'_>| {
        let clusterer = run.networks.store.variables().into_iter().filter(|(name, _)| name.starts_with("clusterer."));
        let sorted: BTreeMap<String, Tensor> = clusterer.map(|(name, weight)| (name, weight.detach().copy())).collect();
        sorted.into_values().collect::<Vec<_>>()
    };
    let chosen = weights(&run);
    let again = run.run_restart(best, &latents).expect("starts").expect("not interrupted");
    assert!((again - losses[best]).abs() < 1e-3, "{again} {losses:?}");
    assert!(alike(&weights(&run), &chosen));
}

#[test]
fn checkpoint_of_another_configuration_is_not_used() {
    let _turn = seeded(1);
    let patches = patches();
    let folder = tempfile::tempdir().expect("folder");
    let at_once = || true;
    let stopped = fit(&config(), &patches, &context(Some(folder.path()), &at_once)).expect_err("stops");
    assert_eq!((stopped.exit_code(), stopped.hint().is_some()), (130, true));
    let other = Config { seed: 99, ..config() };
    let fresh = outputs(&fit(&other, &patches, &context(None, NEVER)).expect("fits"), &patches);
    let beside = outputs(&fit(&other, &patches, &context(Some(folder.path()), NEVER)).expect("fits"), &patches);
    assert!(alike(&fresh, &beside));
}

#[test]
fn weights_that_were_kept_are_read_with_their_own_patches_only() {
    let _turn = seeded(1);
    let (patches, other) = (patches(), texture_patches(1));
    let fitted = fit(&config(), &patches, &context(None, NEVER)).expect("fits");
    let folder = tempfile::tempdir().expect("folder");
    let path = folder.path().join("weights.safetensors");
    fitted.write(&path).expect("written");
    let read = FittedModel::read(&path, &config(), &patches, test_device()).expect("read");
    assert!(alike(&outputs(&read, &patches), &outputs(&fitted, &patches)));
    let error = FittedModel::read(&path, &config(), &other, test_device()).expect_err("other patches");
    assert!(matches!(error, TrainError::OtherPatches { .. }) && error.hint().is_some(), "{error}");
}

#[test]
fn collapsed_clustering_fails_the_fit_with_an_explanation() {
    let _turn = seeded(1);
    let mut config = config();
    // Almost nothing is learnt, so predictions stay uniform.
    config.imsat = ImsatConfig { epochs: 1, learning_rate: 1e-9, ..config.imsat };
    let error = fit(&config, &patches(), &context(None, NEVER)).expect_err("collapsed");
    assert!(matches!(&error, TrainError::Collapsed(reason) if reason.contains("near uniform")), "{error}");
}

#[test]
fn fewer_patches_than_a_batch_are_refused() {
    let _turn = seeded(1);
    let mut patches = patches();
    patches.train = somewhere(&patches.train.range(0, 50).expect("read"));
    let error = fit(&config(), &patches, &context(None, NEVER)).expect_err("too few");
    assert!(error.to_string().contains("50 patches are less than one batch (60) of phase clusterer"), "{error}");
}
