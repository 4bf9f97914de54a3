//! Damaged slides through the real worker, as the fuzz target `slide` has them.

use std::cell::Cell;

use tissuemap_scanner::hostile::Examiner;

use crate::support;

#[path = "../fuzz/shared/replay.rs"]
mod replay;

#[test]
fn h04_damaged_slides_are_answered_for_and_the_next_sound_one_is_read() {
    let slides = support::data("h04_damaged_slides_are_answered_for").map(|data| data.join("slides"));
    let examiner = Examiner::new(&support::program("tissuemapd"), slides.as_deref()).expect("a worker starts");
    let (read, refused) = (Cell::new(0), Cell::new(0));
    replay::hold("slide", 40, |input| {
        let outcome = if examiner.examine(input).is_ok() { &read } else { &refused };
        outcome.set(outcome.get() + 1);
    });
    assert!(read.get() > 0 && refused.get() > 0, "{} read, {} refused", read.get(), refused.get());
    examiner.is_well().expect("a sound slide is read after damaged ones");
}
