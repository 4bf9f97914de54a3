use super::*;
use crate::system::tensors::CHUNK;
use crate::testing::somewhere;
use tch::Device;

fn set(train: &Tensor) -> PatchSet {
    PatchSet { train: somewhere(train), held_out: somewhere(train), sets: vec!["a".to_owned()] }
}

#[test]
fn plane_statistics_equal_those_of_libtorch_over_several_chunks() {
    let _turn = crate::testing::seeded(1);
    let train = Tensor::randint(200, [CHUNK + 7, 3, 4, 4], (Kind::Uint8, Device::Cpu));
    let (mean, deviation) = set(&train).channel_statistics().expect("statistics");
    let x = train.to_kind(Kind::Double);
    let dims = [0i64, 2, 3];
    let expected_mean = x.mean_dim(dims.as_slice(), false, Kind::Double);
    let expected_deviation = x.std_dim(dims.as_slice(), false, false);
    assert!(Tensor::from_slice(&mean).to_kind(Kind::Double).allclose(&expected_mean, 1e-5, 1e-5, false));
    assert!(Tensor::from_slice(&deviation).to_kind(Kind::Double).allclose(&expected_deviation, 1e-5, 1e-5, false));
}

#[test]
fn a_blank_plane_is_not_stretched() {
    let blank = set(&Tensor::full([5, 3, 4, 4], 255, (Kind::Uint8, Device::Cpu)));
    let (mean, deviation) = blank.channel_statistics().expect("statistics");
    assert_eq!((mean, deviation), (vec![255.0; 3], vec![1.0; 3]));
}

#[test]
fn digest_changes_with_one_pixel() {
    let patches = || Tensor::zeros([300, 3, 4, 4], (Kind::Uint8, Device::Cpu));
    let same = set(&patches()).digest();
    assert_eq!(same, set(&patches()).digest());
    let changed = patches();
    let _ = changed.get(299).fill_(1);
    assert_ne!(same, set(&changed).digest());
}

/// A store of 40 patches `[3, 4, 4]` in two sets, every fourth held out, and the pixels of both parts.
fn store(folder: &std::path::Path) -> (Store, Tensor, Tensor) {
    let wanted = crate::testing::new_attributes("f", 1, 4);
    let (mut store, _) = Store::open(folder, wanted).expect("new");
    let parts = [30, 10].map(|count| Tensor::randint(256, [count, 3, 4, 4], (Kind::Uint8, Device::Cpu)));
    let bytes = |x: &Tensor, from: i64, to: i64| {
        Vec::<u8>::try_from(x.narrow(0, from, to - from).contiguous().view(-1)).expect("bytes")
    };
    for set in 0..2 {
        let mut writer = store.begin_set();
        for (part, count, held_out) in [(&parts[0], 15, false), (&parts[1], 5, true)] {
            let corners: Vec<(i64, i64)> = (0..count).map(|i| (set * 1000 + i, -i)).collect();
            writer.add(&bytes(part, set * count, (set + 1) * count), &corners, held_out).expect("added");
        }
        writer.finish(&format!("set {set}")).expect("finished");
    }
    store.complete().expect("complete");
    let [train, held_out] = parts;
    (store, train, held_out)
}

#[test]
fn stored_patches_are_those_in_memory() {
    let _turn = crate::testing::seeded(3);
    let folder = tempfile::tempdir().expect("folder");
    let (store, train, held_out) = store(folder.path());
    let stored = PatchSet::stored(store).expect("read");
    assert_eq!(stored.sets, ["set 0", "set 1"]);
    for (stored, pixels) in [(&stored.train, &train), (&stored.held_out, &held_out)] {
        let memory = somewhere(pixels);
        assert_eq!((stored.count(), stored.channels()), (memory.count(), memory.channels()));
        let order: Vec<i64> = (0..stored.count()).rev().step_by(2).chain([0, 0]).collect();
        let gathered = stored.gather(&order).expect("gathered");
        assert_eq!(gathered, memory.gather(&order).expect("gathered"));
        assert_eq!(gathered, pixels.index_select(0, &Tensor::from_slice(&order)));
        assert_eq!(stored.range(3, 9).expect("read"), memory.range(3, 9).expect("read"));
    }
    assert_eq!(stored.train.origins()[16], Origin { set: 1, x: 1001, y: -1 });
    let statistics = |train: Patches| {
        let set = PatchSet { train, held_out: somewhere(&held_out), sets: Vec::new() };
        set.channel_statistics().expect("statistics")
    };
    assert_eq!(statistics(stored.train), statistics(somewhere(&train)));
}
