//! Patches on disk: a Zarr group (version 3) that any Zarr reader can open.
//!
//! | array | type | shape | |
//! |---|---|---|---|
//! | `patches` | uint8 | `[N, 3·S, P, P]` | stains in contract order |
//! | `set` | uint32 | `[N]` | index into the attribute `sets` |
//! | `origin` | int64 | `[N, 2]` | x and y of the top-left corner, model pixels of the set's reference canvas |
//! | `held_out` | bool | `[N]` | not used for training |
//!
//! Chunks are raw bytes. A patch in a random order is then one read at a known position, and the page cache serves repeated reads.
//! [`Attributes`] contain everything else.
//!
//! # State after a kill or a power failure
//!
//! A section set is added in this order. Each step is on disk before the next one begins:
//! 1. the rows, after the last row that the attributes of the group count;
//! 2. the new lengths of the arrays;
//! 3. the attributes of the group, replaced in one step. From now on the set exists.
//!
//! After a stop before step 3 there are rows that do not count; the next run overwrites them. Attributes with another fingerprint are
//! replaced first, and rows without a set are removed before the first set is added.

mod array;

use std::fs::{self, File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::json;
use sha2::{Digest, Sha256};
use tissuemap::durable::is_unfinished;
use tissuemap::hex::hex;
use tissuemap::untrusted;

use self::array::{Array, DataType, write_metadata};
use crate::data::origin::Origin;
use crate::system::error::TrainError;

/// Patches in one file: about 16 MB of five stains at 64 px.
const CHUNK_PATCHES: u64 = 256;
/// Rows of the small arrays in one file.
const CHUNK_ROWS: u64 = 1 << 16;
/// Arrays of the group. Nothing else is ever removed from its folder.
const ARRAYS: [&str; 4] = ["patches", "set", "origin", "held_out"];

/// Attributes of the group.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Attributes {
    /// Digest of everything that determines the patches, hexadecimal. Equal digests mean equal patches.
    pub fingerprint: String,
    /// Whether every section set has been sampled or left out.
    pub complete: bool,
    /// In the order of the channels.
    pub stains: Vec<String>,
    /// Micrometres per pixel.
    pub mpp: f64,
    /// Side of a patch in pixels.
    pub patch_px: u32,
    /// Completely sampled sets, in the order of their rows.
    pub sets: Vec<StoredSet>,
    /// Sets that could not be used.
    pub left_out: Vec<LeftOut>,
}

/// One completely sampled section set.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StoredSet {
    /// Case and block.
    pub name: String,
    /// Number of its rows, including held-out ones.
    pub patches: u64,
    /// How many of them are held out.
    pub held_out: u64,
    /// Digest of its pixels, hexadecimal.
    pub sha256: String,
}

/// A section set that could not be used.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LeftOut {
    /// Case and block.
    pub name: String,
    /// The reason.
    pub reason: String,
}

/// An open store. Only one program writes to it at a time, and none while another reads it.
#[derive(Debug)]
pub struct Store {
    folder: PathBuf,
    attributes: Attributes,
    pixels: Array,
    set: Array,
    origin: Array,
    held_out: Array,
    /// The folder, locked as long as the store is open.
    lock: File,
}

/// State of a store when it was opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StoreState {
    /// There was no store.
    Empty,
    /// It had patches with another fingerprint. They are not used.
    Outdated,
    /// It has some of the sets, with the same fingerprint.
    Partial,
    /// It has all sets.
    Complete,
}

impl Store {
    /// Opens the store in `folder`, or creates it. `wanted` has the fingerprint and no sets. Patches with another fingerprint are removed.
    ///
    /// # Errors
    /// [`TrainError::File`] if it cannot be read or written, if another program uses it, or if the folder contains something else.
    pub fn open(folder: &Path, wanted: Attributes) -> Result<(Self, StoreState), TrainError> {
        let fail = |source| TrainError::File { path: folder.to_owned(), source };
        fs::create_dir_all(folder).map_err(fail)?;
        let lock = File::open(folder).map_err(fail)?;
        let alone = try_lock(lock.try_lock()).map_err(fail)?;
        let readable = alone || try_lock(lock.try_lock_shared()).map_err(fail)?;
        let stored = read_attributes(folder).map_err(fail)?;
        let found = match &stored {
            None => StoreState::Empty,
            Some(stored) if stored.fingerprint != wanted.fingerprint => StoreState::Outdated,
            Some(stored) if stored.complete => StoreState::Complete,
            Some(_) => StoreState::Partial,
        };
        if !(alone || readable && found == StoreState::Complete) {
            return Err(fail(io::Error::new(io::ErrorKind::ResourceBusy, "another program uses these patches")));
        }
        let channels = 3 * wanted.stains.len() as u64;
        let side = u64::from(wanted.patch_px);
        let array = |name, data_type, axes, row, chunk| Array::new(folder.join(name), data_type, axes, row, chunk);
        let [pixels, set, origin, held_out] = ARRAYS;
        let store = Self {
            pixels: array(
                pixels,
                DataType::UInt8,
                &["patch", "plane", "y", "x"],
                vec![channels, side, side],
                CHUNK_PATCHES,
            ),
            set: array(set, DataType::UInt32, &["patch"], Vec::new(), CHUNK_ROWS),
            origin: array(origin, DataType::Int64, &["patch", "xy"], vec![2], CHUNK_ROWS),
            held_out: array(held_out, DataType::Bool, &["patch"], Vec::new(), CHUNK_ROWS),
            attributes: stored
                .filter(|_| matches!(found, StoreState::Partial | StoreState::Complete))
                .unwrap_or(wanted),
            folder: folder.to_owned(),
            lock,
        };
        if found == StoreState::Complete {
            store.downgrade_lock().map_err(fail)?;
        } else if store.attributes.sets.is_empty() {
            store.reset().map_err(fail)?;
        }
        Ok((store, found))
    }

    /// Makes the group empty.
    fn reset(&self) -> io::Result<()> {
        self.write_attributes()?;
        self.arrays().into_iter().try_for_each(Array::clear)?;
        self.set_row_count(0)
    }

    fn downgrade_lock(&self) -> io::Result<()> {
        try_lock(self.lock.try_lock_shared()).map(|_| ())
    }

    fn set_row_count(&self, rows: u64) -> io::Result<()> {
        self.arrays().into_iter().try_for_each(|array| array.set_row_count(rows))
    }

    fn arrays(&self) -> [&Array; 4] {
        [&self.pixels, &self.set, &self.origin, &self.held_out]
    }

    fn write_attributes(&self) -> io::Result<()> {
        let group = json!({"zarr_format": 3, "node_type": "group", "attributes": self.attributes});
        write_metadata(&self.folder, &group)
    }

    /// Its attributes.
    pub fn attributes(&self) -> &Attributes {
        &self.attributes
    }

    /// N: the rows of all completely drawn sets.
    pub fn rows(&self) -> u64 {
        self.attributes.sets.iter().map(|set| set.patches).sum()
    }

    /// Channels and side of a patch.
    pub fn shape(&self) -> (i64, i64) {
        (3 * self.attributes.stains.len() as i64, i64::from(self.attributes.patch_px))
    }

    /// Begins the next section set.
    pub fn begin_set(&mut self) -> SetWriter<'_> {
        let first = self.rows();
        SetWriter { store: self, next: first, first, held_out: 0, hash: Sha256::new() }
    }

    /// Records that a set cannot be used.
    ///
    /// # Errors
    /// [`TrainError::File`].
    pub fn leave_out(&mut self, name: &str, reason: &str) -> Result<(), TrainError> {
        self.attributes.left_out.push(LeftOut { name: name.to_owned(), reason: reason.to_owned() });
        self.write_attributes().map_err(|e| self.fail(e))
    }

    /// Records that no set is missing.
    ///
    /// # Errors
    /// [`TrainError::File`].
    pub fn complete(&mut self) -> Result<(), TrainError> {
        self.attributes.complete = true;
        self.write_attributes().and_then(|()| self.downgrade_lock()).map_err(|e| self.fail(e))
    }

    /// Fills `pixels` with the patches from row `first` on.
    ///
    /// # Errors
    /// [`TrainError::File`].
    pub fn read(&self, first: u64, pixels: &mut [u8]) -> Result<(), TrainError> {
        self.pixels.read(first, pixels).map_err(|e| self.fail(e))
    }

    /// The position of each row, and whether it is held out.
    ///
    /// # Errors
    /// [`TrainError::File`].
    pub fn origins_and_split(&self) -> Result<Vec<(Origin, bool)>, TrainError> {
        let rows = self.rows() as usize;
        let all = |array: &Array| {
            let mut bytes = vec![0; rows * array.row_bytes()];
            array.read(0, &mut bytes).map(|()| bytes).map_err(|e| self.fail(e))
        };
        let (sets, origins, held_out) = (all(&self.set)?, all(&self.origin)?, all(&self.held_out)?);
        let (sets, _) = sets.as_chunks();
        let (origins, _) = origins.as_chunks();
        let origins_and_split = sets.iter().zip(origins.chunks_exact(2)).zip(held_out).map(|((set, xy), held_out)| {
            let [x, y] = [xy[0], xy[1]].map(i64::from_le_bytes);
            (Origin { set: u32::from_le_bytes(*set), x, y }, held_out != 0)
        });
        Ok(origins_and_split.collect())
    }

    fn fail(&self, source: io::Error) -> TrainError {
        TrainError::File { path: self.folder.clone(), source }
    }
}

/// The rows of a set that is being sampled. If it is dropped before [`SetWriter::finish`], they do not count.
#[derive(Debug)]
pub struct SetWriter<'a> {
    store: &'a mut Store,
    first: u64,
    next: u64,
    held_out: u64,
    hash: Sha256,
}

impl SetWriter<'_> {
    /// Adds patches, one after the other, with the top-left corner of each.
    ///
    /// # Errors
    /// [`TrainError::File`].
    pub fn add(&mut self, pixels: &[u8], corners: &[(i64, i64)], held_out: bool) -> Result<(), TrainError> {
        let Store { attributes, pixels: patches, set, origin, held_out: flag, .. } = &*self.store;
        debug_assert_eq!(pixels.len(), corners.len() * patches.row_bytes());
        let index = (attributes.sets.len() as u32).to_le_bytes();
        let corner_bytes: Vec<u8> = corners.iter().flat_map(|&(x, y)| [x, y]).flat_map(i64::to_le_bytes).collect();
        let columns = [
            (patches, pixels),
            (set, &index.repeat(corners.len())),
            (origin, &corner_bytes),
            (flag, &vec![u8::from(held_out); corners.len()]),
        ];
        for (array, bytes) in columns {
            array.write(self.next, bytes).map_err(|e| self.store.fail(e))?;
        }
        self.hash.update(pixels);
        self.next += corners.len() as u64;
        self.held_out += if held_out { corners.len() as u64 } else { 0 };
        Ok(())
    }

    /// Marks the set as complete.
    ///
    /// # Errors
    /// [`TrainError::File`].
    pub fn finish(self, name: &str) -> Result<(), TrainError> {
        let Self { store, first, next, held_out, hash } = self;
        store.set_row_count(next).map_err(|e| store.fail(e))?;
        let sha256 = hex(hash.finalize());
        store.attributes.sets.push(StoredSet { name: name.to_owned(), patches: next - first, held_out, sha256 });
        store.write_attributes().map_err(|e| store.fail(e))
    }
}

/// Whether the lock was acquired.
fn try_lock(outcome: Result<(), TryLockError>) -> io::Result<bool> {
    match outcome {
        Ok(()) => Ok(true),
        Err(TryLockError::WouldBlock) => Ok(false),
        Err(TryLockError::Error(error)) => Err(error),
    }
}

/// The attributes of the store in `folder`; none where it is empty.
fn read_attributes(folder: &Path) -> io::Result<Option<Attributes>> {
    #[derive(Deserialize)]
    struct Group {
        attributes: Attributes,
    }
    let foreign = || io::Error::new(io::ErrorKind::AlreadyExists, "the folder contains something else than patches");
    match untrusted::read(&folder.join("zarr.json"), untrusted::SMALL) {
        Ok(text) => serde_json::from_slice(&text).map(|group: Group| Some(group.attributes)).map_err(|_| foreign()),
        Err(error) if error.is_not_found() => {
            // The group's own first write may have been cut short.
            let mut names = fs::read_dir(folder)?.filter_map(Result::ok).map(|entry| entry.file_name());
            if names.all(|name| is_unfinished(Path::new(&name))) { Ok(None) } else { Err(foreign()) }
        }
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests;
