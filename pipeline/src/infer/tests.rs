use prost::Message;

use super::golden::{difference, most_probable};
use super::*;
use crate::contract::{GOLDEN_TOLERANCE, example, graph, onnx};
use crate::units::Mpp;

const STAINS: [&str; 2] = ["HE", "Ki67"];

fn example_model() -> onnx::ModelProto {
    example::model(&STAINS, 16, Mpp::new(0.5).expect("plausible"), 5)
}

/// The model, or `None` with a loud word where ONNX Runtime is not set up.
fn open(model: &onnx::ModelProto) -> Option<Result<Model, ModelError>> {
    if let Err(reason) = environment() {
        #[allow(clippy::print_stderr)]
        {
            eprintln!("SKIPPED: {reason}");
        }
        return None;
    }
    Some(Model::from_bytes(
        &model.encode_to_vec(),
        Path::new("example.onnx"),
        &InferOptions { threads: 1, ..InferOptions::default() },
    ))
}

fn initializer<'a>(model: &'a mut onnx::ModelProto, name: &str) -> &'a mut onnx::TensorProto {
    let tensors = &mut model.graph.as_mut().expect("graph").initializer;
    tensors.iter_mut().find(|tensor| tensor.name() == name).expect("initializer")
}

fn node<'a>(model: &'a mut onnx::ModelProto, output: &str) -> &'a mut onnx::NodeProto {
    let nodes = &mut model.graph.as_mut().expect("graph").node;
    nodes.iter_mut().find(|node| node.output[0] == output).expect("node")
}

#[test]
fn h15_golden_patches_of_the_example_pass() {
    let Some(model) = open(&example_model()) else { return };
    let report = model.expect("opens").verify_golden().expect("golden patches pass");
    assert_eq!((report.patches, report.labels_changed), (5, 0));
}

#[test]
fn h09_a_changed_weight_fails_the_golden_patches() {
    let mut changed = example_model();
    let weights = initializer(&mut changed, "weights").raw_data.as_mut().expect("values");
    weights[..4].copy_from_slice(&0.0f32.to_le_bytes());
    let Some(model) = open(&changed) else { return };
    let error = model.expect("opens").verify_golden().expect_err("differs");
    assert_eq!(error.id(), "model.golden-mismatch");
    assert!(error.to_string().contains("cluster_probs"), "{error}");
}

/// The example with its `products` computed from rounded numbers: weights of 7 bits, latents of 8.
fn quantised_example() -> onnx::ModelProto {
    let mut model = example_model();
    let signature = crate::contract::signature(&model).expect("sound");
    let weights: Vec<f32> = initializer(&mut model, "weights")
        .raw_data()
        .as_chunks()
        .0
        .iter()
        .map(|four| f32::from_le_bytes(*four))
        .collect();
    let step = weights.iter().fold(0.0f32, |largest, w| largest.max(w.abs())) / 63.0;
    let codes: Vec<i8> = weights.iter().map(|w| (w / step).round() as i8).collect();
    let mut more = graph::GraphBuilder::new("more", signature);
    more.int8s("codes", &[6, 5], &codes);
    more.floats("weight_step", &[], &[step]);
    more.floats("latent_step", &[], &[1.0 / 255.0]);
    more.uint8s("zero", &[], &[0]);
    more.node("DequantizeLinear", &["codes", "weight_step"], "rounded_weights", &[]);
    more.node("QuantizeLinear", &[LATENT, "latent_step", "zero"], "latent_codes", &[]);
    more.node("DequantizeLinear", &["latent_codes", "latent_step", "zero"], "rounded_latent", &[]);
    let more = more.finish().graph.expect("graph");
    let products = node(&mut model, "products");
    products.input = vec!["rounded_latent".to_owned(), "rounded_weights".to_owned()];
    let graph = model.graph.as_mut().expect("graph");
    graph.initializer.retain(|tensor| tensor.name() != "weights");
    graph.initializer.extend(more.initializer);
    let at = graph.node.iter().position(|node| node.output[0] == "products").expect("node");
    graph.node.splice(at..at, more.node);
    model
}

#[test]
fn golden_patches_allow_what_the_precision_costs_and_no_more() {
    let Some(model) = open(&quantised_example()) else { return };
    let mut model = model.expect("opens");
    assert_eq!(model.precision(), Precision::Int8);
    let report = model.verify_golden().expect("golden patches pass");
    assert_eq!((report.allowed, report.labels_changed), (Precision::Int8.golden_tolerance(), 0));
    assert!(report.probs > 0.0, "rounding shows");

    let mut swapped = quantised_example();
    initializer(&mut swapped, "codes").raw_data.as_mut().expect("values")[..15].rotate_left(5);
    let error = open(&swapped).expect("the runtime is there").expect("opens").verify_golden().expect_err("differs");
    assert_eq!(error.id(), "model.golden-mismatch");
}

#[test]
fn h15_swapped_colour_planes_fail_the_golden_patches() {
    let mut swapped = example_model();
    let weights = initializer(&mut swapped, "weights").raw_data.as_mut().expect("values");
    let row = 4 * 5;
    weights[..3 * row].rotate_left(row);
    let Some(model) = open(&swapped) else { return };
    assert_eq!(model.expect("opens").verify_golden().expect_err("differs").id(), "model.golden-mismatch");
}

#[test]
fn h09_a_model_whose_patches_influence_each_other_fails_the_golden_patches() {
    let mut leaky = example_model();
    // (latent + its mean over the batch) · weights / 2: right for one patch alone, wrong for several.
    node(&mut leaky, "products").input[0] = "leaky".to_owned();
    let halves = |four: &[u8; 4]| (f32::from_le_bytes(*four) / 2.0).to_le_bytes();
    let weights = initializer(&mut leaky, "weights");
    weights.raw_data = Some(weights.raw_data().as_chunks().0.iter().flat_map(halves).collect());
    let mut axis = initializer(&mut leaky, "pixels").clone();
    (axis.name, axis.dims, axis.raw_data) = (Some("batch".to_owned()), vec![1], Some(0i64.to_le_bytes().to_vec()));
    let mut mean = node(&mut leaky, "reconstruction").clone();
    (mean.input, mean.output) = (vec![LATENT.to_owned(), "batch".to_owned()], vec!["batch_mean".to_owned()]);
    mean.name = Some("mean".to_owned());
    let mut add = node(&mut leaky, "logits").clone();
    (add.input, add.output) = (vec![LATENT.to_owned(), "batch_mean".to_owned()], vec!["leaky".to_owned()]);
    add.name = Some("add".to_owned());
    let graph = leaky.graph.as_mut().expect("graph");
    graph.initializer.push(axis);
    graph.node.splice(3..3, [mean, add]);
    let Some(model) = open(&leaky) else { return };
    let mut model = model.expect("opens");
    let one = model.contract().golden.patches[..model.contract().signature().tensor_len()].to_vec();
    let alone = model.run(&one).expect("runs").probs;
    assert!(difference(&model.contract().golden.probs[..alone.len()], &alone) < GOLDEN_TOLERANCE);
    assert_eq!(model.verify_golden().expect_err("differs").id(), "model.golden-mismatch");
}

#[test]
fn batches_of_any_size_give_the_same_outputs_per_patch() {
    let Some(model) = open(&example_model()) else { return };
    let mut model = model.expect("opens");
    let golden = model.contract().golden.clone();
    let all = model.run(&golden.patches).expect("runs");
    let tensor_len = model.contract().signature().tensor_len();
    for split in 0..=golden.len() {
        let (first, second) = golden.patches.split_at(split * tensor_len);
        let (a, b) = (model.run(first).expect("runs"), model.run(second).expect("runs"));
        assert_eq!(all.latent, [a.latent, b.latent].concat());
        assert_eq!(all.probs, [a.probs, b.probs].concat());
        assert_eq!(all.reconstruction_error, [a.reconstruction_error, b.reconstruction_error].concat());
    }
}

#[test]
fn a_patch_of_a_legend_colour_belongs_to_that_cluster() {
    let Some(model) = open(&example_model()) else { return };
    let mut model = model.expect("opens");
    for cluster in model.contract().clusters.clone() {
        let plane = |channel: u8| [channel; 16 * 16];
        let patch = [cluster.color, cluster.color].concat().into_iter().flat_map(plane).collect::<Vec<u8>>();
        let outputs = model.run(&patch).expect("runs");
        assert_eq!(most_probable(&outputs.probs) + 1, usize::from(cluster.id));
        assert!(outputs.reconstruction_error[0] < 1e-6);
    }
}

#[test]
fn a_part_of_a_patch_is_refused() {
    let Some(model) = open(&example_model()) else { return };
    assert_eq!(model.expect("opens").run(&[0; 100]).expect_err("not whole").id(), "model.input-length");
}

#[test]
fn h09_outputs_that_are_no_probabilities_are_refused() {
    let mut raw_logits = example_model();
    node(&mut raw_logits, CLUSTER_PROBS).op_type = Some("Identity".to_owned());
    node(&mut raw_logits, CLUSTER_PROBS).attribute.clear();
    let mut not_a_number = example_model();
    // A black patch equals its mean, and 0 / 0 is not a number.
    node(&mut not_a_number, "squared").op_type = Some("Div".to_owned());
    for (model, id) in [(raw_logits, "model.not-probabilities"), (not_a_number, "model.not-finite")] {
        let Some(model) = open(&model) else { return };
        assert_eq!(model.expect("opens").run(&[0; 3 * 2 * 16 * 16]).expect_err("refused").id(), id);
    }
}

#[test]
fn h09_a_model_that_onnx_runtime_cannot_build_is_refused_in_one_line() {
    let mut bad = example_model();
    node(&mut bad, "products").input.pop();
    let Some(model) = open(&bad) else { return };
    let error = model.expect_err("refused");
    assert_eq!(error.id(), "model.session");
    assert!(error.to_string().starts_with("example.onnx: ") && !error.to_string().contains('\n'), "{error}");
}

#[test]
fn files_are_identified_by_their_sha256_and_missing_ones_named() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let path = folder.path().join("m.onnx");
    let error = Model::load(&path).expect_err("absent");
    assert_eq!(error.id(), "model.unreadable");
    assert!(error.to_string().contains("m.onnx"), "{error}");
    let bytes = example_model().encode_to_vec();
    std::fs::write(&path, &bytes).expect("written");
    if open(&example_model()).is_none() {
        return;
    }
    let model = Model::load(&path).expect("opens");
    let pairs = model.sha256().as_bytes().chunks(2).map(|pair| str::from_utf8(pair).expect("ASCII"));
    let digest: Vec<u8> = pairs.map(|pair| u8::from_str_radix(pair, 16).expect("hexadecimal")).collect();
    assert_eq!(digest, Sha256::digest(&bytes).to_vec());
}

/// ONNX Runtime can be loaded once per process, so this runs [`child_that_loads_the_runtime`] in one of its own.
#[test]
fn a_wrong_runtime_library_is_one_clear_line() {
    let folder = tempfile::tempdir().expect("temporary folder");
    std::fs::write(folder.path().join("libonnxruntime.so"), "not a library").expect("written");
    let child = std::process::Command::new(std::env::current_exe().expect("this test"))
        .args(["--exact", "infer::tests::child_that_loads_the_runtime", "--ignored", "--nocapture"])
        .env("TISSUEMAP_LIB_DIR", folder.path())
        .output()
        .expect("child runs");
    let text = String::from_utf8_lossy(&child.stderr);
    let line =
        text.lines().find(|line| line.contains("cannot be used")).unwrap_or_else(|| panic!("no such line in {text}"));
    for part in ["ONNX Runtime at", "libonnxruntime.so", ">= 1.31 is needed", "hint: run scripts/setup.sh"] {
        assert!(line.contains(part), "{part:?} missing in {line:?}");
    }
}

#[test]
#[ignore = "the child process of a_wrong_runtime_library_is_one_clear_line"]
#[allow(clippy::print_stderr)]
fn child_that_loads_the_runtime() {
    let bytes = example_model().encode_to_vec();
    let error = Model::from_bytes(&bytes, Path::new("example.onnx"), &InferOptions::default()).expect_err("no runtime");
    assert_eq!(error.id(), "model.runtime-library");
    eprintln!("{error}; hint: {}", error.hint());
}

#[test]
fn a_provider_that_is_not_there_is_passed_over_and_the_one_in_use_is_told() {
    let Some(model) = open(&example_model()) else { return };
    assert_eq!(model.expect("opens").provider(), Provider::Cpu);
    let bytes = example_model().encode_to_vec();
    let load = |providers: &[Provider]| {
        let options = InferOptions { threads: 1, providers: providers.to_vec(), engines: None };
        Model::from_bytes(&bytes, Path::new("example.onnx"), &options)
    };
    if let Err(error) = load(&[Provider::Cuda]) {
        assert!(error.to_string().contains("libonnxruntime_providers_cuda.so"), "{error}");
        assert_eq!(
            load(&[Provider::TensorRt, Provider::Cuda, Provider::Cpu]).expect("falls back").provider(),
            Provider::Cpu
        );
    }
    assert!(load(&[]).expect_err("nothing to compute on").to_string().contains("no execution provider"));
}

#[test]
fn the_batch_that_was_measured_is_used() {
    let Some(model) = open(&example_model()) else { return };
    let mut model = model.expect("opens");
    let alone = alone(&mut model);
    let measured = model.measure_batch(&alone).expect("runs");
    let sizes: Vec<usize> = measured.iter().map(|&(size, _)| size).collect();
    assert!(!sizes.is_empty() && [8, 16, 32, 64, 128].starts_with(&sizes), "{sizes:?}");
    assert!(measured.iter().all(|&(_, speed)| speed > 0.0) && measured.iter().any(|&(size, _)| size == model.batch()));
    model.set_batch(16, &alone).expect("runs");
    assert_eq!(model.batch(), 16);
}

fn alone(model: &mut Model) -> batch::Alone {
    let (_, outputs) = model.repeat_golden().expect("golden patches pass");
    model.alone(outputs).expect("runs")
}

/// The example, to whose latents are added those of the patches from this place of the batch on, or the batch's mean.
fn leaky(from: Option<i64>) -> onnx::ModelProto {
    let mut model = example_model();
    node(&mut model, "products").input[0] = "leaky".to_owned();
    let template = initializer(&mut model, "pixels").clone();
    let number = |name: &str, value: i64| onnx::TensorProto {
        name: Some(name.to_owned()),
        dims: vec![1],
        raw_data: Some(value.to_le_bytes().to_vec()),
        ..template.clone()
    };
    let reduce = if from.is_some() { "ReduceSum" } else { "ReduceMean" };
    let made = |of: &onnx::NodeProto, kind: &str, inputs: &[&str], output: &str| onnx::NodeProto {
        name: Some(output.to_owned()),
        op_type: Some(kind.to_owned()),
        input: inputs.iter().map(|&input| input.to_owned()).collect(),
        output: vec![output.to_owned()],
        ..of.clone()
    };
    let reduced = node(&mut model, "reconstruction").clone();
    let plain = node(&mut model, "logits").clone();
    let late = made(&plain, "Slice", &[LATENT, "late_from", "late_to", "late_axis"], "late");
    let sum = made(&reduced, reduce, &["late", "late_axis"], "late_sum");
    let add = made(&plain, "Add", &[LATENT, "late_sum"], "leaky");
    let graph = model.graph.as_mut().expect("graph");
    let numbers = [number("late_from", from.unwrap_or_default()), number("late_to", i64::MAX), number("late_axis", 0)];
    graph.initializer.extend(numbers);
    graph.node.splice(3..3, [late, sum, add]);
    model
}

#[test]
fn h29_a_model_whose_patches_influence_each_other_only_in_large_batches_is_refused() {
    for from in [5, 9, 40] {
        let Some(model) = open(&leaky(Some(from))) else { return };
        let mut model = model.expect("opens");
        model.verify_golden().expect("five patches do not influence each other");
        let alone = alone(&mut model);
        let refused = |outcome: Result<(), ModelError>| {
            let error = outcome.expect_err("refused");
            assert_eq!(error.id(), "model.batch-dependent");
            assert!(error.to_string().contains("than alone"), "{error}");
        };
        // A size that was measured before, on a file or a machine that was another one, is compared as well.
        refused(model.set_batch(64, &alone));
        if from < 8 {
            refused(model.measure_batch(&alone).map(drop));
        }
        model.set_batch(4, &alone).expect("small batches are sound");
    }
}

#[test]
fn h29_the_influence_of_a_mean_shows_even_with_a_single_golden_patch() {
    // Alone, a patch is its own mean: both are halved, so that one golden patch comes out right in any number of copies.
    let mut model = leaky(None);
    let mut contract = crate::contract::ModelContract::read(&model).expect("sound");
    let golden = &mut contract.golden;
    golden.patches.truncate(3 * 2 * 16 * 16);
    golden.probs.truncate(5);
    golden.latent.truncate(6);
    golden.reconstruction_error.truncate(1);
    contract.write(&mut model);
    let halves = |four: &[u8; 4]| (f32::from_le_bytes(*four) / 2.0).to_le_bytes();
    let weights = initializer(&mut model, "weights");
    weights.raw_data = Some(weights.raw_data().as_chunks().0.iter().flat_map(halves).collect());
    let Some(model) = open(&model) else { return };
    let mut model = model.expect("opens");
    model.verify_golden().expect("a patch alone is sound");
    let alone = alone(&mut model);
    assert_eq!(model.set_batch(8, &alone).expect_err("refused").id(), "model.batch-dependent");
}
