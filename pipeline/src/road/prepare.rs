//! Everything before the model: where the sections lie, where tissue is, and the patches that can be cut.

use std::ops::ControlFlow;
use std::sync::Arc;

use super::{Layout, Prepared, Progress, RoadError, RoadParams, Section, Slides, Stage};
use crate::contract::StainSpec;
use crate::fine;
use crate::patches::{Grid, PatchSource, StainPixels};
use crate::placement::{Placement, RefusedPolicy, place, registration_mpp};
use crate::section_set::SetKey;
use crate::slide::{self, Resampled, SlideError, SlideSource};
use crate::tissue::{TissueMask, find_tissue};
use crate::units::{Cell, Mpp, UmPoint};

/// [`super::prepare`] for slides that are already open, canonical stain to slide.
///
/// # Errors
/// As [`super::prepare`].
pub fn prepare_opened(
    key: &SetKey,
    slides: &Slides,
    layout: &Layout,
    params: &RoadParams,
    progress: &dyn Progress,
) -> Result<Prepared, RoadError> {
    let reference = slides.get(&layout.reference).ok_or_else(|| RoadError::NoReference {
        key: key.clone(),
        reference: layout.reference.clone(),
        found: slides.keys().cloned().collect::<Vec<_>>().join(", "),
    })?;
    let mut sections = place_sections(key, slides, layout, params, progress)?;

    progress.stage(Stage::Tissue, 0, 1);
    let finest = reference.info().mpp;
    let mask_mpp = Mpp::new(params.tissue.um_per_px).ok().filter(|wanted| *wanted > finest).unwrap_or(finest);
    let mask = find_tissue(&slide::thumbnail(reference, mask_mpp)?, mask_mpp.get(), &params.tissue);
    let grid = Grid::over(reference.info(), layout.spec);
    let tissue_fraction = tissue_per_cell(&mask, mask_mpp, &grid, reference.info().bounds_origin());
    let cells =
        grid.cells_in_blocks().filter(|&c| tissue_fraction[grid.index(c)] >= layout.min_tissue_fraction).collect();
    progress.stage(Stage::Tissue, 1, 1);

    if params.refine {
        let enough = |cell: Cell| tissue_fraction[grid.index(cell)] >= layout.min_tissue_fraction;
        refine_sections(&mut sections, reference, &grid, &enough, params, progress)?;
    }

    let stains = sections.iter().map(|section| stain_pixels(section, layout)).collect::<Result<_, _>>()?;
    Ok(Prepared {
        source: PatchSource::new(layout.spec, stains),
        grid,
        tissue: mask.outcome,
        tissue_fraction,
        cells,
        sections,
    })
}

fn place_sections(
    key: &SetKey,
    slides: &Slides,
    layout: &Layout,
    params: &RoadParams,
    progress: &dyn Progress,
) -> Result<Vec<Section>, RoadError> {
    let used: Vec<&Arc<dyn SlideSource>> = layout.stains.iter().filter_map(|s| slides.get(&s.name)).collect();
    let mpp = registration_mpp(&used, params.register_long_side_px);
    let others = || layout.stains.iter().filter(|stain| stain.name != layout.reference);
    let moving: Vec<&Arc<dyn SlideSource>> = others().filter_map(|stain| slides.get(&stain.name)).collect();
    let advance = |done: u64, total: u64| {
        progress.stage(Stage::Register, done, total);
        if progress.cancelled() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    };
    let mut placed = place(&slides[&layout.reference], &moving, mpp, &params.register, &advance)?.into_iter();
    let mut sections = Vec::with_capacity(layout.stains.len());
    for StainSpec { name, .. } in &layout.stains {
        let slide = slides.get(name).cloned();
        let placement = match &slide {
            None => Placement::Missing,
            Some(_) if *name == layout.reference => Placement::Reference,
            Some(_) => placed.next().unwrap_or(Placement::Missing),
        };
        if let (Placement::LeftOut { reason, .. }, RefusedPolicy::FailSet) = (&placement, params.refused_stain) {
            return Err(RoadError::Refused { key: key.clone(), stain: name.clone(), reason: reason.clone() });
        }
        sections.push(Section { stain: name.clone(), slide, placement });
    }
    Ok(sections)
}

/// Looks at the map of every registered section again, at the model's resolution where there is tissue.
fn refine_sections(
    sections: &mut [Section],
    reference: &Arc<dyn SlideSource>,
    grid: &Grid,
    is_tissue: &(dyn Fn(Cell) -> bool + Sync),
    params: &RoadParams,
    progress: &dyn Progress,
) -> Result<(), RoadError> {
    let count = sections.len() as u64;
    for (index, section) in sections.iter_mut().enumerate() {
        let (Some(slide), Placement::Registered(found)) = (&section.slide, &section.placement) else { continue };
        let advance = |done: u64, total: u64| {
            progress.stage(Stage::Refine, index as u64 * total + done, count * total);
            if progress.cancelled() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        };
        let on_tissue = |corner: UmPoint, size: f64| grid.cells_under(corner, size).any(is_tissue);
        let (refined, gain) =
            fine::refine(reference, slide, found, grid.spec.mpp, &params.register, &on_tissue, &advance)?;
        tracing::debug!(stain = section.stain, ?gain, "Refined");
        section.placement = Placement::Registered(Box::new(refined));
    }
    Ok(())
}

fn stain_pixels(section: &Section, layout: &Layout) -> Result<StainPixels, SlideError> {
    let pixels = |slide: &Arc<dyn SlideSource>| Resampled::new(Arc::clone(slide), layout.spec.mpp);
    Ok(match (&section.slide, &section.placement) {
        (Some(slide), Placement::Reference) => StainPixels::Section { pixels: pixels(slide)?, map: None },
        (Some(slide), Placement::Registered(found)) => {
            StainPixels::Section { pixels: pixels(slide)?, map: Some(Box::new(found.map.clone())) }
        }
        _ => StainPixels::Missing(layout.missing_stain_fill),
    })
}

/// Share of tissue pixels under each cell, from sums over rectangles of the mask (summed-area table).
fn tissue_per_cell(mask: &TissueMask, mask_mpp: Mpp, grid: &Grid, mask_origin: UmPoint) -> Vec<f32> {
    let (width, height) = (mask.width as usize, mask.height as usize);
    let mut sums = vec![0_u32; (width + 1) * (height + 1)];
    for y in 0..height {
        let mut row = 0;
        for x in 0..width {
            row += u32::from(mask.tissue[y * width + x]);
            sums[(y + 1) * (width + 1) + x + 1] = sums[y * (width + 1) + x + 1] + row;
        }
    }
    let cell_px = grid.spec.cell_um() / mask_mpp.get();
    let fraction = |row: u32, col: u32| {
        let corner = grid.corner(Cell { col, row });
        let (x, y) = UmPoint { x: corner.x - mask_origin.x, y: corner.y - mask_origin.y }.to_pixels(mask_mpp);
        // At least one mask pixel a cell, also where cells are finer than the mask.
        let span = |from: f64, limit: usize| {
            let first = (from.round().max(0.0) as usize).min(limit - 1);
            (first, ((from + cell_px).round() as usize).clamp(first + 1, limit))
        };
        let ((x0, x1), (y0, y1)) = (span(x, width), span(y, height));
        let at = |x: usize, y: usize| sums[y * (width + 1) + x];
        let inside = (at(x1, y1) + at(x0, y0)) - (at(x0, y1) + at(x1, y0));
        inside as f32 / ((x1 - x0) * (y1 - y0)) as f32
    };
    (0..grid.rows)
        .flat_map(|row| (0..grid.cols).map(move |col| (row, col)))
        .map(|(row, col)| fraction(row, col))
        .collect()
}
