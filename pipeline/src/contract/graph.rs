//! Writes the graphs of models: enough of ONNX for an autoencoder with a classifier, and nothing the preflight refuses.

use super::onnx::attribute_proto::AttributeType;
use super::onnx::tensor_proto::DataType;
use super::onnx::tensor_shape_proto::{Dimension, dimension::Value};
use super::onnx::type_proto;
use super::onnx::{
    AttributeProto, GraphProto, ModelProto, NodeProto, OperatorSetIdProto, TensorProto, TensorShapeProto, TypeProto,
    ValueInfoProto,
};
use super::{CLUSTER_PROBS, INPUT, IR_VERSION, LATENT, OPSET, RECONSTRUCTION_ERROR, Signature};

/// `to` of the `Cast` operator: float32.
pub const FLOAT: i64 = DataType::Float as i64;
/// `to` of the `Cast` operator: float16.
pub const FLOAT16: i64 = DataType::Float16 as i64;

/// Builds one graph, node by node in the order of computation.
///
/// The input [`INPUT`] is there from the start; nodes that compute [`CLUSTER_PROBS`], [`LATENT`] and
/// [`RECONSTRUCTION_ERROR`] must be added before [`GraphBuilder::finish`]. Mistakes are found by
/// [`preflight`](super::preflight) and ONNX Runtime, not here.
#[derive(Debug, Clone)]
pub struct GraphBuilder {
    graph: GraphProto,
}

impl GraphBuilder {
    /// An empty graph with the contract's input and outputs in these shapes. `name` is free.
    pub fn new(name: &str, signature: Signature) -> Self {
        let n = || dim(Value::DimParam("N".to_owned()));
        let fixed = |size: u32| dim(Value::DimValue(size.into()));
        let Signature { stains, patch_px, clusters, latent_dim } = signature;
        let graph = GraphProto {
            name: Some(name.to_owned()),
            input: vec![value(INPUT, DataType::Uint8, vec![n(), fixed(3 * stains), fixed(patch_px), fixed(patch_px)])],
            output: vec![
                value(CLUSTER_PROBS, DataType::Float, vec![n(), fixed(clusters)]),
                value(LATENT, DataType::Float, vec![n(), fixed(latent_dim)]),
                value(RECONSTRUCTION_ERROR, DataType::Float, vec![n()]),
            ],
            ..GraphProto::default()
        };
        Self { graph }
    }

    /// Adds a float32 constant: a weight. `values` are row-major; `dims` is empty for a scalar.
    pub fn floats(&mut self, name: &str, dims: &[usize], values: &[f32]) {
        self.tensor(name, dims, DataType::Float, values.iter().flat_map(|v| v.to_le_bytes()).collect());
    }

    /// Adds an int64 constant: a shape or a list of axes.
    pub fn ints(&mut self, name: &str, dims: &[usize], values: &[i64]) {
        self.tensor(name, dims, DataType::Int64, values.iter().flat_map(|v| v.to_le_bytes()).collect());
    }

    /// Adds a float16 constant: a weight, as the bits of IEEE 754 binary16.
    pub fn halves(&mut self, name: &str, dims: &[usize], bits: &[u16]) {
        self.tensor(name, dims, DataType::Float16, bits.iter().flat_map(|v| v.to_le_bytes()).collect());
    }

    /// Adds an int8 constant: a quantised weight, or its zero point.
    pub fn int8s(&mut self, name: &str, dims: &[usize], values: &[i8]) {
        self.tensor(name, dims, DataType::Int8, values.iter().flat_map(|v| v.to_le_bytes()).collect());
    }

    /// Adds an int32 constant: a quantised bias.
    pub fn int32s(&mut self, name: &str, dims: &[usize], values: &[i32]) {
        self.tensor(name, dims, DataType::Int32, values.iter().flat_map(|v| v.to_le_bytes()).collect());
    }

    /// Adds a uint8 constant: the zero point of quantised values.
    pub fn uint8s(&mut self, name: &str, dims: &[usize], values: &[u8]) {
        self.tensor(name, dims, DataType::Uint8, values.to_vec());
    }

    fn tensor(&mut self, name: &str, dims: &[usize], data_type: DataType, raw_data: Vec<u8>) {
        self.graph.initializer.push(TensorProto {
            dims: dims.iter().map(|&dim| dim as i64).collect(),
            data_type: Some(data_type as i32),
            name: Some(name.to_owned()),
            raw_data: Some(raw_data),
            doc_string: None,
        });
    }

    /// Adds a node with one output. `operator` is one of [`OPERATORS`](super::OPERATORS); the node is named after its output.
    pub fn node(&mut self, operator: &str, inputs: &[&str], output: &str, attributes: &[AttributeProto]) {
        self.graph.node.push(NodeProto {
            input: inputs.iter().map(|&input| input.to_owned()).collect(),
            output: vec![output.to_owned()],
            name: Some(output.to_owned()),
            op_type: Some(operator.to_owned()),
            attribute: attributes.to_vec(),
            ..NodeProto::default()
        });
    }

    /// The model, in [`OPSET`] and [`IR_VERSION`], still without a contract
    /// ([`ModelContract::write`](super::ModelContract::write)).
    pub fn finish(self) -> ModelProto {
        ModelProto {
            ir_version: Some(IR_VERSION),
            producer_name: Some("tissuemap".to_owned()),
            producer_version: Some(env!("CARGO_PKG_VERSION").to_owned()),
            graph: Some(self.graph),
            opset_import: vec![OperatorSetIdProto { domain: Some(String::new()), version: Some(OPSET) }],
            ..ModelProto::default()
        }
    }
}

/// An attribute that holds one integer.
pub fn int(name: &str, value: i64) -> AttributeProto {
    AttributeProto { i: Some(value), ..attribute(name, AttributeType::Int) }
}

/// An attribute that holds a list of integers.
pub fn ints(name: &str, values: &[i64]) -> AttributeProto {
    AttributeProto { ints: values.to_vec(), ..attribute(name, AttributeType::Ints) }
}

/// An attribute that holds one float32.
pub fn float(name: &str, value: f32) -> AttributeProto {
    AttributeProto { f: Some(value), ..attribute(name, AttributeType::Float) }
}

/// An attribute that holds text.
pub fn string(name: &str, value: &str) -> AttributeProto {
    AttributeProto { s: Some(value.as_bytes().to_vec()), ..attribute(name, AttributeType::String) }
}

fn attribute(name: &str, r#type: AttributeType) -> AttributeProto {
    AttributeProto { name: Some(name.to_owned()), r#type: Some(r#type as i32), ..AttributeProto::default() }
}

fn dim(value: Value) -> Dimension {
    Dimension { value: Some(value) }
}

fn value(name: &str, element: DataType, dim: Vec<Dimension>) -> ValueInfoProto {
    let tensor_type = type_proto::Tensor { elem_type: Some(element as i32), shape: Some(TensorShapeProto { dim }) };
    ValueInfoProto {
        name: Some(name.to_owned()),
        r#type: Some(TypeProto { tensor_type: Some(tensor_type) }),
        doc_string: None,
    }
}
