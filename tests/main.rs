//! The one integration binary. Each module says what belongs in it.

/// Where test data lies and how a test says that it was skipped.
mod support;

/// Real slide files through real OpenSlide: every good one opens and reads, every bad one has its own error.
mod slides;

/// The model contract checked with other people's tools: onnx.checker and ONNX Runtime in Python.
mod contract;

/// Landmarks of real section pairs after registration.
mod registration;
