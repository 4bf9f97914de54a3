use std::convert::Infallible;
use std::io::{self, Cursor};
use std::path::PathBuf;
use std::sync::Mutex;

use image::GenericImageView;
use regex::Regex;
use tiff::decoder::{Decoder, DecodingResult};
use tiff::encoder::{TiffKind, TiffKindBig, TiffKindStandard};
use tiff::tags::Tag;

use super::super::tests::{halved, mpp, picture};
use super::super::{PyramidProblem, file};
use super::*;

const NOT_WATCHED: fn(u64, u64) -> ControlFlow<()> = |_, _| ControlFlow::Continue(());

fn stack(width: u32, height: u32, stains: &[&str]) -> Stack {
    let stains = stains.iter().map(|&stain| stain.to_owned()).collect();
    Stack { name: "case7".into(), description: "Made in a test".into(), width, height, mpp: mpp(0.499), stains }
}

/// A picture a stain, and the tiles of them.
fn sections(stack: &Stack) -> Vec<RgbImage> {
    let mut image = picture(stack.width, stack.height);
    let next = |_| {
        image.pixels_mut().for_each(|p| p.0 = [p.0[1] ^ 0x5A, p.0[2], p.0[0]]);
        image.clone()
    };
    (0..stack.stains.len()).map(next).collect()
}

fn cut(sections: &[RgbImage], stain: usize, rect: PixelRect) -> RgbImage {
    sections[stain].view(rect.x as u32, rect.y as u32, rect.width, rect.height).to_image()
}

/// The file in memory, in the TIFF variant that is asked for.
fn encode<K: TiffKind>(stack: &Stack, sections: &[RgbImage]) -> Vec<u8> {
    let mut out = Cursor::new(Vec::new());
    let source = |stain, rect: PixelRect| {
        let samples = cut(sections, stain, rect).into_raw();
        Ok::<_, Infallible>(Raster::<3> { width: rect.width, height: rect.height, samples })
    };
    let description = stack.ome_xml();
    file::encode::<_, K, 3, _>(&mut out, &stack.spec(&description), &source, &mut { NOT_WATCHED }).expect("encoded");
    out.into_inner()
}

type Levels = Vec<(u32, u32, Vec<u8>)>;

/// Levels of every plane: level 0 is in the chain of directories, the others hang below it.
fn decode(bytes: &[u8]) -> Vec<Levels> {
    let mut chain = Decoder::new(Cursor::new(bytes)).expect("a TIFF");
    let mut planes = Vec::new();
    loop {
        let reduced = chain.get_tag_u64_vec(Tag::SubIfd).unwrap_or_default();
        let mut levels = vec![level(&mut chain)];
        for offset in reduced {
            // The crate decodes images of the chain only, so let the chain begin there.
            let mut bytes = bytes.to_vec();
            if bytes[2] == 43 {
                bytes[8..16].copy_from_slice(&offset.to_ne_bytes());
            } else {
                bytes[4..8].copy_from_slice(&(offset as u32).to_ne_bytes());
            }
            let mut below = Decoder::new(Cursor::new(bytes)).expect("a directory");
            assert_eq!(below.get_tag_u32(Tag::NewSubfileType).expect("tag"), 1);
            assert!(!below.more_images(), "not part of a chain");
            levels.push(level(&mut below));
        }
        planes.push(levels);
        if !chain.more_images() {
            return planes;
        }
        chain.next_image().expect("next plane");
    }
}

fn level<R: io::Read + io::Seek>(decoder: &mut Decoder<R>) -> (u32, u32, Vec<u8>) {
    let (width, height) = decoder.dimensions().expect("sizes");
    assert_eq!(decoder.chunk_dimensions(), (TILE, TILE));
    assert_eq!(decoder.get_tag_u16_vec(Tag::SamplesPerPixel).expect("tag"), [1]);
    let DecodingResult::U8(samples) = decoder.read_image().expect("pixels") else { panic!("8-bit samples expected") };
    (width, height, samples)
}

#[test]
fn every_plane_comes_back_level_by_level_in_both_kinds_of_tiff() {
    let stack = stack(1301, 777, &["HE", "CD31"]);
    let sections = sections(&stack);
    let expected: Vec<Levels> = sections
        .iter()
        .flat_map(|section| {
            let levels = [section.clone(), halved(section), halved(&halved(section))];
            [0, 1, 2].map(|c| {
                levels.iter().map(|l| (l.width(), l.height(), l.pixels().map(|p| p[c]).collect())).collect::<Levels>()
            })
        })
        .collect();
    let (classic, big) = (encode::<TiffKindStandard>(&stack, &sections), encode::<TiffKindBig>(&stack, &sections));
    assert_eq!((classic[2], big[2]), (42, 43), "version numbers of TIFF and BigTIFF");
    assert!(decode(&classic) == expected);
    assert!(decode(&big) == expected);
}

#[test]
fn sizes_around_tiles_and_halvings_come_back() {
    for (width, height) in [(1, 1), (511, 3), (512, 1), (513, 1025), (7, 2049)] {
        let stack = stack(width, height, &["HE"]);
        let sections = sections(&stack);
        let mut section = sections[0].clone();
        let planes = decode(&encode::<TiffKindStandard>(&stack, &sections));
        assert_eq!(planes.len(), 3);
        for (level, (w, h, samples)) in planes[2].iter().enumerate() {
            assert_eq!(section.dimensions(), (*w, *h), "{width} × {height}, level {level}");
            assert!(section.pixels().map(|p| p[2]).eq(samples.iter().copied()), "{width} × {height}, level {level}");
            assert_eq!(level + 1 == planes[2].len(), (*w).max(*h) < 512, "the last level is the first below 512");
            section = halved(&section);
        }
    }
}

#[test]
fn the_metadata_say_what_the_planes_are() {
    let mut stack = stack(700, 300, &["HE", "α-SMA \"new\" <b> & \u{1}"]);
    stack.name = "case & 7".into();
    let file = encode::<TiffKindStandard>(&stack, &sections(&stack));
    let mut decoder = Decoder::new(Cursor::new(file)).expect("a TIFF");
    let xml = decoder.get_tag_ascii_string(Tag::ImageDescription).expect("text");
    assert!(!xml.contains("&#"), "Bio-Formats does not understand character references");
    let all = |pattern: &str| {
        let regex = Regex::new(pattern).expect("a pattern");
        regex.captures_iter(&xml).map(|c| c[1].to_owned()).collect::<Vec<_>>()
    };
    for (attribute, value) in [
        ("SizeX", "700"),
        ("SizeY", "300"),
        ("SizeC", "6"),
        ("SizeZ", "1"),
        ("SizeT", "1"),
        ("DimensionOrder", "XYCZT"),
        ("Type", "uint8"),
        ("PhysicalSizeX", "0.499"),
        ("PhysicalSizeY", "0.499"),
        ("PhysicalSizeXUnit", "µm"),
    ] {
        assert_eq!(all(&format!(" {attribute}=\"([^\"]*)\"")), [value], "{attribute}");
    }
    let second = "α-SMA &quot;new&quot; &lt;b&gt; &amp; \u{FFFD}";
    let names: Vec<_> =
        ["HE", second].iter().flat_map(|s| ["red", "green", "blue"].map(|c| format!("{s} {c}"))).collect();
    assert_eq!(all("<Channel [^>]*Name=\"([^\"]*)\""), names);
    let (red, green, blue) = ("-16776961", "16711935", "65535");
    assert_eq!(all("<Channel [^>]*Color=\"([^\"]*)\""), [red, green, blue, red, green, blue]);
    assert_eq!(all("<TiffData [^>]*FirstC=\"([^\"]*)\""), all("<TiffData [^>]*IFD=\"([^\"]*)\""));
    assert_eq!(all("<TiffData [^>]*IFD=\"([^\"]*)\""), ["0", "1", "2", "3", "4", "5"]);
    assert_eq!(all("<Image [^>]*Name=\"([^\"]*)\""), ["case &amp; 7"]);
    assert_eq!(all("<Description>([^<]*)"), [format!("Made in a test\n{RESEARCH_USE_ONLY}")]);
}

/// A path in a folder of its own.
fn target() -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().expect("temporary folder");
    let path = folder.path().join("stack.ome.tiff");
    (folder, path)
}

#[test]
fn one_and_four_threads_write_the_same_bytes() {
    let stack = stack(2300, 1100, &["HE", "CD31"]);
    let sections = sections(&stack);
    let written = [1, 4].map(|threads| {
        let (_folder, path) = target();
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("threads");
        pool.install(|| {
            write_stack(&path, &stack, |stain, rect| Ok::<_, Infallible>(cut(&sections, stain, rect)), NOT_WATCHED)
        })
        .expect("written");
        std::fs::read(path).expect("file")
    });
    assert!(written[0] == written[1]);
}

#[test]
fn tiles_are_asked_for_once_and_block_by_block() {
    let (_folder, path) = target();
    let stack = stack(4100, 600, &["HE", "CD31"]);
    let asked = Mutex::new(Vec::new());
    let mut told = Vec::new();
    let tile = |stain, rect: PixelRect| {
        asked.lock().expect("no panic").push((stain, rect.x / 512, rect.y / 512));
        Ok::<_, Infallible>(RgbImage::new(rect.width, rect.height))
    };
    write_stack(&path, &stack, tile, |done, total| {
        told.push((done, total));
        ControlFlow::Continue(())
    })
    .expect("written");
    // A block is 4 × 4 tiles: what was asked for in one of them is done before the next begins.
    let mut found = asked.into_inner().expect("no panic");
    let block = |&(stain, col, _): &(usize, i64, i64)| (stain, col / 4);
    assert!(found.is_sorted_by_key(block), "{found:?}");
    found.sort_unstable();
    let all = (0..2).flat_map(|stain| (0..9).flat_map(move |col| (0..2).map(move |row| (stain, col, row))));
    assert!(found.into_iter().eq(all));
    // 9 × 2, 5, 3, 2 and 1 tiles a plane.
    let total = 6 * (18 + 5 + 3 + 2 + 1);
    assert!(told.is_sorted() && told.iter().all(|t| t.1 == total));
    assert_eq!((told[0].0, told[told.len() - 1].0), (0, total));
}

#[test]
fn a_cancelled_or_failed_stack_leaves_nothing_and_says_why() {
    let (folder, path) = target();
    let stack = stack(4100, 600, &["HE", "CD31"]);
    let sections = sections(&stack);
    let whole = |stain, rect| Ok::<_, Infallible>(cut(&sections, stain, rect));
    for last in [0, 1, 150] {
        let stop = |done, _| if done >= last { ControlFlow::Break(()) } else { ControlFlow::Continue(()) };
        let error = write_stack(&path, &stack, whole, stop).expect_err("cancelled");
        assert!(matches!(error.source, PyramidProblem::Cancelled), "{error}");
    }
    let failing = |stain, rect: PixelRect| {
        if stain == 1 && rect.x >= 2048 {
            Err(io::Error::other("the slide ends here"))
        } else {
            Ok(cut(&sections, stain, rect))
        }
    };
    let error = write_stack(&path, &stack, failing, NOT_WATCHED).expect_err("the source failed").to_string();
    assert!(error.contains("stack.ome.tiff") && error.contains("the slide ends here"), "{error}");
    let nothing = Stack { stains: Vec::new(), ..stack.clone() };
    let error = write_stack(&path, &nothing, whole, NOT_WATCHED).expect_err("no stains");
    assert!(matches!(error.source, PyramidProblem::Empty), "{error}");
    assert_eq!(std::fs::read_dir(folder.path()).expect("folder").count(), 0);
}
