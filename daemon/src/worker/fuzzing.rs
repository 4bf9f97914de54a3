//! What holds of any bytes that come through a worker's socket; see [`crate::fuzzing`].

#![allow(clippy::missing_panics_doc, reason = "panicking is how they tell")]

use std::fmt::Debug;

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::batches::Batches;
use super::protocol::{Event, Request, receive, send};

/// Messages in both directions: the bytes as they come through the socket, and as the content of one frame. The file of
/// measured batch sizes is read in the same way.
pub fn messages(bytes: &[u8]) {
    let mut frame = (bytes.len() as u32).to_le_bytes().to_vec();
    frame.extend(bytes);
    for wire in [bytes, &frame] {
        every::<Request>(wire);
        every::<Event>(wire);
    }
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("batches.json");
    std::fs::write(&path, bytes).expect("writable");
    let _ = Batches(path).read();
}

/// Reads messages until one is refused; each must be what it is when it is sent again.
fn every<T: Serialize + DeserializeOwned + PartialEq + Debug>(mut wire: &[u8]) {
    while let Ok(message) = receive::<T>(&mut wire) {
        let mut again = Vec::new();
        send(&mut again, &message).expect("what came in a frame fits into one");
        assert_eq!(receive::<T>(&mut again.as_slice()).expect("it was sent"), message);
    }
}
