use super::*;
use crate::data::store::Store;
use crate::testing::{new_attributes, somewhere};
use std::fs;
use std::thread;
use std::time::Duration;
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
        batches(scope, &patches, &order, 3, Device::Cpu).map(|batch| values(&batch.expect("gathered"))).collect()
    });
    assert_eq!(batches, [vec![7, 3, 49], vec![0, 3, 11]]);
}

#[test]
fn what_several_threads_make_comes_in_order_and_ends_with_the_first_error() {
    let made = |fails: usize| -> Vec<Option<usize>> {
        let make = move |index: usize| {
            // The first are the slowest.
            thread::sleep(Duration::from_millis(if index < 3 { 20 } else { 0 }));
            (index != fails).then_some(index).ok_or_else(|| TrainError::NoData("that one".to_owned()))
        };
        thread::scope(|scope| prefetch(scope, 10, 3, make).map(Result::ok).collect())
    };
    assert_eq!(made(99), (0..10).map(Some).collect::<Vec<_>>());
    assert_eq!(made(4), [Some(0), Some(1), Some(2), Some(3), None]);
}

#[test]
fn dropped_early_it_ends() {
    let (patches, order) = (patches(), (0..50).collect::<Vec<_>>());
    let first = thread::scope(|scope| {
        batches(scope, &patches, &order, 2, Device::Cpu).next().expect("a batch").expect("gathered")
    });
    assert_eq!(values(&first), [0, 1]);
}

#[test]
fn an_error_comes_through_in_its_place_and_ends_the_batches() {
    let folder = tempfile::tempdir().expect("folder");
    let (mut store, _) = Store::open(folder.path(), new_attributes("f", 1, 2)).expect("new");
    let mut set = store.begin_set();
    set.add(&[1; 600 * 12], &[(0, 0); 600], false).expect("added");
    set.finish("a").expect("finished");
    let patches = crate::data::patches::PatchSet::stored(store).expect("read").train;
    // The second chunk of 256 goes missing behind the program's back.
    fs::remove_file(folder.path().join("patches/c/1/0/0/0")).expect("removed");
    let order = [0, 599, 1, 300, 2, 3];
    let outcomes: Vec<bool> =
        thread::scope(|scope| batches(scope, &patches, &order, 2, Device::Cpu).map(|batch| batch.is_ok()).collect());
    assert_eq!(outcomes, [true, false]);
}
