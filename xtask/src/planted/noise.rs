//! Random fields that depend on the place and the seed only, so that every pixel can be made by itself.

/// Steele, Lea & Flood's `SplitMix64` finaliser: neighbouring inputs give unrelated outputs.
fn mixed(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// A number in 0…1 for a place of a grid; `salt` tells several of one place apart.
pub(super) fn random_at(seed: u64, x: i64, y: i64, salt: u64) -> f32 {
    let place = mixed((x as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ mixed(y as u64 ^ seed.rotate_left(32)));
    (mixed(place ^ mixed(seed.wrapping_add(salt))) >> 40) as f32 / (1u64 << 24) as f32
}

/// Smooth noise, −1…1, that changes over about `size` pixels: two octaves of values on a grid, joined by Perlin's quintic.
pub(super) fn smooth_at(seed: u64, x: f32, y: f32, size: f32) -> f32 {
    (2.0 * octave(seed, x / size, y / size) + octave(seed ^ 1, 2.0 * x / size, 2.0 * y / size)) / 3.0
}

fn octave(seed: u64, x: f32, y: f32) -> f32 {
    let ease = |t: f32| t * t * t * (t * (t * 6.0 - 15.0) + 10.0);
    let (left, top) = (x.floor(), y.floor());
    let (u, v) = (ease(x - left), ease(y - top));
    let corner = |dx: i64, dy: i64| 2.0 * random_at(seed, left as i64 + dx, top as i64 + dy, 0) - 1.0;
    let row = |dy: i64| corner(0, dy) + (corner(1, dy) - corner(0, dy)) * u;
    row(0) + (row(1) - row(0)) * v
}

/// The point of a jittered grid that is nearest to a pixel.
#[derive(Debug, Clone, Copy)]
pub(super) struct Nearest {
    /// From the point to the pixel.
    pub(super) offset: [f32; 2],
    /// Distance of the pixel to the border with the next point's territory, about (F2 − F1) / 2 of Worley 1996.
    pub(super) to_border: f32,
    /// The grid cell of the point, from which its own random numbers come.
    pub(super) cell: (i64, i64),
}

/// In a grid of points `spacing` pixels apart, each moved by up to `jitter` spacings.
pub(super) fn nearest_point(seed: u64, x: f32, y: f32, spacing: f32, jitter: f32) -> Nearest {
    let (column, row) = ((x / spacing).floor() as i64, (y / spacing).floor() as i64);
    let mut best = (f32::INFINITY, [0.0; 2], (0, 0));
    let mut second = f32::INFINITY;
    for cell in (-1..=1).flat_map(|dy| (-1..=1).map(move |dx| (column + dx, row + dy))) {
        let along = |index: i64, salt: u64| {
            (index as f32 + 0.5 + jitter * (random_at(seed, cell.0, cell.1, salt) - 0.5)) * spacing
        };
        let offset = [x - along(cell.0, 1), y - along(cell.1, 2)];
        let square = offset[0] * offset[0] + offset[1] * offset[1];
        if square < best.0 {
            second = best.0;
            best = (square, offset, cell);
        } else {
            second = second.min(square);
        }
    }
    Nearest { offset: best.1, to_border: (second.sqrt() - best.0.sqrt()) / 2.0, cell: best.2 }
}

/// 1 inside a shape, 0 outside, over one pixel: `inside` is the distance to its edge, positive within.
pub(super) fn cover(inside: f32) -> f32 {
    (inside + 0.5).clamp(0.0, 1.0)
}
