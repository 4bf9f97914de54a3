//! The precision that a model computes in, as its graph shows it.

use super::GOLDEN_TOLERANCE;
use super::onnx::ModelProto;
use super::onnx::tensor_proto::DataType;

/// What weights are kept and products are computed in. Inputs, outputs, normalisation, softmax and the reconstruction error
/// are the same in all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Precision {
    /// float32.
    Fp32,
    /// float16.
    Fp16,
    /// 8-bit integers with a step per output channel, between `QuantizeLinear` and `DequantizeLinear`.
    Int8,
}

impl Precision {
    /// All, the most precise first.
    pub const ALL: [Self; 3] = [Self::Fp32, Self::Fp16, Self::Int8];

    /// Of a model that passed [`preflight`](super::preflight): what its constants are kept in.
    pub fn of(model: &ModelProto) -> Self {
        let tensors = || model.graph.iter().flat_map(|graph| &graph.initializer);
        let holds = |element: DataType| tensors().any(|tensor| tensor.data_type() == element as i32);
        if holds(DataType::Int8) || holds(DataType::Uint8) {
            Self::Int8
        } else if holds(DataType::Float16) {
            Self::Fp16
        } else {
            Self::Fp32
        }
    }

    /// Largest difference that golden outputs may show, as [`GOLDEN_TOLERANCE`] counts it.
    ///
    /// What is compared with was computed by another program that rounds at the same places, but not after the same sums: a
    /// value that lies between two steps is now and then rounded to the other one, and later layers carry that on. A wrong
    /// weight or plane still shows, and the most probable clusters must be equal in every precision.
    pub fn golden_tolerance(self) -> f32 {
        match self {
            Self::Fp32 => GOLDEN_TOLERANCE,
            // A step of float16 is a two-thousandth of the value.
            Self::Fp16 => 5e-3,
            // A step of uint8 is a two-hundredth of the range.
            Self::Int8 => 3e-2,
        }
    }

    /// What files and the command line call it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Fp32 => "fp32",
            Self::Fp16 => "fp16",
            Self::Int8 => "int8",
        }
    }
}

impl std::fmt::Display for Precision {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

impl std::str::FromStr for Precision {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let names = || Self::ALL.map(Self::name).join(", ");
        Self::ALL.into_iter().find(|p| p.name() == text).ok_or_else(|| format!("must be one of {}", names()))
    }
}
