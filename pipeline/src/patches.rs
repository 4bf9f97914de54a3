//! From a grid cell to the tensor of all stains. Trainer and daemon call the same function, so the bits are equal.

use image::RgbImage;
use serde::{Deserialize, Serialize};

use crate::carry::Carry;
use crate::deformation::SectionMap;
use crate::slide::{Resampled, SlideError, SlideInfo};
use crate::units::{Cell, Mpp, PixelRect, UmPoint};
use crate::warp::{Frame, warp_rect};

/// How a slide is cut for a model.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct PatchSpec {
    /// Resolution at which the model looks.
    pub mpp: Mpp,
    /// Side P of a patch in pixels at that resolution.
    pub patch_px: u32,
    /// Side of a map cell. At most `patch_px`; smaller gives a finer map from overlapping patches, each centred on its cell.
    pub stride_px: u32,
}

impl PatchSpec {
    /// Side of a map cell in micrometres.
    pub fn cell_um(&self) -> f64 {
        f64::from(self.stride_px) * self.mpp.get()
    }
}

/// The map grid over the scanned part of the reference section.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Grid {
    pub spec: PatchSpec,
    /// Top-left corner of cell (0, 0) in whole model pixels from the reference slide's canvas origin.
    pub origin_px: (i64, i64),
    pub cols: u32,
    pub rows: u32,
}

impl Grid {
    /// The grid that covers the bounds of the reference slide.
    pub fn over(reference: &SlideInfo, spec: PatchSpec) -> Self {
        let (origin, (width, height)) = (reference.bounds_origin(), reference.bounds_um());
        // A thousandth of a cell is rounding, not tissue.
        let cells = |um: f64| ((um / spec.cell_um() - 1e-3).ceil() as u32).max(1);
        let pixel = |um: f64| (um / spec.mpp.get()).floor() as i64;
        Self { spec, origin_px: (pixel(origin.x), pixel(origin.y)), cols: cells(width), rows: cells(height) }
    }

    /// Number of cells, at least one.
    pub fn cell_count(&self) -> usize {
        self.cols as usize * self.rows as usize
    }

    /// Row-major index.
    pub fn index(&self, cell: Cell) -> usize {
        cell.row as usize * self.cols as usize + cell.col as usize
    }

    /// The cell that contains a point of the reference section, if any.
    pub fn cell_at(&self, point: UmPoint) -> Option<Cell> {
        let origin = self.corner(Cell { col: 0, row: 0 });
        let index = |um: f64, cells: u32| {
            let i = (um / self.spec.cell_um()).floor();
            (i >= 0.0 && i < f64::from(cells)).then_some(i as u32)
        };
        Some(Cell { col: index(point.x - origin.x, self.cols)?, row: index(point.y - origin.y, self.rows)? })
    }

    /// The cells that a square of the reference section touches.
    pub fn cells_under(&self, corner: UmPoint, side_um: f64) -> impl Iterator<Item = Cell> + use<> {
        let origin = self.corner(Cell { col: 0, row: 0 });
        let cell_um = self.spec.cell_um();
        let span = move |from: f64, count: u32| {
            let index = |um: f64| (um / cell_um).clamp(0.0, f64::from(count)) as u32;
            index(from)..index(from + side_um + cell_um)
        };
        let (cols, rows) = (span(corner.x - origin.x, self.cols), span(corner.y - origin.y, self.rows));
        rows.flat_map(move |row| cols.clone().map(move |col| Cell { col, row }))
    }

    /// Top-left corner of a cell in the reference section.
    pub fn corner(&self, cell: Cell) -> UmPoint {
        let stride = i64::from(self.spec.stride_px);
        let (x, y) = (self.origin_px.0 + i64::from(cell.col) * stride, self.origin_px.1 + i64::from(cell.row) * stride);
        UmPoint::from_pixels(x as f64, y as f64, self.spec.mpp)
    }

    /// Top-left pixel of the patch that is centred on `cell`, in model pixels of the reference canvas.
    pub fn patch_origin(&self, cell: Cell) -> (i64, i64) {
        let stride = i64::from(self.spec.stride_px);
        let inset = (i64::from(self.spec.patch_px) - stride) / 2;
        (
            self.origin_px.0 + i64::from(cell.col) * stride - inset,
            self.origin_px.1 + i64::from(cell.row) * stride - inset,
        )
    }

    /// All cells, in square blocks of 8 × 8: neighbouring patches share slide tiles, and tiles are costly.
    pub fn cells_in_blocks(&self) -> impl Iterator<Item = Cell> + use<> {
        const BLOCK: u32 = 8;
        let (cols, rows) = (self.cols, self.rows);
        let blocks =
            (0..rows).step_by(BLOCK as usize).flat_map(move |r| (0..cols).step_by(BLOCK as usize).map(move |c| (c, r)));
        blocks.flat_map(move |(c, r)| {
            (r..(r + BLOCK).min(rows)).flat_map(move |row| (c..(c + BLOCK).min(cols)).map(move |col| Cell { col, row }))
        })
    }
}

/// One stain's pixels.
pub enum StainPixels {
    /// The section, and where a point of the reference lies on it. `None` for the reference itself.
    Section { pixels: Resampled, map: Option<Box<SectionMap>> },
    /// No usable section: every pixel has the contract's fill colour.
    Missing([u8; 3]),
}

/// All stains of a set, in the contract's order, ready to be cut.
pub struct PatchSource {
    spec: PatchSpec,
    stains: Vec<StainPixels>,
}

impl PatchSource {
    /// `stains` in the contract's order.
    pub fn new(spec: PatchSpec, stains: Vec<StainPixels>) -> Self {
        Self { spec, stains }
    }

    /// Bytes of one tensor: 3 · S · P · P.
    pub fn tensor_len(&self) -> usize {
        3 * self.stains.len() * self.spec.patch_px as usize * self.spec.patch_px as usize
    }

    /// **The** patch function: fills `out` with the uint8 tensor `[3·S, P, P]` of `cell` (planes R, G, B of each stain).
    ///
    /// # Errors
    /// Whatever reading a slide gives.
    pub fn tensor(&self, grid: &Grid, cell: Cell, out: &mut [u8]) -> Result<(), SlideError> {
        let (x, y) = grid.patch_origin(cell);
        self.tensor_at(x, y, out)
    }

    /// The same for a patch whose top-left pixel is any model pixel `(x, y)` of the reference canvas; the trainer
    /// samples between the cells too.
    ///
    /// # Errors
    /// Whatever reading a slide gives.
    ///
    /// # Panics
    /// When `out` is not [`PatchSource::tensor_len`] long.
    pub fn tensor_at(&self, x: i64, y: i64, out: &mut [u8]) -> Result<(), SlideError> {
        assert_eq!(out.len(), self.tensor_len(), "buffer of one tensor");
        let side = self.spec.patch_px;
        let rect = PixelRect { x, y, width: side, height: side };
        let plane = side as usize * side as usize;
        for (stain, out) in self.stains.iter().zip(out.chunks_exact_mut(3 * plane)) {
            match stain {
                StainPixels::Missing(fill) => {
                    out.chunks_exact_mut(plane).zip(fill).for_each(|(plane, &value)| plane.fill(value));
                }
                StainPixels::Section { pixels, map: None } => split(&pixels.read(rect)?, out),
                StainPixels::Section { pixels, map: Some(map) } => {
                    split(&warp_rect(pixels, map.as_ref(), Frame::of_canvas(self.spec.mpp), rect)?, out);
                }
            }
        }
        Ok(())
    }

    /// Whether the patch whose top-left pixel is `(x, y)` lies on all sections, told by its corners. One that does not
    /// shows the edge of a slide, where the background of another begins.
    pub fn is_whole(&self, x: i64, y: i64) -> bool {
        let side = i64::from(self.spec.patch_px);
        let corners = [(x, y), (x + side, y), (x, y + side), (x + side, y + side)];
        let corners = corners.map(|(x, y)| UmPoint::from_pixels(x as f64, y as f64, self.spec.mpp));
        self.stains.iter().all(|stain| match stain {
            StainPixels::Missing(_) => true,
            StainPixels::Section { pixels, map } => corners.iter().all(|&corner| {
                let carried = map.as_ref().map_or(Some(corner), |map| map.carry(corner));
                let info = pixels.slide().info();
                let (origin, (width, height)) = (info.bounds_origin(), info.bounds_um());
                // Half a pixel is rounding.
                let slack = self.spec.mpp.get() / 2.0;
                let within = |at: f64, from: f64, length: f64| at >= from - slack && at <= from + length + slack;
                carried.is_some_and(|at| within(at.x, origin.x, width) && within(at.y, origin.y, height))
            }),
        })
    }
}

/// From interleaved pixels to planes R, G, B.
fn split(block: &RgbImage, out: &mut [u8]) {
    let (red, rest) = out.split_at_mut(out.len() / 3);
    let (green, blue) = rest.split_at_mut(rest.len() / 2);
    for (i, pixel) in block.as_raw().chunks_exact(3).enumerate() {
        (red[i], green[i], blue[i]) = (pixel[0], pixel[1], pixel[2]);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use image::Rgb;

    use super::*;
    use crate::slide::{SlideSource, SyntheticSlide};
    use crate::units::{Affine, Level0Rect};

    fn spec(patch_px: u32, stride_px: u32) -> PatchSpec {
        PatchSpec { mpp: Mpp::new(0.5).expect("plausible"), patch_px, stride_px }
    }

    fn slide() -> Arc<dyn SlideSource> {
        let image = RgbImage::from_fn(900, 700, |x, y| Rgb([(x / 4) as u8, (y / 4) as u8, ((x * y) / 999) as u8]));
        Arc::new(SyntheticSlide::new(image, Mpp::new(0.5).expect("plausible")))
    }

    fn section(map: Option<Affine>) -> StainPixels {
        let map = map.map(|map| Box::new(SectionMap::from(map)));
        StainPixels::Section { pixels: Resampled::new(slide(), Mpp::new(0.5).expect("plausible")).expect("fine"), map }
    }

    #[test]
    fn identity_map_gives_the_reference_pixels() {
        let source = PatchSource::new(spec(64, 64), vec![section(None), section(Some(Affine::IDENTITY))]);
        let mut tensor = vec![0; source.tensor_len()];
        source.tensor_at(100, 60, &mut tensor).expect("readable");
        let (reference, warped) = tensor.split_at(3 * 64 * 64);
        assert_eq!(reference, warped);
        assert_eq!(reference[0], 25, "red plane holds x / 4");
        assert_eq!(reference[64 * 64], 15, "green plane holds y / 4");
    }

    #[test]
    fn a_shift_by_whole_pixels_moves_the_window() {
        let shift = Affine([[1.0, 0.0, 20.0], [0.0, 1.0, -15.0]]);
        let source = PatchSource::new(spec(32, 32), vec![section(Some(shift))]);
        let plain = PatchSource::new(spec(32, 32), vec![section(None)]);
        let (mut a, mut b) = (vec![0; source.tensor_len()], vec![0; source.tensor_len()]);
        source.tensor_at(200, 300, &mut a).expect("readable");
        plain.tensor_at(200 + 40, 300 - 30, &mut b).expect("readable");
        assert_eq!(a, b);
    }

    #[test]
    fn a_missing_stain_is_its_fill_and_the_outside_is_background() {
        let source = PatchSource::new(spec(16, 16), vec![StainPixels::Missing([1, 2, 3]), section(None)]);
        let mut tensor = vec![0; source.tensor_len()];
        source.tensor_at(-500, -500, &mut tensor).expect("readable");
        let planes: Vec<&[u8]> = tensor.chunks_exact(256).collect();
        for (plane, value) in planes.iter().zip([1, 2, 3, 255, 255, 255]) {
            assert!(plane.iter().all(|&v| v == value));
        }
    }

    #[test]
    fn a_patch_is_whole_where_all_sections_are() {
        // 450 by 350 µm, the second one moved by 20 µm to the left.
        let shift = Affine([[1.0, 0.0, 20.0], [0.0, 1.0, 0.0]]);
        let source =
            PatchSource::new(spec(64, 32), vec![section(None), StainPixels::Missing([0; 3]), section(Some(shift))]);
        assert!(source.is_whole(0, 0) && source.is_whole(900 - 64 - 40, 700 - 64));
        for (x, y) in [(-2, 0), (0, -2), (900 - 64 - 36, 0), (0, 700 - 62)] {
            assert!(!source.is_whole(x, y), "{x}, {y}");
        }
    }

    #[test]
    fn the_order_of_asking_does_not_change_the_bits() {
        let map = Affine([[0.98, 0.17, 8.3], [-0.17, 0.99, 21.7]]);
        let grid = Grid::over(slide().info(), spec(64, 32));
        let daemon = PatchSource::new(grid.spec, vec![section(None), section(Some(map))]);
        let trainer = PatchSource::new(grid.spec, vec![section(None), section(Some(map))]);
        let len = daemon.tensor_len();
        let cells: Vec<Cell> = grid.cells_in_blocks().collect();
        let cut = |source: &PatchSource, cell: &Cell| {
            let mut tensor = vec![0; len];
            source.tensor(&grid, *cell, &mut tensor).expect("readable");
            tensor
        };
        let forward: Vec<Vec<u8>> = cells.iter().map(|c| cut(&daemon, c)).collect();
        let backward: Vec<Vec<u8>> = cells.iter().rev().map(|c| cut(&trainer, c)).collect();
        assert!(forward.iter().eq(backward.iter().rev()));
    }

    #[test]
    fn the_grid_covers_the_bounds_and_finds_its_cells() {
        let bounds = Level0Rect { x: 101, y: 53, width: 500, height: 333 };
        let image = RgbImage::new(900, 700);
        let slide = SyntheticSlide::new(image, Mpp::new(0.5).expect("plausible")).with_bounds(bounds);
        let grid = Grid::over(slide.info(), spec(64, 32));
        assert_eq!((grid.cols, grid.rows, grid.origin_px), (16, 11, (101, 53)));
        let all: std::collections::BTreeSet<Cell> = grid.cells_in_blocks().collect();
        assert_eq!(all.len(), grid.cell_count());
        for &cell in &all {
            let corner = grid.corner(cell);
            let inside = UmPoint { x: corner.x + 0.01, y: corner.y + 15.9 };
            assert_eq!(grid.cell_at(inside), Some(cell));
        }
        assert_eq!(grid.patch_origin(Cell { col: 1, row: 0 }), (101 + 32 - 16, 53 - 16));
    }
}
