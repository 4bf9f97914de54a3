//! `--stack`: all sections as channels of one OME-TIFF, in the frame of the fixed one.

use std::path::Path;
use std::sync::Arc;

use tissuemap::deformation::SectionMap;
use tissuemap::pyramid::{PyramidError, PyramidProblem, Stack, write_stack};
use tissuemap::slide::{Resampled, SlideError, SlideInfo};
use tissuemap::transform::software;
use tissuemap::units::{Mpp, PixelRect};
use tissuemap::warp::{Frame, warp_rect};

use super::sections::unreadable;
use super::{Section, Work, interrupted};
use crate::exit::{Exit, Failure};
use crate::job::Fault;

pub(super) const FILE: &str = "registered_stack.ome.tif";

/// The resolution of a stack on `fixed`: its own, or the coarser one that is `wanted`.
///
/// # Errors
/// `wanted` is finer than the section.
pub(super) fn resolution(fixed: &SlideInfo, wanted: Option<Mpp>) -> Result<Mpp, Failure> {
    let mpp = wanted.unwrap_or(fixed.mpp);
    if mpp < fixed.mpp {
        let reason = format!("--stack-mpp {} is finer than FIXED, which has {}", mpp.get(), fixed.mpp.get());
        return Err(Exit::Usage.with(Fault::new(reason, "leave it out for the finest stack that there is")));
    }
    Ok(mpp)
}

/// Writes the scanned part of the first section, which is the fixed one and has no map, and the others laid over it.
///
/// # Errors
/// A slide cannot be read, the file cannot be written, or the work should end.
pub(super) fn write(
    folder: &Path,
    sections: &[(&Section, Option<&SectionMap>)],
    mpp: Mpp,
    work: &Work<'_>,
) -> Result<(), Failure> {
    let info = sections[0].0.slide.info();
    let frame = Frame { origin: info.bounds_origin(), mpp };
    let pixels = |(section, map): &(&Section, Option<&SectionMap>)| {
        let slide = Arc::clone(&section.slide);
        let own = slide.info().mpp;
        match map {
            None => Resampled::with_origin(slide, mpp, frame.origin),
            // A section that is coarser than the stack is interpolated by the warp.
            Some(_) => Resampled::new(slide, if own > mpp { own } else { mpp }),
        }
    };
    let pixels = sections.iter().map(pixels).collect::<Result<Vec<_>, _>>().map_err(unreadable)?;
    let side = |um: f64| (um / mpp.get()).round().max(1.0) as u32;
    let (width, height) = info.bounds_um();
    let stack = Stack {
        name: sections[0].0.name.clone(),
        description: format!("Sections registered to {} by {}.", sections[0].0.name, software()),
        width: side(width),
        height: side(height),
        mpp,
        stains: sections.iter().map(|(section, _)| section.name.clone()).collect(),
    };
    let tile = |section: usize, rect: PixelRect| match sections[section].1 {
        None => pixels[section].read(rect),
        Some(map) => warp_rect(&pixels[section], map, frame, rect),
    };
    write_stack(&folder.join(FILE), &stack, tile, |done, total| work.advance("stack", done, total)).map_err(
        |error: PyramidError<SlideError>| match error.source {
            PyramidProblem::Cancelled => interrupted(),
            PyramidProblem::Source(error) => unreadable(error),
            _ => Exit::JobsFailed.with(Fault::from_error(&error).or_hint("check free space beside --out")),
        },
    )
}
