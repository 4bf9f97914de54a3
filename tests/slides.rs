use tissuemap::slide::{self, OpenOptions, Resampled};
use tissuemap::units::{Mpp, PixelRect};

use crate::support;

/// What opening, probing every level's first and last tile, and reading at the slide's own resolution must give.
enum Expect {
    /// Opens as this vendor with this mpp (0.1 % tolerance) and number of levels.
    Good(&'static str, f64, usize),
    /// Refused with this error id and a reason containing this text.
    Bad(&'static str, &'static str),
    /// Opens only when the resolution is given.
    NeedsMpp(&'static str),
}
use Expect::{Bad, Good, NeedsMpp};

const TABLE: &[(&str, Expect)] = &[
    ("cmu_small_region.svs", Good("aperio", 0.499, 1)),
    ("tcga-cr-7395-01a-01-ts1.svs", NeedsMpp("slide.missing-mpp")),
    ("dicom-camelyon/multi_frame_jpeg2000_camelyon_challenge_image.dcm", Good("dicom", 28.969, 1)),
    ("dicom-camelyon/multi_frame_jpeg_camelyon_challenge_image.dcm", Good("dicom", 28.969, 1)),
    ("openslide-fixtures/small.svs", Good("aperio", 0.499, 1)),
    ("openslide-fixtures/😐.svs", Good("aperio", 0.499, 1)),
    ("openslide-fixtures/boxes_0.dcm", Good("dicom", 0.499, 1)),
    ("openslide-fixtures/boxes_1.dcm", Good("dicom", 0.499, 1)),
    ("openslide-fixtures/openslide-rs/small.svs", Good("aperio", 0.499, 1)),
    ("openslide-fixtures/fuzz-corpus-340b6f83/CMU-1-Small-Region.tiff", Good("aperio", 0.499, 1)),
    ("corrupt/no_dzi.tif", Good("generic-tiff", 0.97237, 4)),
    // 72 dots per inch and 10 dots per centimetre are what programs write that know no resolution.
    ("openslide-fixtures/boxes.tiff", NeedsMpp("slide.implausible-mpp")),
    ("openslide-fixtures/openslide-rs/boxes.tiff", NeedsMpp("slide.implausible-mpp")),
    ("yb10kx5k.zstd.tiff", NeedsMpp("slide.implausible-mpp")),
    ("corrupt/valid_tiff.tif", NeedsMpp("slide.implausible-mpp")),
    ("corrupt/invalid_resolutions_tiff.tif", NeedsMpp("slide.missing-mpp")),
    ("openslide-fixtures/unreadable.svs", Bad("slide.read", "Bogus marker length")),
    ("openslide-fixtures/openslide-rs/unreadable.svs", Bad("slide.read", "Bogus marker length")),
    ("openslide-fixtures/unopenable.tiff", Bad("slide.corrupt", "Unsupported TIFF compression")),
    ("openslide-fixtures/openslide-rs/unopenable.tiff", Bad("slide.corrupt", "Unsupported TIFF compression")),
    ("openslide-fixtures/fuzz-corpus-340b6f83/CMU-1-Saved-1_16.mrxs", Bad("slide.unsupported", "not a slide format")),
    (
        "openslide-fixtures/fuzz-corpus-340b6f83/f8d91dee08fd760787fb3d160eb4e1a9eb064b95-3",
        Bad("slide.unsupported", "not a slide format"),
    ),
    (
        "openslide-fixtures/fuzz-corpus-340b6f83/7765c4a247493328160b37b6f94c79c36f58c2d2-4",
        Bad("slide.unsupported", "not a slide format"),
    ),
    (
        "corrupt/complex_tiff/Mirax2-Fluorescence-1.mrxs",
        Bad("slide.corrupt", "Index.dat doesn't have expected version"),
    ),
    (
        "corrupt/complex_tiff/Hamamatsu-VMS/CMU-1-40x - 2010-01-12 13.24.05.vms",
        Bad("slide.corrupt", "Premature end of JPEG file"),
    ),
    ("notanimage.txt", Bad("slide.unsupported", "not a slide format")),
    ("zero_gi.tif", Bad("slide.unsupported", "not a slide format")),
    ("no-such-slide.svs", Bad("slide.not-found", "no such file")),
];

#[test]
fn every_slide_file_opens_or_gives_its_own_error() {
    let Some(data) = support::data("every_slide_file_opens_or_gives_its_own_error") else { return };
    for (file, expect) in TABLE {
        let path = data.join("slides").join(file);
        let found = open_and_read(&path, None);
        match (expect, &found) {
            (Good(vendor, mpp, levels), Ok(info)) => {
                assert_eq!((info.vendor.as_str(), info.levels.len()), (*vendor, *levels), "{file}");
                assert!((info.mpp.get() / mpp - 1.0).abs() < 1e-3, "{file}: {:?}", info.mpp);
            }
            (Bad(id, reason), Err(error)) => {
                assert_eq!(error.id(), *id, "{file}: {error}");
                let text = error.to_string();
                assert!(
                    text.contains(reason) && text.contains(file.rsplit('/').next().expect("name")),
                    "{file}: {text}"
                );
                assert!(!error.hint().is_empty());
            }
            (NeedsMpp(id), Err(error)) => {
                assert_eq!(error.id(), *id, "{file}: {error}");
                let given = Mpp::new(0.5).expect("plausible");
                assert_eq!(open_and_read(&path, Some(given)).expect(file).mpp, given);
            }
            (_, Ok(info)) => panic!("{file} opened: {info:?}"),
            (_, Err(error)) => panic!("{file}: {} {error}", error.id()),
        }
    }
}

fn open_and_read(path: &std::path::Path, mpp: Option<Mpp>) -> Result<slide::SlideInfo, slide::SlideError> {
    let slide = slide::open(path, &OpenOptions { mpp, ..OpenOptions::default() })?;
    slide::probe(slide.as_ref())?;
    let info = slide.info().clone();
    let resampled = Resampled::new(slide, info.mpp)?;
    let block = resampled.read(PixelRect { x: -3, y: -3, width: 40, height: 40 })?;
    assert_eq!(block.get_pixel(0, 0).0, info.background, "outside the slide is background");
    Ok(info)
}

#[test]
fn a_truncated_slide_is_refused_wherever_it_is_cut() {
    let Some(data) = support::data("a_truncated_slide_is_refused_wherever_it_is_cut") else { return };
    let whole = std::fs::read(data.join("slides/cmu_small_region.svs")).expect("readable");
    let dir = tempfile::tempdir().expect("temporary folder");
    for tenths in 0..10 {
        let path = dir.path().join(format!("cut-{tenths}.svs"));
        std::fs::write(&path, &whole[..whole.len() * tenths / 10]).expect("writable");
        let error = open_and_read(&path, None).expect_err("a part of a slide is not a slide");
        assert!(["slide.unsupported", "slide.corrupt", "slide.read"].contains(&error.id()), "{tenths}: {error}");
    }
}

#[test]
fn a_slide_beyond_the_limits_is_refused_before_pixels_are_read() {
    let Some(data) = support::data("a_slide_beyond_the_limits_is_refused_before_pixels_are_read") else { return };
    let path = data.join("slides/cmu_small_region.svs");
    let limits = slide::Limits { max_side_px: 2000, ..slide::Limits::default() };
    let error = slide::open(&path, &OpenOptions { mpp: None, limits }).err().expect("2967 > 2000");
    assert_eq!(error.id(), "slide.too-large");
    let limits = slide::Limits { max_block_px: 100, ..slide::Limits::default() };
    let slide = slide::open(&path, &OpenOptions { mpp: None, limits }).expect("opens");
    let error = slide.read_level(0, PixelRect { x: 0, y: 0, width: 11, height: 10 }).expect_err("110 > 100");
    assert_eq!(error.id(), "slide.too-large");
}
