//! The last look at a model file: what the decoded graph computes, on which tensors, and what it promises.

use std::collections::HashSet;

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

/// The operators that a convolutional autoencoder, batch normalisation, a dense classifier and an error figure need. None
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
    let element_bytes = match tensor.data_type {
        Some(t) if t == DataType::Float as i32 => 4,
        Some(t) if t == DataType::Int64 as i32 => 8,
        other => return Err(Refusal::TensorType.at(place(format!("element type {other:?}; must be float32 or int64")))),
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
    let finite = |four: &[u8; 4]| f32::from_le_bytes(*four).is_finite();
    if tensor.data_type() == DataType::Float as i32 && !raw.as_chunks().0.iter().all(finite) {
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
    attribute.ints.len() <= 2 * MAX_RANK
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
