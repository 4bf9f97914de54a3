//! Where the brown goes: four structure-dependent signals that carry different information.
//!
//! They imitate staining patterns, not biology: which cells are positive is drawn at random, guided by what the HE
//! section shows. Lengths are in micrometres, so that the patterns do not depend on the slide's resolution.

use rand::{Rng, RngExt};
use tissuemap::units::Mpp;

use super::plane::{Plane, smoothstep};
use super::spline::Spline;
use super::stain::Separated;

/// What an immunostain marks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Antigen {
    /// Nuclei of some cells, in hot spots (as a proliferation marker).
    Nuclear,
    /// Thin borders of eosinophilic structures: membranes, vessel walls.
    Vascular,
    /// Cytoplasm of cell-rich, haematoxylin-tinted layers, nuclei spared.
    Epithelial,
    /// Eosinophilic fibres far from dense nuclei.
    Stromal,
}

impl Antigen {
    /// DAB concentration in 0..=1 for every pixel of the source section.
    pub(crate) fn signal(self, tissue: &Separated, mpp: Mpp, rng: &mut impl Rng) -> Plane {
        let (h, e) = (&tissue.haematoxylin, &tissue.eosin);
        let px = |um: f64| um / mpp.get();
        let (width, height) = (h.width, h.height);
        let extent = [width as f64 * mpp.get(), height as f64 * mpp.get()];
        let mut patches = |um: f64| {
            let spline = Spline::random(rng, extent, um);
            // A cubic spline of values uniform in [−1, 1] has a standard deviation of about 0.28.
            Plane::from_fn(width, height, move |x, y| {
                (spline.at((x as f64 + 0.5) * mpp.get(), (y as f64 + 0.5) * mpp.get()) / 0.28) as f32
            })
        };
        // Cell-rich layers: haematoxylin averaged over several cells.
        let layer = h.blurred(px(9.0));
        match self {
            Self::Nuclear => {
                let hot = patches(120.0);
                let smooth = h.blurred(px(1.0));
                let around = h.blurred(px(8.0));
                let salt: u64 = rng.random();
                let nuclei = basins(&h.blurred(px(1.6)));
                Plane::from_fn(width, height, |x, y| {
                    let nucleus = smoothstep(0.02, 0.18, smooth.at(x, y) - around.at(x, y))
                        * smoothstep(0.3, 0.5, smooth.at(x, y));
                    let peak = nuclei[y * width + x];
                    let rich = smoothstep(0.2, 0.45, layer.values[peak]);
                    let positive = smoothstep(-0.4, 1.6, hot.values[peak]) * (0.2 + 0.7 * rich);
                    let draw = unit(salt ^ peak as u64);
                    // Positive nuclei differ in strength: the draw, below the fraction of positives, sets it.
                    nucleus * if draw < positive { 0.45 + 0.55 * (1.0 - draw / positive) } else { 0.0 }
                })
            }
            Self::Vascular => {
                let patch = patches(90.0);
                let edges = e.blurred(px(1.0)).gradient();
                let strong = edges.quantile(0.98, |v| v > 0.0);
                let body = e.blurred(px(1.5));
                Plane::from_fn(width, height, |x, y| {
                    smoothstep(0.35, 1.0, edges.at(x, y) / strong)
                        * smoothstep(0.1, 0.4, body.at(x, y))
                        * smoothstep(-0.3, 0.9, patch.at(x, y))
                        * (1.0 - 0.85 * smoothstep(0.25, 0.45, layer.at(x, y)))
                })
            }
            Self::Epithelial => {
                let patch = patches(150.0);
                let nuclei = h.blurred(px(1.0));
                let around = h.blurred(px(8.0));
                Plane::from_fn(width, height, |x, y| {
                    let nucleus = smoothstep(0.02, 0.18, nuclei.at(x, y) - around.at(x, y));
                    let cytoplasm = 0.5 * e.at(x, y).min(1.5) + 0.7 * h.at(x, y).min(1.5);
                    smoothstep(0.22, 0.42, layer.at(x, y))
                        * cytoplasm
                        * (1.0 - 0.85 * nucleus)
                        * (0.85 + 0.15 * patch.at(x, y)).clamp(0.0, 1.0)
                })
            }
            Self::Stromal => {
                let patch = patches(200.0);
                let fibres = e.blurred(px(0.6));
                Plane::from_fn(width, height, |x, y| {
                    smoothstep(0.15, 0.9, fibres.at(x, y))
                        * (1.0 - smoothstep(0.2, 0.38, layer.at(x, y)))
                        * (1.0 - smoothstep(0.2, 0.5, h.at(x, y)))
                        * (0.75 + 0.25 * patch.at(x, y)).clamp(0.2, 1.0)
                })
            }
        }
    }
}

/// For every pixel the index of the peak that steepest ascent leads to: a partition into spots, one per nucleus when
/// the plane is haematoxylin blurred to a nucleus' size.
fn basins(plane: &Plane) -> Vec<usize> {
    let (width, height) = (plane.width, plane.height);
    let uphill = |i: usize| {
        let (x, y) = (i % width, i / width);
        let (xs, ys) = (x.saturating_sub(1)..(x + 2).min(width), y.saturating_sub(1)..(y + 2).min(height));
        // Ties go to the larger index, so that a plateau has one peak and no cycle.
        ys.flat_map(|y| xs.clone().map(move |x| y * width + x))
            .max_by(|&a, &b| plane.values[a].total_cmp(&plane.values[b]).then(a.cmp(&b)))
            .unwrap_or(i)
    };
    let mut peak: Vec<usize> = (0..width * height).map(uphill).collect();
    let mut path = Vec::new();
    for i in 0..peak.len() {
        let mut at = i;
        while peak[at] != at {
            path.push(at);
            at = peak[at];
        }
        path.drain(..).for_each(|p| peak[p] = at);
    }
    peak
}

/// A hash of `key` as a number in [0, 1): the finaliser of splitmix64.
fn unit(key: u64) -> f32 {
    let mut z = key.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    ((z ^ (z >> 31)) >> 40) as f32 / (1u32 << 24) as f32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_spot_is_one_basin() {
        let bump =
            |x: usize, y: usize, cx: f32, cy: f32| (-((x as f32 - cx).powi(2) + (y as f32 - cy).powi(2)) / 30.0).exp();
        let plane = Plane::from_fn(60, 30, |x, y| bump(x, y, 15.0, 15.0) + bump(x, y, 44.0, 12.0));
        let peaks = basins(&plane);
        assert_eq!(peaks[15 * 60 + 15], 15 * 60 + 15);
        assert_eq!(peaks[10 * 60 + 20], 15 * 60 + 15);
        assert_eq!(peaks[16 * 60 + 40], 12 * 60 + 44);
        let mut distinct = peaks;
        distinct.sort_unstable();
        distinct.dedup();
        assert_eq!(distinct.len(), 2);
    }
}
