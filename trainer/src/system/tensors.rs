//! Copies between libtorch tensors, memory and devices.

use tch::{Device, IndexOp, Kind, Tensor};

/// Patches per step in a pass over all patches. This limits the memory of float copies.
pub const CHUNK: i64 = 256;

/// Copies a float tensor out in row-major order.
///
/// # Errors
/// An error of libtorch.
pub fn to_vec(x: &Tensor) -> Result<Vec<f32>, tch::TchError> {
    Vec::<f32>::try_from(&x.detach().to_kind(Kind::Float).reshape([-1]).to_device(tch::Device::Cpu))
}

/// Rows `from..to` of `x`, without copying.
pub fn rows(x: &Tensor, from: i64, to: i64) -> Tensor {
    x.i(from..to)
}

/// The tensor on `device`. For a GPU the copy goes through page-locked memory, so the GPU can read it while
/// the CPU does other work.
pub fn upload(tensor: Tensor, device: Device) -> Tensor {
    match device {
        Device::Cpu => tensor,
        // libtorch warns of `pin_memory` with a device every time, and tch has none without.
        _ => tensor.internal_pin_memory(device).to_device_(device, tensor.kind(), true, false),
    }
}

/// Index ranges of at most [`CHUNK`] that cover `0..count`.
pub fn chunks(count: i64) -> impl Iterator<Item = (i64, i64)> {
    (0..count).step_by(CHUNK as usize).map(move |from| (from, (from + CHUNK).min(count)))
}
