//! The ways a section may come to lie on the glass.

use image::{Rgb, RgbImage, imageops};

use tissuemap::register::PixelAffine;

/// How a section may come to lie on the glass.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Variant {
    /// Turned clockwise by a quarter.
    Rotated90,
    /// Turned upside down.
    Rotated180,
    /// Turned by 37°; the canvas grows to hold the whole image, corners are white.
    Rotated37,
    /// Moved right by 10 % of the width; the canvas stays, the strip that becomes free is white and what leaves is lost.
    Shifted,
    /// Left and right exchanged, as for a section laid on the glass face down.
    Mirrored,
}

impl Variant {
    pub const ALL: [Self; 5] = [Self::Rotated90, Self::Rotated180, Self::Rotated37, Self::Shifted, Self::Mirrored];

    /// Short name for tables and files.
    pub fn name(self) -> &'static str {
        match self {
            Self::Rotated90 => "rot90",
            Self::Rotated180 => "rot180",
            Self::Rotated37 => "rot37",
            Self::Shifted => "shift10",
            Self::Mirrored => "mirror",
        }
    }

    /// The changed image, and where each pixel of the original went.
    pub fn apply(self, image: &RgbImage) -> (RgbImage, PixelAffine) {
        let (width, height) = (f64::from(image.width()), f64::from(image.height()));
        match self {
            Self::Rotated90 => (imageops::rotate90(image), PixelAffine([[0.0, -1.0, height - 1.0], [1.0, 0.0, 0.0]])),
            Self::Rotated180 => {
                (imageops::rotate180(image), PixelAffine([[-1.0, 0.0, width - 1.0], [0.0, -1.0, height - 1.0]]))
            }
            Self::Mirrored => {
                (imageops::flip_horizontal(image), PixelAffine([[-1.0, 0.0, width - 1.0], [0.0, 1.0, 0.0]]))
            }
            Self::Shifted => {
                let shift = (width / 10.0).round();
                let map = PixelAffine([[1.0, 0.0, shift], [0.0, 1.0, 0.0]]);
                (resampled(image, &map, image.width(), image.height()), map)
            }
            Self::Rotated37 => {
                let (sin, cos) = 37f64.to_radians().sin_cos();
                let (new_width, new_height) =
                    ((width * cos + height * sin).ceil(), (width * sin + height * cos).ceil());
                // Turned about the middle, which comes to lie in the middle of the new canvas.
                let (x, y) = ((width - 1.0) / 2.0, (height - 1.0) / 2.0);
                let (to_x, to_y) = ((new_width - 1.0) / 2.0, (new_height - 1.0) / 2.0);
                let map = PixelAffine([[cos, -sin, to_x - cos * x + sin * y], [sin, cos, to_y - sin * x - cos * y]]);
                (resampled(image, &map, new_width as u32, new_height as u32), map)
            }
        }
    }
}

/// `image` carried along by `map` onto a white canvas, bilinear.
fn resampled(image: &RgbImage, map: &PixelAffine, width: u32, height: u32) -> RgbImage {
    let Some(back) = map.inverse() else { return RgbImage::from_pixel(width, height, Rgb([255; 3])) };
    RgbImage::from_fn(width, height, |x, y| {
        let (u, v) = back.apply(f64::from(x), f64::from(y));
        imageops::interpolate_bilinear(image, u as f32, v as f32).unwrap_or(Rgb([255; 3]))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variants_carry_landmarks_along_with_the_pixels() {
        // A dark pixel at (70, 40) on light ground must be found where the map says.
        let image = RgbImage::from_fn(120, 90, |x, y| if (x, y) == (70, 40) { Rgb([0; 3]) } else { Rgb([230; 3]) });
        for variant in Variant::ALL {
            let (changed, map) = variant.apply(&image);
            let (x, y) = map.apply(70.0, 40.0);
            let darkest = changed.enumerate_pixels().min_by_key(|(_, _, pixel)| pixel[0]).unwrap();
            let distance = (f64::from(darkest.0) - x).hypot(f64::from(darkest.1) - y);
            assert!(distance < 0.75, "{}: darkest pixel {distance} px away", variant.name());
        }
    }
}
