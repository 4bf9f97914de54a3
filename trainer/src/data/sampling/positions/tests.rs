use super::*;
use proptest::prelude::*;
use std::collections::BTreeSet;
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
        let (train, held_out) = split_cells(&cells, block, fraction, &mut generator(seed, "set"));
        prop_assert!(!train.is_empty() && !held_out.is_empty());
        let mut all: Vec<Cell> = train.iter().chain(&held_out).copied().collect();
        all.sort_by_key(|cell| (cell.row, cell.col));
        prop_assert_eq!(all, cells);
    }
}

#[test]
fn held_out_cells_form_blocks_of_about_the_wanted_share() {
    let cells = rectangle(40, 40);
    let (_, held_out) = split_cells(&cells, 4, 0.1, &mut generator(1, "set"));
    assert_eq!(held_out.len(), 160);
    let blocks = blocks(&held_out, 4);
    assert!(blocks.iter().all(|block| block.len() == 16));
}

#[test]
fn one_cell_cannot_be_parted() {
    let (train, held_out) = split_cells(&rectangle(1, 1), 4, 0.1, &mut generator(1, "set"));
    assert_eq!((train.len(), held_out.len()), (0, 1));
}

fn grid() -> Grid {
    let spec = PatchSpec { mpp: Mpp::new(1.0).expect("plausible"), patch_px: 64, stride_px: 32 };
    Grid { spec, origin_px: (0, 0), cols: 100, rows: 100 }
}

fn config(per_set: u32) -> config::Config {
    let mut config = config::Config::default();
    config.patches.per_set = per_set;
    config
}

#[test]
fn no_cell_is_used_twice_before_all_are_used_once() {
    let cells = rectangle(20, 10);
    let cell_of = |&(x, y): &(i64, i64)| ((x + 32) / 32, (y + 32) / 32);
    for (count, fewest, most) in [(150, 0, 1), (200, 1, 1), (700, 3, 4)] {
        let mut uses: BTreeMap<(i64, i64), u32> = BTreeMap::new();
        for place in &positions(&grid(), cells.clone(), count, &mut generator(1, "set")) {
            *uses.entry(cell_of(place)).or_default() += 1;
        }
        let least = if uses.len() < cells.len() { 0 } else { *uses.values().min().expect("some") };
        assert_eq!((least, uses.values().max()), (fewest, Some(&most)), "{count}");
    }
}

#[test]
fn a_set_with_little_tissue_is_warned_of_and_one_with_enough_is_not() {
    let draw = |cells: &[Cell]| PatchPositions::draw("set", &grid(), cells, false, &config(2000)).expect("enough");
    // Training cells: 2000 patches of 4 cells each, 90 % on 90 % of the cells.
    let enough = draw(&rectangle(40, 40));
    assert_eq!((enough.train.len(), enough.held_out.len(), enough.warning), (1800, 200, None));
    let warning = draw(&rectangle(10, 10)).warning.expect("crowded");
    assert!(warning.contains("2000 patches from 100 tissue cells: every spot is in 8"), "{warning}");
}

#[test]
fn a_held_out_set_gives_nothing_to_train_on() {
    let positions = PatchPositions::draw("set", &grid(), &rectangle(40, 40), true, &config(300)).expect("enough");
    assert_eq!((positions.train.len(), positions.held_out.len()), (0, 300));
    let reason = PatchPositions::draw("set", &grid(), &[], true, &config(300)).expect_err("nothing there");
    assert_eq!(reason, "it has 0 tissue cells, too few to evaluate on");
}

#[test]
fn patches_of_one_tile_follow_each_other() {
    let positions = positions(&grid(), rectangle(60, 60), 500, &mut generator(1, "set"));
    let tiles: Vec<(i64, i64)> =
        positions.iter().map(|(x, y)| (y.div_euclid(TILE_PX), x.div_euclid(TILE_PX))).collect();
    let changes = tiles.windows(2).filter(|pair| pair[0] != pair[1]).count();
    assert_eq!(changes + 1, tiles.iter().collect::<BTreeSet<_>>().len());
}
