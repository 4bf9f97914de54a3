use super::*;
use image::{Rgb, RgbImage};
use proptest::prelude::*;
use tissuemap::pyramid;
use tissuemap::units::Mpp;

fn rectangle(cols: u32, rows: u32) -> Vec<Cell> {
    (0..rows).flat_map(|row| (0..cols).map(move |col| Cell { col, row })).collect()
}

proptest! {
    #[test]
    fn every_cell_is_in_one_part_and_no_part_is_empty(
        cols in 1u32..40, rows in 2u32..40, block in 1u32..20, fraction in 0.01f64..0.5, seed in 0u64..1000,
    ) {
        let cells = rectangle(cols, rows);
        let (train, held_out) = part(&cells, block, fraction, &mut generator(seed, "set"));
        prop_assert!(!train.is_empty() && !held_out.is_empty());
        let mut all: Vec<Cell> = train.iter().chain(&held_out).copied().collect();
        all.sort_by_key(|cell| (cell.row, cell.col));
        prop_assert_eq!(all, cells);
    }
}

#[test]
fn held_out_cells_form_blocks_of_about_the_wanted_share() {
    let cells = rectangle(40, 40);
    let (_, held_out) = part(&cells, 4, 0.1, &mut generator(1, "set"));
    assert_eq!(held_out.len(), 160);
    let blocks = blocks(&held_out, 4);
    assert!(blocks.iter().all(|block| block.len() == 16));
}

#[test]
fn one_cell_cannot_be_parted() {
    let (train, held_out) = part(&rectangle(1, 1), 4, 0.1, &mut generator(1, "set"));
    assert_eq!((train.len(), held_out.len()), (0, 1));
}

/// A purple disc with some texture on white glass, 1 mm across at 1 µm per pixel.
fn section() -> RgbImage {
    RgbImage::from_fn(1200, 1200, |x, y| {
        let (dx, dy) = (f64::from(x) - 600.0, f64::from(y) - 600.0);
        let texture = ((x / 7 + y / 5) % 4 * 20) as u8;
        if dx.hypot(dy) < 500.0 { Rgb([150 + texture, 80 + texture, 150]) } else { Rgb([250; 3]) }
    })
}

fn config() -> Config {
    let mut config = Config::default();
    config.patches.patch_px = 32;
    config.patches.stride_px = 16;
    config.patches.per_set = 50;
    config.sets[0].folder = ".".into();
    config
}

/// Folder with the HE sections of two cases, or nothing when slides cannot be read here.
fn slides() -> Option<tempfile::TempDir> {
    if let Err(error) = tissuemap::slide::load_openslide() {
        eprintln!("SKIPPED: {error}");
        return None;
    }
    let folder = tempfile::tempdir().expect("folder");
    for case in ["a", "b"] {
        let path = folder.path().join(format!("{case}_HE.tif"));
        pyramid::write_rgb(&path, &section(), Mpp::new(1.0).expect("plausible"), "test").expect("written");
    }
    Some(folder)
}

#[test]
fn patches_are_drawn_from_every_set_on_tissue_and_repeat_with_the_seed() {
    let Some(folder) = slides() else { return };
    let draw = |seed| patches(&Config { seed, ..config() }, folder.path(), &|| false).expect("patches");
    let drawn = draw(1);
    let train = drawn.train.range(0, drawn.train.count()).expect("read");
    assert_eq!((drawn.sets.len(), train.size()), (2, vec![90, 3, 32, 32]));
    assert_eq!(drawn.held_out.count(), 10);
    // Centres lie on tissue, whose green is far below that of glass, but for cells that tissue fills in part.
    let green = train.select(1, 1).select(1, 16).select(1, 16);
    let on_tissue = green.lt(200).sum(Kind::Int64).int64_value(&[]);
    assert!(on_tissue >= 80, "{on_tissue} of 90");
    assert_eq!(drawn.digest().expect("digest"), draw(1).digest().expect("digest"));
    assert_ne!(drawn.digest().expect("digest"), draw(2).digest().expect("digest"));
}

#[test]
fn a_set_that_lacks_a_stain_is_left_out_and_none_left_is_an_error() {
    let Some(folder) = slides() else { return };
    let mut config = config();
    config.stains.push(StainSpec { name: "CD31".to_owned(), aliases: Vec::new() });
    let error = patches(&config, folder.path(), &|| false).expect_err("incomplete");
    assert!(matches!(error, TrainError::NoData(_)), "{error}");
}

#[test]
fn interruption_is_heard_before_a_slide_is_opened() {
    let Some(folder) = slides() else { return };
    let error = patches(&config(), folder.path(), &|| true).expect_err("interrupted");
    assert_eq!(error.exit_code(), 130);
}

#[test]
fn missing_folder_is_named() {
    let error = patches(&config(), Path::new("no/such/folder"), &|| false).expect_err("missing");
    assert!(error.to_string().contains("no/such/folder"), "{error}");
}
