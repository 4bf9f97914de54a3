//! Bytes as text.

use std::fmt::Write;

/// Lower-case hexadecimal digits, two a byte: how hashes are written everywhere here.
pub fn hex(bytes: impl AsRef<[u8]>) -> String {
    bytes.as_ref().iter().fold(String::new(), |mut text, byte| {
        // Writing to a string cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}
