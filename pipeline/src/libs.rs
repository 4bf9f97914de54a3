//! Finds the shared libraries that are bound at run time: OpenSlide and ONNX Runtime.

use std::env;
use std::path::PathBuf;

/// A library that could not be used: what, where it was looked for, and what to do about it, in one line.
#[derive(Debug, Clone, thiserror::Error)]
pub enum LibraryError {
    /// In none of the places.
    #[error("{name} ({soname}, {required}) not found; looked in {looked}")]
    Missing { name: &'static str, soname: &'static str, required: &'static str, looked: String, remedy: &'static str },
    /// Found, but it cannot be loaded or has the wrong version.
    #[error("{name} at {path} cannot be used ({required} is needed): {reason}")]
    Wrong { name: &'static str, required: &'static str, path: String, reason: String, remedy: &'static str },
}

impl LibraryError {
    /// What a person can do about it.
    pub fn hint(&self) -> &'static str {
        match self {
            Self::Missing { remedy, .. } | Self::Wrong { remedy, .. } => remedy,
        }
    }
}

/// One run-time library: how it is called and what to tell the user when it is not there.
#[derive(Debug, Clone, Copy)]
pub struct SharedLibrary {
    /// The name people know.
    pub name: &'static str,
    /// The file name that is looked for.
    pub soname: &'static str,
    /// Which versions will do, in words.
    pub required: &'static str,
    /// What to do when it is missing.
    pub remedy: &'static str,
}

impl SharedLibrary {
    /// The first existing file among: `$TISSUEMAP_LIB_DIR`, the installed place relative to the executable
    /// (`../lib/tissuemap`), a development checkout's `.deps/lib` above the executable, and the system's folders.
    ///
    /// # Errors
    /// [`LibraryError::Missing`] with the list of places.
    pub fn locate(&self) -> Result<PathBuf, LibraryError> {
        let places = search_path();
        places.iter().map(|dir| dir.join(self.soname)).find(|file| file.is_file()).ok_or_else(|| {
            LibraryError::Missing {
                name: self.name,
                soname: self.soname,
                required: self.required,
                looked: places.iter().map(|p| p.display().to_string()).collect::<Vec<_>>().join(", "),
                remedy: self.remedy,
            }
        })
    }

    /// Locates and loads the library.
    ///
    /// # Errors
    /// [`LibraryError`] when it is nowhere or the dynamic loader refuses it.
    #[allow(unsafe_code)]
    pub(crate) fn open(&self) -> Result<(libloading::Library, PathBuf), LibraryError> {
        let path = self.locate()?;
        // SAFETY: running a library's initialisers is what the administrator asked for by putting it there.
        let library = unsafe { libloading::Library::new(&path) }.map_err(|e| self.wrong(&path, &loader_reason(&e)))?;
        Ok((library, path))
    }

    pub(crate) fn wrong(&self, path: &std::path::Path, reason: &str) -> LibraryError {
        LibraryError::Wrong {
            name: self.name,
            required: self.required,
            path: path.display().to_string(),
            reason: reason.to_owned(),
            remedy: self.remedy,
        }
    }
}

/// What the dynamic loader said; `libloading` keeps it in the cause.
pub(crate) fn loader_reason(error: &libloading::Error) -> String {
    std::error::Error::source(error).map_or_else(|| error.to_string(), ToString::to_string)
}

/// The folders in which libraries are looked for, first to last.
pub fn search_path() -> Vec<PathBuf> {
    let mut places = Vec::new();
    if let Some(dir) = env::var_os("TISSUEMAP_LIB_DIR") {
        places.push(PathBuf::from(dir));
    }
    if let Ok(exe) = env::current_exe() {
        if let Some(prefix) = exe.parent().and_then(|bin| bin.parent()) {
            places.push(prefix.join("lib/tissuemap"));
        }
        // target/release/deps/<test> is the deepest place a checkout runs from.
        places.extend(exe.ancestors().skip(1).take(4).map(|dir| dir.join(".deps/lib")).filter(|dir| dir.is_dir()));
    }
    places.extend(
        ["/usr/lib/tissuemap", "/usr/local/lib", "/usr/lib/x86_64-linux-gnu", "/usr/lib/aarch64-linux-gnu"]
            .map(PathBuf::from),
    );
    places
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_is_no_library_is_named_with_the_loader_s_reason() {
        let dir = tempfile::tempdir().expect("temporary folder");
        let path = dir.path().join("libjunk.so");
        std::fs::write(&path, "junk").expect("writable");
        let junk =
            SharedLibrary { name: "Junk", soname: "libjunk.so", required: ">= 1", remedy: "run scripts/setup.sh" };
        // SAFETY: the file is no library, nothing of it is run.
        #[allow(unsafe_code)]
        let error = unsafe { libloading::Library::new(&path) }.expect_err("junk");
        let text = junk.wrong(&path, &loader_reason(&error)).to_string();
        assert!(text.contains("libjunk.so") && text.contains("file too short") && !text.contains('\n'), "{text}");
    }

    #[test]
    fn missing_library_says_what_where_and_remedy() {
        let absent = SharedLibrary {
            name: "Absent",
            soname: "libabsent.so.9",
            required: ">= 9",
            remedy: "run scripts/setup.sh",
        };
        let error = absent.locate().expect_err("no such library");
        assert_eq!(error.hint(), "run scripts/setup.sh");
        let text = error.to_string();
        for part in ["Absent", "libabsent.so.9", ">= 9", "looked in", "/usr/local/lib"] {
            assert!(text.contains(part), "{part:?} missing in {text:?}");
        }
        assert!(!text.contains('\n'));
    }
}
