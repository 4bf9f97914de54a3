//! Devices of libtorch: chosen by name at run time. There is no silent fallback.

use tch::{Cuda, Device};

use crate::system::error::TrainError;

const CPU_ONLY: &str = "use --device cpu, or a libtorch 2.11 for CUDA 13 (LD_LIBRARY_PATH=<PyTorch 2.11>/lib) on a machine with an NVIDIA GPU";

/// `cpu`, `cuda` (the first GPU) or `cuda:N`.
///
/// # Errors
/// [`TrainError::Device`] for other names, if the CUDA part of libtorch cannot be loaded, or if there is no such GPU.
pub fn parse(name: &str) -> Result<Device, TrainError> {
    let refuse = |reason: String, remedy| TrainError::Device { name: name.to_owned(), reason, remedy };
    if name == "cpu" {
        return Ok(Device::Cpu);
    }
    let index = match name.strip_prefix("cuda") {
        Some("") => Some(0),
        Some(rest) => rest.strip_prefix(':').and_then(|n| n.parse::<usize>().ok()),
        None => None,
    };
    let index = index.ok_or_else(|| refuse("unknown kind of device".into(), "give cpu, cuda or cuda:N"))?;
    load_cuda().map_err(|reason| refuse(reason, CPU_ONLY))?;
    let count = usize::try_from(Cuda::device_count()).unwrap_or(0);
    if index >= count {
        return Err(refuse(format!("libtorch sees {count} CUDA devices"), CPU_ONLY));
    }
    Ok(Device::Cuda(index))
}

/// The linker drops `libtorch_cuda.so`, since no symbol of it is used directly; libtorch finds its GPU only once it is
/// loaded. It stays loaded: its initialisers have registered themselves with libtorch.
#[allow(unsafe_code)]
fn load_cuda() -> Result<(), String> {
    // SAFETY: running the initialisers of the libtorch that this program was built for.
    let library = unsafe { libloading::Library::new("libtorch_cuda.so") };
    library.map(std::mem::forget).map_err(|e| e.to_string())
}

/// A pool of threads in which libtorch uses one thread each: results do not depend on the number of threads.
pub(crate) fn single_threaded(threads: u32) -> Result<rayon::ThreadPool, TrainError> {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads as usize);
    let pool = pool.start_handler(|_| tch::set_num_threads(1)).build();
    pool.map_err(|error| TrainError::Torch(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_is_the_cpu() {
        assert_eq!(parse("cpu").expect("always there"), Device::Cpu);
    }

    #[test]
    fn unknown_names_and_absent_gpus_are_refused_with_a_remedy_and_never_become_the_cpu() {
        for name in ["gpu", "cuda:x", "cuda0", "cuda:9999", ""] {
            let error = parse(name).expect_err(name);
            assert!(error.hint().is_some_and(|hint| hint.contains("cpu")), "{error}");
            assert_eq!(error.exit_code(), 64);
        }
    }
}
