//! What the planted tissue is made of: thirteen kinds of structure that a pathologist would tell apart at a glance.
//!
//! Lengths are model pixels, that is micrometres: slides are drawn at 1 µm per pixel. Even the palest, fat and mucin, are dark
//! enough for the search for tissue, on a weakly stained slide too: what it takes for glass, no patches are cut from.

/// One kind of structure.
#[derive(Debug, Clone, Copy)]
pub(super) struct Kind {
    pub(super) name: &'static str,
    /// Concentrations of haematoxylin, eosin, blood pigment and mucin outside all shapes.
    pub(super) ground: [f32; 4],
    /// Irregular blotches: size, and depth as a share of the ground.
    pub(super) grain: (f32, f32),
    pub(super) fibres: Option<Fibres>,
    pub(super) nuclei: Option<Nuclei>,
    pub(super) mesh: Option<Mesh>,
    pub(super) glands: Option<Glands>,
}

/// Parallel wavy strands.
#[derive(Debug, Clone, Copy)]
pub(super) struct Fibres {
    pub(super) pitch: f32,
    /// How much paler it is between strands, 0…1.
    pub(super) depth: f32,
    /// How far strands swing, in pixels.
    pub(super) swing: f32,
}

/// Nuclei at the points of a jittered grid.
#[derive(Debug, Clone, Copy)]
pub(super) struct Nuclei {
    pub(super) spacing: f32,
    pub(super) radius: f32,
    /// Standard share by which radii differ.
    pub(super) spread: f32,
    /// Length over width.
    pub(super) elongation: f32,
    /// Share of grid points that have one.
    pub(super) density: f32,
    /// Concentration of haematoxylin.
    pub(super) strength: f32,
    /// Width of a clear halo.
    pub(super) halo: f32,
}

/// Rounded polygons, each the territory of a grid point: cells with borders, fat, droplets.
#[derive(Debug, Clone, Copy)]
pub(super) struct Mesh {
    pub(super) spacing: f32,
    /// Width of the wall between two.
    pub(super) wall: f32,
    /// What the ground is multiplied by inside and in the wall.
    pub(super) inside: f32,
    pub(super) walls: f32,
}

/// Rings of nuclei around an empty lumen.
#[derive(Debug, Clone, Copy)]
pub(super) struct Glands {
    pub(super) spacing: f32,
    pub(super) lumen: f32,
    pub(super) epithelium: f32,
}

const PLAIN: Kind =
    Kind { name: "", ground: [0.0; 4], grain: (20.0, 0.2), fibres: None, nuclei: None, mesh: None, glands: None };
const NUCLEI: Nuclei =
    Nuclei { spacing: 14.0, radius: 3.2, spread: 0.15, elongation: 1.2, density: 0.9, strength: 1.5, halo: 0.0 };

pub(super) const KINDS: [Kind; 13] = [
    Kind {
        name: "lymphocytes",
        ground: [0.18, 0.12, 0.0, 0.0],
        nuclei: Some(Nuclei { spacing: 8.5, radius: 3.1, density: 0.97, strength: 1.9, ..NUCLEI }),
        ..PLAIN
    },
    Kind {
        name: "collagen",
        ground: [0.03, 0.55, 0.0, 0.0],
        fibres: Some(Fibres { pitch: 11.0, depth: 0.75, swing: 9.0 }),
        nuclei: Some(Nuclei { spacing: 26.0, radius: 2.0, elongation: 3.6, density: 0.7, ..NUCLEI }),
        ..PLAIN
    },
    Kind {
        name: "glands",
        ground: [0.05, 0.3, 0.0, 0.0],
        nuclei: Some(Nuclei { spacing: 24.0, radius: 2.2, elongation: 2.4, density: 0.6, ..NUCLEI }),
        glands: Some(Glands { spacing: 54.0, lumen: 10.0, epithelium: 10.0 }),
        ..PLAIN
    },
    Kind {
        name: "fat",
        ground: [0.05, 0.9, 0.0, 0.0],
        mesh: Some(Mesh { spacing: 28.0, wall: 5.0, inside: 0.1, walls: 1.0 }),
        ..PLAIN
    },
    Kind {
        name: "solid tumour",
        ground: [0.32, 0.4, 0.0, 0.0],
        nuclei: Some(Nuclei { spacing: 15.0, radius: 5.2, spread: 0.35, elongation: 1.4, strength: 1.1, ..NUCLEI }),
        ..PLAIN
    },
    Kind {
        name: "haemorrhage",
        ground: [0.0, 0.25, 0.1, 0.0],
        mesh: Some(Mesh { spacing: 8.0, wall: 1.6, inside: 2.6, walls: 0.5 }),
        ..PLAIN
    },
    Kind {
        name: "mucin",
        ground: [0.0, 0.02, 0.0, 0.6],
        grain: (34.0, 0.6),
        fibres: Some(Fibres { pitch: 30.0, depth: 0.6, swing: 26.0 }),
        nuclei: Some(Nuclei { spacing: 44.0, radius: 2.6, density: 0.4, ..NUCLEI }),
        ..PLAIN
    },
    Kind {
        name: "hepatocytes",
        ground: [0.12, 0.8, 0.0, 0.0],
        grain: (4.0, 0.3),
        nuclei: Some(Nuclei { spacing: 24.0, radius: 4.0, spread: 0.08, elongation: 1.0, strength: 1.3, ..NUCLEI }),
        mesh: Some(Mesh { spacing: 24.0, wall: 3.0, inside: 1.0, walls: 0.3 }),
        ..PLAIN
    },
    Kind {
        name: "cartilage",
        ground: [0.38, 0.06, 0.0, 0.16],
        grain: (60.0, 0.25),
        nuclei: Some(Nuclei { spacing: 34.0, radius: 3.2, density: 0.9, halo: 4.5, ..NUCLEI }),
        ..PLAIN
    },
    Kind {
        name: "smooth muscle",
        ground: [0.1, 0.95, 0.05, 0.0],
        fibres: Some(Fibres { pitch: 5.0, depth: 0.35, swing: 3.0 }),
        nuclei: Some(Nuclei { spacing: 17.0, radius: 1.8, elongation: 4.5, density: 0.85, ..NUCLEI }),
        ..PLAIN
    },
    Kind {
        name: "necrosis",
        ground: [0.1, 0.42, 0.0, 0.0],
        grain: (5.0, 0.9),
        nuclei: Some(Nuclei { spacing: 13.0, radius: 1.3, spread: 0.5, elongation: 1.0, density: 0.5, ..NUCLEI }),
        ..PLAIN
    },
    Kind {
        name: "keratin",
        ground: [0.02, 0.75, 0.42, 0.0],
        fibres: Some(Fibres { pitch: 15.0, depth: 0.5, swing: 30.0 }),
        ..PLAIN
    },
    Kind {
        name: "steatosis",
        ground: [0.14, 0.6, 0.0, 0.0],
        nuclei: Some(Nuclei { spacing: 24.0, radius: 3.2, density: 0.8, ..NUCLEI }),
        mesh: Some(Mesh { spacing: 13.0, wall: 6.0, inside: 0.0, walls: 1.0 }),
        ..PLAIN
    },
];
