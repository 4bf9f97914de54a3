use super::*;
use crate::testing::new_attributes;
use serde_json::Value;

/// Bytes of a patch of one stain, 2 px a side.
const PATCH: usize = 12;

/// Opens a store of such patches.
fn open(folder: &Path, fingerprint: &str) -> (Store, StoreState) {
    Store::open(folder, new_attributes(fingerprint, 1, 2)).expect("opens")
}

/// Patch `i` has the value `i` everywhere, more or less.
fn pixels(rows: std::ops::Range<usize>) -> Vec<u8> {
    rows.flat_map(|i| [(i % 251) as u8; PATCH]).collect()
}

/// Adds a set whose patches follow those that are there, a tenth of them held out.
fn add(store: &mut Store, name: &str, count: usize) {
    let first = store.rows() as usize;
    let mut set = store.begin_set();
    let corners: Vec<(i64, i64)> = (first..first + count).map(|i| (i as i64, -(i as i64))).collect();
    let border = count - count / 10;
    set.add(&pixels(first..first + border), &corners[..border], false).expect("added");
    set.add(&pixels(first + border..first + count), &corners[border..], true).expect("added");
    set.finish(name).expect("finished");
}

fn all(store: &Store) -> Vec<u8> {
    let mut bytes = vec![0; store.rows() as usize * PATCH];
    store.read(0, &mut bytes).expect("read");
    bytes
}

#[test]
fn what_is_added_comes_back_across_chunks() {
    let folder = tempfile::tempdir().expect("folder");
    let (mut store, found) = open(folder.path(), "f");
    assert_eq!(found, StoreState::Empty);
    add(&mut store, "a", 300);
    add(&mut store, "b", 400);
    store.leave_out("c", "no tissue").expect("noted");
    store.complete().expect("complete");
    let before = store.attributes().clone();
    drop(store);
    let (store, found) = open(folder.path(), "f");
    assert_eq!((found, store.attributes()), (StoreState::Complete, &before));
    assert_eq!(before.sets.iter().map(|set| (set.patches, set.held_out)).collect::<Vec<_>>(), [(300, 30), (400, 40)]);
    assert_eq!(all(&store), pixels(0..700));
    let origins_and_split = store.origins_and_split().expect("read");
    assert_eq!(origins_and_split[269], (Origin { set: 0, x: 269, y: -269 }, false));
    assert_eq!(origins_and_split[270], (Origin { set: 0, x: 270, y: -270 }, true));
    assert_eq!(origins_and_split[300], (Origin { set: 1, x: 300, y: -300 }, false));
}

#[test]
fn a_set_that_was_torn_leaves_no_trace() {
    let (whole, torn) = (tempfile::tempdir().expect("folder"), tempfile::tempdir().expect("folder"));
    let mut store = open(whole.path(), "f").0;
    add(&mut store, "a", 300);
    add(&mut store, "b", 280);
    let whole_patches = (all(&store), store.attributes().clone());

    let mut store = open(torn.path(), "f").0;
    add(&mut store, "a", 300);
    // Killed with rows on the disk, then with the arrays' lengths as well.
    let mut set = store.begin_set();
    set.add(&[7; 350 * PATCH], &[(9, 9); 350], true).expect("added");
    drop(set);
    store.set_row_count(650).expect("declared");
    drop(store);
    let (mut store, found) = open(torn.path(), "f");
    assert_eq!((found, store.rows()), (StoreState::Partial, 300));
    add(&mut store, "b", 280);
    assert_eq!((all(&store), store.attributes().clone()), whole_patches);
    let shape = |folder: &Path| {
        let text = fs::read(folder.join("patches/zarr.json")).expect("metadata");
        serde_json::from_slice::<Value>(&text).expect("JSON")["shape"].clone()
    };
    assert_eq!((shape(torn.path()), shape(whole.path())), (json!([580, 3, 2, 2]), json!([580, 3, 2, 2])));
}

#[test]
fn another_fingerprint_starts_anew_even_with_patches_of_another_size() {
    let folder = tempfile::tempdir().expect("folder");
    let mut store = Store::open(folder.path(), new_attributes("f", 2, 8)).expect("opens").0;
    let mut set = store.begin_set();
    set.add(&[1; 10 * 6 * 64], &[(0, 0); 10], false).expect("added");
    set.finish("a").expect("finished");
    store.complete().expect("complete");
    drop(store);
    let (mut store, found) = open(folder.path(), "g");
    assert_eq!((found, store.rows()), (StoreState::Outdated, 0));
    add(&mut store, "a", 20);
    assert_eq!(all(&store), pixels(0..20));
}

#[test]
fn a_folder_of_something_else_is_left_alone() {
    let folder = tempfile::tempdir().expect("folder");
    let letter = folder.path().join("letter.txt");
    fs::write(&letter, "dear").expect("written");
    let error = Store::open(folder.path(), new_attributes("f", 1, 2)).expect_err("not ours");
    let source = std::error::Error::source(&error).map(ToString::to_string);
    assert_eq!(source.as_deref(), Some("the folder contains something else than patches"));
    assert_eq!(fs::read_to_string(&letter).expect("there"), "dear");
    assert_eq!(fs::read_dir(folder.path()).expect("listed").count(), 1);
}

#[test]
fn many_read_and_one_alone_draws() {
    let folder = tempfile::tempdir().expect("folder");
    let refused = |fingerprint: &str| {
        let error = Store::open(folder.path(), new_attributes(fingerprint, 1, 2)).expect_err("in use");
        std::error::Error::source(&error).map(ToString::to_string)
    };
    let busy = Some("another program uses these patches".to_owned());
    let (mut drawing, _) = open(folder.path(), "f");
    assert_eq!(refused("f"), busy);
    add(&mut drawing, "a", 20);
    drawing.complete().expect("complete");
    let (reading, found) = open(folder.path(), "f");
    assert_eq!(found, StoreState::Complete);
    assert_eq!(refused("g"), busy, "nobody takes patches away that are being read");
    drop((drawing, reading));
    assert_eq!(open(folder.path(), "g").1, StoreState::Outdated);
}

#[test]
fn files_are_what_the_zarr_specification_says() {
    let folder = tempfile::tempdir().expect("folder");
    let mut store = open(folder.path(), "f").0;
    add(&mut store, "a", 300);
    let metadata = |node: &str| {
        let text = fs::read(folder.path().join(node).join("zarr.json")).expect("metadata");
        serde_json::from_slice::<Value>(&text).expect("JSON")
    };
    assert_eq!(metadata("")["node_type"], "group");
    assert_eq!(metadata("")["attributes"]["sets"][0]["name"], "a");
    let patches = metadata("patches");
    assert_eq!(patches["chunk_grid"]["configuration"]["chunk_shape"], json!([256, 3, 2, 2]));
    assert_eq!(patches["codecs"], json!([{"name": "bytes"}]));
    // Row 256 is the first one of the second chunk; every chunk has its full length.
    let chunk = fs::read(folder.path().join("patches/c/1/0/0/0")).expect("chunk");
    assert_eq!((chunk.len(), &chunk[..PATCH]), (256 * PATCH, &[5; PATCH][..]));
    let origin = fs::read(folder.path().join("origin/c/0/0")).expect("chunk");
    assert_eq!(origin[2 * 16..3 * 16], [2i64.to_le_bytes(), (-2i64).to_le_bytes()].concat());
    assert_eq!(metadata("origin")["codecs"][0]["configuration"]["endian"], "little");
}
