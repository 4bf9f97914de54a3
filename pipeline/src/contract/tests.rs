use std::path::Path;
use std::process::Command;

use proptest::prelude::*;
use prost::Message;

use super::onnx::{ModelProto, StringStringEntryProto};
use super::*;

fn mpp() -> Mpp {
    Mpp::new(0.5).expect("plausible")
}

fn sound() -> ModelContract {
    example::contract(&["HE", "CD3"], 16, mpp(), 4)
}

/// For four clusters of six dimensions, one of which had too few patches.
fn typicality() -> Typicality {
    let centroids = (0..24).map(|i| i as f32 / 8.0 - 1.0).collect();
    Typicality { centroids, bounds: vec![Some(0.5), None, Some(1.25), Some(0.0)] }
}

/// A model whose contract says this.
fn model_of(contract: &ModelContract) -> ModelProto {
    let mut model = example::model(&["HE", "CD3"], 16, mpp(), 4);
    contract.write(&mut model);
    model
}

fn entry<'a>(model: &'a mut ModelProto, key: &str) -> &'a mut StringStringEntryProto {
    model.metadata_props.iter_mut().find(|entry| entry.key() == key).expect("key")
}

/// Reads the sound model with one metadata value replaced.
fn read_with(key: &str, value: &str) -> ContractError {
    let mut model = model_of(&ModelContract { typicality: Some(typicality()), ..sound() });
    entry(&mut model, key).value = Some(value.to_owned());
    ModelContract::read(&model).expect_err("refused")
}

/// Reads the sound contract after a change.
fn read_changed(change: impl FnOnce(&mut ModelContract)) -> ContractError {
    let mut contract = sound();
    change(&mut contract);
    ModelContract::read(&model_of(&contract)).expect_err("refused")
}

#[test]
fn example_models_of_every_shape_have_a_valid_contract() {
    for (stains, patch_px, clusters) in [(1, 64, 2), (5, 64, 13), (5, 128, 14), (16, 8, 254)] {
        let names: Vec<String> = (0..stains).map(|i| format!("stain {i}")).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let bytes = example::bytes(&names, patch_px, mpp(), clusters);
        let contract = ModelContract::read(&preflight(&bytes).expect("harmless")).expect("valid");
        assert_eq!(contract, example::contract(&names, patch_px, mpp(), clusters));
    }
}

#[test]
fn writing_twice_leaves_one_contract_and_foreign_metadata() {
    let mut model = model_of(&sound());
    model.metadata_props.push(StringStringEntryProto { key: Some("other".to_owned()), value: Some("kept".to_owned()) });
    let changed = ModelContract { stride_px: 4, novelty_threshold: None, typicality: Some(typicality()), ..sound() };
    changed.write(&mut model);
    assert_eq!(ModelContract::read(&model).expect("valid"), changed);
    assert_eq!(entry(&mut model, "other").value(), "kept");
}

#[test]
fn a_missing_key_is_named() {
    let keys: Vec<String> = model_of(&sound()).metadata_props.iter().map(|entry| entry.key().to_owned()).collect();
    assert_eq!(keys.len(), 13);
    for key in keys.iter().filter(|key| *key != "tissuemap.novelty_threshold") {
        let mut model = model_of(&sound());
        model.metadata_props.retain(|entry| entry.key() != key);
        let error = ModelContract::read(&model).expect_err("refused");
        assert_eq!(error.id(), "contract.missing-key");
        assert!(error.to_string().contains(key.as_str()), "{error}");
    }
}

#[test]
fn unreadable_values_name_their_key() {
    for (key, value) in [
        ("tissuemap.stains", "HE, CD3"),
        ("tissuemap.stains", r#"[{"name": "HE", "colour": "blue"}]"#),
        ("tissuemap.patch_px", "16.5"),
        ("tissuemap.stride_px", "-1"),
        ("tissuemap.mpp", "NaN"),
        ("tissuemap.mpp", "1000"),
        ("tissuemap.clusters", r#"[{"id": 256, "name": "a", "color": [0, 0, 0]}]"#),
        ("tissuemap.missing_stain_fill", "[255, 255]"),
        ("tissuemap.novelty_threshold", "inf"),
        ("tissuemap.typicality", "[]"),
        ("tissuemap.typicality", r#"{"centroids": "eJwDAAAAAAE=", "bounds": [null, null, null, null]}"#),
        ("tissuemap.training", "{"),
        ("tissuemap.golden", "{}"),
    ] {
        let error = read_with(key, value);
        assert_eq!(error.id(), "contract.bad-value", "{key} = {value}: {error}");
        assert!(error.to_string().contains(key) && !error.to_string().contains('\n'), "{error}");
    }
}

#[test]
fn contradictions_name_their_key() {
    type Change = fn(&mut ModelContract);
    let changes: [(&str, Change); 15] = [
        ("stains", |c| c.stains[1].name = "he".to_owned()),
        ("stains", |c| c.stains[1].aliases.push("HE".to_owned())),
        ("stains", |c| c.stains[1].name = "line\nbreak".to_owned()),
        ("reference", |c| c.reference = "PAS".to_owned()),
        ("stride_px", |c| c.stride_px = 0),
        ("stride_px", |c| c.stride_px = 17),
        ("clusters", |c| c.clusters[0].id = 2),
        ("clusters", |c| c.clusters[1].name = c.clusters[0].name.clone()),
        ("background", |c| c.background.min_tissue_fraction = 1.5),
        ("novelty_threshold", |c| c.novelty_threshold = Some(-1.0)),
        ("typicality", |c| c.typicality = Some(Typicality { bounds: vec![None; 3], ..typicality() })),
        ("typicality", |c| c.typicality = Some(Typicality { bounds: vec![Some(-1.0); 4], ..typicality() })),
        ("golden", |c| c.golden = Golden::default()),
        ("golden", |c| c.golden.probs[0] += 0.5),
        ("golden", |c| c.golden.latent[0] = f32::NAN),
    ];
    for (key, change) in changes {
        let error = read_changed(change);
        assert!(matches!(&error, ContractError::Value { key: named, .. } if *named == key), "{key}: {error}");
    }
}

#[test]
fn a_contract_that_contradicts_its_graph_is_refused() {
    let mut model = model_of(&sound());
    example::contract(&["HE"], 16, mpp(), 4).write(&mut model);
    let error = ModelContract::read(&model).expect_err("one stain, six planes");
    assert_eq!(error, ContractError::GraphMismatch { key: "stains", contract: 1, graph: 2 });
}

#[test]
fn other_versions_and_unknown_keys_are_refused() {
    assert_eq!(read_with("tissuemap.contract_version", "2").id(), "contract.version");
    let mut model = model_of(&sound());
    entry(&mut model, "tissuemap.novelty_threshold").key = Some("tissuemap.novelty".to_owned());
    assert_eq!(ModelContract::read(&model).expect_err("refused").id(), "contract.unknown-key");
}

#[test]
fn h29_every_list_and_every_name_of_a_contract_has_a_limit_with_an_id_of_its_own() {
    type Change = fn(&mut ModelContract);
    let many = |n: usize| (0..n).map(|i| format!("alias {i}")).collect::<Vec<_>>();
    let changes: [(&str, &str, Change); 8] = [
        ("contract.too-many", "65 aliases of one stain", |c| c.stains[0].aliases = vec!["a".to_owned(); 65]),
        ("contract.too-many", "255 clusters", |c| c.clusters = vec![c.clusters[0].clone(); 255]),
        ("contract.too-many", "17 stains", |c| c.stains = vec![c.stains[0].clone(); 17]),
        ("contract.name-too-long", "has 65 characters", |c| c.clusters[0].name = "x".repeat(65)),
        ("contract.name-too-long", "has 5000 characters", |c| c.stains[0].aliases = vec!["x".repeat(5000)]),
        ("contract.revision", "revision 18446744073709551615", |c| c.training["revision"] = u64::MAX.into()),
        ("contract.revision", "revision -1", |c| c.training["revision"] = (-1).into()),
        ("contract.revision", "revision \"3\"", |c| c.training["revision"] = "3".into()),
    ];
    for (id, words, change) in changes {
        let error = read_changed(change);
        assert!(error.id() == id && error.to_string().contains(words), "{words}: {error}");
        assert!(error.hint().contains("export the model again"), "{}", error.hint());
    }
    for (key, bytes) in [("stains", 300_000), ("clusters", 300_000), ("training", 2 << 20), ("mpp", 2000)] {
        let error = read_with(&format!("tissuemap.{key}"), &"[".repeat(bytes));
        assert!(error.id() == "contract.too-large" && error.to_string().contains(key), "{key}: {error}");
    }
    let mut contract = sound();
    contract.stains[0].aliases = many(64);
    contract.training["revision"] = 20_261_201.into();
    contract.validate().expect("as much as is allowed");
    let error = read_changed(|c| {
        c.stains = (0..16).map(|i| StainSpec { name: format!("s{i}"), aliases: vec!["a".to_owned(); 17] }).collect();
    });
    assert!(error.to_string().contains("272 aliases of all stains"), "{error}");
    let error = read_with(
        "tissuemap.golden",
        r#"{"count":65,"patches":"","cluster_probs":"","latent":"","reconstruction_error":""}"#,
    );
    assert!(error.to_string().contains("65 golden patches"), "{error}");
}

#[test]
fn h29_what_is_refused_is_quoted_in_a_line_of_bounded_length() {
    let long = format!("{{\"{}\":1}}", "x".repeat(900));
    for key in ["background", "missing_stain_fill", "patch_px"] {
        let error = read_with(&format!("tissuemap.{key}"), &long).to_string();
        assert!(error.len() < 500, "{} bytes", error.len());
    }
}

#[test]
fn h10_a_decompression_bomb_in_golden_patches_is_refused() {
    let bomb = Golden { patches: vec![0; 64 << 20], ..sound().golden };
    let error = read_changed(|contract| contract.golden = bomb);
    assert!(error.to_string().contains("unpacks to other than the expected"), "{error}");
}

/// What the reference implementations of ONNX say about the example; nothing of ours runs in this check.
const CHECK: &str = "
import sys, onnx, onnxruntime, numpy as np
onnx.checker.check_model(onnx.load(sys.argv[1]), full_check=True)
session = onnxruntime.InferenceSession(sys.argv[1], providers=['CPUExecutionProvider'])
probs, latent, error = session.run(['cluster_probs', 'latent', 'reconstruction_error'], {'patches': np.zeros((3, 6, 16, 16), np.uint8)})
assert probs.shape == (3, 4) and latent.shape == (3, 6) and error.shape == (3,), (probs.shape, latent.shape, error.shape)
assert session.get_modelmeta().custom_metadata_map['tissuemap.reference'] == 'HE'
onnx.save(onnx.load(sys.argv[1]), sys.argv[2])
";

#[test]
#[allow(clippy::print_stderr)]
fn the_onnx_checker_and_onnx_runtime_for_python_accept_the_example() {
    let python = Path::new(env!("CARGO_MANIFEST_DIR")).join("../.deps/venv/bin/python");
    let ready = Command::new(&python)
        .args(["-c", "import onnx, onnxruntime"])
        .output()
        .is_ok_and(|output| output.status.success());
    if !ready {
        eprintln!("SKIPPED: no .deps/venv/bin/python with onnx and onnxruntime; run scripts/setup.sh --test");
        return;
    }
    let folder = tempfile::tempdir().expect("temporary folder");
    let (file, saved) = (folder.path().join("example.onnx"), folder.path().join("saved.onnx"));
    let bytes = example::bytes(&["HE", "CD3"], 16, mpp(), 4);
    std::fs::write(&file, &bytes).expect("written");
    let output = Command::new(&python).arg("-c").arg(CHECK).args([&file, &saved]).output().expect("python runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let saved = preflight(&std::fs::read(saved).expect("saved")).expect("a file that Python saved passes too");
    assert_eq!(saved.encode_to_vec(), bytes);
}

prop_compose! {
    fn any_contract()(
        reference in 0usize..2, stride_px in 1u32..=16, mpp in 0.01f64..=100.0, fraction in 0f32..=1.0, fill in any::<[u8; 3]>(),
        novelty_threshold in proptest::option::of(0f32..1e6), alias in "[a-zµ0-9 \"\\\\{}]{1,20}x", name in "\\PC{1,60}y",
        color in any::<[u8; 3]>(), typical in any::<bool>(), seed in any::<u64>(), patches in proptest::collection::vec(any::<u8>(), 6 * 16 * 16),
        latent in proptest::collection::vec(-1e30f32..1e30, 6), error in 0f32..1e9,
    ) -> ModelContract {
        let mut contract = sound();
        contract.reference = contract.stains[reference].name.clone();
        contract.stains[1].aliases = vec![alias];
        (contract.clusters[2].name, contract.clusters[2].color) = (name, color);
        (contract.stride_px, contract.mpp, contract.missing_stain_fill) = (stride_px, Mpp::new(mpp).expect("plausible"), fill);
        (contract.background.min_tissue_fraction, contract.novelty_threshold) = (fraction, novelty_threshold);
        contract.typicality = typical.then(typicality);
        contract.training = serde_json::json!({ "seed": seed, "slides": ["a", "b"] });
        contract.golden = Golden { patches, probs: vec![0.125, 0.25, 0.5, 0.125], latent, reconstruction_error: vec![error] };
        contract
    }
}

proptest! {
    #[test]
    fn contracts_read_back_as_they_were_written(contract in any_contract()) {
        let bytes = model_of(&contract).encode_to_vec();
        prop_assert_eq!(ModelContract::read(&preflight(&bytes).expect("harmless")), Ok(contract));
    }
}
