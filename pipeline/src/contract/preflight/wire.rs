//! The first look at a model file: a walk over the raw protobuf encoding against an allow-list of fields.
//!
//! Decoders drop unknown fields in silence and allocate as they go; two bytes on disk can cost hundreds in memory. This
//! walk allocates nothing, so it comes first. The tables below are the schema subset of `onnx.proto`, plus the known
//! dangers by name. They contain no cycle: a file cannot nest deeper than they do, whatever it says.
//!
//! Source of the encoding: <https://protobuf.dev/programming-guides/encoding/>.

use super::{PreflightError, Refusal};

/// Fields in the whole file. The largest model we write has a few thousand; 100,000 decoded ones take some 30 MB.
pub const MAX_FIELDS: usize = 100_000;

/// Any name, key or comment. The longest that we write is a metadata key.
pub const MAX_TEXT_BYTES: usize = 1024;

/// ONNX Runtime marks a tensor that lives at an address of its own process by this location of "external" data.
const MEMORY_ADDRESS_MARKER: &[u8] = b"_ORT_MEM_ADDR_";

struct Message {
    name: &'static str,
    fields: &'static [Field],
}

struct Field {
    number: u64,
    name: &'static str,
    repeated: bool,
    content: Content,
}

#[derive(Clone, Copy)]
enum Content {
    Varint,
    Fixed32,
    /// Weights, and the values of metadata, each with a limit of its own ([`crate::contract::ContractError`]).
    Bytes,
    /// At most [`MAX_TEXT_BYTES`]: names are repeated in errors, and errors must fit into a message.
    Text,
    Nested(&'static Message),
    Refused(Refusal),
}
use Content::{Bytes, Fixed32, Nested, Refused, Text, Varint};

const fn one(number: u64, name: &'static str, content: Content) -> Field {
    Field { number, name, repeated: false, content }
}

const fn many(number: u64, name: &'static str, content: Content) -> Field {
    Field { number, name, repeated: true, content }
}

const fn never(number: u64, name: &'static str, refusal: Refusal) -> Field {
    Field { number, name, repeated: true, content: Refused(refusal) }
}

static MODEL: Message = Message {
    name: "model",
    fields: &[
        one(1, "ir_version", Varint),
        one(2, "producer_name", Text),
        one(3, "producer_version", Text),
        one(4, "domain", Text),
        one(5, "model_version", Varint),
        one(6, "doc_string", Text),
        one(7, "graph", Nested(&GRAPH)),
        many(8, "opset_import", Nested(&OPSET_ID)),
        many(14, "metadata_props", Nested(&STRING_ENTRY)),
        never(20, "training_info", Refusal::TrainingInfo),
        never(25, "functions", Refusal::Functions),
        never(26, "configuration", Refusal::DeviceConfiguration),
    ],
};

static OPSET_ID: Message =
    Message { name: "opset_import", fields: &[one(1, "domain", Text), one(2, "version", Varint)] };

static STRING_ENTRY: Message =
    Message { name: "metadata_props", fields: &[one(1, "key", Text), one(2, "value", Bytes)] };

static GRAPH: Message = Message {
    name: "graph",
    fields: &[
        many(1, "node", Nested(&NODE)),
        one(2, "name", Text),
        many(5, "initializer", Nested(&TENSOR)),
        one(10, "doc_string", Text),
        many(11, "input", Nested(&VALUE_INFO)),
        many(12, "output", Nested(&VALUE_INFO)),
        never(14, "quantization_annotation", Refusal::Quantization),
        never(15, "sparse_initializer", Refusal::SparseTensor),
    ],
};

static NODE: Message = Message {
    name: "node",
    fields: &[
        many(1, "input", Text),
        many(2, "output", Text),
        one(3, "name", Text),
        one(4, "op_type", Text),
        many(5, "attribute", Nested(&ATTRIBUTE)),
        one(6, "doc_string", Text),
        one(7, "domain", Text),
        never(8, "overload", Refusal::Functions),
        never(10, "device_configurations", Refusal::DeviceConfiguration),
    ],
};

static ATTRIBUTE: Message = Message {
    name: "attribute",
    fields: &[
        one(1, "name", Text),
        one(2, "f", Fixed32),
        one(3, "i", Varint),
        one(4, "s", Text),
        never(5, "t", Refusal::TensorAttribute),
        never(6, "g", Refusal::Subgraph),
        many(7, "floats", Fixed32),
        many(8, "ints", Varint),
        never(10, "tensors", Refusal::TensorAttribute),
        never(11, "graphs", Refusal::Subgraph),
        one(13, "doc_string", Text),
        never(14, "tp", Refusal::TypeAttribute),
        never(15, "type_protos", Refusal::TypeAttribute),
        one(20, "type", Varint),
        never(21, "ref_attr_name", Refusal::Functions),
        never(22, "sparse_tensor", Refusal::SparseTensor),
        never(23, "sparse_tensors", Refusal::SparseTensor),
    ],
};

static TENSOR: Message = Message {
    name: "initializer",
    fields: &[
        many(1, "dims", Varint),
        one(2, "data_type", Varint),
        never(3, "segment", Refusal::TensorSegment),
        never(4, "float_data", Refusal::TensorEncoding),
        never(5, "int32_data", Refusal::TensorEncoding),
        never(6, "string_data", Refusal::TensorEncoding),
        never(7, "int64_data", Refusal::TensorEncoding),
        one(8, "name", Text),
        one(9, "raw_data", Bytes),
        never(10, "double_data", Refusal::TensorEncoding),
        never(11, "uint64_data", Refusal::TensorEncoding),
        one(12, "doc_string", Text),
        never(13, "external_data", Refusal::ExternalData),
        never(14, "data_location", Refusal::ExternalData),
    ],
};

static VALUE_INFO: Message = Message {
    name: "value",
    fields: &[one(1, "name", Text), one(2, "type", Nested(&TYPE)), one(3, "doc_string", Text)],
};

static TYPE: Message = Message {
    name: "type",
    fields: &[
        one(1, "tensor_type", Nested(&TENSOR_TYPE)),
        never(4, "sequence_type", Refusal::NotATensor),
        never(5, "map_type", Refusal::NotATensor),
        never(7, "opaque_type", Refusal::NotATensor),
        never(8, "sparse_tensor_type", Refusal::SparseTensor),
        never(9, "optional_type", Refusal::NotATensor),
    ],
};

static TENSOR_TYPE: Message =
    Message { name: "tensor_type", fields: &[one(1, "elem_type", Varint), one(2, "shape", Nested(&SHAPE))] };

static SHAPE: Message = Message { name: "shape", fields: &[many(1, "dim", Nested(&DIMENSION))] };

static DIMENSION: Message = Message { name: "dim", fields: &[one(1, "dim_value", Varint), one(2, "dim_param", Text)] };

/// Walks the whole file.
pub(super) fn check(bytes: &[u8]) -> Result<(), PreflightError> {
    let mut budget = MAX_FIELDS;
    walk(&MODEL, bytes, &mut budget)
}

fn walk(message: &'static Message, mut bytes: &[u8], budget: &mut usize) -> Result<(), PreflightError> {
    // Bit i: fields[i] was seen. No message has more than 32 fields.
    let mut seen = 0u32;
    while !bytes.is_empty() {
        *budget =
            budget.checked_sub(1).ok_or_else(|| Refusal::TooManyFields.at(format!("more than {MAX_FIELDS} fields")))?;
        let tag = varint(&mut bytes, message)?;
        let (number, wire_type) = (tag >> 3, tag & 7);
        let Some(index) = message.fields.iter().position(|field| field.number == number) else {
            return Err(Refusal::UnknownField.at(format!("field {number} of {}", message.name)));
        };
        let field = &message.fields[index];
        let place = || format!("{} of {}", field.name, message.name);
        if !field.repeated && seen & (1 << index) != 0 {
            return Err(Refusal::NotCanonical.at(format!("{} comes twice", place())));
        }
        seen |= 1 << index;
        match (field.content, wire_type) {
            (Refused(Refusal::ExternalData), 2) => {
                let entry = length_delimited(&mut bytes, message)?;
                let marked = entry.windows(MEMORY_ADDRESS_MARKER.len()).any(|window| window == MEMORY_ADDRESS_MARKER);
                return Err(if marked { Refusal::MemoryAddress } else { Refusal::ExternalData }.at(place()));
            }
            (Refused(refusal), _) => return Err(refusal.at(place())),
            (Varint, 0) => drop(varint(&mut bytes, message)?),
            (Fixed32, 5) => drop(take(&mut bytes, 4, message)?),
            (Bytes, 2) => drop(length_delimited(&mut bytes, message)?),
            (Text, 2) => {
                let length = length_delimited(&mut bytes, message)?.len();
                if length > MAX_TEXT_BYTES {
                    let detail = format!("{} has {length} bytes; at most {MAX_TEXT_BYTES}", place());
                    return Err(Refusal::TextTooLong.at(detail));
                }
            }
            (Nested(inner), 2) => walk(inner, length_delimited(&mut bytes, message)?, budget)?,
            (_, wrong) => return Err(Refusal::NotProtobuf.at(format!("{} has wire type {wrong}", place()))),
        }
    }
    Ok(())
}

/// A base-128 number of at most ten bytes, in its shortest form.
fn varint(bytes: &mut &[u8], message: &Message) -> Result<u64, PreflightError> {
    let mut value = 0u64;
    for shift in (0..64).step_by(7) {
        let byte = take(bytes, 1, message)?[0];
        if shift == 63 && byte > 1 {
            break;
        }
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return if byte == 0 && shift > 0 {
                Err(Refusal::NotCanonical.at(format!("padded number in {}", message.name)))
            } else {
                Ok(value)
            };
        }
    }
    Err(Refusal::NotProtobuf.at(format!("number beyond 64 bits in {}", message.name)))
}

fn length_delimited<'a>(bytes: &mut &'a [u8], message: &Message) -> Result<&'a [u8], PreflightError> {
    let length = varint(bytes, message)?;
    take(bytes, usize::try_from(length).unwrap_or(usize::MAX), message)
}

fn take<'a>(bytes: &mut &'a [u8], length: usize, message: &Message) -> Result<&'a [u8], PreflightError> {
    bytes.split_off(..length).ok_or_else(|| Refusal::NotProtobuf.at(format!("{} is cut short", message.name)))
}
