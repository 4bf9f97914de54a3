//! How the sections of a set lie to its reference: thumbnails from the slides' levels, registered, judged.

use std::fmt;
use std::ops::ControlFlow;
use std::sync::Arc;

use image::RgbImage;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::deformation::SectionMap;
use crate::register::{self, Advance, RegisterParams, RegistrationQuality, Verdict};
use crate::slide::{self, SlideError, SlideSource};
use crate::units::Mpp;

/// A map that was found, and how far to trust it.
#[derive(Debug, Clone, PartialEq)]
pub struct Registered {
    /// Micrometres of the reference's canvas to micrometres of this section's canvas.
    pub map: SectionMap,
    /// How far the map may be off, one value in micrometres a node of its displacement field.
    pub uncertainty_um: Vec<f32>,
    pub quality: RegistrationQuality,
}

impl Registered {
    /// How far the map may be off at a point of the reference in micrometres; 0 for an affine map that came without.
    pub fn uncertainty_at(&self, p: [f64; 2]) -> f64 {
        let field = self.map.deformation().field.as_ref();
        field.and_then(|field| self.uncertainty_um.get(field.nearest(p))).copied().map_or(0.0, f64::from)
    }
}

/// How a section lies to the reference.
#[derive(Debug, Clone, PartialEq)]
pub enum Placement {
    /// It is the reference.
    Reference,
    /// Its map is good or to be reviewed.
    Registered(Box<Registered>),
    /// No map was found, or the one that was found is refused: the model sees the fill colour instead, and this section
    /// gets no map.
    LeftOut { reason: String, refused: Option<Box<Registered>> },
    /// No slide of this stain in the set.
    Missing,
}

/// A [`Placement`] without its figures: one word in records and plans.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PlacementKind {
    Reference,
    Registered,
    LeftOut,
    Missing,
}

impl fmt::Display for PlacementKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Reference => "reference",
            Self::Registered => "registered",
            Self::LeftOut => "left-out",
            Self::Missing => "missing",
        })
    }
}

impl Placement {
    /// Without its figures.
    pub fn kind(&self) -> PlacementKind {
        match self {
            Self::Reference => PlacementKind::Reference,
            Self::Registered(_) => PlacementKind::Registered,
            Self::LeftOut { .. } => PlacementKind::LeftOut,
            Self::Missing => PlacementKind::Missing,
        }
    }

    /// The map that was found, a refused one too: it can be looked at.
    pub fn found(&self) -> Option<&Registered> {
        match self {
            Self::Registered(found) => Some(found),
            Self::LeftOut { refused, .. } => refused.as_deref(),
            Self::Reference | Self::Missing => None,
        }
    }

    /// The figures of the registration, also of a refused one.
    pub fn quality(&self) -> Option<&RegistrationQuality> {
        self.found().map(|found| &found.quality)
    }

    /// The verdict and why it is not better; `None` for the reference and for a missing stain.
    pub fn verdict(&self) -> Option<(Verdict, Vec<String>)> {
        match (self, self.quality()) {
            (_, Some(quality)) => Some((quality.verdict, quality.reasons.clone())),
            (Self::LeftOut { reason, .. }, None) => Some((Verdict::Refused, vec![reason.clone()])),
            (_, None) => None,
        }
    }
}

/// What happens to a set when the registration of one of its stains is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RefusedPolicy {
    /// The model sees its fill colour in place of that stain; the results say so.
    #[default]
    SkipStain,
    /// The set fails, and nothing is published.
    FailSet,
}

/// Why sections could not be placed.
#[derive(Debug, thiserror::Error)]
pub enum PlacementError {
    #[error(transparent)]
    Slide(#[from] SlideError),
    #[error("cancelled")]
    Cancelled,
}

/// The resolution at which `slides` are registered: the longest is `long_side_px` long, unless a slide's finest level is
/// coarser than that.
pub fn registration_mpp(slides: &[&Arc<dyn SlideSource>], long_side_px: u32) -> Mpp {
    let longest = slides.iter().map(|s| s.info().bounds_um()).fold(0.0, |long: f64, (w, h)| long.max(w).max(h));
    let finest = slides.iter().map(|s| s.info().mpp).fold(slides[0].info().mpp, |a, b| if b > a { b } else { a });
    Mpp::new(longest / f64::from(long_side_px)).ok().filter(|wanted| *wanted > finest).unwrap_or(finest)
}

/// Registers each of `others` to `reference`, on thumbnails of `mpp`.
///
/// # Errors
/// A slide cannot be read, or `advance` ended the work. A section that cannot be registered is [`Placement::LeftOut`].
pub fn place(
    reference: &Arc<dyn SlideSource>,
    others: &[&Arc<dyn SlideSource>],
    mpp: Mpp,
    params: &RegisterParams,
    advance: &Advance,
) -> Result<Vec<Placement>, PlacementError> {
    if advance(0, others.len() as u64).is_break() {
        return Err(PlacementError::Cancelled);
    }
    let fixed = slide::thumbnail(reference, mpp)?;
    let moving: Vec<RgbImage> =
        others.par_iter().map(|slide| slide::thumbnail(slide, mpp)).collect::<Result<_, SlideError>>()?;
    let found = register::register_set(&fixed, &moving, mpp, params, advance)
        .map_err(|register::Cancelled| PlacementError::Cancelled)?;
    let from = reference.info().bounds_origin();
    let placements = found.into_iter().zip(others).map(|(found, slide)| match found {
        Err(error) => Placement::LeftOut { reason: error.to_string(), refused: None },
        Ok(found) => {
            // Thumbnails begin at the bounds origin, canvases do not.
            let map = found.map.to_um(mpp).between(from, slide.info().bounds_origin());
            let placed = Box::new(Registered { map, uncertainty_um: found.uncertainty_um, quality: found.quality });
            if placed.quality.verdict == Verdict::Refused {
                Placement::LeftOut { reason: placed.quality.reasons.join("; "), refused: Some(placed) }
            } else {
                Placement::Registered(placed)
            }
        }
    });
    Ok(placements.collect())
}

/// An [`Advance`] that nobody hears and that never ends the work.
pub fn unheard(_: u64, _: u64) -> ControlFlow<()> {
    ControlFlow::Continue(())
}
