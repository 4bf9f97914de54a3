//! Cluster labels in space: on the grid of the reference section, and carried into every section's own frame.

use rayon::prelude::*;

use crate::deformation::SectionMap;
use crate::patches::Grid;
use crate::slide::SlideInfo;
use crate::units::{Cell, UmPoint};

/// Label of what the model was not asked about: glass, pen, cells with too little tissue.
pub const BACKGROUND: u8 = 0;

/// Flag of [`LabelMap::unusual`]: the tissue is unlike the model's training data.
pub const UNFAMILIAR: u8 = 1;
/// Flag of [`LabelMap::unusual`]: the cell lies far from the centre of the cluster it is in.
pub const UNTYPICAL: u8 = 2;

/// Cell labels of one section in its own frame, over the scanned part (the slide's bounds).
#[derive(Debug, Clone, PartialEq)]
pub struct LabelMap {
    /// Top-left corner of cell (0, 0), micrometres from the section's canvas origin.
    pub origin: UmPoint,
    /// Side of a cell.
    pub cell_um: f64,
    pub cols: u32,
    pub rows: u32,
    /// Row-major; 0 is background, 1…K are clusters.
    pub labels: Vec<u8>,
    /// Row-major; [`UNFAMILIAR`] and [`UNTYPICAL`] where they hold, 0 elsewhere.
    pub unusual: Vec<u8>,
}

impl LabelMap {
    /// The map of the reference section: one label and one set of flags a grid cell.
    ///
    /// # Panics
    /// When `labels` or `unusual` does not have one entry a cell.
    pub fn of_reference(grid: &Grid, labels: Vec<u8>, unusual: Vec<u8>) -> Self {
        assert_eq!((labels.len(), unusual.len()), (grid.cell_count(), grid.cell_count()), "one entry a cell");
        let origin = grid.corner(Cell { col: 0, row: 0 });
        Self { origin, cell_um: grid.spec.cell_um(), cols: grid.cols, rows: grid.rows, labels, unusual }
    }

    /// The map carried onto another section: each cell takes label and flags of the reference at the point that `to_section`
    /// sends to its centre; background where no point does. Cells are a quarter of the reference's, so that turning a map
    /// moves a border by at most an eighth of a reference cell.
    pub fn carried_to(&self, section: &SlideInfo, to_section: &SectionMap) -> Self {
        const SUBDIVISION: f64 = 4.0;
        let (origin, (width, height)) = (section.bounds_origin(), section.bounds_um());
        let cell_um = self.cell_um / SUBDIVISION;
        let cells = |um: f64| ((um / cell_um - 1e-3).ceil() as u32).max(1);
        let (cols, rows) = (cells(width), cells(height));
        let mut carried = Self { origin, cell_um, cols, rows, labels: Vec::new(), unusual: Vec::new() };
        let cell = |i: u64| {
            let cell = Cell { col: (i % u64::from(cols)) as u32, row: (i / u64::from(cols)) as u32 };
            let source = to_section.invert(carried.centre(cell)).and_then(|point| self.index_at(point));
            source.map_or((BACKGROUND, 0), |index| (self.labels[index], self.unusual[index]))
        };
        (carried.labels, carried.unusual) =
            (0..u64::from(cols) * u64::from(rows)).into_par_iter().map(cell).collect::<(Vec<u8>, Vec<u8>)>();
        carried
    }

    /// The label at a point of this section; background outside the map.
    pub fn label_at(&self, point: UmPoint) -> u8 {
        self.index_at(point).map_or(BACKGROUND, |index| self.labels[index])
    }

    /// The flags at a point of this section; none outside the map.
    pub fn unusual_at(&self, point: UmPoint) -> u8 {
        self.index_at(point).map_or(0, |index| self.unusual[index])
    }

    /// Row-major index of the cell that contains a point of this section, if any.
    pub fn index_at(&self, point: UmPoint) -> Option<usize> {
        let index = |um: f64, cells: u32| {
            let i = (um / self.cell_um).floor();
            (i >= 0.0 && i < f64::from(cells)).then_some(i as usize)
        };
        let (col, row) = (index(point.x - self.origin.x, self.cols)?, index(point.y - self.origin.y, self.rows)?);
        Some(row * self.cols as usize + col)
    }

    fn centre(&self, cell: Cell) -> UmPoint {
        UmPoint {
            x: self.origin.x + (f64::from(cell.col) + 0.5) * self.cell_um,
            y: self.origin.y + (f64::from(cell.row) + 0.5) * self.cell_um,
        }
    }

    /// Number of cells with each label; index is the label.
    pub fn counts(&self) -> [u64; 256] {
        tally(self.labels.iter().copied())
    }

    /// Number of cells with each label that have the flag; index is the label.
    pub fn unusual_counts(&self, flag: u8) -> [u64; 256] {
        tally(self.labels.iter().zip(&self.unusual).filter(|&(_, flags)| flags & flag != 0).map(|(&label, _)| label))
    }
}

fn tally(labels: impl Iterator<Item = u8>) -> [u64; 256] {
    let mut counts = [0; 256];
    labels.for_each(|label| counts[label as usize] += 1);
    counts
}

#[cfg(test)]
mod tests {
    use image::RgbImage;

    use super::*;
    use crate::patches::PatchSpec;
    use crate::slide::{SlideSource, SyntheticSlide};
    use crate::units::{Affine, Mpp};

    fn map() -> (SyntheticSlide, LabelMap) {
        let slide = SyntheticSlide::new(RgbImage::new(640, 320), Mpp::new(0.5).expect("plausible"));
        let grid =
            Grid::over(slide.info(), PatchSpec { mpp: Mpp::new(0.5).expect("plausible"), patch_px: 64, stride_px: 64 });
        let labels = (0..grid.cell_count()).map(|i| (i % 4) as u8).collect();
        let unusual = (0..grid.cell_count()).map(|i| (i % 3) as u8).collect();
        (slide, LabelMap::of_reference(&grid, labels, unusual))
    }

    #[test]
    fn carrying_by_the_identity_changes_nothing_but_the_cell_size() {
        let (slide, map) = map();
        let carried = map.carried_to(slide.info(), &Affine::IDENTITY.into());
        assert_eq!((carried.cols, carried.rows), (40, 20));
        for y in 0..160 {
            for x in 0..320 {
                let point = UmPoint { x: f64::from(x) + 0.5, y: f64::from(y) + 0.5 };
                assert_eq!(carried.label_at(point), map.label_at(point));
                assert_eq!(carried.unusual_at(point), map.unusual_at(point));
            }
        }
        assert_eq!(carried.unusual_counts(UNFAMILIAR), map.unusual_counts(UNFAMILIAR).map(|cells| 16 * cells));
        assert_eq!(map.unusual_counts(UNFAMILIAR)[..4].iter().sum::<u64>(), 17, "every third of 50 cells");
    }

    #[test]
    fn a_shifted_section_sees_the_map_shifted_and_background_beyond() {
        let (slide, map) = map();
        // A point of the section lies 32 µm (one cell) further right on the reference.
        let carried = map.carried_to(slide.info(), &Affine([[1.0, 0.0, -32.0], [0.0, 1.0, 0.0]]).into());
        assert_eq!(carried.label_at(UmPoint { x: 16.0, y: 16.0 }), map.label_at(UmPoint { x: 48.0, y: 16.0 }));
        assert_eq!(carried.label_at(UmPoint { x: 310.0, y: 16.0 }), BACKGROUND);
    }
}
