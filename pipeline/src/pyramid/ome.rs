//! A registered stack of sections as one OME-TIFF: every colour plane of every stain is a channel.
//!
//! OME-XML: schema 2016-06 of the Open Microscopy Environment; sub-resolutions as the OME-TIFF
//! specification wants them: `SubIFDs` (tag 330) of every full-resolution directory.

use std::error::Error;
use std::ops::ControlFlow;
use std::path::Path;

use image::RgbImage;

use super::raster::Raster;
use super::{PyramidError, Spec, write};
use crate::overlay::RESEARCH_USE_ONLY;
use crate::units::{Mpp, PixelRect};

/// Side of a tile in pixels. With 256, opening a large stack would mean reading millions of tile offsets first.
const TILE: u32 = 512;

/// Planes of a stain, in the order of the model's tensor: name, and colour as OME's signed 32-bit RGBA.
const PLANES: [(&str, i32); 3] =
    [("red", 0xFF00_00FF_u32 as i32), ("green", 0x00FF_00FF_u32 as i32), ("blue", 0x0000_FFFF_u32 as i32)];

/// What a stack is called and how large it is.
#[derive(Debug, Clone, PartialEq)]
pub struct Stack {
    /// What viewers call the image, such as the case. Any text.
    pub name: String,
    /// Where the stack comes from. Any text; "Research use only" is added to it.
    pub description: String,
    /// Width and height of level 0 in pixels of the reference frame.
    pub width: u32,
    pub height: u32,
    /// Resolution of level 0.
    pub mpp: Mpp,
    /// In the order of the channels, three each: red, green, blue. Any text.
    pub stains: Vec<String>,
}

/// Writes a registered stack as pyramidal OME-TIFF, uint8, 3·S channels in the order of the model's tensor (red, green and
/// blue of the first stain, then of the second): what QuPath (Bio-Formats) and tifffile open as one image.
///
/// `tile` gives the pixels of a stain (index into [`Stack::stains`]) in a rectangle that lies inside level 0, its origin
/// being the stack's top-left corner. It is asked for every pixel of every stain exactly once, stain after stain, in
/// rectangles of at most 512 × 512 pixels, by several threads of rayon at once, which work on one block of 2048 × 2048
/// pixels. Memory stays the same however large the stack is, but for 16 bytes a tile. The same pixels give the same bytes.
///
/// `progress` hears tiles written and their total, on the calling thread, after every block; where it breaks, nothing is
/// written. The file appears under its name only when it is whole and on disk.
///
/// # Errors
/// [`PyramidError`], which names the path: among its reasons are that `tile` failed and that `progress` broke.
///
/// # Panics
/// When `tile` gives a picture of another size than it was asked for.
pub fn write_stack<E: Error + Send>(
    path: &Path,
    stack: &Stack,
    tile: impl Fn(usize, PixelRect) -> Result<RgbImage, E> + Sync,
    mut progress: impl FnMut(u64, u64) -> ControlFlow<()>,
) -> Result<(), PyramidError<E>> {
    let description = stack.ome_xml();
    let source = |stain, rect: PixelRect| {
        let image = tile(stain, rect)?;
        assert_eq!(image.dimensions(), (rect.width, rect.height), "a tile of the size that was asked for");
        Ok(Raster::<3> { width: rect.width, height: rect.height, samples: image.into_raw() })
    };
    write(path, &stack.spec(&description), &source, &mut progress)
}

impl Stack {
    fn spec<'a>(&self, description: &'a str) -> Spec<'a> {
        Spec {
            width: self.width,
            height: self.height,
            mpp: self.mpp,
            pictures: self.stains.len(),
            planar: true,
            tile_px: TILE,
            description,
        }
    }

    /// The metadata that makes a TIFF an OME-TIFF.
    fn ome_xml(&self) -> String {
        let names = self.stains.iter().map(|stain| escaped(stain));
        let planes = names.flat_map(|stain| PLANES.map(|(plane, color)| (format!("{stain} {plane}"), color)));
        let (channels, data): (Vec<_>, Vec<_>) = planes
            .enumerate()
            .map(|(i, (name, color))| {
                (
                    format!("<Channel ID=\"Channel:0:{i}\" Name=\"{name}\" SamplesPerPixel=\"1\" Color=\"{color}\"/>"),
                    format!("<TiffData FirstC=\"{i}\" FirstZ=\"0\" FirstT=\"0\" IFD=\"{i}\" PlaneCount=\"1\"/>"),
                )
            })
            .unzip();
        let description = escaped(format!("{}\n{RESEARCH_USE_ONLY}", self.description).trim_start());
        format!(
            "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\
             <OME xmlns=\"{SCHEMA}\" xmlns:xsi=\"http://www.w3.org/2001/XMLSchema-instance\" \
             xsi:schemaLocation=\"{SCHEMA} {SCHEMA}/ome.xsd\" Creator=\"tissuemap {version}\">\
             <Image ID=\"Image:0\" Name=\"{name}\"><Description>{description}</Description>\
             <Pixels ID=\"Pixels:0\" DimensionOrder=\"XYCZT\" Type=\"uint8\" SignificantBits=\"8\" BigEndian=\"{big_endian}\" \
             Interleaved=\"false\" SizeX=\"{width}\" SizeY=\"{height}\" SizeC=\"{size_c}\" SizeZ=\"1\" SizeT=\"1\" \
             PhysicalSizeX=\"{mpp}\" PhysicalSizeXUnit=\"µm\" PhysicalSizeY=\"{mpp}\" PhysicalSizeYUnit=\"µm\">\
             {channels}{data}</Pixels></Image></OME>",
            version = env!("CARGO_PKG_VERSION"),
            name = escaped(&self.name),
            big_endian = cfg!(target_endian = "big"),
            width = self.width,
            height = self.height,
            size_c = 3 * self.stains.len(),
            mpp = self.mpp.get(),
            channels = channels.concat(),
            data = data.concat(),
        )
    }
}

const SCHEMA: &str = "http://www.openmicroscopy.org/Schemas/OME/2016-06";

/// Text for an XML attribute or element. What XML 1.0 cannot hold becomes U+FFFD. Only named entities: Bio-Formats
/// destroys numeric character references before it parses (its `XMLTools.sanitizeXML`).
fn escaped(text: &str) -> String {
    let mut out = String::new();
    for c in text.chars() {
        match c {
            '"' => out.push_str("&quot;"),
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '\t' | '\n' | '\r' => out.push(c),
            ..' ' | '\u{FFFE}' | '\u{FFFF}' => out.push(char::REPLACEMENT_CHARACTER),
            _ => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests;
