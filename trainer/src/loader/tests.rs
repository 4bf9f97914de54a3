use super::*;
use crate::store::Store;
use crate::testing::{nothing_drawn, somewhere};
use std::fs;
use std::thread;
use tch::{Device, Kind};

/// 50 patches; each is filled with its index.
fn patches() -> Patches {
    let values = Tensor::arange(50, (Kind::Uint8, Device::Cpu)).view([50, 1, 1, 1]);
    somewhere(&values.expand([50, 3, 2, 2], false))
}

fn values(batch: &Tensor) -> Vec<i64> {
    Vec::try_from(batch.select(1, 0).select(1, 0).select(1, 0).to_kind(Kind::Int64)).expect("numbers")
}

#[test]
fn batches_come_whole_and_in_order() {
    let (patches, order) = (patches(), [7, 3, 49, 0, 3, 11, 20, 30]);
    let batches: Vec<Vec<i64>> = thread::scope(|scope| {
        batches(scope, &patches, &order, 3).map(|batch| values(&batch.expect("gathered"))).collect()
    });
    assert_eq!(batches, [vec![7, 3, 49], vec![0, 3, 11]]);
}

#[test]
fn dropped_early_it_ends() {
    let (patches, order) = (patches(), (0..50).collect::<Vec<_>>());
    let first = thread::scope(|scope| batches(scope, &patches, &order, 2).next().expect("a batch").expect("gathered"));
    assert_eq!(values(&first), [0, 1]);
}

#[test]
fn an_error_comes_through_in_its_place_and_ends_the_batches() {
    let folder = tempfile::tempdir().expect("folder");
    let (mut store, _) = Store::open(folder.path(), nothing_drawn("f", 1, 2)).expect("new");
    let mut set = store.begin();
    set.add(&[1; 600 * 12], &[(0, 0); 600], false).expect("added");
    set.finish("a").expect("finished");
    let patches = crate::dataset::PatchSet::stored(store).expect("read").train;
    // The second chunk of 256 goes missing behind the program's back.
    fs::remove_file(folder.path().join("patches/c/1/0/0/0")).expect("removed");
    let order = [0, 599, 1, 300, 2, 3];
    let outcomes: Vec<bool> =
        thread::scope(|scope| batches(scope, &patches, &order, 2).map(|batch| batch.is_ok()).collect());
    assert_eq!(outcomes, [true, false]);
}
