//! What TensorRT has compiled for one model, kept from one worker to the next: only as it was before that worker had seen a
//! slide (hazard h27). A slide that takes a worker over could otherwise leave an engine there for all later ones.
//!
//! ```text
//! <state folder>/worker/engines/<SHA-256 of the model>/…     the model's workers may write there
//!                               <SHA-256 of the model>.seal  only the daemon
//! ```

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};
use tissuemap::durable::write_file;
use tissuemap::hex::hex;
use tissuemap::removal;
use tissuemap::untrusted;

use super::private_folder;

/// `engine/file`: deeper is nothing that TensorRT or we have made.
const DEPTH: u32 = 2;
/// Nor are more files than this.
const FILES: usize = 1000;

/// The engines of one model.
pub(super) struct Engines {
    folder: PathBuf,
    seal: PathBuf,
}

impl Engines {
    /// Those below `root` of the model with this hash.
    ///
    /// # Errors
    /// The folder cannot be made.
    pub(super) fn of(root: &Path, model_sha256: &str) -> io::Result<Self> {
        let folder = root.join(model_sha256);
        private_folder(&folder)?;
        Ok(Self { seal: folder.with_extension("seal"), folder })
    }

    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    /// Before a worker starts: what is not as it was sealed is removed, and is then compiled again.
    ///
    /// # Errors
    /// The folder cannot be made, or something in it cannot be removed.
    pub(super) fn prepare(&self) -> io::Result<()> {
        // The state folder may lie at its path anew.
        private_folder(&self.folder)?;
        let sealed = untrusted::read_to_string(&self.seal, 1000).ok();
        if sealed.is_some() && sealed == self.fingerprint().ok() {
            return Ok(());
        }
        removal::empty_folder(&self.folder)
    }

    /// After a worker has loaded the model, and before it sees a slide. Failing to is only worth a warning: then the engines
    /// are compiled again.
    pub(super) fn seal(&self) {
        let seal = || write_file(&self.seal, self.fingerprint()?.as_bytes());
        if let Err(error) = seal() {
            tracing::warn!(folder = %self.folder.display(), reason = %error, "Engines not kept");
        }
    }

    /// Hash over names and contents.
    fn fingerprint(&self) -> io::Result<String> {
        let mut files = BTreeSet::new();
        collect(&self.folder, DEPTH, &mut files)?;
        let mut hash = Sha256::new();
        for path in files {
            hash.update(path.as_os_str().as_encoded_bytes());
            hash.update([0]);
            hash.update(content_hash(&path)?);
        }
        Ok(hex(hash.finalize()))
    }
}

fn collect(folder: &Path, depth: u32, files: &mut BTreeSet<PathBuf>) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            let depth = depth.checked_sub(1).ok_or_else(|| io::Error::other("folders in each other"))?;
            collect(&entry.path(), depth, files)?;
        } else {
            files.insert(entry.path());
        }
        if files.len() > FILES {
            return Err(io::Error::other("too many files"));
        }
    }
    Ok(())
}

fn content_hash(path: &Path) -> io::Result<[u8; 32]> {
    let mut file = untrusted::open_large(path)?;
    let mut hash = Sha256::new();
    super::hash_all(&mut file, &mut hash)?;
    Ok(hash.finalize().into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn h27_engines_serve_again_only_as_they_were_before_a_slide_was_seen() -> io::Result<()> {
        let root = tempfile::tempdir()?;
        let engines = Engines::of(root.path(), "ab")?;
        let engine = engines.folder().join("shape/tissuemap.engine");
        let compile = || {
            fs::create_dir_all(engine.parent().unwrap_or(Path::new("")))?;
            fs::write(&engine, "compiled")
        };
        let is_kept = || -> io::Result<bool> { engines.prepare().map(|()| engine.exists()) };
        compile()?;
        assert!(!is_kept()?, "nobody has sealed it");
        compile()?;
        engines.seal();
        assert!(is_kept()? && is_kept()?);

        // What a worker does that a slide has taken over.
        fs::write(&engine, "compiles")?;
        assert!(!is_kept()?);
        compile()?;
        engines.seal();
        fs::write(engines.folder().join("shape/more"), "")?;
        assert!(!is_kept()?);
        compile()?;
        engines.seal();
        fs::create_dir_all(engines.folder().join("a/a/a/a/a/a/a"))?;
        assert!(!is_kept()?);
        assert_eq!(fs::read_dir(engines.folder())?.count(), 0, "and the next worker is not over its limits");
        Ok(())
    }
}
