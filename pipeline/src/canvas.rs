//! Drawing on pictures for people: text, swatches, filled shapes.

use std::convert::Infallible;

use embedded_graphics::draw_target::DrawTarget;
use embedded_graphics::geometry::{OriginDimensions, Point, Size};
use embedded_graphics::mono_font::{MonoFont, MonoTextStyle};
use embedded_graphics::pixelcolor::{Rgb888, RgbColor};
use embedded_graphics::primitives::{Primitive, PrimitiveStyle, PrimitiveStyleBuilder, Rectangle, StrokeAlignment};
use embedded_graphics::text::{Baseline, Text};
use embedded_graphics::{Drawable, Pixel};
use image::{Rgb, RgbImage};

/// Space around text in pixels.
pub const MARGIN: i32 = 14;
/// Distance of two lines of text in pixels.
pub const LINE: i32 = 20;
/// Colour of text.
pub const INK: Rgb888 = Rgb888::new(30, 30, 30);
pub(crate) const ALARM: Rgb888 = Rgb888::new(180, 30, 20);

/// The sample of a colour that stands before its name.
pub(crate) fn swatch(canvas: &mut Canvas, x: i32, y: i32, [r, g, b]: [u8; 3]) {
    let style = PrimitiveStyleBuilder::new()
        .fill_color(Rgb888::new(r, g, b))
        .stroke_color(INK)
        .stroke_width(1)
        .stroke_alignment(StrokeAlignment::Inside)
        .build();
    fill(canvas, Rectangle::new(Point::new(x, y), Size::new(18, 14)), style);
}

/// Words with their top-left corner at (`x`, `y`).
pub fn text(canvas: &mut Canvas, x: i32, y: i32, words: &str, font: &MonoFont, color: Rgb888) {
    let Ok(_) =
        Text::with_baseline(words, Point::new(x, y), MonoTextStyle::new(font, color), Baseline::Top).draw(canvas);
}

/// A filled shape.
pub(crate) fn fill(canvas: &mut Canvas, shape: Rectangle, style: PrimitiveStyle<Rgb888>) {
    let Ok(()) = shape.into_styled(style).draw(canvas);
}

/// An image that `embedded-graphics` draws on; what lies outside is cut off.
pub struct Canvas<'a>(pub &'a mut RgbImage);

impl OriginDimensions for Canvas<'_> {
    fn size(&self) -> Size {
        Size::new(self.0.width(), self.0.height())
    }
}

impl DrawTarget for Canvas<'_> {
    type Color = Rgb888;
    type Error = Infallible;

    fn draw_iter<I: IntoIterator<Item = Pixel<Rgb888>>>(&mut self, pixels: I) -> Result<(), Infallible> {
        for Pixel(point, color) in pixels {
            if let (Ok(x), Ok(y)) = (u32::try_from(point.x), u32::try_from(point.y))
                && let Some(pixel) = self.0.get_pixel_mut_checked(x, y)
            {
                *pixel = Rgb([color.r(), color.g(), color.b()]);
            }
        }
        Ok(())
    }
}
