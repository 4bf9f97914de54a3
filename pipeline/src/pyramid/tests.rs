use std::io::{Cursor, Seek, Write};

use openslide_rs::{Address, OpenSlide, Region, Size};
use proptest::prelude::*;
use tiff::decoder::{Decoder, DecodingResult};
use tiff::encoder::{Rational, TiffKind};

use super::*;

/// A picture in which every pixel differs from its neighbours.
pub(super) fn picture(width: u32, height: u32) -> RgbImage {
    RgbImage::from_fn(width, height, |x, y| image::Rgb([(x * 7 + y) as u8, (y * 5) as u8, (x ^ y) as u8]))
}

fn labels(width: u32, height: u32) -> GrayImage {
    GrayImage::from_fn(width, height, |x, y| image::Luma([((x / 3 + y / 2) % 14) as u8]))
}

/// Size and samples of every level, through a decoder that is not OpenSlide's.
fn decode(bytes: &[u8]) -> Vec<(u32, u32, Vec<u8>)> {
    let mut decoder = Decoder::new(Cursor::new(bytes)).expect("a TIFF");
    let mut levels = Vec::new();
    loop {
        let (width, height) = decoder.dimensions().expect("sizes");
        let DecodingResult::U8(samples) = decoder.read_image().expect("pixels") else {
            panic!("8-bit samples expected")
        };
        levels.push((width, height, samples));
        if !decoder.more_images() {
            return levels;
        }
        decoder.next_image().expect("next level");
    }
}

/// The next level, pixel by pixel: the average of the up to four pixels below, halves rounded up.
pub(super) fn halved(image: &RgbImage) -> RgbImage {
    RgbImage::from_fn(image.width().div_ceil(2), image.height().div_ceil(2), |x, y| {
        let below = [(0, 0), (1, 0), (0, 1), (1, 1)].map(|(i, j)| image.get_pixel_checked(2 * x + i, 2 * y + j));
        let there: Vec<_> = below.into_iter().flatten().collect();
        let n = there.len() as u32;
        image::Rgb([0, 1, 2].map(|c| ((there.iter().map(|p| u32::from(p[c])).sum::<u32>() + n / 2) / n) as u8))
    })
}

/// The file of a picture that lies in memory.
fn encode<K: TiffKind, const CHANNELS: usize>(mut out: impl Write + Seek, samples: &[u8], width: u32, height: u32) {
    let spec = Spec { width, height, mpp: mpp(0.25), pictures: 1, planar: false, tile_px: TILE, description: "" };
    let tile = |_, rect| Ok::<_, Infallible>(Raster::<CHANNELS>::cut(samples, width, rect));
    file::encode::<_, K, CHANNELS, _>(&mut out, &spec, &tile, &mut |_, _| ControlFlow::Continue(())).expect("encoded");
}

pub(super) fn mpp(value: f64) -> Mpp {
    Mpp::new(value).expect("plausible")
}

#[test]
fn openslide_reports_levels_mpp_and_the_same_pixels() {
    crate::slide::load_openslide().expect("scripts/setup.sh brings OpenSlide");
    let folder = tempfile::tempdir().expect("temporary folder");
    let path = folder.path().join("section.tif");
    let image = picture(1301, 777);
    write_rgb(&path, &image, mpp(0.499), "a section").expect("written");

    let slide = OpenSlide::new(&path).expect("OpenSlide opens it");
    assert_eq!(slide.property_value("openslide.vendor").expect("vendor"), "generic-tiff");
    assert_eq!(slide.property_value("tiff.ImageDescription").expect("description"), "a section");
    for name in ["openslide.mpp-x", "openslide.mpp-y"] {
        let stated: f64 = slide.property_value(name).expect(name).parse().expect("number");
        assert!((stated - 0.499).abs() < 1e-6, "{name} = {stated}");
    }
    let sizes: Vec<_> = slide.all_level_dimensions().iter().map(|s| (s.w, s.h)).collect();
    assert_eq!(sizes, [(1301, 777), (651, 389), (326, 195)]);

    let read = |level, w, h| {
        let region = Region { address: Address { x: 0, y: 0 }, level, size: Size { w, h } };
        let bgra = slide.read_region(&region).expect("pixels");
        RgbImage::from_fn(w, h, |x, y| {
            let i = 4 * (y * w + x) as usize;
            image::Rgb([bgra[i + 2], bgra[i + 1], bgra[i]])
        })
    };
    assert!(read(0, 1301, 777) == image, "level 0 differs");
    assert!(read(1, 651, 389) == halved(&image), "level 1 differs");
    assert!(read(2, 326, 195) == halved(&halved(&image)), "level 2 differs");
}

#[test]
fn labels_are_never_mixed() {
    let mut file = Cursor::new(Vec::new());
    encode::<TiffKindStandard, 1>(&mut file, labels(701, 515).as_raw(), 701, 515);
    let levels = decode(file.get_ref());
    assert_eq!(levels.iter().map(|l| (l.0, l.1)).collect::<Vec<_>>(), [(701, 515), (351, 258)]);
    for y in 0..258 {
        for x in 0..351 {
            assert_eq!(levels[1].2[y * 351 + x], levels[0].2[2 * y * 701 + 2 * x], "at {x}, {y}");
        }
    }
}

#[test]
fn big_tiff_holds_the_same_levels() {
    let image = picture(600, 300);
    let (mut small, mut big) = (Cursor::new(Vec::new()), Cursor::new(Vec::new()));
    encode::<TiffKindStandard, 3>(&mut small, &image, 600, 300);
    encode::<TiffKindBig, 3>(&mut big, &image, 600, 300);
    assert_eq!(big.get_ref()[2], 43, "BigTIFF's version number");
    assert_eq!(decode(small.get_ref()), decode(big.get_ref()));
}

#[test]
fn refusals_name_the_path_and_leave_nothing_behind() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let path = folder.path().join("refused.tif");
    let empty = write_rgb(&path, &RgbImage::new(0, 5), mpp(1.0), "").expect_err("no pixels");
    let text = write_rgb(&path, &picture(3, 3), mpp(1.0), "0.5 µm").expect_err("not ASCII");
    let nowhere =
        write_rgb(&folder.path().join("no/refused.tif"), &picture(3, 3), mpp(1.0), "").expect_err("no folder");
    for error in [empty, text, nowhere] {
        assert!(error.to_string().contains("refused.tif"), "{error}");
    }
    assert_eq!(std::fs::read_dir(folder.path()).expect("folder").count(), 0);
}

proptest! {
    // Sizes around the tile and the smallest level; each case writes a file of some hundred kilobytes.
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn any_size_comes_back_with_halved_levels(width in prop_oneof![1u32..4, 250..260u32, 505..520u32],
                                              height in prop_oneof![1u32..4, 250..260u32, 505..520u32]) {
        let folder = tempfile::tempdir().expect("temporary folder");
        let path = folder.path().join("any.tif");
        let image = picture(width, height);
        write_rgb(&path, &image, mpp(1.0), "").expect("written");
        let levels = decode(&std::fs::read(&path).expect("file"));
        prop_assert_eq!(&levels[0].2, image.as_raw());
        for pair in levels.windows(2) {
            prop_assert_eq!((pair[1].0, pair[1].1), (pair[0].0.div_ceil(2), pair[0].1.div_ceil(2)));
        }
        let last = levels.last().expect("a level");
        prop_assert!(last.0.max(last.1) < tree::SMALLEST_LEVEL);
        prop_assert_eq!(levels.len(), if width.max(height) < tree::SMALLEST_LEVEL { 1 } else { 2 });
    }

    #[test]
    fn resolution_survives_the_fraction(value in 0.01f64..100.0) {
        let Rational { n, d } = file::pixels_per_cm(value);
        prop_assert!((10_000.0 / (f64::from(n) / f64::from(d)) / value - 1.0).abs() < 2e-6);
    }
}
