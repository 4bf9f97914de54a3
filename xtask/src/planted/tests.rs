use image::imageops;
use image::{ImageReader, Luma};
use tissuemap::slide::{self, OpenOptions};
use tissuemap::tissue::{TissueParams, find_tissue};

use super::*;

fn plan(kinds: usize, seed: u64) -> Plan {
    Plan { kinds, slides: 1, size: (900, 700), seed }
}

fn truth(folder: &Path) -> GrayImage {
    truth_of(folder, 1)
}

fn truth_of(folder: &Path, number: u32) -> GrayImage {
    let path = folder.join(format!("truth/planted{number}_HE.png"));
    ImageReader::open(path).expect("opens").decode().expect("decodes").into_luma8()
}

#[test]
fn every_kind_has_its_region_on_a_slide_that_openslide_opens() {
    let folder = tempfile::tempdir().expect("folder");
    let names = plant(&plan(7, 3), folder.path()).expect("planted");
    assert_eq!(names.len(), 7);
    let truth = truth(folder.path());
    let mut counts = [0usize; 8];
    truth.pixels().for_each(|Luma([kind])| counts[*kind as usize] += 1);
    let pixels = counts.iter().sum::<usize>();
    assert!(counts[1..].iter().all(|&count| count * 100 > pixels), "{counts:?}");
    assert!(counts[0] * 10 > pixels && counts[0] * 2 < pixels, "glass around tissue: {counts:?}");
    let slide = slide::open(&folder.path().join("planted1_HE.tif"), &OpenOptions::default()).expect("opens");
    assert!((slide.info().mpp.get() - 1.0).abs() < 1e-3 && slide.info().levels.len() > 1);
}

#[test]
fn no_kind_has_less_than_half_of_its_equal_share() {
    for (kinds, seed) in [(5, 1), (13, 1), (13, 2), (13, 3)] {
        let folder = tempfile::tempdir().expect("folder");
        plant(&Plan { slides: 2, ..plan(kinds, seed) }, folder.path()).expect("planted");
        for number in 1..=2 {
            let mut pixels = vec![0; kinds + 1];
            truth_of(folder.path(), number).pixels().for_each(|Luma([kind])| pixels[*kind as usize] += 1);
            let tissue: usize = pixels[1..].iter().sum();
            assert!(pixels[1..].iter().all(|&own| own * 2 * kinds >= tissue), "seed {seed}: {pixels:?}");
        }
    }
}

/// What the search for tissue takes for glass, no patches are cut from.
#[test]
fn every_kind_is_tissue_where_it_is_palest() {
    const SIDE: u32 = 512;
    const UM: u32 = 8;
    const GLASS: u32 = SIDE / 8;
    // The highest threshold that a slide can come to.
    let highest = TissueParams::default().max_density;
    let params = TissueParams { min_density: highest, max_density: highest, ..TissueParams::default() };
    let site = texture::Site { seed: 5, angle: 1.0, sparseness: 1.08 };
    // Weakly stained and thin.
    let strength = 0.85 * 0.9;
    let look = Look { seed: 1, strength: [strength; 4], glass: [243.0; 3], blur: 0.7, noise: 3.0 };
    for kind in &KINDS {
        let density = |i: u32| {
            let (x, y) = (i % SIDE, i / SIDE);
            let stains = if y < GLASS { [0.0; 4] } else { texture::stains(kind, &site, x as f32, y as f32) };
            std::array::from_fn(|c| PIGMENTS.iter().zip(stains).map(|(unit, stain)| unit[c] * stain * strength).sum())
        };
        let densities: Vec<[f32; 3]> = (0..SIDE * SIDE).map(density).collect();
        let thumbnail = imageops::thumbnail(&photograph(&densities, SIDE, SIDE, &look), SIDE / UM, SIDE / UM);
        let mask = find_tissue(&thumbnail, f64::from(UM), &params).tissue;
        let below = &mask[(SIDE / UM * GLASS / UM) as usize..];
        let found = below.iter().filter(|&&tissue| tissue).count();
        // Half of a patch must be tissue.
        assert!(4 * found > 3 * below.len(), "{}: {found} of {} pixels are tissue", kind.name, below.len());
    }
}

#[test]
fn same_seed_same_bytes_and_another_seed_others() {
    let bytes = |seed| {
        let folder = tempfile::tempdir().expect("folder");
        plant(&plan(3, seed), folder.path()).expect("planted");
        fs::read(folder.path().join("planted1_HE.tif")).expect("read")
    };
    assert!(bytes(1) == bytes(1) && bytes(1) != bytes(2));
}

#[test]
fn a_slide_too_small_for_its_kinds_is_refused() {
    let folder = tempfile::tempdir().expect("folder");
    let small = Plan { size: (20, 16), ..plan(MOST_KINDS, 1) };
    assert!(matches!(plant(&small, folder.path()), Err(PlantError::Crowded { kinds: MOST_KINDS, .. })));
}

#[test]
fn no_more_kinds_than_there_are() {
    let folder = tempfile::tempdir().expect("folder");
    for kinds in [0, MOST_KINDS + 1] {
        assert!(matches!(plant(&plan(kinds, 1), folder.path()), Err(PlantError::Kinds(_))));
    }
}
