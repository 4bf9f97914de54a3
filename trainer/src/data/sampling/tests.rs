use std::fs;
use std::sync::atomic::{AtomicU32, Ordering};

use super::*;
use crate::config::SetFolder;
use crate::testing::{slides, slides_config as config};
use tch::Kind;
use tissuemap::contract::StainSpec;

#[test]
fn patches_are_drawn_from_every_set_on_tissue_and_repeat_with_the_seed() {
    let Some(folder) = slides() else { return };
    let stores = tempfile::tempdir().expect("folder");
    let draw = |seed: u64, store: &str| {
        let config = Config { seed, ..config() };
        patches(&config, folder.path(), &stores.path().join(store), &|| false).expect("patches")
    };
    let drawn = draw(1, "a");
    let train = drawn.train.range(0, drawn.train.count()).expect("read");
    assert_eq!((drawn.sets.len(), train.size()), (2, vec![90, 3, 32, 32]));
    assert_eq!(drawn.held_out.count(), 10);
    // Centres lie on tissue, whose green is far below that of glass, but for cells that tissue fills in part.
    let green = train.select(1, 1).select(1, 16).select(1, 16);
    let on_tissue = green.lt(200).sum(Kind::Int64).int64_value(&[]);
    assert!(on_tissue >= 80, "{on_tissue} of 90");
    assert_eq!(drawn.digest(), draw(1, "b").digest());
    assert_ne!(drawn.digest(), draw(2, "c").digest());
}

#[test]
fn drawing_that_was_interrupted_goes_on_and_ends_in_the_same_patches() {
    let Some(folder) = slides() else { return };
    let stores = tempfile::tempdir().expect("folder");
    let (whole, parts) = (stores.path().join("whole"), stores.path().join("parts"));
    let whole = patches(&config(), folder.path(), &whole, &|| false).expect("patches");
    // Each run stops at a later question than the one before: before, in and behind each set.
    let mut stops = 0;
    let resumed = loop {
        let asked = AtomicU32::new(0);
        let interrupted = || asked.fetch_add(1, Ordering::Relaxed) >= stops;
        match patches(&config(), folder.path(), &parts, &interrupted) {
            Ok(drawn) => break drawn,
            Err(TrainError::Interrupted { .. }) => stops += 1,
            Err(other) => panic!("{other}"),
        }
    };
    assert!(stops > 2, "{stops}");
    assert_eq!(resumed.digest(), whole.digest());
    let pixels = |set: &PatchSet| set.train.range(0, set.train.count()).expect("read");
    assert_eq!(pixels(&resumed), pixels(&whole));
}

#[test]
fn the_same_patches_are_drawn_once_and_other_ones_anew() {
    let Some(folder) = slides() else { return };
    let store = tempfile::tempdir().expect("folder");
    let draw = |config: &Config, may_draw: bool| patches(config, folder.path(), store.path(), &|| !may_draw);
    let first = draw(&config(), true).expect("drawn").digest();
    // Training settings decide nothing about patches. A run that may not draw finds all it needs.
    let other_training = Config { clusters: 5, ..config() };
    assert_eq!(draw(&other_training, false).expect("found").digest(), first);
    let mut fewer = config();
    fewer.patches.per_set = 20;
    assert!(draw(&fewer, false).is_err(), "they have to be drawn");
    assert_eq!(draw(&fewer, true).expect("drawn").train.count(), 36);
    // A slide that was touched may show something else.
    let slide = fs::File::options().append(true).open(folder.path().join("a_HE.tif")).expect("slide");
    slide.set_modified(std::time::SystemTime::UNIX_EPOCH).expect("touched");
    assert!(draw(&fewer, false).is_err(), "they have to be drawn");
}

#[test]
fn held_out_folders_give_no_patch_to_train_on() {
    let Some(folder) = slides() else { return };
    let apart = folder.path().join("apart");
    fs::create_dir(&apart).expect("folder");
    fs::rename(folder.path().join("b_HE.tif"), apart.join("b_HE.tif")).expect("moved");
    let mut config = config();
    config.sets.push(SetFolder { folder: "apart".into(), manifest: None, mpp: None, held_out: true });
    let stores = tempfile::tempdir().expect("folder");
    let draw = |config: &Config, store: &str| patches(config, folder.path(), &stores.path().join(store), &|| false);
    let drawn = draw(&config, "a").expect("patches");
    assert_eq!(drawn.sets, ["a", "b"]);
    assert!(drawn.train.origins().iter().all(|origin| origin.set == 0));
    let held_out = drawn.held_out.origins();
    assert_eq!((held_out.len(), held_out.iter().filter(|origin| origin.set == 1).count()), (55, 50));
    // The same folder cannot be both.
    config.sets[1].folder = ".".into();
    let error = draw(&config, "b").expect_err("both");
    assert!(error.to_string().contains("a_HE.tif is in a held-out folder and in one to train on"), "{error}");
    // Sets that cannot be used leave nothing to train on.
    config.sets[0].folder = "empty".into();
    config.sets[1].folder = "apart".into();
    fs::create_dir(folder.path().join("empty")).expect("folder");
    let error = draw(&config, "c").expect_err("nothing to train on");
    assert!(error.to_string().contains("every section set that can be used is held out"), "{error}");
}

#[test]
fn a_set_that_lacks_a_stain_is_left_out_and_none_left_is_an_error() {
    let Some(folder) = slides() else { return };
    let mut config = config();
    config.stains.push(StainSpec { name: "CD31".to_owned(), aliases: Vec::new() });
    let store = tempfile::tempdir().expect("folder");
    let error = patches(&config, folder.path(), store.path(), &|| false).expect_err("incomplete");
    assert!(matches!(error, TrainError::NoData(_)), "{error}");
}

#[test]
fn interruption_is_heard_before_a_slide_is_opened() {
    let Some(folder) = slides() else { return };
    let store = tempfile::tempdir().expect("folder");
    let error = patches(&config(), folder.path(), store.path(), &|| true).expect_err("interrupted");
    assert_eq!(error.exit_code(), 130);
}

#[test]
fn missing_folder_is_named() {
    let store = tempfile::tempdir().expect("folder");
    let error = patches(&config(), Path::new("no/such/folder"), store.path(), &|| false).expect_err("missing");
    assert!(error.to_string().contains("no/such/folder"), "{error}");
}
