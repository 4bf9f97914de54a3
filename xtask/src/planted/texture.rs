//! The stains that a pixel of a kind holds.

use std::f32::consts::{PI, TAU};

use super::kinds::{Fibres, Glands, Kind, Mesh, Nuclei};
use super::noise::{cover, nearest_point, random_at, smooth_at};

/// How far a grid of cells is out of order: half a spacing to each side at 1.
const JITTER: f32 = 0.75;
/// Length of the arc of a gland's epithelium per nucleus.
const GLAND_NUCLEUS: f32 = 8.0;
/// Haematoxylin of a gland's nuclei.
const GLAND_STRENGTH: f32 = 1.6;

/// What differs between two patches of tissue of one kind.
#[derive(Debug, Clone, Copy)]
pub(super) struct Site {
    pub(super) seed: u64,
    /// Direction of fibres and long nuclei.
    pub(super) angle: f32,
    /// Factor on distances between nuclei.
    pub(super) sparseness: f32,
}

/// Concentrations of haematoxylin, eosin, blood pigment and mucin at a pixel.
pub(super) fn stains(kind: &Kind, site: &Site, x: f32, y: f32) -> [f32; 4] {
    let seed = site.seed;
    let (size, depth) = kind.grain;
    let mut ground = 1.0 + depth * smooth_at(seed, x, y, size);
    // Directions turn slowly over a site.
    let angle = site.angle + 0.5 * smooth_at(seed ^ 2, x, y, 300.0);
    let (sine, cosine) = angle.sin_cos();
    if let Some(fibres) = kind.fibres {
        ground *= strands(&fibres, seed, x * cosine + y * sine, y * cosine - x * sine);
    }
    if let Some(mesh) = kind.mesh {
        ground *= polygons(&mesh, seed, x, y);
    }
    let mut found = kind.ground.map(|stain| stain * ground.max(0.0));
    let mut clear = 0f32;
    let mut haematoxylin = 0f32;
    if let Some(nuclei) = kind.nuclei {
        let (body, halo) = nucleus(&nuclei, site, x, y, angle);
        haematoxylin = body * nuclei.strength;
        clear = halo;
    }
    if let Some(glands) = kind.glands {
        let gland = gland(&glands, seed, x, y);
        // Neither stroma nor its nuclei within a gland.
        haematoxylin = haematoxylin * (1.0 - gland.within) + gland.nucleus * GLAND_STRENGTH;
        found = found.map(|stain| stain * (1.0 - gland.within));
        found[0] += 0.25 * (gland.within - gland.lumen);
        found[1] += 0.35 * (gland.within - gland.lumen);
    }
    found = found.map(|stain| stain * (1.0 - clear));
    // Chromatin is not even either.
    found[0] += haematoxylin * (1.0 + 0.25 * smooth_at(seed ^ 3, x, y, 2.0));
    found
}

/// 1 on a strand, less between; `along` and `across` in the strands' own frame.
fn strands(fibres: &Fibres, seed: u64, along: f32, across: f32) -> f32 {
    let swing = fibres.swing * smooth_at(seed ^ 4, along, across, 6.0 * fibres.pitch);
    let phase = (across + swing) / fibres.pitch;
    let uneven = 0.7 + 0.3 * smooth_at(seed ^ 5, along / 4.0, across, fibres.pitch);
    1.0 - fibres.depth * (0.5 + 0.5 * (TAU * phase).cos()) * uneven
}

fn polygons(mesh: &Mesh, seed: u64, x: f32, y: f32) -> f32 {
    let at = nearest_point(mesh_seed(seed), x, y, mesh.spacing, JITTER);
    let inside = cover(at.to_border - mesh.wall / 2.0);
    mesh.walls + (mesh.inside - mesh.walls) * inside
}

/// Meshes and nuclei of one spacing share their points: a cell has its nucleus in its middle.
fn mesh_seed(seed: u64) -> u64 {
    seed ^ 6
}

/// Coverage by the nearest nucleus, and by the clear halo around it.
fn nucleus(nuclei: &Nuclei, site: &Site, x: f32, y: f32, angle: f32) -> (f32, f32) {
    let seed = mesh_seed(site.seed);
    let at = nearest_point(seed, x, y, nuclei.spacing * site.sparseness, JITTER);
    let random = |salt| random_at(seed, at.cell.0, at.cell.1, salt);
    if random(3) > nuclei.density {
        return (0.0, 0.0);
    }
    let own = angle + (random(4) - 0.5) * if nuclei.elongation > 2.0 { 0.5 } else { TAU };
    let (sine, cosine) = own.sin_cos();
    let [dx, dy] = at.offset;
    let stretch = nuclei.elongation.sqrt();
    let distance = ((dx * cosine + dy * sine) / stretch).hypot((dy * cosine - dx * sine) * stretch);
    // The sum of two uniform numbers, of standard deviation 1.
    let radius = nuclei.radius * (1.0 + nuclei.spread * 2.45 * (random(5) + random(6) - 1.0));
    let halo = if nuclei.halo > 0.0 { cover(radius + nuclei.halo - distance) } else { 0.0 };
    (cover(radius - distance), halo)
}

/// Shares of a pixel in a gland.
struct InGland {
    within: f32,
    lumen: f32,
    nucleus: f32,
}

fn gland(glands: &Glands, seed: u64, x: f32, y: f32) -> InGland {
    let at = nearest_point(seed ^ 7, x, y, glands.spacing, 0.5);
    let random = |salt| random_at(seed ^ 7, at.cell.0, at.cell.1, salt);
    let [dx, dy] = at.offset;
    let distance = dx.hypot(dy) * (1.0 + 0.15 * smooth_at(seed ^ 8, x, y, 18.0));
    let lumen = glands.lumen * (0.75 + 0.5 * random(3));
    let outer = lumen + glands.epithelium;
    // Nuclei sit in the outer half of the epithelium, evenly spaced.
    let ring = lumen + 0.62 * glands.epithelium;
    let count = (TAU * ring / GLAND_NUCLEUS).round().max(3.0);
    let turn = dy.atan2(dx) / TAU * count + random(4);
    let aside = (turn - turn.round()) / count * TAU * distance.min(PI * ring);
    let nucleus = cover(3.2 - (aside * 1.1).hypot((distance - ring) * 0.85));
    InGland { within: cover(outer - distance), lumen: cover(lumen - distance), nucleus }
}
