//! Decides whether a model file may be shown to ONNX Runtime at all.
//!
//! A model is untrusted input for a large C++ parser, so everything that a tissuemap model does not need is refused
//! here first, in three steps of growing understanding:
//!
//! 1. [`wire`]: the bytes against an allow-list of protobuf fields, before anything is allocated;
//! 2. decoding, and the proof that nothing was dropped on the way;
//! 3. [`checks`]: operators, tensors, names and the signature of the decoded graph.
//!
//! Each refusal has a stable id ([`Refusal::id`]); `models/CONTRACT.md` lists them for users.

mod checks;
#[cfg(test)]
mod tests;
mod wire;

pub use checks::{MAX_INITIALIZERS, MAX_NODES, MAX_TENSOR_BYTES, OPERATORS, Signature, signature};
use prost::Message;
pub use wire::{MAX_FIELDS, MAX_TEXT_BYTES};

use super::onnx::ModelProto;

/// A five-stain autoencoder for 128-pixel patches with a wide dense latent has about 10 million weights, 40 MB.
pub const MAX_MODEL_BYTES: u64 = 64 << 20;

/// The operator set every model is written in. 18 is the newest one that changed an operator we use (`ReduceMean` takes
/// its axes as an input since then); later ones only add element types, and older accelerators' parsers lack them.
pub const OPSET: i64 = 18;

/// The file format version that goes with [`OPSET`] in the ONNX specification's version table.
pub const IR_VERSION: i64 = 8;

/// Checks the bytes of a model file and returns what they say.
///
/// Never panics, and allocates at most a few times the file's size, whatever the bytes are.
///
/// # Errors
/// [`PreflightError`] with the first rule that is broken and where.
pub fn preflight(bytes: &[u8]) -> Result<ModelProto, PreflightError> {
    if bytes.len() as u64 > MAX_MODEL_BYTES {
        return Err(Refusal::TooLarge.at(format!("{} bytes; at most {MAX_MODEL_BYTES} are allowed", bytes.len())));
    }
    wire::check(bytes)?;
    let model = ModelProto::decode(bytes).map_err(|e| Refusal::NotProtobuf.at(e.to_string()))?;
    // Decoding drops what it does not know and merges what comes twice. wire::check lets neither through; should it
    // ever disagree with the decoder about a field, the lengths differ.
    if model.encoded_len() != bytes.len() {
        return Err(Refusal::NotCanonical.at(format!(
            "{} bytes hold {} bytes of model",
            bytes.len(),
            model.encoded_len()
        )));
    }
    checks::check(&model)?;
    Ok(model)
}

/// Why a model file is refused, and which part of it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("model refused ({}): {detail}", refusal.id())]
pub struct PreflightError {
    /// The rule.
    pub refusal: Refusal,
    /// Where in the file, and what was found there.
    pub detail: String,
}

impl PreflightError {
    /// What a person can do about it.
    pub fn hint(&self) -> &'static str {
        "export it again with tissuemap-train"
    }

    /// The stable id of the broken rule, such as `onnx.external-data`.
    pub fn id(&self) -> &'static str {
        self.refusal.id()
    }
}

macro_rules! refusals {
    ($($(#[$doc:meta])+ $name:ident = $id:literal,)*) => {
        /// The rules a model file can break.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Refusal { $($(#[$doc])+ $name,)* }

        impl Refusal {
            /// Every rule.
            pub const ALL: &[Self] = &[$(Self::$name),*];

            /// The stable id: logs, tests and the daemon's refusal signals carry it.
            pub const fn id(self) -> &'static str {
                match self { $(Self::$name => $id),* }
            }
        }
    };
}

refusals! {
    /// The file exceeds [`MAX_MODEL_BYTES`].
    TooLarge = "onnx.too-large",
    /// The bytes are not a protobuf message of the ONNX schema: cut short, wrong wire types, bad text.
    NotProtobuf = "onnx.not-protobuf",
    /// The same content could be written shorter: repeated single fields, padded numbers. Two parsers may read it differently.
    NotCanonical = "onnx.not-canonical",
    /// A field that no tissuemap model has.
    UnknownField = "onnx.unknown-field",
    /// More than [`MAX_FIELDS`] protobuf fields: small on disk, huge in memory.
    TooManyFields = "onnx.too-many-fields",
    /// A name, key or comment of more than [`MAX_TEXT_BYTES`].
    TextTooLong = "onnx.text-too-long",
    /// Tensor values outside the file.
    ExternalData = "onnx.external-data",
    /// Tensor values at an address in the reader's memory (a marker that ONNX Runtime uses internally).
    MemoryAddress = "onnx.memory-address",
    /// A graph inside an attribute.
    Subgraph = "onnx.subgraph",
    /// A sparse tensor.
    SparseTensor = "onnx.sparse-tensor",
    /// Functions of the model's own, or a reference to one.
    Functions = "onnx.functions",
    /// Training information.
    TrainingInfo = "onnx.training-info",
    /// Quantisation annotations.
    Quantization = "onnx.quantization",
    /// A distribution over devices.
    DeviceConfiguration = "onnx.device-configuration",
    /// A tensor inside an attribute; weights are initializers.
    TensorAttribute = "onnx.tensor-attribute",
    /// A type inside an attribute.
    TypeAttribute = "onnx.type-attribute",
    /// An input or output that is a sequence, map, optional or opaque value.
    NotATensor = "onnx.not-a-tensor",
    /// Tensor values in one of the schema's typed lists instead of `raw_data`.
    TensorEncoding = "onnx.tensor-encoding",
    /// A tensor stored in segments.
    TensorSegment = "onnx.tensor-segment",
    /// Another file format version than [`IR_VERSION`].
    IrVersion = "onnx.ir-version",
    /// Another operator set than [`OPSET`], none, or several.
    Opset = "onnx.opset",
    /// An operator domain other than the default one.
    CustomDomain = "onnx.custom-domain",
    /// A metadata key that does not begin with `tissuemap.`; ONNX Runtime takes session settings from some.
    ForeignMetadata = "onnx.foreign-metadata",
    /// A metadata key twice.
    DuplicateMetadata = "onnx.duplicate-metadata",
    /// No graph.
    NoGraph = "onnx.no-graph",
    /// More than [`MAX_NODES`] nodes.
    TooManyNodes = "onnx.too-many-nodes",
    /// More than [`MAX_INITIALIZERS`] initializers.
    TooManyInitializers = "onnx.too-many-initializers",
    /// An operator that is not one of [`OPERATORS`].
    OperatorNotAllowed = "onnx.operator-not-allowed",
    /// An attribute without a name, twice, whose value is not of its declared type, or out of bounds.
    Attribute = "onnx.attribute",
    /// A value without a name, or two of one name.
    DuplicateValue = "onnx.duplicate-value",
    /// A node or output that uses a value nobody has computed before it; cycles too.
    UndefinedValue = "onnx.undefined-value",
    /// A tensor of another element type than float32, float16 and int64, or a quantised one (uint8, int8, int32) that another
    /// operator than a quantiser uses.
    TensorType = "onnx.tensor-type",
    /// A tensor whose dimensions are zero, negative, too many, or multiply beyond what a machine can count.
    TensorDims = "onnx.tensor-dims",
    /// A tensor that declares more than [`MAX_TENSOR_BYTES`].
    TensorTooLarge = "onnx.tensor-too-large",
    /// A tensor whose dimensions do not match its bytes.
    TensorLength = "onnx.tensor-length",
    /// A weight that is infinite or not a number.
    TensorNotFinite = "onnx.tensor-not-finite",
    /// A `QuantizeLinear` or `DequantizeLinear` whose scale is not a constant above 0, or whose zero point does not fit it.
    Quantizer = "onnx.quantizer",
    /// The input is not the contract's `patches`.
    InputSignature = "onnx.input-signature",
    /// The outputs are not the contract's three.
    OutputSignature = "onnx.output-signature",
}

impl Refusal {
    fn at(self, detail: impl Into<String>) -> PreflightError {
        PreflightError { refusal: self, detail: detail.into() }
    }
}
