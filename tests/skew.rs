use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use tissuemap::contract::ModelContract;
use tissuemap::infer::Model;
use tissuemap::road::{Layout, Prepared, RoadParams, prepare};
use tissuemap::section_set::{SectionSet, SetKey};
use tissuemap_trainer::data::sampling;

use crate::support;

/// The model that is shipped, and its contract.
fn demo_model() -> Model {
    Model::load(&support::root().join("models/demo.onnx")).expect("the shipped model loads")
}

/// Five derived stains of one real HE slide, registered; opened anew at every call.
fn prepared(folder: &Path, contract: &ModelContract) -> Prepared {
    let slides: BTreeMap<String, _> =
        contract.stains.iter().map(|s| (s.name.clone(), folder.join(format!("skew_{}.tif", s.name)))).collect();
    let set = SectionSet { key: SetKey { case: "skew".into(), block: None }, slides };
    prepare(&set, &Layout::from(contract), &RoadParams::default(), &()).expect("prepared")
}

#[test]
fn h15_trainer_and_daemon_build_the_same_bits_for_the_same_cell() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let derive = Command::new(support::program("xtask"))
        .args(["derive", "--seed", "5", "--case", "skew", "--out"])
        .arg(folder.path())
        .output()
        .expect("xtask runs");
    assert!(derive.status.success(), "{}", String::from_utf8_lossy(&derive.stderr));
    let model = demo_model();

    let trainer = prepared(folder.path(), model.contract());
    let cells: Vec<_> = trainer.cells.iter().copied().step_by(37).collect();
    assert!(cells.len() > 40, "{} cells", cells.len());
    // The trainer asks in an order of its own, in parallel, by position.
    let positions: Vec<_> = cells.iter().rev().map(|&cell| trainer.grid.patch_origin(cell)).collect();
    let trained_on = sampling::cut(&trainer, &positions).expect("readable");

    let daemon = prepared(folder.path(), model.contract());
    let mut tensor = vec![0; daemon.source.tensor_len()];
    for (cell, patch) in cells.iter().zip(trained_on.chunks_exact(tensor.len()).rev()) {
        daemon.source.tensor(&daemon.grid, *cell, &mut tensor).expect("readable");
        assert!(tensor == patch, "{cell:?} differs");
    }
    let planes = tensor.chunks_exact(tensor.len() / (3 * model.contract().stains.len()));
    assert!(planes.into_iter().all(|plane| plane.iter().any(|v| *v != plane[0])), "every stain shows something");
}

#[test]
fn h15_the_shipped_model_reproduces_its_golden_patches_on_this_machine() {
    let report = demo_model().verify_golden().expect("within tolerance");
    assert!(report.passes() && report.patches >= 4 && report.labels_changed == 0, "{report:?}");
}

/// Nothing of ours runs in this check: onnx.checker on the file, ONNX Runtime on patches and expected outputs as raw bytes.
const CHECK: &str = "
import sys, onnx, onnxruntime, numpy as np
path, folder, n, planes, side = sys.argv[1], sys.argv[2], *map(int, sys.argv[3:])
onnx.checker.check_model(onnx.load(path), full_check=True)
session = onnxruntime.InferenceSession(path, providers=['CPUExecutionProvider'])
patches = np.fromfile(folder + '/patches', np.uint8).reshape(n, planes, side, side)
for name, found in zip(['cluster_probs', 'latent', 'reconstruction_error'], session.run(None, {'patches': patches})):
    expected = np.fromfile(folder + '/' + name, '<f4').reshape(found.shape)
    assert np.abs(found - expected).max() < 1e-4, (name, np.abs(found - expected).max())
    if name == 'cluster_probs':
        assert (found.argmax(1) == expected.argmax(1)).all()
";

#[test]
fn python_tools_accept_the_shipped_model_and_agree_with_libtorch() {
    let python = support::root().join(".deps/venv/bin/python");
    if !Command::new(&python).args(["-c", "import onnx, onnxruntime"]).output().is_ok_and(|o| o.status.success()) {
        eprintln!("SKIPPED: python_tools_accept_the_shipped_model: no .deps/venv; run scripts/setup.sh --test");
        return;
    }
    let model = demo_model();
    let contract = model.contract();
    let folder = tempfile::tempdir().expect("temporary folder");
    let golden = &contract.golden;
    let floats = |values: &[f32]| values.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<u8>>();
    for (name, bytes) in [
        ("patches", golden.patches.clone()),
        ("cluster_probs", floats(&golden.probs)),
        ("latent", floats(&golden.latent)),
        ("reconstruction_error", floats(&golden.reconstruction_error)),
    ] {
        std::fs::write(folder.path().join(name), bytes).expect("writable");
    }
    let sizes = [golden.len(), 3 * contract.stains.len(), contract.patch_px as usize].map(|n| n.to_string());
    let output = Command::new(&python)
        .args(["-c", CHECK])
        .arg(support::root().join("models/demo.onnx"))
        .arg(folder.path())
        .args(sizes)
        .output()
        .expect("python runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}
