use std::fs;

use super::*;
use crate::fit::FitContext;
use crate::testing::{seeded, test_device, texture_config, texture_patches};
use tch::Device;

fn fitted(config: &Config, patches: &PatchSet) -> FittedModel {
    let context = FitContext { device: test_device(), checkpoint: None, metrics: None, interrupted: &|| false };
    crate::fit::fit(config, patches, &context).expect("fits")
}

/// Whether ONNX Runtime is there; if not, says loudly that the test did nothing.
fn runtime_is_there(result: &Result<Exported, TrainError>) -> bool {
    if let Err(TrainError::Model(tissuemap::infer::ModelError::Library(error))) = result {
        eprintln!("SKIPPED: {error}");
        return false;
    }
    true
}

#[test]
fn exported_model_computes_the_same_on_onnx_runtime_for_one_and_five_stains() {
    let _turn = seeded(1);
    for stains in [1, 5] {
        let (config, patches) = (texture_config(stains), texture_patches(stains));
        let fitted = fitted(&config, &patches);
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("model.onnx");
        let result = export(&fitted, &patches, &config, Precision::Fp32, &path);
        if !runtime_is_there(&result) {
            return;
        }
        let exported = result.expect("exports");
        assert!(exported.golden.passes() && exported.golden.patches == GOLDEN_PATCHES, "{}", exported.golden);
        assert_eq!(fs::metadata(&path).expect("written").len(), exported.bytes as u64);
        assert_eq!(fs::read_dir(folder.path()).expect("folder").count(), 2, "model and card, nothing else");

        let mut model = Model::load(&path).expect("loads");
        let held_out = Vec::<u8>::try_from(patches.held_out.range(0, 30).expect("read").reshape([-1])).expect("bytes");
        let outputs = model.run(&held_out).expect("runs");
        let expected = evaluate(&fitted.autoencoder, &fitted.clusterer, &patches.held_out).expect("evaluates");
        let close = |ours: &[f32], theirs: &Tensor| {
            let theirs = to_vec(theirs).expect("floats");
            ours.len() == theirs.len() && ours.iter().zip(&theirs).all(|(a, b)| (a - b).abs() < 1e-4 * b.abs().max(1.0))
        };
        assert!(close(&outputs.probs, &expected.log_probs.exp()));
        assert!(close(&outputs.latent, &expected.latent));
        assert!(close(&outputs.reconstruction_error, &expected.reconstruction_error));

        let contract = model.contract();
        assert_eq!((contract.stains.len(), contract.patch_px, contract.clusters.len()), (stains, 16, 3));
        // The threshold is libtorch's value of the largest error, which ONNX Runtime rounds differently.
        let threshold = contract.novelty_threshold.expect("given") * (1.0 + 1e-4);
        let above = outputs.reconstruction_error.iter().filter(|&&e| e > threshold).count();
        assert_eq!(above, 0, "the 0.99 quantile of 30 values is the largest");
    }
}

#[test]
fn golden_patches_show_every_cluster_before_any_twice() {
    let _turn = seeded(1);
    let (config, patches) = (texture_config(1), texture_patches(1));
    let fitted = fitted(&config, &patches);
    let evaluation = evaluate(&fitted.autoencoder, &fitted.clusterer, &patches.held_out).expect("evaluates");
    let golden = golden(&patches, &evaluation).expect("golden");
    let clusters: std::collections::BTreeSet<usize> = golden
        .probs
        .chunks(3)
        .take(3)
        .map(|row| (0..3).max_by(|&a, &b| row[a].total_cmp(&row[b])).unwrap_or(0))
        .collect();
    assert_eq!((golden.len(), clusters.len()), (4, 3));
}

#[test]
fn a_model_that_computes_something_else_is_not_written() {
    let _turn = seeded(1);
    let (config, patches) = (texture_config(1), texture_patches(1));
    let mut fitted = fitted(&config, &patches);
    let folder = tempfile::tempdir().expect("folder");
    let path = folder.path().join("model.onnx");
    if !runtime_is_there(&export(&fitted, &patches, &config, Precision::Fp32, &path)) {
        return;
    }
    fs::remove_file(&path).expect("written");
    fs::remove_file(card::path_beside(&path)).expect("written");
    // Weights that are no numbers.
    fitted.clusterer.set_nan();
    let error = export(&fitted, &patches, &config, Precision::Fp32, &path).expect_err("refused");
    assert!(matches!(error, TrainError::Model(_)), "{error}");
    assert_eq!(fs::read_dir(folder.path()).expect("folder").count(), 0);
}

#[test]
fn quantile_is_a_value_of_the_sample() {
    let x = Tensor::arange(100, (Kind::Float, Device::Cpu)).flip([0]);
    assert_eq!(quantile(&x, 0.99).expect("value"), 98.0);
    assert_eq!(quantile(&x, 1.0).expect("value"), 99.0);
    assert_eq!(quantile(&x.i(0..1), 0.99).expect("value"), 99.0);
}

#[test]
fn rounded_models_agree_with_float32_and_prove_themselves_on_what_libtorch_computed() {
    let _turn = seeded(1);
    for stains in [1, 5] {
        let config = Config { revision: Some(3), ..texture_config(stains) };
        let patches = texture_patches(stains);
        let fitted = fitted(&config, &patches);
        let folder = tempfile::tempdir().expect("folder");
        let mut sizes = Vec::new();
        for precision in Precision::ALL {
            let path = folder.path().join(format!("model.{precision}.onnx"));
            let result = export(&fitted, &patches, &config, precision, &path);
            if !runtime_is_there(&result) {
                return;
            }
            let exported = result.expect("exports");
            assert!(exported.golden.passes(), "{}", exported.golden);
            let mut model = Model::load(&path).expect("loads");
            assert_eq!((model.precision(), exported.precision), (precision, precision));
            let training = model.contract().training.clone();
            assert_eq!((&training["precision"], &training["revision"]), (&precision.name().into(), &3.into()));
            assert_eq!(
                exported.agreement.map(PrecisionAgreement::as_json).unwrap_or_default(),
                training["agreement_with_fp32"]
            );
            assert_eq!(exported.agreement.is_some(), precision != Precision::Fp32);
            sizes.push(exported.bytes);

            // What libtorch says of the rounded network holds for all patches, not for the golden ones alone.
            let network = Network::new(&fitted, precision, &patches.train).expect("rounds");
            let expected = network.evaluate(&patches.held_out).expect("evaluates");
            let held_out =
                Vec::<u8>::try_from(patches.held_out.range(0, 30).expect("read").reshape([-1])).expect("bytes");
            let outputs = model.run(&held_out).expect("runs");
            let close = |ours: &[f32], theirs: &Tensor| {
                let theirs = to_vec(theirs).expect("floats");
                let scale = theirs.iter().fold(1.0f32, |largest, v| largest.max(v.abs()));
                let off = ours.iter().zip(&theirs).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max) / scale;
                ours.len() == theirs.len() && off <= precision.golden_tolerance()
            };
            assert!(close(&outputs.probs, &expected.log_probs.exp()), "{precision}");
            assert!(close(&outputs.latent, &expected.latent), "{precision}");
            assert!(close(&outputs.reconstruction_error, &expected.reconstruction_error), "{precision}");
        }
    }
}
