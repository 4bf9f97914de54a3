//! The last look at a model file: what the decoded graph computes, on which tensors, and what it promises.

use std::collections::{HashMap, HashSet};

use super::{IR_VERSION, OPSET, PreflightError, Refusal};
use crate::contract::metadata::KEY_PREFIX;
use crate::contract::onnx::attribute_proto::AttributeType;
use crate::contract::onnx::tensor_proto::DataType;
use crate::contract::onnx::tensor_shape_proto::dimension::Value;
use crate::contract::onnx::{AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto};
use crate::contract::{
    CLUSTER_PROBS, INPUT, LATENT, MAX_CLUSTERS, MAX_LATENT, MAX_STAINS, PATCH_PX, RECONSTRUCTION_ERROR,
};

/// Our largest graphs have about a hundred nodes.
pub const MAX_NODES: usize = 1000;

/// Two to five initializers a layer.
pub const MAX_INITIALIZERS: usize = 1000;

/// One tensor. A dense layer from 8,192 features to 512 is 16 MiB.
pub const MAX_TENSOR_BYTES: u64 = 32 << 20;

/// More axes than any operator here has a use for.
const MAX_RANK: usize = 8;

/// Kernel sizes, pads, axes and group counts stay far below; a stride or pad of a billion asks for that much memory.
const MAX_ATTRIBUTE_INT: u64 = 4096;

/// A transposed convolution multiplies its input by its stride along each axis; autoencoders double.
const MAX_STRIDE: u64 = 8;

/// The exponent bits of a float16; all set in infinities and in what is no number.
const F16_EXPONENT: u16 = 0x7c00;

/// What turns numbers into quantised ones and back, the only users of quantised tensors.
const QUANTIZERS: [&str; 2] = ["QuantizeLinear", "DequantizeLinear"];

/// The operators that a convolutional autoencoder, batch normalisation, a dense classifier, an error figure and
/// quantisation need. None
/// runs a subgraph, touches a file or makes a tensor whose size is computed from data (`Expand`, `Tile`, `Range` ...).
pub const OPERATORS: &[&str] = &[
    "Add",
    "AveragePool",
    "BatchNormalization",
    "Cast",
    "Clip",
    "Concat",
    "Conv",
    "ConvTranspose",
    "DepthToSpace",
    "DequantizeLinear",
    "Div",
    "Elu",
    "Exp",
    "Flatten",
    "Gemm",
    "GlobalAveragePool",
    "Identity",
    "LayerNormalization",
    "LeakyRelu",
    "MatMul",
    "MaxPool",
    "Mul",
    "Pow",
    "QuantizeLinear",
    "ReduceMean",
    "ReduceSum",
    "Relu",
    "Reshape",
    "Sigmoid",
    "Slice",
    "Softmax",
    "Sqrt",
    "Squeeze",
    "Sub",
    "Tanh",
    "Transpose",
    "Unsqueeze",
];

/// What a graph takes and gives, as its own input and output declarations say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Signature {
    /// S: stains, three planes each.
    pub stains: u32,
    /// P: patch edge in pixels.
    pub patch_px: u32,
    /// K: clusters.
    pub clusters: u32,
    /// D: latent dimensions.
    pub latent_dim: u32,
}

pub(super) fn check(model: &ModelProto) -> Result<(), PreflightError> {
    versions(model)?;
    metadata(model)?;
    let graph = graph_of(model)?;
    if graph.node.len() > MAX_NODES {
        return Err(Refusal::TooManyNodes.at(format!("{} nodes; at most {MAX_NODES}", graph.node.len())));
    }
    if graph.initializer.len() > MAX_INITIALIZERS {
        return Err(Refusal::TooManyInitializers
            .at(format!("{} initializers; at most {MAX_INITIALIZERS}", graph.initializer.len())));
    }
    graph.initializer.iter().try_for_each(tensor)?;
    graph.node.iter().try_for_each(node)?;
    dataflow(graph)?;
    quantisation(graph)?;
    signature(model).map(drop)
}

fn graph_of(model: &ModelProto) -> Result<&GraphProto, PreflightError> {
    model.graph.as_ref().ok_or_else(|| Refusal::NoGraph.at("the file has no graph"))
}

fn versions(model: &ModelProto) -> Result<(), PreflightError> {
    if model.ir_version() != IR_VERSION {
        return Err(Refusal::IrVersion.at(format!("ir_version {}; must be {IR_VERSION}", model.ir_version())));
    }
    if let Some(foreign) = model.opset_import.iter().find(|opset| !opset.domain().is_empty()) {
        return Err(Refusal::CustomDomain.at(format!("opset_import of domain {:?}", foreign.domain())));
    }
    match model.opset_import.as_slice() {
        [opset] if opset.version() == OPSET => Ok(()),
        [opset] => Err(Refusal::Opset.at(format!("operator set {}; must be {OPSET}", opset.version()))),
        several => Err(Refusal::Opset.at(format!("{} operator sets; must be one", several.len()))),
    }
}

fn metadata(model: &ModelProto) -> Result<(), PreflightError> {
    let mut keys = HashSet::new();
    for entry in &model.metadata_props {
        if !entry.key().starts_with(KEY_PREFIX) {
            return Err(Refusal::ForeignMetadata.at(format!("metadata key {:?}", entry.key())));
        }
        if !keys.insert(entry.key()) {
            return Err(Refusal::DuplicateMetadata.at(format!("metadata key {:?}", entry.key())));
        }
    }
    Ok(())
}

fn tensor(tensor: &TensorProto) -> Result<(), PreflightError> {
    let place = |what: String| format!("initializer {:?}: {what}", tensor.name());
    let element = tensor.data_type.and_then(|number| DataType::try_from(number).ok()).unwrap_or(DataType::Undefined);
    let element_bytes = match element {
        DataType::Uint8 | DataType::Int8 => 1,
        DataType::Float16 => 2,
        DataType::Float | DataType::Int32 => 4,
        DataType::Int64 => 8,
        DataType::Undefined => {
            let found =
                format!("element type {:?}; must be float32, float16, int64, or a quantised type", tensor.data_type);
            return Err(Refusal::TensorType.at(place(found)));
        }
    };
    if tensor.dims.len() > MAX_RANK || tensor.dims.iter().any(|&dim| dim < 1) {
        return Err(Refusal::TensorDims
            .at(place(format!("{} dimensions; at most {MAX_RANK}, each at least 1", tensor.dims.len()))));
    }
    let declared = tensor
        .dims
        .iter()
        .try_fold(element_bytes, |bytes: u64, &dim| bytes.checked_mul(dim as u64))
        .ok_or_else(|| Refusal::TensorDims.at(place(format!("dimensions {:?} overflow", tensor.dims))))?;
    if declared > MAX_TENSOR_BYTES {
        return Err(Refusal::TensorTooLarge.at(place(format!("declares {declared} bytes; at most {MAX_TENSOR_BYTES}"))));
    }
    let raw = tensor.raw_data();
    if declared != raw.len() as u64 {
        return Err(Refusal::TensorLength.at(place(format!("declares {declared} bytes, has {}", raw.len()))));
    }
    let finite = match element {
        DataType::Float => raw.as_chunks().0.iter().all(|four| f32::from_le_bytes(*four).is_finite()),
        DataType::Float16 => {
            raw.as_chunks().0.iter().all(|two| u16::from_le_bytes(*two) & F16_EXPONENT != F16_EXPONENT)
        }
        _ => true,
    };
    if !finite {
        return Err(Refusal::TensorNotFinite.at(place("a weight is infinite or not a number".to_owned())));
    }
    Ok(())
}

fn node(node: &NodeProto) -> Result<(), PreflightError> {
    let place = || format!("node {:?}", node.name());
    if !node.domain().is_empty() {
        return Err(Refusal::CustomDomain.at(format!("{}: operator domain {:?}", place(), node.domain())));
    }
    if !OPERATORS.contains(&node.op_type()) {
        return Err(Refusal::OperatorNotAllowed.at(format!("{}: operator {:?}", place(), node.op_type())));
    }
    let mut names = HashSet::new();
    for attribute in &node.attribute {
        let sound = !attribute.name().is_empty()
            && names.insert(attribute.name())
            && has_declared_type(attribute)
            && is_bounded(attribute);
        if !sound {
            return Err(Refusal::Attribute.at(format!("{}: attribute {:?}", place(), attribute.name())));
        }
    }
    Ok(())
}

/// Exactly the value field that `type` names is filled, so that no reader can prefer another.
fn has_declared_type(attribute: &AttributeProto) -> bool {
    let filled = [
        attribute.f.is_some(),
        attribute.i.is_some(),
        attribute.s.is_some(),
        !attribute.floats.is_empty(),
        !attribute.ints.is_empty(),
    ];
    filled
        == match attribute.r#type() {
            AttributeType::Float => [true, false, false, false, false],
            AttributeType::Int => [false, true, false, false, false],
            AttributeType::String => [false, false, true, false, false],
            AttributeType::Floats => [false, false, false, true, false],
            AttributeType::Ints => [false, false, false, false, true],
            AttributeType::Undefined => return false,
        }
}

fn is_bounded(attribute: &AttributeProto) -> bool {
    let limit = if attribute.name() == "strides" { MAX_STRIDE } else { MAX_ATTRIBUTE_INT };
    let small = |value: &i64| value.unsigned_abs() <= limit;
    attribute.ints.len().max(attribute.floats.len()) <= 2 * MAX_RANK
        && attribute.i.iter().chain(&attribute.ints).all(small)
        && attribute.f.iter().chain(&attribute.floats).all(|value| value.is_finite())
}

/// Values are named once and computed before they are used; so the graph has no cycle and nothing is overridden.
fn dataflow(graph: &GraphProto) -> Result<(), PreflightError> {
    fn define<'a>(known: &mut HashSet<&'a str>, name: &'a str) -> Result<(), PreflightError> {
        if !name.is_empty() && known.insert(name) {
            Ok(())
        } else {
            Err(Refusal::DuplicateValue.at(format!("value {name:?}")))
        }
    }
    let mut known = HashSet::new();
    graph.input.iter().try_for_each(|input| define(&mut known, input.name()))?;
    graph.initializer.iter().try_for_each(|tensor| define(&mut known, tensor.name()))?;
    let given = known.clone();
    for node in &graph.node {
        // An empty name stands for an optional input that is left out.
        if let Some(unknown) = node.input.iter().find(|name| !name.is_empty() && !known.contains(name.as_str())) {
            return Err(
                Refusal::UndefinedValue.at(format!("node {:?} uses {unknown:?} before it is computed", node.name()))
            );
        }
        node.output.iter().try_for_each(|output| define(&mut known, output))?;
    }
    match graph.output.iter().find(|output| !known.contains(output.name()) || given.contains(output.name())) {
        Some(output) => Err(Refusal::UndefinedValue.at(format!("output {:?} is computed by no node", output.name()))),
        None => Ok(()),
    }
}

/// Quantised constants reach quantisers only, and these have constant steps above 0: no step is computed from data, and none
/// divides by zero. Everything between two quantisers is then ordinary arithmetic on bounded numbers.
fn quantisation(graph: &GraphProto) -> Result<(), PreflightError> {
    let constants: HashMap<&str, &TensorProto> = graph.initializer.iter().map(|t| (t.name(), t)).collect();
    let element = |tensor: &TensorProto| DataType::try_from(tensor.data_type()).unwrap_or(DataType::Undefined);
    let is_quantised =
        |tensor: &TensorProto| matches!(element(tensor), DataType::Uint8 | DataType::Int8 | DataType::Int32);
    for node in &graph.node {
        let place = |what: &str| format!("node {:?}: {what}", node.name());
        let input = |i: usize| node.input.get(i).filter(|name| !name.is_empty());
        let constant = |i: usize| input(i).and_then(|name| constants.get(name.as_str()).copied());
        if !QUANTIZERS.contains(&node.op_type()) {
            let quantised = (0..node.input.len()).filter_map(constant).find(|tensor| is_quantised(tensor));
            match quantised {
                Some(tensor) => {
                    return Err(Refusal::TensorType.at(place(&format!("uses {:?} as it is", tensor.name()))));
                }
                None => continue,
            }
        }
        let Some(steps) = constant(1).filter(|tensor| element(tensor) == DataType::Float && tensor.dims.len() <= 1)
        else {
            return Err(Refusal::Quantizer.at(place("its scale is not a float32 constant of at most one dimension")));
        };
        if !steps.raw_data().as_chunks().0.iter().all(|four| f32::from_le_bytes(*four) > 0.0) {
            return Err(Refusal::Quantizer.at(place("a scale is not above 0")));
        }
        let matches = |zero: &TensorProto| is_quantised(zero) && zero.dims == steps.dims;
        if input(2).is_some() && !constant(2).is_some_and(matches) {
            return Err(Refusal::Quantizer.at(place("its zero point is not a quantised constant of the scale's shape")));
        }
    }
    Ok(())
}

/// Reads the shapes from the declarations of input and outputs.
///
/// # Errors
/// [`Refusal::InputSignature`], [`Refusal::OutputSignature`] or [`Refusal::NoGraph`].
pub fn signature(model: &ModelProto) -> Result<Signature, PreflightError> {
    let graph = graph_of(model)?;
    let shape = |value: &ValueInfoProto, element: DataType| -> Option<Vec<Option<u32>>> {
        let tensor = value.r#type.as_ref()?.tensor_type.as_ref()?;
        let dims = &tensor.shape.as_ref()?.dim;
        let size = |value: &Option<Value>| match value {
            Some(Value::DimValue(size)) => u32::try_from(*size).ok().map(Some),
            Some(Value::DimParam(_)) | None => Some(None),
        };
        (tensor.elem_type() == element as i32)
            .then(|| dims.iter().map(|dim| size(&dim.value)).collect::<Option<_>>())?
    };

    let input = match graph.input.as_slice() {
        [input] if input.name() == INPUT => shape(input, DataType::Uint8),
        _ => None,
    };
    let (planes, patch_px) = match input.as_deref() {
        Some(&[None, Some(planes), Some(height), Some(width)])
            if height == width
                && PATCH_PX.contains(&height)
                && planes % 3 == 0
                && (1..=MAX_STAINS).contains(&(planes / 3)) =>
        {
            (planes, height)
        }
        _ => {
            let rule =
                format!("one input {INPUT:?}: uint8 [N, 3S, P, P], N open, S at most {MAX_STAINS}, P in {PATCH_PX:?}");
            return Err(Refusal::InputSignature.at(rule));
        }
    };

    let output = |name: &str| {
        graph
            .output
            .iter()
            .find(|output| output.name() == name)
            .and_then(|output| shape(output, DataType::Float))
            .unwrap_or_default()
    };
    match (output(CLUSTER_PROBS).as_slice(), output(LATENT).as_slice(), output(RECONSTRUCTION_ERROR).as_slice()) {
        (&[None, Some(clusters)], &[None, Some(latent_dim)], [None])
            if graph.output.len() == 3
                && (2..=MAX_CLUSTERS).contains(&clusters)
                && (1..=MAX_LATENT).contains(&latent_dim) =>
        {
            Ok(Signature { stains: planes / 3, patch_px, clusters, latent_dim })
        }
        _ => {
            let rule = format!(
                "three outputs, float32, N open: {CLUSTER_PROBS:?} [N, K], {LATENT:?} [N, D], {RECONSTRUCTION_ERROR:?} [N]; \
                 K from 2 to {MAX_CLUSTERS}, D from 1 to {MAX_LATENT}"
            );
            Err(Refusal::OutputSignature.at(rule))
        }
    }
}
