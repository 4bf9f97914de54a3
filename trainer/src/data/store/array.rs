//! One array of a store, as Zarr version 3 keeps it: `zarr.json`, and chunks of whole rows as raw little-endian bytes.

use std::fs::{self, File};
use std::io::{self, ErrorKind};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use tissuemap::durable::write_file;

use tissuemap::untrusted;

/// An array that grows along its first axis.
#[derive(Debug)]
pub(super) struct Array {
    folder: PathBuf,
    data_type: DataType,
    /// Names of the axes, the first one that of the rows.
    axes: &'static [&'static str],
    /// Shape of one row.
    row: Vec<u64>,
    /// Rows of a chunk, which is one file.
    chunk_rows: u64,
}

/// Zarr's types of values that are used here.
#[derive(Debug, Clone, Copy)]
pub(super) enum DataType {
    Bool,
    UInt8,
    UInt32,
    Int64,
}

impl DataType {
    fn name(self) -> &'static str {
        match self {
            Self::Bool => "bool",
            Self::UInt8 => "uint8",
            Self::UInt32 => "uint32",
            Self::Int64 => "int64",
        }
    }

    fn bytes(self) -> u64 {
        match self {
            Self::Bool | Self::UInt8 => 1,
            Self::UInt32 => 4,
            Self::Int64 => 8,
        }
    }

    /// What stands in chunks that are not there.
    fn fill(self) -> Value {
        match self {
            Self::Bool => json!(false),
            Self::UInt8 | Self::UInt32 | Self::Int64 => json!(0),
        }
    }
}

impl Array {
    /// The array in `folder`; nothing is read or written.
    pub(super) fn new(
        folder: PathBuf,
        data_type: DataType,
        axes: &'static [&'static str],
        row: Vec<u64>,
        chunk_rows: u64,
    ) -> Self {
        Self { folder, data_type, axes, row, chunk_rows }
    }

    /// Bytes of one row.
    pub(super) fn row_bytes(&self) -> usize {
        (self.row.iter().product::<u64>() * self.data_type.bytes()) as usize
    }

    /// Says that there are so many rows; on the disk when this returns.
    pub(super) fn set_row_count(&self, rows: u64) -> io::Result<()> {
        let with_rows = |rows: u64| [&[rows], self.row.as_slice()].concat();
        // One byte has no order, and readers refuse to be told one.
        let bytes = match self.data_type.bytes() {
            1 => json!({"name": "bytes"}),
            _ => json!({"name": "bytes", "configuration": {"endian": "little"}}),
        };
        let metadata = json!({
            "zarr_format": 3,
            "node_type": "array",
            "shape": with_rows(rows),
            "data_type": self.data_type.name(),
            "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": with_rows(self.chunk_rows)}},
            "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
            "fill_value": self.data_type.fill(),
            "codecs": [bytes],
            "dimension_names": self.axes,
            "attributes": {},
        });
        fs::create_dir_all(&self.folder)?;
        write_metadata(&self.folder, &metadata)
    }

    /// Puts whole rows at `first` and behind; on the disk when this returns.
    pub(super) fn write(&self, mut first: u64, mut bytes: &[u8]) -> io::Result<()> {
        let row_bytes = self.row_bytes();
        while !bytes.is_empty() {
            let room = self.chunk_rows - first % self.chunk_rows;
            let (these, rest) = bytes.split_at(bytes.len().min(room as usize * row_bytes));
            self.write_in_chunk(first, these)?;
            first += (these.len() / row_bytes) as u64;
            bytes = rest;
        }
        Ok(())
    }

    fn write_in_chunk(&self, first: u64, bytes: &[u8]) -> io::Result<()> {
        let path = self.chunk(first);
        let is_new = !path.exists();
        if is_new && let Some(folder) = path.parent() {
            fs::create_dir_all(folder)?;
        }
        let file = untrusted::update(&path)?;
        // A chunk has its full length from the start; what no row fills is a hole that takes no space.
        file.set_len(self.chunk_rows * self.row_bytes() as u64)?;
        file.write_all_at(bytes, first % self.chunk_rows * self.row_bytes() as u64)?;
        file.sync_all()?;
        if is_new {
            for folder in path.ancestors().skip(1).take_while(|folder| folder.starts_with(&self.folder)) {
                File::open(folder)?.sync_all()?;
            }
        }
        Ok(())
    }

    /// Fills `bytes` with the rows at `first` and behind.
    pub(super) fn read(&self, mut first: u64, mut bytes: &mut [u8]) -> io::Result<()> {
        let row_bytes = self.row_bytes();
        while !bytes.is_empty() {
            let room = self.chunk_rows - first % self.chunk_rows;
            let (these, rest) = bytes.split_at_mut(bytes.len().min(room as usize * row_bytes));
            untrusted::open_large(&self.chunk(first))?
                .read_exact_at(these, first % self.chunk_rows * row_bytes as u64)?;
            first += (these.len() / row_bytes) as u64;
            bytes = rest;
        }
        Ok(())
    }

    /// Removes its chunks and what it says about itself. Files that no array has stay.
    pub(super) fn clear(&self) -> io::Result<()> {
        let gone = |outcome: io::Result<()>| match outcome {
            Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::DirectoryNotEmpty) => Ok(()),
            outcome => outcome,
        };
        gone(fs::remove_file(self.folder.join("zarr.json")))?;
        gone(remove_chunks(&self.folder.join("c"), self.row.len()))?;
        gone(fs::remove_dir(&self.folder))
    }

    /// The file that holds a row: `c/<chunk>/0/…`, a level per axis.
    fn chunk(&self, row: u64) -> PathBuf {
        let index = (row / self.chunk_rows).to_string();
        self.row.iter().fold(self.folder.join("c").join(index), |path, _| path.join("0"))
    }
}

/// Removes files and folders whose names are numbers, so many levels of folders down.
fn remove_chunks(folder: &Path, levels: usize) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let is_number = entry.file_name().as_encoded_bytes().iter().all(u8::is_ascii_digit);
        match (is_number, entry.file_type()?.is_dir(), levels) {
            (true, false, 0) => fs::remove_file(entry.path())?,
            (true, true, 1..) => match remove_chunks(&entry.path(), levels - 1) {
                Err(error) if error.kind() != ErrorKind::DirectoryNotEmpty => return Err(error),
                _ => {}
            },
            _ => {}
        }
    }
    fs::remove_dir(folder)
}

/// Replaces a node's `zarr.json` in one step; on the disk when this returns.
pub(super) fn write_metadata(folder: &Path, metadata: &Value) -> io::Result<()> {
    write_file(&folder.join("zarr.json"), format!("{metadata:#}\n").as_bytes())
}
