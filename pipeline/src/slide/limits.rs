use std::path::Path;

use serde::{Deserialize, Serialize};

use super::{Level, SlideError};

/// What is refused before a pixel is read: a crafted header must not be able to claim all memory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Longest side of level 0. The largest scanners' glass (75 × 50 mm at 0.1 µm) is 750,000 pixels long.
    pub max_side_px: u64,
    /// Number of levels; halving from the longest side down to one pixel gives 20.
    pub max_levels: u64,
    /// Pixels of one block that is read at once; 64 Mpx are 256 MiB inside OpenSlide.
    pub max_block_px: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self { max_side_px: 1_000_000, max_levels: 32, max_block_px: 64 << 20 }
    }
}

impl Limits {
    pub(super) fn check_levels(&self, path: &Path, levels: &[Level]) -> Result<(), SlideError> {
        let corrupt =
            |reason: String| SlideError::Corrupt { path: path.into(), vendor: "its vendor's format".into(), reason };
        let too_large = |what, value: u64, limit| Err(SlideError::too_large(path, what, value, limit));
        let Some(base) = levels.first() else { return Err(corrupt("it has no levels".into())) };
        let side = u64::from(base.width.max(base.height));
        if side > self.max_side_px {
            return too_large("longest side in pixels", side, self.max_side_px);
        }
        if levels.len() as u64 > self.max_levels {
            return too_large("number of levels", levels.len() as u64, self.max_levels);
        }
        for (index, level) in levels.iter().enumerate() {
            if level.width == 0 || level.height == 0 || !level.downsample.is_finite() || level.downsample < 1.0 - 1e-6 {
                return Err(corrupt(format!(
                    "level {index} is {}x{}, downsample {}",
                    level.width, level.height, level.downsample
                )));
            }
        }
        Ok(())
    }

    pub(super) fn check_block(&self, path: &Path, width: u32, height: u32) -> Result<(), SlideError> {
        let pixels = u64::from(width) * u64::from(height);
        if pixels > self.max_block_px {
            return Err(SlideError::too_large(path, "pixels in one block", pixels, self.max_block_px));
        }
        Ok(())
    }
}
