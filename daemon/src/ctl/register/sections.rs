//! The files of one moving section.

use std::path::Path;
use std::sync::Arc;

use image::RgbImage;
use tissuemap::escape::file_component;
use tissuemap::landmarks::{self, Landmark};
use tissuemap::look::{Caption, checkerboard, edge_overlay};
use tissuemap::placement::Registered;
use tissuemap::slide::{Resampled, SlideError, SlideInfo, thumbnail};
use tissuemap::transform;
use tissuemap::units::Mpp;
use tissuemap::warp::{Frame, warp_picture};

use super::Section;
use crate::exit::{Exit, Failure};
use crate::job::Fault;

/// The section that the others are drawn on.
pub(in crate::ctl) struct FixedSection<'a> {
    name: &'a str,
    info: &'a SlideInfo,
    /// The scanned part, and where it lies.
    picture: RgbImage,
    frame: Frame,
    points: Option<&'a [Landmark]>,
}

impl<'a> FixedSection<'a> {
    /// Pictures will have `mpp` micrometres a pixel; `points` are carried over.
    pub(in crate::ctl) fn new(section: &'a Section, mpp: Mpp, points: Option<&'a [Landmark]>) -> Result<Self, Failure> {
        let info = section.slide.info();
        let picture = thumbnail(&section.slide, mpp).map_err(unreadable)?;
        Ok(Self { name: &section.name, info, picture, frame: Frame { origin: info.bounds_origin(), mpp }, points })
    }

    /// Writes transform, landmarks and pictures of `moving` to `folder`; gives the files' names.
    ///
    /// # Errors
    /// The slide cannot be read, or a file cannot be written.
    pub(in crate::ctl) fn write(
        &self,
        folder: &Path,
        moving: &Section,
        found: &Registered,
    ) -> Result<Vec<String>, Failure> {
        let info = moving.slide.info();
        let files = transform::write(folder, &moving.name, self.info, info, found);
        let mut files = files.map_err(|error| Exit::JobsFailed.because(&error))?;
        if let Some(points) = self.points {
            let file = format!("{}_landmarks.csv", file_component(&moving.name));
            let carried = landmarks::carry(points, &found.map, self.info.mpp, info.mpp);
            landmarks::write(&folder.join(&file), &carried).map_err(|error| Exit::JobsFailed.because(&error))?;
            files.push(file);
        }

        let pixels = Resampled::new(Arc::clone(&moving.slide), self.frame.mpp).map_err(unreadable)?;
        let (width, height) = self.picture.dimensions();
        let warped = warp_picture(&pixels, &found.map, self.frame, width, height).map_err(unreadable)?;
        let caption = Caption { fixed: self.name, moving: &moving.name, quality: &found.quality };
        let pictures = [
            ("checkerboard", checkerboard(&self.picture, &warped, &caption)),
            ("edges", edge_overlay(&self.picture, &warped, &caption)),
        ];
        for (kind, picture) in pictures {
            let file = format!("{}_{kind}.png", file_component(&moving.name));
            let path = folder.join(&file);
            picture.save(&path).map_err(|error| {
                let reason = format!("{}: {error}", path.display());
                Exit::JobsFailed.with(Fault::new(reason, "check free space beside --out"))
            })?;
            files.push(file);
        }
        Ok(files)
    }
}

pub(in crate::ctl) fn unreadable(error: SlideError) -> Failure {
    Exit::JobsFailed.with(Fault::from(error))
}
