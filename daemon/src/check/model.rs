//! The models: each proved by its golden patches, in a confined worker process, as the daemon does it.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

use super::Finding;
use crate::config::Config;
use crate::job::{Backend, Fault};
use crate::models;
use crate::worker::Workers;

const CHECK: &str = "model";

/// Has a worker load each model that would serve and repeat its golden patches.
pub(super) fn proved(config: &Config, program: &Path, tell: &mut dyn FnMut(Finding)) {
    let files = match models::files(config) {
        Ok(files) if files.is_empty() => {
            let folder = config.model_folder();
            let dropped = dropped(&folder);
            return tell(if dropped.is_empty() {
                let hint = format!("drop one, as `tissuemap-train` exports it, into {}", folder.display());
                Finding::warn(CHECK, "there is none yet", hint)
            } else {
                let detail = format!("none serves yet; in {} lies {}", folder.display(), dropped.join(", "));
                Finding::warn(CHECK, detail, "start tissuemapd, which proves it before it serves")
            });
        }
        Ok(files) => files,
        Err(fault) => return tell(Finding::fail(CHECK, &fault)),
    };
    let folder = match tempfile::tempdir() {
        Ok(folder) => folder,
        Err(error) => {
            let fault = Fault::new(format!("no temporary folder: {error}"), "make room in the temporary folder");
            return tell(Finding::fail(CHECK, &fault));
        }
    };
    let private = Config { state_folder: Some(folder.path().into()), ..config.clone() };
    match Workers::start(program, &private) {
        Ok(workers) => files.iter().for_each(|file| tell(one(&workers, file))),
        Err(fault) => tell(Finding::fail("worker", &fault)),
    }
}

/// Names of models that no daemon has taken yet.
fn dropped(folder: &Path) -> Vec<String> {
    let files = fs::read_dir(folder).into_iter().flatten().flatten().map(|file| PathBuf::from(file.file_name()));
    files
        .filter(|name| name.extension().is_some_and(|end| end == "onnx"))
        .map(|name| name.display().to_string())
        .collect()
}

fn one(workers: &Workers, file: &Path) -> Finding {
    let begun = Instant::now();
    match workers.load(file, &|_| {}) {
        Ok(runner) => {
            let model = runner.model();
            let seconds = begun.elapsed().as_secs_f64();
            Finding::ok(
                CHECK,
                format!(
                    "{} ({}) repeats its golden patches on {}, after {seconds:.1} s; sha256 {}",
                    file.display(),
                    model.stain_names().join(", "),
                    model.provider,
                    model.sha256
                ),
            )
        }
        Err(fault) => Finding::fail(CHECK, &fault),
    }
}
