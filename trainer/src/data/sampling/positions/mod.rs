//! Where the patches of one set are cut: training and held-out tissue apart, positions at random.

use std::collections::BTreeMap;

use rand::seq::SliceRandom;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use sha2::{Digest, Sha256};
use tissuemap::patches::{Grid, PatchSpec};
use tissuemap::units::Cell;

use crate::config;

/// Held-out blocks are this many patches wide, so that few held-out patches touch training ones.
const BLOCK_PATCHES: u32 = 4;

/// So many patches over one spot, and the next patch lies an eighth of a patch away on average (half the side over the
/// square root): they show the same tissue, and more of them teach nothing.
const MAX_PATCHES_PER_SPOT: f64 = 16.0;

/// Side in model pixels of the squares in which a slide's pixels are made; patches of one square are cut one after the
/// other.
const TILE_PX: i64 = 512;

/// Top-left corners of patches, in model pixels of the reference canvas.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PatchPositions {
    /// Of patches to train on.
    pub train: Vec<(i64, i64)>,
    /// Of patches that are kept apart.
    pub held_out: Vec<(i64, i64)>,
    /// Why they are no good choice, if they are none.
    pub warning: Option<String>,
}

impl PatchPositions {
    /// Draws them for the set of this name over its tissue cells. `held_out`: all are kept apart.
    ///
    /// # Errors
    /// Why the set cannot be used.
    pub fn draw(
        name: &str,
        grid: &Grid,
        tissue: &[Cell],
        held_out: bool,
        config: &config::Config,
    ) -> Result<Self, String> {
        let config::PatchConfig { per_set, held_out_fraction, .. } = config.patches;
        let mut generator = generator(config.seed, name);
        let (train_cells, held_out_cells) = if held_out {
            (Vec::new(), tissue.to_vec())
        } else {
            let block_cells = BLOCK_PATCHES * grid.spec.patch_px / grid.spec.stride_px;
            split_cells(tissue, block_cells, held_out_fraction, &mut generator)
        };
        let kept = if held_out { per_set } else { ((f64::from(per_set) * held_out_fraction).round() as u32).max(1) };
        let trained_on = if held_out { 0 } else { per_set.saturating_sub(kept).max(1) };
        if held_out_cells.is_empty() || (train_cells.is_empty() && !held_out) {
            let count = tissue.len();
            let purpose = if held_out { "to evaluate on" } else { "to hold some out" };
            return Err(format!("it has {count} tissue cells, too few {purpose}"));
        }
        let patches_per_spot = patches_per_spot(&train_cells, trained_on, grid.spec).max(patches_per_spot(
            &held_out_cells,
            kept,
            grid.spec,
        ));
        let warning = (patches_per_spot > MAX_PATCHES_PER_SPOT).then(|| {
            format!(
                "{per_set} patches from {} tissue cells: every spot is in {patches_per_spot:.0} of them, many are nearly equal; \
                 fewer patches.per_set would do",
                tissue.len()
            )
        });
        Ok(Self {
            train: positions(grid, train_cells, trained_on, &mut generator),
            held_out: positions(grid, held_out_cells, kept, &mut generator),
            warning,
        })
    }
}

/// The set's own random numbers: they do not change when other sets come or go.
pub(super) fn generator(seed: u64, set: &str) -> ChaCha8Rng {
    let mut hash = Sha256::new();
    hash.update(seed.to_le_bytes());
    hash.update(set);
    ChaCha8Rng::from_seed(hash.finalize().into())
}

/// In how many of `count` patches a spot of these cells is, on average.
fn patches_per_spot(cells: &[Cell], count: u32, PatchSpec { patch_px, stride_px, .. }: PatchSpec) -> f64 {
    let area = |side: u32| f64::from(side).powi(2);
    f64::from(count) * area(patch_px) / (cells.len().max(1) as f64 * area(stride_px))
}

/// `count` positions at random, each patch within half a stride of the middle of a cell. No cell is used twice before all
/// others are used once.
fn positions(grid: &Grid, mut cells: Vec<Cell>, count: u32, generator: &mut ChaCha8Rng) -> Vec<(i64, i64)> {
    let stride = i64::from(grid.spec.stride_px);
    cells.shuffle(generator);
    let mut positions: Vec<(i64, i64)> = cells
        .iter()
        .cycle()
        .take(count as usize)
        .map(|&cell| {
            let (x, y) = grid.patch_origin(cell);
            let mut shift = || generator.random_range(0..stride) - stride / 2;
            (x + shift(), y + shift())
        })
        .collect();
    positions.sort_by_key(|&(x, y)| (y.div_euclid(TILE_PX), x.div_euclid(TILE_PX), y, x));
    positions
}

/// Parts the tissue cells of one set into training and held-out ones, by square blocks: neighbouring and overlapping
/// patches look alike, so patches parted one by one would be no test. Both parts are non-empty where there are two cells.
pub(super) fn split_cells(
    cells: &[Cell],
    block_cells: u32,
    fraction: f64,
    generator: &mut ChaCha8Rng,
) -> (Vec<Cell>, Vec<Cell>) {
    let mut side = block_cells.max(1);
    let mut blocks = blocks(cells, side);
    // A small piece of tissue may lie in one block as a whole, or in so few that one is too much to hold out.
    while side > 1 && (blocks.len() as f64) < 1.0 / fraction {
        side /= 2;
        blocks = self::blocks(cells, side);
    }
    blocks.shuffle(generator);
    let wanted = fraction * cells.len() as f64;
    let (mut train, mut held_out) = (Vec::new(), Vec::new());
    let last = blocks.len().saturating_sub(1);
    for (index, block) in blocks.into_iter().enumerate() {
        // The last block may be the largest: it must not follow all others out of training.
        let needed = index == last && train.is_empty() && !held_out.is_empty();
        let to = if (held_out.len() as f64) < wanted && !needed { &mut held_out } else { &mut train };
        to.extend(block);
    }
    (train, held_out)
}

pub(super) fn blocks(cells: &[Cell], side: u32) -> Vec<Vec<Cell>> {
    let mut blocks: BTreeMap<(u32, u32), Vec<Cell>> = BTreeMap::new();
    for &cell in cells {
        blocks.entry((cell.row / side, cell.col / side)).or_default().push(cell);
    }
    blocks.into_values().collect()
}

#[cfg(test)]
mod tests;
