//! Tells the linker where libtorch lies, and says in one line what to do when it is not there.

use std::env;
use std::path::PathBuf;
use std::process::ExitCode;

fn main() -> ExitCode {
    println!("cargo:rerun-if-env-changed=LIBTORCH");
    println!("cargo:rerun-if-changed=build.rs");
    let lib = PathBuf::from(env::var_os("LIBTORCH").unwrap_or_default()).join("lib");
    if !lib.join("libtorch.so").is_file() {
        println!("cargo:error=libtorch not found in LIBTORCH ({}); run scripts/setup.sh --trainer", lib.display());
        return ExitCode::FAILURE;
    }
    // Where it was found at build time, and beside an installed binary.
    println!("cargo:rustc-link-arg=-Wl,-rpath,{}", lib.display());
    println!("cargo:rustc-link-arg=-Wl,-rpath,$ORIGIN/../lib/tissuemap");
    ExitCode::SUCCESS
}
