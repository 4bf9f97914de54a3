//! The model: proved by its golden patches, in a confined worker process, as the daemon does it.

use std::path::Path;
use std::time::Instant;

use super::Finding;
use crate::config::Config;
use crate::job::{Fault, JobRunner};
use crate::worker::Workers;

/// Has a worker load the model and repeat its golden patches.
pub(super) fn proved(config: &Config, program: &Path, tell: &mut dyn FnMut(Finding)) {
    const CHECK: &str = "model";
    let folder = match tempfile::tempdir() {
        Ok(folder) => folder,
        Err(error) => {
            let fault = Fault::new(format!("no temporary folder: {error}"), "make room in the temporary folder");
            return tell(Finding::fail(CHECK, &fault));
        }
    };
    let begun = Instant::now();
    let private = Config { state_folder: Some(folder.path().into()), ..config.clone() };
    tell(match Workers::start(program, &private) {
        Ok(workers) => {
            let model = workers.model();
            let stains: Vec<&str> = model.stains.iter().map(|stain| stain.name.as_str()).collect();
            let seconds = begun.elapsed().as_secs_f64();
            Finding::ok(
                CHECK,
                format!(
                    "{} ({}) repeats its golden patches on {}, after {seconds:.1} s; sha256 {}",
                    model.path.display(),
                    stains.join(", "),
                    model.provider,
                    model.sha256
                ),
            )
        }
        Err(fault) => Finding::fail(CHECK, &fault),
    });
}
