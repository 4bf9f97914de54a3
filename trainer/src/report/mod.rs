//! The report: one HTML file for the lab meeting, made from what a fit leaves behind.
//!
//! The page refers to nothing outside itself, works without scripts, and prints. The same inputs give the same bytes. Each
//! module under this one makes one section from the [`View`]: what was found ([`Inputs`]) and what several sections need.

mod baselines;
mod chart;
mod maps;
mod page;
mod picture;
mod sections;
mod source;
mod ssim;
#[cfg(test)]
mod tests;
mod view;

pub use self::baselines::{Method, Spread};
pub use self::maps::{MOST_SETS, SlideMaps};
use self::sections::batch::BatchEffect;
use self::sections::plane::Plane;
use self::sections::reconstruction::Reconstruction;
use self::sections::training::Curves;
use self::sections::{batch, clusters, comparison, composition, number, slides, summary, training};
pub use self::source::Source;
pub use self::view::Inputs;
use self::view::View;
use crate::system::error::TrainError;

/// The page as HTML.
///
/// # Errors
/// [`TrainError`] when patches cannot be read, or what libtorch says.
pub fn render(inputs: &Inputs<'_>) -> Result<String, TrainError> {
    let view = View::new(inputs)?;
    let plane = Plane::new(&view)?;
    let reconstruction = Reconstruction::new(&view)?;
    let sets: Vec<i64> = inputs.patches.train.origins().iter().map(|origin| i64::from(origin.set)).collect();
    let batch = BatchEffect::new(&sets, &inputs.fitted.assignment.cluster, inputs.config.seed);
    let curves = Curves::read(inputs.metrics);
    let warnings = [
        number::warnings(&view),
        clusters::warnings(&view),
        batch::warnings(&view, batch.as_ref()),
        curves.warnings(),
        plane.warnings(),
    ]
    .concat();
    let sections = [
        summary::section(&view, &reconstruction, batch.as_ref(), &warnings),
        slides::section(&view)?,
        clusters::section(&view)?,
        plane.section(&view),
        composition::section(&view),
        number::section(&view),
        reconstruction.section(&view)?,
        batch::section(&view, batch.as_ref()),
        comparison::section(&view),
        training::section(&view, &curves),
    ];
    Ok(page::page(inputs.name, inputs.date, &sections))
}
