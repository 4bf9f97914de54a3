//! The `name` command: writes names and colours of clusters into a copy of the model file.
//!
//! The names come from a [`file`]. [`proposal`] makes such a file from annotations on maps of the same model.

#[cfg(test)]
mod tests;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use prost::Message;
use sha2::{Digest, Sha256};
use tissuemap::contract::onnx::ModelProto;
use tissuemap::contract::{MAX_MODEL_BYTES, ModelContract, preflight};
use tissuemap::hex::hex;
use tissuemap::infer::ModelError;

use tissuemap::untrusted::{self, Bounded};

use crate::export::names::annotations::Annotations;
use crate::export::names::overlap::{AnnotatedMap, Overlap};
use crate::export::names::{file, proposal};
use crate::export::{card, publish};
use crate::system::error::TrainError;
use crate::system::files::refuse_to_replace;

/// Arguments of `tissuemap-train name`: write a copy with names, print the present names, or propose names.
#[derive(Debug, Clone, clap::Args)]
#[command(group(clap::ArgGroup::new("what").required(true).args(["names", "print", "annotations"])))]
pub struct NameCommand {
    /// The model file.
    pub model: PathBuf,
    /// File with the names; `--print` prints an example.
    #[arg(requires = "out")]
    pub names: Option<PathBuf>,
    /// The copy to write. If it is the model file itself, the file is replaced in one step.
    #[arg(long)]
    pub out: Option<PathBuf>,
    /// Replace another older file --out and its card.
    #[arg(long, requires = "out")]
    pub force: bool,
    /// Print the names and colours of the model as a file of names.
    #[arg(long)]
    pub print: bool,
    /// Propose names from annotations that QuPath exported (`GeoJSON`); once for each --map.
    #[arg(long = "from-annotations", value_name = "FILE", requires = "maps")]
    pub annotations: Vec<PathBuf>,
    /// The `.tissuemap` folder of the annotated slide.
    #[arg(long = "map", value_name = "DIR", requires = "annotations")]
    pub maps: Vec<PathBuf>,
}

impl NameCommand {
    /// Files of names are written to `say`, tables for people to `note`.
    ///
    /// # Errors
    /// [`TrainError`].
    pub fn run(&self, say: &mut dyn io::Write, note: &mut dyn io::Write) -> Result<(), TrainError> {
        let unsaid = |source| TrainError::File { path: PathBuf::from("standard output"), source };
        let bytes = untrusted::open_named(&self.model, MAX_MODEL_BYTES).and_then(Bounded::bytes)?;
        let (model, contract) = read(&bytes, &self.model)?;
        match (&self.names, &self.out) {
            (Some(names), Some(out)) => {
                let itself =
                    fs::canonicalize(out).is_ok_and(|out| fs::canonicalize(&self.model).is_ok_and(|m| m == out));
                refuse_to_replace([out.as_path(), &card::path_beside(out)], self.force || itself)?;
                write_named(model, contract, names, out, say)
            }
            _ if self.print => say.write_all(file::template(&contract.clusters).as_bytes()).map_err(unsaid),
            _ => {
                let overlap = self.overlap(&contract, &sha256(&bytes), note)?;
                let cell_um2 = (f64::from(contract.stride_px) * contract.mpp.get()).powi(2);
                let proposals = proposal::proposals(&overlap, cell_um2);
                note.write_all(proposal::table(&proposals).as_bytes()).map_err(unsaid)?;
                say.write_all(proposal::toml(&proposals).as_bytes()).map_err(unsaid)
            }
        }
    }

    /// The overlap of clusters and annotations, summed over all maps.
    fn overlap(&self, contract: &ModelContract, sha256: &str, note: &mut dyn io::Write) -> Result<Overlap, TrainError> {
        if self.annotations.len() != self.maps.len() {
            return Err(TrainError::Unusable {
                path: self.annotations[0].clone(),
                reason: format!("{} files of annotations for {} maps", self.annotations.len(), self.maps.len()),
                remedy: "give one --map after each --from-annotations",
            });
        }
        let mut overlap = Overlap::new(contract.clusters.len());
        for (path, folder) in self.annotations.iter().zip(&self.maps) {
            let annotations = Annotations::read(path)?;
            let map = AnnotatedMap::read(folder, sha256)?;
            overlap.add(&map, &annotations);
            writeln!(note, "{}: {annotations}", path.display())
                .map_err(|source| TrainError::File { path: PathBuf::from("standard error"), source })?;
        }
        Ok(overlap)
    }
}

fn read(bytes: &[u8], path: &Path) -> Result<(ModelProto, ModelContract), TrainError> {
    let model = preflight(bytes).map_err(|source| ModelError::Preflight { path: path.to_owned(), source })?;
    let contract =
        ModelContract::read(&model).map_err(|source| ModelError::Contract { path: path.to_owned(), source })?;
    Ok((model, contract))
}

fn sha256(bytes: &[u8]) -> String {
    hex(Sha256::digest(bytes))
}

/// Writes the copy after it has passed the same checks as a new export.
fn write_named(
    mut model: ModelProto,
    mut contract: ModelContract,
    names: &Path,
    out: &Path,
    say: &mut dyn io::Write,
) -> Result<(), TrainError> {
    contract.clusters = file::Names::read(names)?.applied_to(&contract.clusters)?;
    contract.write(&mut model);
    let bytes = model.encode_to_vec();
    let (sha256, _) = publish(&bytes, out)?;
    let mut describe = || {
        writeln!(say, "{}: {} bytes, sha256 {sha256}", out.display(), bytes.len())?;
        contract.clusters.iter().try_for_each(|cluster| writeln!(say, "cluster {:3}: {}", cluster.id, cluster.name))
    };
    describe().map_err(|source| TrainError::File { path: PathBuf::from("standard output"), source })
}
