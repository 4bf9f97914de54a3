//! Turns the ONNX schema subset into Rust types; protox parses it, so no `protoc` is needed.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo::rerun-if-changed=src/contract/onnx.proto");
    let schema = protox::compile(["onnx.proto"], ["src/contract"])?;
    prost_build::Config::new().compile_fds(schema)?;
    Ok(())
}
