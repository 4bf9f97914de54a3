//! Pictures inside the page: patches side by side, and pictures as data addresses.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use image::codecs::jpeg::JpegEncoder;
use image::{Rgb, RgbImage};
use tch::{Kind, Tensor};

use crate::system::error::TrainError;

/// High enough for cell nuclei to keep their edges; PNG takes about five times the space for tissue.
const QUALITY: u8 = 90;
/// White pixels between patches.
const GAP: u32 = 2;

/// `data:image/jpeg;base64,…`
///
/// # Errors
/// [`TrainError::Picture`] for a picture without pixels, or beyond what JPEG can hold.
pub(super) fn address(image: &RgbImage) -> Result<String, TrainError> {
    let mut bytes = Vec::new();
    JpegEncoder::new_with_quality(&mut bytes, QUALITY).encode_image(image)?;
    Ok(format!("data:image/jpeg;base64,{}", STANDARD.encode(bytes)))
}

/// One stain of `patches` (uint8 `[N, 3·S, P, P]`) side by side; `places` wide even where there are fewer, so that rows of
/// them share one scale.
///
/// # Errors
/// An error of libtorch.
pub(super) fn strip(patches: &Tensor, stain: usize, places: usize) -> Result<RgbImage, TrainError> {
    let side = patches.size()[3] as u32;
    let channels = patches.narrow(1, 3 * stain as i64, 3).permute([0, 2, 3, 1]).to_kind(Kind::Uint8).contiguous();
    let pixels = Vec::<u8>::try_from(channels.view([-1]))?;
    let mut out = RgbImage::from_pixel(places as u32 * (side + GAP) - GAP, side, Rgb([255; 3]));
    let patch_len = 3 * (side * side) as usize;
    for (place, patch) in pixels.chunks_exact(patch_len).take(places).enumerate() {
        for (i, pixel) in patch.chunks_exact(3).enumerate() {
            let (x, y) = (i as u32 % side, i as u32 / side);
            out.put_pixel(place as u32 * (side + GAP) + x, y, Rgb([pixel[0], pixel[1], pixel[2]]));
        }
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_strip_shows_the_planes_of_its_stain_at_the_place_of_its_patch() {
        let patches =
            Tensor::arange(2 * 6 * 16, (Kind::Int64, tch::Device::Cpu)).view([2, 6, 4, 4]).to_kind(Kind::Uint8);
        let found = strip(&patches, 1, 3).expect("drawn");
        assert_eq!(found.dimensions(), (3 * 4 + 2 * GAP, 4));
        // Row 1, column 2 of channels 3 to 5 of patch 0, and of patch 1, which begins 96 values later.
        assert_eq!(found.get_pixel(2, 1), &Rgb([48 + 6, 64 + 6, 80 + 6]));
        assert_eq!(found.get_pixel(4 + GAP + 2, 1), &Rgb([144 + 6, 160 + 6, 176 + 6]));
        assert_eq!(found.get_pixel(5, 1), &Rgb([255; 3]));
        assert_eq!(found.get_pixel(2 * (4 + GAP), 0), &Rgb([255; 3]));
    }

    #[test]
    fn an_address_holds_the_picture() {
        let image = RgbImage::from_pixel(9, 5, Rgb([200, 30, 90]));
        let text = address(&image).expect("encoded");
        let bytes = STANDARD.decode(text.strip_prefix("data:image/jpeg;base64,").expect("prefix")).expect("base64");
        let read = image::load_from_memory(&bytes).expect("a picture").to_rgb8();
        assert_eq!(read.dimensions(), (9, 5));
        assert!(read.pixels().all(|p| p.0.iter().zip([200, 30, 90]).all(|(&a, b)| a.abs_diff(b) < 6)));
        assert!(address(&RgbImage::new(0, 0)).is_err());
    }
}
