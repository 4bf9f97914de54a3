// An input of a fuzz target as changes of a sound file: random bytes rarely get past the first check of a format, a sound
// file with a few bytes replaced reaches every later one. Included by each crate that needs it.

/// `file` with the changes that `script` encodes: again and again a place (four bytes, little end first, taken modulo the
/// length), a number of bytes and the bytes that are written there. A number of 255 cuts the file at the place.
pub(crate) fn patched(file: &[u8], mut script: &[u8]) -> Vec<u8> {
    let mut file = file.to_vec();
    while let Some((place, rest)) = script.split_first_chunk::<4>()
        && let Some((&number, rest)) = rest.split_first()
        && !file.is_empty()
    {
        let at = u32::from_le_bytes(*place) as usize % file.len();
        if number == u8::MAX {
            file.truncate(at);
            script = rest;
            continue;
        }
        let (bytes, rest) = rest.split_at(rest.len().min(usize::from(number)));
        let end = (at + bytes.len()).min(file.len());
        file[at..end].copy_from_slice(&bytes[..end - at]);
        script = rest;
    }
    file
}
