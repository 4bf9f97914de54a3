//! The `report` command.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;

use tch::{Device, Tensor};

use tissuemap::untrusted;

use crate::config::Config;
use crate::data::sampling;
use crate::fit::FittedModel;
use crate::fit::run_folder::RunFolder;
use crate::report::ReportSource;
use crate::system::error::TrainError;
use crate::system::files::{file_error, refuse_to_replace};
use crate::system::interrupt;
use crate::vectors::labels::Labels;

/// Arguments of `tissuemap-train report`.
#[derive(Debug, Clone, clap::Args)]
pub struct ReportCommand {
    /// The run folder of a fit: `model.run` beside `model.onnx`.
    #[arg(long)]
    pub run: PathBuf,
    /// Another configuration than that of the run, for example because the slides have been moved.
    #[arg(long)]
    pub config: Option<PathBuf>,
    /// Folder at which relative paths of the configuration start [default: the folder of the model].
    #[arg(long)]
    pub data: Option<PathBuf>,
    /// Folder of the sampled patches, if the fit was given one with --patches.
    #[arg(long)]
    pub patches: Option<PathBuf>,
    /// Known classes, one per training patch: a .npy file of whole numbers, or a CSV file with the class in the last column.
    #[arg(long)]
    pub labels: Option<PathBuf>,
    /// The HTML file to write [default: report.html in the run folder].
    #[arg(long)]
    pub out: Option<PathBuf>,
    /// Replace an older file --out.
    #[arg(long)]
    pub force: bool,
}

impl ReportCommand {
    /// Writes the report. Its path is written to `say`.
    ///
    /// # Errors
    /// [`TrainError`].
    pub fn run(&self, say: &mut dyn io::Write) -> Result<(), TrainError> {
        refuse_to_replace(self.out.as_deref(), self.force)?;
        let run = RunFolder::at(&self.run);
        let config = match &self.config {
            Some(path) => Config::read(path)?,
            None => run.read_configuration()?,
        };
        tch::set_num_threads(i32::try_from(config.cpu_threads).unwrap_or(1));
        let interrupt = interrupt::listen().map_err(|e| file_error(Path::new("signal handlers"), e))?;
        let interrupted = || interrupt.load(Ordering::Relaxed);
        let store = self.patches.clone().unwrap_or_else(|| run.patches());
        let base = self.data.as_deref().or(self.run.parent()).unwrap_or(Path::new("."));
        let patches = sampling::patches(&config, base, &store, &interrupted)?;
        let fitted = FittedModel::read(&run.weights(), &config, &patches, Device::Cpu)?;
        let classes =
            self.labels.as_ref().map(|path| read_classes(path, patches.train.count() as usize)).transpose()?;
        let out = self.out.clone().unwrap_or_else(|| run.report());
        let source = ReportSource { run: &run, config: &config, base, patches: &patches, fitted: &fitted };
        source.write(&out, classes.as_ref(), &interrupted)?;
        writeln!(say, "{}", out.display()).map_err(|e| file_error(Path::new("standard output"), e))
    }
}

/// Most bytes of a table of classes.
const CLASSES_BYTES: u64 = 1 << 30;

/// Reads one class for each of `count` patches. A CSV file may have a header; its last column is used.
fn read_classes(path: &Path, count: usize) -> Result<Labels, TrainError> {
    let refuse = |reason: String| TrainError::Vectors { path: path.to_owned(), reason };
    let numbers = if path.extension().is_some_and(|extension| extension == "npy") {
        untrusted::check(path)?;
        let numbers = Tensor::read_npy(path).map_err(|e| refuse(e.to_string()))?;
        Vec::<i64>::try_from(numbers.to_kind(tch::Kind::Int64).view([-1]))?
    } else {
        let file = untrusted::open_named(path, CLASSES_BYTES)?;
        let mut reader = csv::ReaderBuilder::new().has_headers(false).from_reader(file);
        let last = |row: Result<csv::StringRecord, csv::Error>| {
            row.map(|row| row.iter().next_back().unwrap_or_default().trim().to_owned())
                .map_err(|e| refuse(e.to_string()))
        };
        let mut names: Vec<String> = reader.records().map(last).collect::<Result<_, _>>()?;
        if names.len() == count + 1 {
            names.remove(0);
        }
        let mut known = names.clone();
        known.sort_unstable();
        known.dedup();
        names.iter().map(|name| known.partition_point(|other| other < name) as i64).collect()
    };
    if numbers.len() != count {
        return Err(refuse(format!("{} labels for {count} training patches", numbers.len())));
    }
    Ok(Labels::new(&numbers))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn classes_come_from_numpy_or_csv_with_or_without_a_header() {
        let folder = tempfile::tempdir().expect("folder");
        let numpy = folder.path().join("classes.npy");
        Tensor::from_slice(&[7i64, 3, 7]).write_npy(&numpy).expect("written");
        let with_header = folder.path().join("a.csv");
        fs::write(&with_header, "patch,class\n0,tumour\n1,\"stroma, loose\"\n2,tumour\n").expect("written");
        let without = folder.path().join("b.csv");
        fs::write(&without, "tumour\nstroma\ntumour\n").expect("written");
        for path in [&numpy, &with_header, &without] {
            assert_eq!(read_classes(path, 3).expect("read").of(), [1, 0, 1], "{}", path.display());
        }
        let error = read_classes(&without, 5).expect_err("too few").to_string();
        assert!(error.contains("3 labels for 5 training patches"), "{error}");
        assert!(read_classes(&folder.path().join("none.csv"), 3).is_err());
    }
}
