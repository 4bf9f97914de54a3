use std::ops::ControlFlow;
use std::sync::Mutex;

use super::*;

/// Three moving sections of one tissue; the one at `replaced` shows another one.
fn sections(replaced: Option<usize>) -> [RgbImage; 3] {
    let (tissue, other) = (Tissue::new(20), Tissue::new(21));
    [(30.0, 4.0), (-100.0, 5.0), (175.0, 4.0)].map({
        let mut index = 0;
        move |(degrees, largest)| {
            let tissue = if replaced == Some(index) { &other } else { &tissue };
            index += 1;
            tissue.moving((460, 460), bent(placed(degrees, 1.0, false, [230.0, 230.0]), largest))
        }
    })
}

fn qualities(moving: &[RgbImage], params: &RegisterParams) -> Vec<RegistrationQuality> {
    let fixed = Tissue::new(20).fixed();
    let found = register_set(&fixed, moving, mpp(), params, &|_, _| ControlFlow::Continue(())).expect("not cancelled");
    found.into_iter().map(|found| found.expect("textured").quality).collect()
}

#[test]
fn the_cycle_closes_for_sections_of_one_tissue() {
    for quality in qualities(&sections(None), &RegisterParams::default()) {
        let error_px = quality.cycle_error_um.expect("two cycles") / mpp().get();
        assert!(error_px < 1.0, "{error_px} px, {quality:?}");
        assert_eq!(quality.verdict, Verdict::Good, "{quality:?}");
    }
}

#[test]
fn the_cycle_does_not_close_for_the_one_section_of_another_tissue() {
    let qualities = qualities(&sections(Some(1)), &RegisterParams::default());
    for (section, quality) in qualities.iter().enumerate() {
        let error_px = quality.cycle_error_um.map(|um| um / mpp().get());
        if section == 1 {
            // Refused for other reasons, it is in no cycle.
            assert!(error_px.is_none_or(|error| error > 5.0), "{error_px:?} px, {quality:?}");
            assert_ne!(quality.verdict, Verdict::Good, "{quality:?}");
        } else {
            let error_px = error_px.expect("a cycle with the other good one");
            // The bad neighbour spoils one of the two cycles only.
            assert!(error_px < 1.0, "section {section}: {error_px} px, {quality:?}");
            assert_eq!(quality.verdict, Verdict::Good, "section {section}: {quality:?}");
        }
    }
}

#[test]
fn without_a_second_section_or_without_the_wish_nothing_is_cycled() {
    let sections = sections(None);
    let unwished = RegisterParams { cycle_check: false, ..RegisterParams::default() };
    assert!(qualities(&sections[..1], &RegisterParams::default())[0].cycle_error_um.is_none());
    assert!(qualities(&sections[..2], &unwished).iter().all(|quality| quality.cycle_error_um.is_none()));
}

#[test]
fn progress_counts_up_to_all_registrations_and_a_break_ends_them() {
    let fixed = Tissue::new(20).fixed();
    let sections = sections(None);
    let heard = Mutex::new(Vec::new());
    let listen = |done, total| {
        heard.lock().expect("no panic").push((done, total));
        ControlFlow::Continue(())
    };
    register_set(&fixed, &sections[..2], mpp(), &RegisterParams::default(), &listen).expect("not cancelled");
    let heard = heard.into_inner().expect("no panic");
    // Two to the reference, one between them.
    assert!(heard.iter().all(|(_, total)| *total == 3), "{heard:?}");
    assert_eq!(heard.iter().map(|(done, _)| *done).max(), Some(3));
    let refuse = |_, _| ControlFlow::Break(());
    let cancelled = register_set(&fixed, &sections[..2], mpp(), &RegisterParams::default(), &refuse);
    assert_eq!(cancelled, Err(Cancelled));
}
