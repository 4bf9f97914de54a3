use super::*;

/// Registers and expects the map to be found to within a pixel, and not to be refused.
fn is_found(name: &str, tissue: &Tissue, moving: &RgbImage, origin_of: impl Fn([f64; 2]) -> [f64; 2]) {
    is_found_left_of(f64::INFINITY, name, tissue, moving, origin_of);
}

/// The same for a section that is in place only left of `end`, in pixels of the fixed one.
fn is_found_left_of(
    end: f64,
    name: &str,
    tissue: &Tissue,
    moving: &RgbImage,
    origin_of: impl Fn([f64; 2]) -> [f64; 2],
) {
    let found = register(&tissue.fixed(), moving, mpp(), &RegisterParams::default()).expect(name);
    let in_place = Tissue { blobs: tissue.blobs.iter().filter(|(centre, ..)| centre[0] < end).copied().collect() };
    let error = in_place.error(&found.map, origin_of);
    assert!(error < 1.0, "{name}: {error} px, {:?}", found.quality);
    assert_ne!(found.quality.verdict, Verdict::Refused, "{name}: {:?}", found.quality);
}

#[test]
fn a_section_of_which_a_third_is_missing_is_still_found() {
    let tissue = Tissue::new(2);
    let origin_of = back(placed(15.0, 1.0, false, [209.5, 164.5]));
    is_found("cropped", &tissue, &tissue.moving((280, HEIGHT), &origin_of), &origin_of);
}

#[test]
fn a_torn_off_piece_does_not_lead_the_rest_astray() {
    let tissue = Tissue::new(10);
    let whole = back(placed(-12.0, 1.0, false, [230.0, 190.0]));
    // The right quarter has drifted off by 20 px, leaving a gap.
    let density = |q: [f64; 2]| {
        let p = whole(q);
        match p[0] {
            x if x < 280.0 => tissue.density(1, p),
            x if x > 300.0 => tissue.density(1, [p[0] - 20.0, p[1] + 8.0]),
            _ => 0.0,
        }
    };
    is_found_left_of(280.0, "torn", &tissue, &draw(1, (480, 380), density), &whole);
}

#[test]
fn a_folded_piece_does_not_lead_the_rest_astray() {
    let tissue = Tissue::new(11);
    let whole = back(placed(170.0, 1.0, false, [220.0, 170.0]));
    // What lay right of the fold lies mirrored on top of its neighbours.
    let density = |q: [f64; 2]| {
        let p = whole(q);
        let fold = 285.0;
        if p[0] > fold { 0.0 } else { tissue.density(1, p) + tissue.density(1, [2.0 * fold - p[0], p[1]]) }
    };
    is_found_left_of(225.0, "folded", &tissue, &draw(1, (440, 340), density), &whole);
}

#[test]
fn control_tissue_beside_the_section_is_not_mistaken_for_it() {
    let (tissue, control) = (Tissue::new(12), Tissue::new(13));
    let whole = back(placed(25.0, 1.0, false, [240.0, 220.0]));
    // Another block's tissue, two thirds of the size, on the right of a wider glass.
    let density = |q: [f64; 2]| {
        let beside = [(q[0] - 430.0) * 1.5, (q[1] - 100.0) * 1.5];
        tissue.density(1, whole(q)) + control.density(1, beside)
    };
    is_found("beside control tissue", &tissue, &draw(1, (680, 440), density), &whole);
}

#[test]
fn another_canvas_and_aspect_ratio_do_not_matter() {
    let tissue = Tissue::new(14);
    for (size, to) in [((900, 340), [650.0, 170.0]), ((330, 800), [165.0, 610.0])] {
        let origin_of = back(placed(4.0, 1.0, false, to));
        is_found(&format!("{size:?}"), &tissue, &tissue.moving(size, &origin_of), &origin_of);
    }
}

#[test]
fn a_pale_stain_is_enough() {
    let tissue = Tissue::new(15);
    let origin_of = back(placed(-70.0, 1.0, false, [200.0, 210.0]));
    let pale = draw(1, (400, 420), |q| 0.15 * tissue.density(1, origin_of(q)));
    is_found("pale", &tissue, &pale, &origin_of);
}
