//! The real slide that every checkout has.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, ensure};

/// Prints the slide's path.
pub(crate) fn run() -> anyhow::Result<()> {
    println!("{}", find()?.display());
    Ok(())
}

/// Asks cargo where the sources of openslide-rs lie and names the slide among that crate's test assets.
pub(crate) fn find() -> anyhow::Result<PathBuf> {
    let output = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
        .args(["metadata", "--format-version", "1", "--locked", "--manifest-path"])
        .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.toml"))
        .output()
        .context("cargo cannot be run")?;
    ensure!(output.status.success(), "cargo metadata failed: {}", String::from_utf8_lossy(&output.stderr).trim());
    let metadata: serde_json::Value = serde_json::from_slice(&output.stdout).context("cargo metadata is not JSON")?;
    let manifest = metadata["packages"]
        .as_array()
        .into_iter()
        .flatten()
        .find(|package| package["name"] == "openslide-rs")
        .and_then(|package| package["manifest_path"].as_str())
        .context("openslide-rs is not among the dependencies")?;
    let slide = Path::new(manifest).with_file_name("tests/assets/default.svs");
    ensure!(slide.is_file(), "{} is missing; hint: pass a slide of your own with --slide", slide.display());
    Ok(slide)
}
