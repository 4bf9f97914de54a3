//! The report on a fit: one HTML file.
//!
//! The page needs no other files and no scripts, and it can be printed. The same inputs give the same bytes, except for the date. Each module of
//! `sections` makes one section from `data::ReportData`.

mod baselines;
mod chart;
mod data;
mod page;
mod picture;
mod sections;
mod slide_maps;
mod source;
mod ssim;
#[cfg(test)]
mod tests;

pub use self::baselines::{BaselineResult, MeanDeviation};
use self::data::ReportData;
pub use self::data::ReportInputs;
use self::sections::batch::BatchEffect;
use self::sections::latent_space::LatentSpace;
use self::sections::reconstruction::Reconstruction;
use self::sections::training::TrainingCurves;
use self::sections::{batch, cluster_count, clusters, comparison, composition, maps, summary, training};
pub use self::slide_maps::{MAX_SETS, SlideMaps};
pub use self::source::ReportSource;
use crate::system::error::TrainError;

/// The page as HTML.
///
/// # Errors
/// [`TrainError`] if patches cannot be read, or what libtorch says.
pub fn render(inputs: &ReportInputs<'_>) -> Result<String, TrainError> {
    let data = ReportData::new(inputs)?;
    let latent_space = LatentSpace::new(&data)?;
    let reconstruction = Reconstruction::new(&data)?;
    let sets: Vec<i64> = inputs.patches.train.origins().iter().map(|origin| i64::from(origin.set)).collect();
    let batch = BatchEffect::new(&sets, &inputs.fitted.assignment.cluster, inputs.config.seed);
    let curves = TrainingCurves::read(inputs.metrics);
    let warnings = [
        cluster_count::warnings(&data),
        clusters::warnings(&data),
        batch::warnings(&data, batch.as_ref()),
        curves.warnings(),
        latent_space.warnings(),
    ]
    .concat();
    let sections = [
        summary::section(&data, &reconstruction, batch.as_ref(), &warnings),
        maps::section(&data)?,
        clusters::section(&data)?,
        latent_space.section(&data),
        composition::section(&data),
        cluster_count::section(&data),
        reconstruction.section(&data)?,
        batch::section(&data, batch.as_ref()),
        comparison::section(&data),
        training::section(&data, &curves),
    ];
    Ok(page::page(inputs.name, inputs.date, &sections))
}
