//! The walk over all tiles of a pyramid, in memory that does not depend on its size.
//!
//! A tile of level `n` is made of the four below it, so the tiles are a quad-tree, and it is walked depth-first: a tile
//! is compressed and forgotten as soon as its quarter of the tile above is filled. What waits at any moment is one
//! unfinished tile a level, and the block that is being worked on.

use std::error::Error;

use rayon::prelude::*;

use super::raster::Raster;
use super::{PyramidProblem, Spec};
use crate::units::PixelRect;

/// Halving ends with the first level whose long side is below this: it then fits a viewer's overview in a few tiles.
pub(super) const SMALLEST_LEVEL: u32 = 512;

/// A tile of this level and all 4² level-0 tiles below it are one block: the unit of parallel work, of progress, and of
/// what waits to be written.
const BLOCK_LEVEL: usize = 2;

/// Pixels of one picture in a rectangle of level 0, asked for by several threads at once.
pub(super) type Source<'a, const CHANNELS: usize, E> =
    dyn Fn(usize, PixelRect) -> Result<Raster<CHANNELS>, E> + Sync + 'a;

/// A compressed tile and where it belongs: `index` is row-major in its level.
pub(super) struct Tile {
    pub(super) plane: usize,
    pub(super) level: usize,
    pub(super) index: usize,
    pub(super) bytes: Vec<u8>,
}

/// Sizes of all levels in pixels, finest first.
pub(super) fn level_sizes(width: u32, height: u32) -> Vec<(u32, u32)> {
    let halves = |&(w, h): &(u32, u32)| (w.max(h) >= SMALLEST_LEVEL).then(|| (w.div_ceil(2), h.div_ceil(2)));
    std::iter::successors(Some((width, height)), halves).collect()
}

/// Columns and rows of tiles that cover a level.
pub(super) fn tile_counts((width, height): (u32, u32), tile_px: u32) -> (u32, u32) {
    (width.div_ceil(tile_px), height.div_ceil(tile_px))
}

/// The place of a tile.
#[derive(Clone, Copy)]
struct Node {
    picture: usize,
    level: usize,
    col: u32,
    row: u32,
}

/// What to do with finished tiles.
type Write<'a, E> = dyn FnMut(Vec<Tile>) -> Result<(), PyramidProblem<E>> + 'a;

/// Hands all tiles of all levels to `write`, in an order that does not depend on the number of threads. Every pixel of
/// level 0 is asked for once.
pub(super) fn walk<const CHANNELS: usize, E: Error + Send>(
    spec: &Spec<'_>,
    source: &Source<'_, CHANNELS, E>,
    write: &mut Write<'_, E>,
) -> Result<(), PyramidProblem<E>> {
    let tree = Tree { spec, source, levels: level_sizes(spec.width, spec.height) };
    let level = tree.levels.len() - 1;
    let (cols, rows) = tile_counts(tree.levels[level], spec.tile_px);
    // One picture after the other: each has the caches of its source for itself.
    for picture in 0..spec.pictures {
        for (row, col) in (0..rows).flat_map(|row| (0..cols).map(move |col| (row, col))) {
            tree.branch(Node { picture, level, col, row }, write)?;
        }
    }
    Ok(())
}

struct Tree<'a, const CHANNELS: usize, E> {
    spec: &'a Spec<'a>,
    source: &'a Source<'a, CHANNELS, E>,
    levels: Vec<(u32, u32)>,
}

impl<const CHANNELS: usize, E: Error + Send> Tree<'_, CHANNELS, E> {
    /// Writes the tile at `node` and all below it; gives its pixels.
    fn branch(&self, node: Node, write: &mut Write<'_, E>) -> Result<Raster<CHANNELS>, PyramidProblem<E>> {
        if node.level <= BLOCK_LEVEL {
            let (raster, tiles) = self.block(node)?;
            write(tiles)?;
            return Ok(raster);
        }
        let mut raster = self.blank(node);
        for child in self.children(node) {
            raster.put_halved(&self.branch(child, write)?, self.quarter(child));
        }
        write(self.compressed(node, &raster)?)?;
        Ok(raster)
    }

    /// The same on all threads, with the tiles as a value.
    fn block(&self, node: Node) -> Result<(Raster<CHANNELS>, Vec<Tile>), PyramidProblem<E>> {
        let (raster, mut tiles) = if node.level == 0 {
            ((self.source)(node.picture, self.rect(node)).map_err(PyramidProblem::Source)?, Vec::new())
        } else {
            let children: Vec<Node> = self.children(node).collect();
            let parts = children.par_iter().map(|&child| self.block(child)).collect::<Result<Vec<_>, _>>()?;
            let (mut raster, mut tiles) = (self.blank(node), Vec::new());
            for (child, (part, below)) in children.into_iter().zip(parts) {
                raster.put_halved(&part, self.quarter(child));
                tiles.extend(below);
            }
            (raster, tiles)
        };
        tiles.extend(self.compressed(node, &raster)?);
        Ok((raster, tiles))
    }

    /// The up to four tiles below: at the border some do not exist.
    fn children(&self, node: Node) -> impl Iterator<Item = Node> {
        let level = node.level - 1;
        let (cols, rows) = tile_counts(self.levels[level], self.spec.tile_px);
        let places = [(0, 0), (1, 0), (0, 1), (1, 1)].map(|(x, y)| (2 * node.col + x, 2 * node.row + y));
        places.into_iter().filter(move |&(col, row)| col < cols && row < rows).map(move |(col, row)| Node {
            picture: node.picture,
            level,
            col,
            row,
        })
    }

    /// Where the halved `child` lies in its parent.
    fn quarter(&self, child: Node) -> (u32, u32) {
        let half = self.spec.tile_px / 2;
        (child.col % 2 * half, child.row % 2 * half)
    }

    /// The pixels of its level that a tile covers.
    fn rect(&self, node: Node) -> PixelRect {
        let ((width, height), side) = (self.levels[node.level], self.spec.tile_px);
        let (left, top) = (node.col * side, node.row * side);
        let (width, height) = (side.min(width - left), side.min(height - top));
        PixelRect { x: i64::from(left), y: i64::from(top), width, height }
    }

    fn blank(&self, node: Node) -> Raster<CHANNELS> {
        let rect = self.rect(node);
        Raster::new(rect.width, rect.height)
    }

    /// The tile as it is stored: whole, or one a plane.
    fn compressed(&self, node: Node, raster: &Raster<CHANNELS>) -> Result<Vec<Tile>, PyramidProblem<E>> {
        let (cols, _) = tile_counts(self.levels[node.level], self.spec.tile_px);
        let index = node.row as usize * cols as usize + node.col as usize;
        let tile = |plane, bytes| Tile { plane, level: node.level, index, bytes };
        // Labels have no neighbours to be predicted from.
        let (side, predict) = (self.spec.tile_px, CHANNELS > 1);
        if !self.spec.planar {
            return Ok(vec![tile(node.picture, raster.compressed(side, predict)?)]);
        }
        (0..CHANNELS)
            .into_par_iter()
            .map(|channel| {
                Ok(tile(node.picture * CHANNELS + channel, raster.plane(channel).compressed(side, predict)?))
            })
            .collect()
    }
}
