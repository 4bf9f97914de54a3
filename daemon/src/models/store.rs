//! The daemon's own copies of models, by their hash: a file that is changed or removed after it was dropped changes
//! nothing of what serves.
//!
//! ```text
//! <state folder>/worker/models/<SHA-256>/NAME.onnx
//!                                        NAME.onnx.minisig
//! ```

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use minisign_verify::{PublicKey, Signature};
use sha2::{Digest, Sha256};
use tissuemap::contract::MAX_MODEL_BYTES;
use tissuemap::durable::{rename_new, sync_folder, write_file};
use tissuemap::hex::hex;
use tissuemap::untrusted;

use crate::job::Fault;
use crate::worker::private_folder;

/// A signature has four lines, of some three hundred bytes.
const MAX_SIGNATURE_BYTES: u64 = 8 << 10;

/// See the module.
#[derive(Debug)]
pub(super) struct Store {
    folder: PathBuf,
    /// With at least one, only signed models are taken.
    keys: Vec<PublicKey>,
}

/// A model in the store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Stored {
    pub(super) sha256: String,
    /// File name.
    pub(super) name: String,
    pub(super) path: PathBuf,
}

/// The signature that belongs to a model.
pub(super) fn signature_of(model: &Path) -> PathBuf {
    let mut name = model.as_os_str().to_owned();
    name.push(".minisig");
    name.into()
}

impl Store {
    pub(super) fn open(state: &Path, keys: Vec<PublicKey>) -> io::Result<Self> {
        let store = Self::to_read(state, keys);
        private_folder(&store.folder)?;
        Ok(store)
    }

    /// The store as it is, which may be not at all.
    pub(super) fn to_read(state: &Path, keys: Vec<PublicKey>) -> Self {
        Self { folder: state.join("worker/models"), keys }
    }

    /// Copies a model, and gives where it is. What is copied is what was hashed, and what the signature is for.
    ///
    /// # Errors
    /// `model.unreadable`, `onnx.too-large`, `model.unsigned`, `model.bad-signature`; without an id, the store cannot be
    /// written.
    pub(super) fn take_in(&self, model: &Path) -> Result<Stored, Fault> {
        let trouble =
            |error: &io::Error| Fault::of_io(self.folder.display(), error, "check the disk of the state folder");
        let name = model.file_name().and_then(|name| name.to_str()).filter(|name| !name.contains(char::is_control));
        let name = name.ok_or_else(|| {
            let reason = format!("{}: the file name is no plain text", model.to_string_lossy().escape_debug());
            Fault::new(reason, "rename it").with_id("model.unreadable")
        })?;
        let incoming = self.folder.join(".incoming");
        let _ = fs::remove_dir_all(&incoming);
        private_folder(&incoming).map_err(|error| trouble(&error))?;
        let copy = incoming.join(name);
        let mut file = File::create_new(&copy).map_err(|error| trouble(&error))?;
        let (sha256, signature) = self.read(model, Some(&mut file))?;
        file.sync_all().map_err(|error| trouble(&error))?;
        let target = self.folder.join(&sha256);
        let known = fs::read_dir(&target).ok().and_then(|_| self.get(&sha256, name).ok());
        let path = known.map_or_else(|| target.join(name), |known| known.path);
        let keep = || -> io::Result<()> {
            // Signed again, with another key, the file is the same.
            let home = if path.exists() { &target } else { &incoming };
            if let Some(signature) = signature {
                let place = signature_of(&home.join(path.file_name().unwrap_or_default()));
                write_file(&place, signature.as_bytes())?;
            }
            if home == &incoming {
                let _ = fs::remove_dir_all(&target);
                rename_new(&incoming, &target)?;
                sync_folder(&self.folder)?;
            }
            Ok(())
        };
        keep().map_err(|error| trouble(&error))?;
        Ok(Stored { sha256, name: name.into(), path })
    }

    /// A model that was taken in, proved by its signature where one is needed.
    ///
    /// # Errors
    /// It is not there, or not signed by a key that is trusted today.
    pub(super) fn get(&self, sha256: &str, name: &str) -> Result<Stored, Fault> {
        let folder = self.folder.join(sha256);
        let is_model = |path: &PathBuf| path.extension().is_some_and(|ending| ending.eq_ignore_ascii_case("onnx"));
        let mut files = fs::read_dir(&folder).into_iter().flatten().flatten().map(|entry| entry.path());
        let path = files.find(is_model).ok_or_else(|| {
            Fault::new(
                format!("{name} is not kept any more in {}", folder.display()),
                "drop its file again, then activate it",
            )
            .with_id("model.unreadable")
        })?;
        if !self.keys.is_empty() {
            self.read(&path, None)?;
        }
        Ok(Stored { sha256: sha256.into(), name: name.into(), path })
    }

    /// Whether no model was ever kept here.
    pub(super) fn is_empty(&self) -> bool {
        let entries = fs::read_dir(&self.folder).into_iter().flatten().flatten();
        !entries.map(|entry| entry.file_name()).any(|name| name.len() == 64)
    }

    /// Removes a model that will not serve.
    pub(super) fn discard(&self, sha256: &str) {
        if let Err(error) = fs::remove_dir_all(self.folder.join(sha256)) {
            tracing::warn!(sha256, reason = %error, "Copy of a model not removed from the store");
        }
    }

    /// Reads a model once: hashes it, proves its signature where one is needed (and gives it), and copies it.
    fn read(&self, model: &Path, mut copy: Option<&mut File>) -> Result<(String, Option<String>), Fault> {
        let unreadable = |error: &io::Error| {
            Fault::new(format!("{}: {error}", model.display()), "let the daemon read the file")
                .with_id("model.unreadable")
        };
        let file = untrusted::open_large(model);
        let mut file = file.map_err(|error| Fault::from_error(&error).with_id("model.unreadable"))?;
        let signed = if self.keys.is_empty() { None } else { Some(self.signature(model)?) };
        let mut proof = match &signed {
            Some((key, signature, _)) => Some(key.verify_stream(signature).map_err(|error| forged(model, &error))?),
            None => None,
        };
        let (mut hash, mut total, mut buffer) = (Sha256::new(), 0, vec![0; 1 << 20]);
        loop {
            let length = file.read(&mut buffer).map_err(|error| unreadable(&error))?;
            total += length as u64;
            if total > MAX_MODEL_BYTES {
                let reason = format!("{}: at most {MAX_MODEL_BYTES} bytes are allowed", model.display());
                return Err(Fault::new(reason, "export it again with tissuemap-train").with_id("onnx.too-large"));
            }
            let part = &buffer[..length];
            if part.is_empty() {
                break;
            }
            hash.update(part);
            proof.iter_mut().for_each(|proof| proof.update(part));
            if let Some(copy) = &mut copy {
                let hint = "check the disk of the state folder";
                copy.write_all(part).map_err(|error| Fault::from_error(&error).or_hint(hint))?;
            }
        }
        if let Some(mut proof) = proof {
            proof.finalize().map_err(|error| forged(model, &error))?;
        }
        let sha256 = hex(hash.finalize());
        Ok((sha256, signed.map(|(_, _, text)| text)))
    }

    /// The signature beside a model, with the trusted key that it names.
    fn signature(&self, model: &Path) -> Result<(&PublicKey, Signature, String), Fault> {
        let path = signature_of(model);
        let text = untrusted::read_to_string(&path, MAX_SIGNATURE_BYTES).map_err(|error| {
            let reason = format!("{}: no signature, and `trusted_keys` are configured: {error}", model.display());
            let hint = if error.is_not_found() {
                format!("sign it with minisign and bring {} first", path.display())
            } else {
                error.hint().to_owned()
            };
            Fault::new(reason, hint).with_id("model.unsigned")
        })?;
        let signature = Signature::decode(&text).map_err(|error| forged(model, &error))?;
        let key = self.keys.iter().find(|key| key.verify_stream(&signature).is_ok());
        let key = key.ok_or_else(|| forged(model, &minisign_verify::Error::UnexpectedKeyId))?;
        Ok((key, signature, text))
    }
}

fn forged(model: &Path, error: &minisign_verify::Error) -> Fault {
    let reason = format!("{}: its signature is not by a trusted key for this file: {error}", model.display());
    Fault::new(reason, "sign it with a key of `trusted_keys`, prehashed as minisign does")
        .with_id("model.bad-signature")
}
