//! Which DICOM series a file belongs to: a DICOM slide is all files of one `SeriesInstanceUID`, and a folder may hold several.
//!
//! Only the elements up to that one are read, by their lengths, and no more of them than a slide has: the file is whatever
//! somebody left in the watch folder. Format: DICOM PS3.5, chapter 7, and PS3.10, chapter 7.

use std::collections::HashMap;
use std::fs::Metadata;
use std::io::{BufReader, Read, Seek, SeekFrom};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{LazyLock, Mutex, PoisonError};

use tissuemap::untrusted::open_large;

const PREAMBLE: u64 = 128;
const SERIES_INSTANCE_UID: (u16, u16) = (0x0020, 0x000e);
const TRANSFER_SYNTAX: (u16, u16) = (0x0002, 0x0010);
const ITEM: (u16, u16) = (0xfffe, 0xe000);
const ITEM_END: (u16, u16) = (0xfffe, 0xe00d);
const SEQUENCE_END: (u16, u16) = (0xfffe, 0xe0dd);
const IMPLICIT_LITTLE_ENDIAN: &str = "1.2.840.10008.1.2";
/// Compressed as a whole, or the other byte order: retired, or of no use for slides.
const OTHER_ENCODINGS: [&str; 2] = ["1.2.840.10008.1.2.2", "1.2.840.10008.1.2.1.99"];
/// Those whose length has four bytes, behind two that are reserved.
const LONG: [&[u8; 2]; 13] =
    [b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV"];
const UNDEFINED: u32 = u32::MAX;
/// A slide's header has some hundred elements before that of the series.
const MOST_ELEMENTS: usize = 10_000;
/// A UID has at most 64 characters.
const MOST_UID: u32 = 64;

/// What a file looked like when its series was read.
type Stamp = (u64, u64, i64, i64, i64, i64);

/// The series of files, each as the file was then.
type Known = HashMap<PathBuf, (Stamp, Option<String>)>;

/// Headers are read once: a share with thousands of files is looked at every minute.
static KNOWN: LazyLock<Mutex<Known>> = LazyLock::new(Mutex::default);

/// More files than this are forgotten, and read again.
const MOST_KNOWN: usize = 200_000;

/// The `SeriesInstanceUID` of a file; none where it is no DICOM file, cannot be read, or is not copied so far.
pub(super) fn series(path: &Path) -> Option<String> {
    let stamp = stamp(&path.metadata().ok()?);
    {
        let known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, uid)) = known.get(path).filter(|(then, _)| *then == stamp) {
            return uid.clone();
        }
    }
    let uid = read(BufReader::new(open_large(path).ok()?));
    let mut known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
    if known.len() >= MOST_KNOWN {
        known.clear();
    }
    known.insert(path.into(), (stamp, uid.clone()));
    uid
}

fn stamp(of: &Metadata) -> Stamp {
    (of.ino(), of.len(), of.mtime(), of.mtime_nsec(), of.ctime(), of.ctime_nsec())
}

/// The header of one element.
struct Element {
    tag: (u16, u16),
    sequence: bool,
    length: u32,
}

fn read(mut file: impl Read + Seek) -> Option<String> {
    file.seek(SeekFrom::Start(PREAMBLE)).ok()?;
    if take(&mut file)? != *b"DICM" {
        return None;
    }
    let (mut implicit, mut depth) = (false, 0_u32);
    for _ in 0..MOST_ELEMENTS {
        // The file meta information, group 2, is explicit whatever follows.
        let group = u16::from_le_bytes(take(&mut file)?);
        let number = u16::from_le_bytes(take(&mut file)?);
        let Element { tag, sequence, length } = element(&mut file, (group, number), implicit && group != 2)?;
        match tag {
            ITEM if length == UNDEFINED => depth += 1,
            ITEM_END | SEQUENCE_END => depth = depth.saturating_sub(1),
            TRANSFER_SYNTAX if depth == 0 => {
                let syntax = text(&mut file, length)?;
                if OTHER_ENCODINGS.contains(&syntax.as_str()) {
                    return None;
                }
                implicit = syntax == IMPLICIT_LITTLE_ENDIAN;
            }
            SERIES_INSTANCE_UID if depth == 0 => {
                let uid = text(&mut file, length)?;
                return Some(uid).filter(|uid| !uid.is_empty() && uid.bytes().all(|c| c.is_ascii_digit() || c == b'.'));
            }
            // Elements come in the order of their tags.
            _ if depth == 0 && tag > SERIES_INSTANCE_UID => return None,
            _ if length == UNDEFINED && sequence => depth += 1,
            _ if length == UNDEFINED => return None,
            _ => drop(file.seek_relative(i64::from(length)).ok()?),
        }
    }
    None
}

fn element(file: &mut impl Read, tag: (u16, u16), implicit: bool) -> Option<Element> {
    let delimits = tag.0 == ITEM.0;
    if implicit || delimits {
        let length = u32::from_le_bytes(take(file)?);
        return Some(Element { tag, sequence: !delimits, length });
    }
    let kind: [u8; 2] = take(file)?;
    let length = if LONG.contains(&&kind) {
        take::<2>(file)?;
        u32::from_le_bytes(take(file)?)
    } else {
        u32::from(u16::from_le_bytes(take(file)?))
    };
    Some(Element { tag, sequence: matches!(&kind, b"SQ" | b"UN"), length })
}

fn take<const N: usize>(file: &mut impl Read) -> Option<[u8; N]> {
    let mut bytes = [0; N];
    file.read_exact(&mut bytes).ok()?;
    Some(bytes)
}

fn text(file: &mut impl Read, length: u32) -> Option<String> {
    if length > MOST_UID {
        return None;
    }
    let mut bytes = vec![0; length as usize];
    file.read_exact(&mut bytes).ok()?;
    Some(String::from_utf8(bytes).ok()?.trim_end_matches(['\0', ' ']).to_owned())
}

#[cfg(test)]
pub(super) mod tests {
    use std::io::Cursor;

    use proptest::prelude::*;

    use super::*;

    /// An element with a value representation of two bytes of length.
    fn short(group: u16, number: u16, kind: [u8; 2], value: &[u8]) -> Vec<u8> {
        let head = [group.to_le_bytes(), number.to_le_bytes(), kind, (value.len() as u16).to_le_bytes()];
        [head.as_flattened(), value].concat()
    }

    /// A header as slides have one, with sequences of undefined length before the series.
    pub(in crate::arrive) fn dicom(uid: &str) -> Vec<u8> {
        let nested = [
            &[0x08, 0x00, 0x15, 0x11, b'S', b'Q', 0, 0, 0xff, 0xff, 0xff, 0xff][..],
            &[0xfe, 0xff, 0x00, 0xe0, 0xff, 0xff, 0xff, 0xff],
            &short(0x0020, 0x000e, *b"UI", b"9.9.9\0"),
            &[0xfe, 0xff, 0x0d, 0xe0, 0, 0, 0, 0],
            &[0xfe, 0xff, 0xdd, 0xe0, 0, 0, 0, 0],
        ];
        [
            &[0; 128][..],
            b"DICM",
            &short(0x0002, 0x0010, *b"UI", b"1.2.840.10008.1.2.1\0"),
            &short(0x0008, 0x0060, *b"CS", b"SM"),
            &nested.concat(),
            &short(0x0020, 0x000d, *b"UI", b"1.2"),
            &short(0x0020, 0x000e, *b"UI", uid.as_bytes()),
            &short(0x0028, 0x0002, *b"US", &[3, 0]),
        ]
        .concat()
    }

    #[test]
    fn the_series_of_a_file_is_read_and_none_of_what_is_no_dicom_file() {
        assert_eq!(read(Cursor::new(dicom("1.2.3"))).as_deref(), Some("1.2.3"));
        assert_eq!(read(Cursor::new(dicom("1.2.3\0"))).as_deref(), Some("1.2.3"));
        assert_eq!(read(Cursor::new(dicom("../x"))), None);
        assert_eq!(read(Cursor::new(dicom(&"1".repeat(65)))), None);
        let whole = dicom("1.2.3");
        let complete = whole.len() - 10;
        for length in 0..whole.len() {
            let uid = read(Cursor::new(&whole[..length]));
            assert_eq!(uid.is_some(), length >= complete, "{length} bytes");
        }
        let implicit = [
            &[0; 128][..],
            b"DICM",
            &short(0x0002, 0x0010, *b"UI", b"1.2.840.10008.1.2\0"),
            &[0x08, 0, 0x15, 0x11, 0xff, 0xff, 0xff, 0xff, 0xfe, 0xff, 0xdd, 0xe0, 0, 0, 0, 0],
            &[0x20, 0, 0x0e, 0, 4, 0, 0, 0, b'7', b'.', b'1', 0],
        ];
        assert_eq!(read(Cursor::new(implicit.concat())).as_deref(), Some("7.1"));
    }

    #[test]
    fn real_slides_in_one_folder_are_of_the_series_that_they_say() {
        let data = std::env::var_os("TISSUEMAP_TEST_DATA")
            .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/data"), PathBuf::from);
        let slides = data.join("slides/dicom-camelyon");
        let files =
            ["multi_frame_jpeg_camelyon_challenge_image.dcm", "multi_frame_jpeg2000_camelyon_challenge_image.dcm"];
        if !files.iter().all(|file| slides.join(file).is_file()) {
            #[allow(clippy::print_stderr)]
            {
                eprintln!("SKIPPED: no DICOM slides below shared/data");
            }
            return;
        }
        let [jpeg, jpeg2000] = files.map(|file| series(&slides.join(file)).expect("a series"));
        assert!(
            jpeg.starts_with("1.3.6.1.4.1.11129.") && jpeg2000.starts_with("1.3.6.1.4.1.11129.") && jpeg != jpeg2000
        );
        let [one, other] =
            ["boxes_0.dcm", "boxes_1.dcm"].map(|file| series(&data.join("slides/openslide-fixtures").join(file)));
        assert!(one.is_some() && one == other, "two files of one slide");
    }

    proptest! {
        #[test]
        fn whatever_a_file_holds_it_is_read_to_an_end(mut bytes in proptest::collection::vec(any::<u8>(), 0..2000), at in any::<prop::sample::Index>(), whole in any::<bool>()) {
            if whole {
                let mut changed = dicom("1.2.3");
                let at = at.index(changed.len());
                changed[at] = bytes.first().copied().unwrap_or_default();
                bytes = changed;
            } else {
                bytes.splice(..0, [&[0; 128][..], b"DICM"].concat());
            }
            read(Cursor::new(bytes));
        }
    }
}
