use proptest::prelude::*;
use prost::Message;

use super::*;
use crate::contract::onnx::attribute_proto::AttributeType;
use crate::contract::onnx::{
    AttributeProto, GraphProto, NodeProto, OperatorSetIdProto, StringStringEntryProto, TensorProto,
};
use crate::contract::{LATENT, ModelContract, Precision, example, graph};
use crate::units::Mpp;

fn sound() -> ModelProto {
    example::model(&["HE", "CD3"], 16, Mpp::new(0.5).expect("plausible"), 4)
}

/// One protobuf field with length-delimited content.
fn field(number: u32, content: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    prost::encoding::encode_key(number, prost::encoding::WireType::LengthDelimited, &mut bytes);
    prost::encoding::encode_varint(content.len() as u64, &mut bytes);
    [bytes, content.to_vec()].concat()
}

/// One protobuf field with a number.
fn number_field(number: u32, value: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    prost::encoding::encode_key(number, prost::encoding::WireType::Varint, &mut bytes);
    prost::encoding::encode_varint(value, &mut bytes);
    bytes
}

/// The sound model after a change.
fn changed(change: impl FnOnce(&mut ModelProto)) -> Vec<u8> {
    let mut model = sound();
    change(&mut model);
    model.encode_to_vec()
}

/// The sound model after a change of its graph.
fn changed_graph(change: impl FnOnce(&mut GraphProto)) -> Vec<u8> {
    changed(|model| change(model.graph.as_mut().expect("graph")))
}

/// The sound model with raw bytes appended to the file.
fn with_model_field(raw: &[u8]) -> Vec<u8> {
    [sound().encode_to_vec(), raw.to_vec()].concat()
}

/// The sound model with raw bytes appended to its graph.
fn with_graph_field(raw: &[u8]) -> Vec<u8> {
    let mut model = sound();
    let graph = model.graph.take().expect("graph").encode_to_vec();
    [model.encode_to_vec(), field(7, &[graph, raw.to_vec()].concat())].concat()
}

/// … with one more node, given as raw bytes.
fn with_node(raw: &[u8]) -> Vec<u8> {
    with_graph_field(&field(1, raw))
}

/// … with one more initializer: name, type and one dimension as in a sound one, then raw bytes.
fn with_initializer(raw: &[u8]) -> Vec<u8> {
    with_graph_field(&field(5, &[number_field(1, 1), number_field(2, 1), field(8, b"extra"), raw.to_vec()].concat()))
}

fn first_tensor(change: impl FnOnce(&mut TensorProto)) -> Vec<u8> {
    changed_graph(|graph| change(&mut graph.initializer[0]))
}

/// The sound model with one more uint8 value quantised and turned back, in the way that `change` leaves it.
fn quantised(change: impl FnOnce(&mut GraphProto)) -> ModelProto {
    let mut model = sound();
    let graph = model.graph.as_mut().expect("graph");
    let mut builder = graph::GraphBuilder::new("more", signature(&sound()).expect("sound"));
    builder.floats("steps", &[2], &[0.5, 0.25]);
    builder.int8s("codes", &[2, 1], &[-63, 63]);
    builder.node("DequantizeLinear", &["codes", "steps"], "weights_again", &[graph::int("axis", 0)]);
    builder.floats("step", &[], &[0.01]);
    builder.uint8s("zero", &[], &[128]);
    builder.node("QuantizeLinear", &[LATENT, "step", "zero"], "quantised", &[]);
    builder.node("DequantizeLinear", &["quantised", "step", "zero"], "again", &[]);
    builder.int32s("bias_codes", &[2], &[1 << 30, -5]);
    builder.node("DequantizeLinear", &["bias_codes", "steps"], "bias", &[]);
    builder.halves("half", &[2], &[0x3c00, 0x7bff]);
    let more = builder.finish().graph.expect("graph");
    graph.initializer.extend(more.initializer);
    graph.node.extend(more.node);
    change(graph);
    model
}

fn tensor_of<'a>(graph: &'a mut GraphProto, name: &str) -> &'a mut TensorProto {
    graph.initializer.iter_mut().find(|tensor| tensor.name() == name).expect("initializer")
}

fn node_of<'a>(graph: &'a mut GraphProto, output: &str) -> &'a mut NodeProto {
    graph.node.iter_mut().find(|node| node.output[0] == output).expect("node")
}

fn metadata_entry(key: &str) -> StringStringEntryProto {
    StringStringEntryProto { key: Some(key.to_owned()), value: Some(String::new()) }
}

fn entry(key: &[u8], value: &[u8]) -> Vec<u8> {
    [field(1, key), field(2, value)].concat()
}

#[test]
fn a_sound_model_passes() {
    assert_eq!(preflight(&sound().encode_to_vec()).expect("passes"), sound());
}

#[test]
fn a_model_of_lower_precision_passes_and_is_told_apart() {
    let quantised = quantised(|_| ());
    assert_eq!(preflight(&quantised.encode_to_vec()).expect("passes"), quantised);
    assert_eq!(Precision::of(&quantised), Precision::Int8);
    let mut halved = sound();
    halved.graph.as_mut().expect("graph").initializer.push(TensorProto {
        dims: vec![1],
        data_type: Some(10),
        name: Some("half".to_owned()),
        raw_data: Some(vec![0, 0x3c]),
        doc_string: None,
    });
    preflight(&halved.encode_to_vec()).expect("passes");
    assert_eq!((Precision::of(&halved), Precision::of(&sound())), (Precision::Fp16, Precision::Fp32));
}

#[test]
fn h10_hostile_quantisation_is_refused() {
    type Change = fn(&mut GraphProto);
    let cases: [(&str, Refusal, Change); 13] = [
        ("a step of nothing", Refusal::Quantizer, |g| tensor_of(g, "step").raw_data = Some(vec![0; 4])),
        ("a negative step", Refusal::Quantizer, |g| {
            tensor_of(g, "step").raw_data = Some((-1.0f32).to_le_bytes().to_vec());
        }),
        ("one step of several that is nothing", Refusal::Quantizer, |g| {
            tensor_of(g, "steps").raw_data = Some([1.0f32.to_le_bytes(), 0.0f32.to_le_bytes()].concat());
        }),
        ("an infinite step", Refusal::TensorNotFinite, |g| {
            tensor_of(g, "step").raw_data = Some(f32::INFINITY.to_le_bytes().to_vec());
        }),
        ("a step from data", Refusal::Quantizer, |g| node_of(g, "quantised").input[1] = LATENT.to_owned()),
        ("no step", Refusal::Quantizer, |g| node_of(g, "quantised").input.truncate(1)),
        ("a step of integers", Refusal::Quantizer, |g| node_of(g, "bias").input[1] = "bias_codes".to_owned()),
        ("a step of two dimensions", Refusal::Quantizer, |g| tensor_of(g, "steps").dims = vec![1, 2]),
        ("a zero point from data", Refusal::Quantizer, |g| node_of(g, "again").input[2] = LATENT.to_owned()),
        ("a zero point of float32", Refusal::Quantizer, |g| node_of(g, "again").input[2] = "step".to_owned()),
        ("a zero point of another shape", Refusal::Quantizer, |g| tensor_of(g, "zero").dims = vec![1]),
        ("codes taken for numbers", Refusal::TensorType, |g| node_of(g, "logits").input[1] = "codes".to_owned()),
        ("a float16 weight that is not a number", Refusal::TensorNotFinite, |g| {
            tensor_of(g, "half").raw_data = Some(vec![0, 0x3c, 1, 0xfc]);
        }),
    ];
    for (name, refusal, change) in cases {
        let error = preflight(&quantised(change).encode_to_vec()).expect_err(name);
        assert_eq!(error.refusal, refusal, "{name}: {error}");
    }
    // The sizes of all element types are known.
    for (name, bytes) in [("codes", 3), ("zero", 2), ("bias_codes", 7), ("half", 3)] {
        let error = preflight(&quantised(|g| tensor_of(g, name).raw_data = Some(vec![0; bytes])).encode_to_vec());
        assert_eq!(error.expect_err(name).refusal, Refusal::TensorLength, "{name}");
    }
}

#[test]
fn h10_hostile_onnx_is_refused() {
    let nested = |depth| (0..depth).fold(Vec::new(), |inner: Vec<u8>, _| field(1, &field(5, &field(6, &inner))));
    let external =
        |location: &[u8]| with_initializer(&[field(13, &entry(b"location", location)), number_field(14, 1)].concat());
    let opset = |domain: &str, version| OperatorSetIdProto { domain: Some(domain.to_owned()), version: Some(version) };

    let files: Vec<(&str, Refusal, Vec<u8>)> = vec![
        // Not a model at all.
        ("an empty file", Refusal::IrVersion, Vec::new()),
        ("a text file", Refusal::NotProtobuf, b"this is not a model".to_vec()),
        ("a model cut short", Refusal::NotProtobuf, sound().encode_to_vec()[..1000].to_vec()),
        ("more bytes than the cap", Refusal::TooLarge, vec![0; MAX_MODEL_BYTES as usize + 1]),
        (
            "a number of eleven bytes",
            Refusal::NotProtobuf,
            with_model_field(&[[0x28].as_slice(), &[0xff; 11]].concat()),
        ),
        ("a length beyond the file", Refusal::NotProtobuf, with_model_field(&[0x32, 0xff, 0xff, 0xff, 0xff, 0x0f])),
        ("a field that closes a group", Refusal::NotProtobuf, with_model_field(&[(6 << 3) | 4])),
        ("text that is not UTF-8", Refusal::NotProtobuf, with_model_field(&field(6, &[0xff, 0xfe]))),
        // Two readers, two meanings.
        ("two graphs", Refusal::NotCanonical, with_model_field(&field(7, &[]))),
        ("a number padded with zeros", Refusal::NotCanonical, with_model_field(&[5 << 3, 0x81, 0x80, 0x00])),
        (
            "an element type beyond 32 bits",
            Refusal::NotCanonical,
            with_graph_field(&field(5, &number_field(2, (1 << 32) + 1))),
        ),
        ("a field nobody knows", Refusal::UnknownField, with_model_field(&field(99, b"?"))),
        ("bytes after the model", Refusal::UnknownField, with_model_field(&[0; 16])),
        // Small on disk, large in memory.
        ("a million empty nodes", Refusal::TooManyFields, with_graph_field(&[0x0a, 0x00].repeat(1_000_000))),
        ("two thousand nodes", Refusal::TooManyNodes, with_graph_field(&[0x0a, 0x00].repeat(2000))),
        ("a name of a megabyte", Refusal::TextTooLong, changed_graph(|g| g.node[0].name = Some("x".repeat(1 << 20)))),
        ("a comment of 1,025 bytes", Refusal::TextTooLong, changed(|m| m.doc_string = Some("x".repeat(1025)))),
        ("a key of two kilobytes", Refusal::TextTooLong, changed(|m| m.metadata_props[0].key = Some("x".repeat(2048)))),
        (
            "an attribute of many numbers",
            Refusal::Attribute,
            changed_graph(|g| {
                let node = &mut g.node[0];
                node.attribute = vec![AttributeProto {
                    name: Some("x".to_owned()),
                    r#type: Some(AttributeType::Floats.into()),
                    floats: vec![1.0; 17],
                    ..AttributeProto::default()
                }];
            }),
        ),
        ("two thousand initializers", Refusal::TooManyInitializers, with_graph_field(&[0x2a, 0x00].repeat(2000))),
        // Values from elsewhere.
        ("external data in a parent folder", Refusal::ExternalData, external(b"../../../etc/passwd")),
        ("external data at an absolute path", Refusal::ExternalData, external(b"/dev/zero")),
        ("external location without an entry", Refusal::ExternalData, with_initializer(&number_field(14, 1))),
        ("values at an address in memory", Refusal::MemoryAddress, external(b"*/_ORT_MEM_ADDR_/*")),
        // Parts of ONNX with code or structure that no model of ours has.
        ("a subgraph", Refusal::Subgraph, with_node(&field(5, &field(6, &[])))),
        ("a list of subgraphs", Refusal::Subgraph, with_node(&field(5, &field(11, &[])))),
        ("subgraphs a hundred deep", Refusal::Subgraph, with_graph_field(&nested(100))),
        ("a tensor in an attribute", Refusal::TensorAttribute, with_node(&field(5, &field(5, &[])))),
        ("a type in an attribute", Refusal::TypeAttribute, with_node(&field(5, &field(14, &[])))),
        ("a reference to a function's attribute", Refusal::Functions, with_node(&field(5, &field(21, b"alpha")))),
        ("functions", Refusal::Functions, with_model_field(&field(25, &[]))),
        ("training information", Refusal::TrainingInfo, with_model_field(&field(20, &[]))),
        ("a device configuration", Refusal::DeviceConfiguration, with_model_field(&field(26, &[]))),
        ("a sparse initializer", Refusal::SparseTensor, with_graph_field(&field(15, &[]))),
        ("quantisation annotations", Refusal::Quantization, with_graph_field(&field(14, &[]))),
        ("a sequence as input", Refusal::NotATensor, with_graph_field(&field(11, &field(2, &field(4, &[]))))),
        ("values in a typed list", Refusal::TensorEncoding, with_initializer(&field(4, &[0; 4]))),
        ("text values", Refusal::TensorEncoding, with_initializer(&field(6, b"text"))),
        ("a segmented tensor", Refusal::TensorSegment, with_initializer(&field(3, &[]))),
        // Versions, domains, metadata.
        ("a later file format", Refusal::IrVersion, changed(|m| m.ir_version = Some(IR_VERSION + 1))),
        ("another operator set", Refusal::Opset, changed(|m| m.opset_import = vec![opset("", OPSET - 1)])),
        (
            "two operator sets",
            Refusal::Opset,
            changed(|m| m.opset_import = vec![opset("", OPSET), opset("", OPSET + 3)]),
        ),
        ("a foreign operator set", Refusal::CustomDomain, changed(|m| m.opset_import.push(opset("com.microsoft", 1)))),
        (
            "a foreign operator",
            Refusal::CustomDomain,
            changed_graph(|g| g.node[0].domain = Some("com.microsoft".to_owned())),
        ),
        (
            "settings for ONNX Runtime",
            Refusal::ForeignMetadata,
            changed(|m| m.metadata_props.push(metadata_entry("ort_config"))),
        ),
        (
            "a metadata key twice",
            Refusal::DuplicateMetadata,
            changed(|m| m.metadata_props.push(metadata_entry("tissuemap.mpp"))),
        ),
        // Operators and attributes.
        ("no graph", Refusal::NoGraph, changed(|m| m.graph = None)),
        ("a loop", Refusal::OperatorNotAllowed, changed_graph(|g| g.node[0].op_type = Some("Loop".to_owned()))),
        (
            "a tensor of a size from data",
            Refusal::OperatorNotAllowed,
            changed_graph(|g| g.node[0].op_type = Some("Expand".to_owned())),
        ),
        ("an attribute without type", Refusal::Attribute, changed_graph(|g| g.node[0].attribute[0].r#type = None)),
        ("an attribute with two values", Refusal::Attribute, changed_graph(|g| g.node[0].attribute[0].f = Some(0.0))),
        ("an attribute twice", Refusal::Attribute, changed_graph(|g| g.node[0].attribute.push(graph::int("to", 1)))),
        (
            "a stride of a billion",
            Refusal::Attribute,
            changed_graph(|g| g.node[0].attribute.push(graph::ints("strides", &[1 << 30]))),
        ),
        (
            "a smallest integer",
            Refusal::Attribute,
            changed_graph(|g| g.node[0].attribute.push(graph::int("group", i64::MIN))),
        ),
        (
            "an infinite attribute",
            Refusal::Attribute,
            changed_graph(|g| g.node[0].attribute.push(graph::float("alpha", f32::INFINITY))),
        ),
        // Dataflow.
        (
            "a value computed twice",
            Refusal::DuplicateValue,
            changed_graph(|g| g.node[1].output[0] = g.node[0].output[0].clone()),
        ),
        (
            "a weight that hides the input",
            Refusal::DuplicateValue,
            first_tensor(|t| t.name = Some("patches".to_owned())),
        ),
        ("a value without a name", Refusal::DuplicateValue, first_tensor(|t| t.name = None)),
        ("a cycle", Refusal::UndefinedValue, changed_graph(|g| g.node[0].input[0] = LATENT.to_owned())),
        ("an output nobody computes", Refusal::UndefinedValue, changed_graph(|g| drop(g.node.pop()))),
        // Tensors.
        ("text weights", Refusal::TensorType, first_tensor(|t| t.data_type = Some(8))),
        ("a tensor of a petabyte", Refusal::TensorTooLarge, first_tensor(|t| t.dims = vec![1 << 25, 1 << 25])),
        ("dimensions that overflow", Refusal::TensorDims, first_tensor(|t| t.dims = vec![i64::MAX, i64::MAX])),
        (
            "dimensions that overflow to the right size",
            Refusal::TensorDims,
            first_tensor(|t| t.dims = vec![1 << 62, 4, 4]),
        ),
        ("a negative dimension", Refusal::TensorDims, first_tensor(|t| t.dims = vec![-1])),
        ("an empty tensor", Refusal::TensorDims, first_tensor(|t| t.dims = vec![0])),
        ("a hundred dimensions", Refusal::TensorDims, first_tensor(|t| t.dims = vec![1; 100])),
        ("more values than bytes", Refusal::TensorLength, first_tensor(|t| t.dims = vec![2])),
        (
            "a weight that is not a number",
            Refusal::TensorNotFinite,
            first_tensor(|t| t.raw_data = Some(f32::NAN.to_le_bytes().to_vec())),
        ),
        (
            "a step of nothing",
            Refusal::Quantizer,
            quantised(|g| tensor_of(g, "step").raw_data = Some(vec![0; 4])).encode_to_vec(),
        ),
        // Signature.
        (
            "a second input",
            Refusal::InputSignature,
            changed_graph(|g| {
                let mut second = g.input[0].clone();
                second.name = Some("second".to_owned());
                g.input.push(second);
            }),
        ),
        ("a missing output", Refusal::OutputSignature, changed_graph(|g| drop(g.output.pop()))),
        (
            "an output of another rank",
            Refusal::OutputSignature,
            changed_graph(|g| g.output[0].r#type = g.output[2].r#type.clone()),
        ),
    ];
    for (name, refusal, bytes) in &files {
        let error = preflight(bytes).expect_err(name);
        assert_eq!(error.refusal, *refusal, "{name}: {error}");
    }
    let untested: Vec<_> =
        Refusal::ALL.iter().filter(|rule| !files.iter().any(|(_, refusal, _)| refusal == *rule)).collect();
    assert!(untested.is_empty(), "no hostile file for {untested:?}");
}

#[test]
fn refusals_are_one_line_with_id_and_remedy() {
    let error = preflight(&with_model_field(&field(25, &[]))).expect_err("functions");
    assert_eq!(error.id(), "onnx.functions");
    assert_eq!(error.to_string(), "model refused (onnx.functions): functions of model");
}

#[test]
fn hostile_text_is_quoted_in_errors() {
    let error =
        preflight(&changed_graph(|g| g.node[0].op_type = Some("Loop\n\u{1b}[2J".to_owned()))).expect_err("refused");
    assert!(!error.to_string().contains(char::is_control), "{error:?}");
}

#[test]
fn h29_whatever_a_file_says_its_refusal_is_a_line_of_bounded_length() {
    type Change = fn(&mut GraphProto, String);
    let names: [Change; 4] = [
        |g, name| g.node[0].name = Some(name),
        |g, name| g.node[0].op_type = Some(name),
        |g, name| g.node[0].input[0] = name,
        |g, name| g.initializer[0].name = Some(name),
    ];
    for (change, bytes) in names.into_iter().flat_map(|change| [1000, 3_000_000].map(|bytes| (change, bytes))) {
        let file = changed_graph(|g| change(g, "\u{1}".repeat(bytes)));
        if let Err(error) = preflight(&file) {
            assert!(error.to_string().len() < 10_000, "{} bytes", error.to_string().len());
        }
    }
}

#[test]
fn every_refusal_is_explained_to_users() {
    let page = include_str!("../../../../models/CONTRACT.md");
    for refusal in Refusal::ALL {
        assert!(page.contains(&format!("`{}`", refusal.id())), "{} is missing", refusal.id());
    }
    for operator in OPERATORS {
        assert!(page.contains(&format!("`{operator}`")), "{operator} is missing");
    }
}

proptest! {
    #[test]
    fn h10_random_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..2000)) {
        prop_assert!(preflight(&bytes).is_err());
    }

    #[test]
    fn h10_a_changed_byte_is_refused_or_leaves_a_model_that_reads_back(at in any::<prop::sample::Index>(), byte in any::<u8>()) {
        let mut bytes = sound().encode_to_vec();
        let at = at.index(bytes.len());
        bytes[at] = byte;
        if let Ok(model) = preflight(&bytes) {
            prop_assert_eq!(model.encoded_len(), bytes.len());
            prop_assert_eq!(preflight(&model.encode_to_vec()), Ok(model));
        }
    }

    #[test]
    fn h10_a_part_of_a_model_is_refused(length in any::<prop::sample::Index>()) {
        let bytes = sound().encode_to_vec();
        let part = preflight(&bytes[..length.index(bytes.len())]);
        // A file cut between two metadata entries is sound ONNX, but no longer a contract.
        prop_assert!(part.is_err() || part.is_ok_and(|model| ModelContract::read(&model).is_err()));
    }
}
