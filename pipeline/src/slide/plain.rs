//! Plain images as slides: JPEG, PNG and those TIFF files that OpenSlide does not know.

use std::io::BufReader;
use std::path::Path;
use std::sync::Arc;

use image::{DynamicImage, ImageDecoder, ImageError, ImageReader, Rgb, RgbImage};

use crate::untrusted;

use super::{OpenOptions, SlideError, SlideSource, SyntheticSlide, open};

/// Opens a slide, or a plain image as a slide of one level that lies whole in memory. Pixels are taken as they are
/// stored (an EXIF orientation is not applied: landmarks count stored pixels); transparent ones lie on white. A plain
/// image states no resolution, so `options.mpp` must.
///
/// # Errors
/// As [`open`]; [`SlideError::TooLarge`] for a plain image of more than `max_block_px` pixels.
pub fn open_slide_or_image(path: &Path, options: &OpenOptions) -> Result<Arc<dyn SlideSource>, SlideError> {
    match open(path, options) {
        Err(SlideError::Unsupported(_)) => Ok(Arc::new(decode(path, options)?)),
        slide_or_error => slide_or_error,
    }
}

fn decode(path: &Path, options: &OpenOptions) -> Result<SyntheticSlide, SlideError> {
    let unsupported = || SlideError::Unsupported(path.into());
    let file = untrusted::open_large(path).map_err(|_| unsupported())?;
    let reader = ImageReader::new(BufReader::new(file)).with_guessed_format().map_err(|_| unsupported())?;
    let format = reader.format().ok_or_else(unsupported)?;
    let vendor = format.extensions_str().first().copied().unwrap_or("image");
    let refused = |error: ImageError| match error {
        ImageError::Unsupported(_) => unsupported(),
        error => SlideError::Corrupt { path: path.into(), vendor: vendor.into(), reason: error.to_string() },
    };
    let decoder = reader.into_decoder().map_err(refused)?;
    let (width, height) = decoder.dimensions();
    options.limits.check_block(path, width, height)?;
    let mpp = options.mpp.ok_or_else(|| SlideError::MissingMpp(path.into()))?;
    let image = DynamicImage::from_decoder(decoder).map_err(refused)?;
    let mut slide = SyntheticSlide::single_level(on_white(image), mpp).at(path.into());
    slide.info.vendor = vendor.into();
    Ok(slide)
}

fn on_white(image: DynamicImage) -> RgbImage {
    if !image.color().has_alpha() {
        return image.into_rgb8();
    }
    let image = image.into_rgba8();
    RgbImage::from_fn(image.width(), image.height(), |x, y| {
        let [red, green, blue, alpha] = image.get_pixel(x, y).0.map(u32::from);
        Rgb([red, green, blue].map(|value| ((value * alpha + 255 * (255 - alpha) + 127) / 255) as u8))
    })
}

#[cfg(test)]
mod tests {
    use image::{Rgba, RgbaImage};

    use super::*;
    use crate::units::{Mpp, PixelRect};

    fn options(mpp: Option<f64>) -> OpenOptions {
        OpenOptions { mpp: mpp.map(|mpp| Mpp::new(mpp).expect("plausible")), ..OpenOptions::default() }
    }

    #[test]
    fn plain_images_are_slides_of_one_level_and_need_a_resolution() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let image = RgbaImage::from_fn(40, 30, |x, _| Rgba([10, 20, 30, if x == 0 { 0 } else { 255 }]));
        for name in ["section.png", "section.tif"] {
            let path = folder.path().join(name);
            image.save(&path).expect("writable");
            let slide = decode(&path, &options(Some(2.0))).expect("decoded");
            let info = slide.info();
            assert_eq!((info.levels.len(), info.mpp.get(), &info.path), (1, 2.0, &path));
            let block = slide.read_level(0, PixelRect { x: 0, y: 0, width: 2, height: 1 }).expect("readable");
            assert_eq!(block.as_raw(), &[255, 255, 255, 10, 20, 30], "{name}");
            assert_eq!(decode(&path, &options(None)).err().expect("refused").id(), "slide.missing-mpp");
        }
    }

    #[test]
    fn what_is_no_image_keeps_its_own_error() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let (text, torn) = (folder.path().join("notes.txt"), folder.path().join("torn.png"));
        std::fs::write(&text, "not an image").expect("writable");
        RgbImage::new(60, 60).save(&torn).expect("writable");
        let whole = std::fs::read(&torn).expect("readable");
        std::fs::write(&torn, &whole[..whole.len() / 2]).expect("writable");
        for (path, id) in [(text, "slide.unsupported"), (torn, "slide.corrupt")] {
            assert_eq!(decode(&path, &options(Some(1.0))).err().expect("refused").id(), id);
        }
    }
}
