use image::Rgb;

use super::*;

/// A painted HE section: glass around a disc of eosin with a lattice of nuclei, denser on the left
/// and the cytoplasm there tinted by haematoxylin.
fn painted() -> RgbImage {
    const EOSIN: stain::StainVector = [0.09, 0.95, 0.28];
    RgbImage::from_fn(300, 240, |x, y| {
        let (dx, dy) = (f64::from(x) - 150.0, f64::from(y) - 120.0);
        let inside = dx.hypot(dy) < 105.0;
        let pitch = if x < 150 { 12 } else { 24 };
        let nucleus = (x % pitch).abs_diff(pitch / 2).pow(2) + (y % pitch).abs_diff(pitch / 2).pow(2) < 12;
        let tint = if x < 150 { 0.4 } else { 0.05 };
        let stained = [if nucleus { 1.4 } else { tint }, 0.5 + 0.3 * (f64::from(x) / 9.0).sin() as f32];
        let [h, e] = if inside { stained } else { [0.0; 2] };
        Rgb(stain::transmitted([244, 243, 245], [(h, stain::HAEMATOXYLIN), (e, EOSIN)]).map(|v| v.round() as u8))
    })
}

fn mpp() -> Mpp {
    Mpp::new(0.5).expect("plausible")
}

#[test]
fn same_seed_gives_the_same_sections_and_another_seed_gives_others() {
    let source = painted();
    let section = |seed, index| Derivation::new(&source, mpp(), seed).section(index).expect("derived");
    for (index, stain) in STAINS.iter().enumerate() {
        assert_eq!(section(7, index), section(7, index), "{}", stain.name);
        assert!(section(7, index) != section(8, index), "{}", stain.name);
    }
}

#[test]
fn he_keeps_the_slides_own_pixels_up_to_noise() {
    let source = painted();
    let derivation = Derivation::new(&source, mpp(), 3);
    let (image, warp) = derivation.section(0).expect("derived");
    assert_eq!(warp, Warp::IDENTITY);
    assert_eq!([image.width(), image.height()], derivation.reference_size());
    let [left, top, ..] = derivation.margin;
    let differences = image.enumerate_pixels().flat_map(|(x, y, p)| {
        let q = source.get_pixel(x + left, y + top);
        (0..3).map(move |c| p[c].abs_diff(q[c]))
    });
    assert!(differences.max().expect("pixels") <= 8, "four deviations of two grey values");
}

#[test]
fn stains_carry_different_information() {
    let source = painted();
    let derivation = Derivation::new(&source, mpp(), 5);
    let signals: Vec<Plane> = (1..STAINS.len())
        .map(|i| derivation.restain(i, STAINS[i].antigen.expect("an immunostain")))
        .map(|[_, dab]| dab)
        .collect();
    let correlation = |a: &Plane, b: &Plane| {
        let n = a.values.len() as f64;
        let mean = |p: &Plane| p.values.iter().map(|&v| f64::from(v)).sum::<f64>() / n;
        let (ma, mb) = (mean(a), mean(b));
        let product = |p: &Plane, mp: f64, q: &Plane, mq: f64| -> f64 {
            p.values.iter().zip(&q.values).map(|(&x, &y)| (f64::from(x) - mp) * (f64::from(y) - mq)).sum()
        };
        product(a, ma, b, mb) / (product(a, ma, a, ma) * product(b, mb, b, mb)).sqrt()
    };
    for (i, a) in signals.iter().enumerate() {
        assert!(a.values.iter().any(|&v| v > 0.3), "{} has signal", STAINS[i + 1].name);
        for b in &signals[i + 1..] {
            assert!(correlation(a, b) < 0.8);
        }
    }
}

#[test]
fn the_stated_warp_finds_the_structure_it_moved() {
    const SQUARE: u32 = 30;
    let marked = |x: u32, y: u32| (x / SQUARE + y / SQUARE).is_multiple_of(2);
    let source = painted();
    let checker = |strength: f32| {
        Plane::from_fn(source.width() as usize, source.height() as usize, |x, y| {
            if marked(x as u32, y as u32) { strength } else { 0.0 }
        })
    };
    let planes = [checker(1.5), checker(0.5)];
    let derivation = Derivation::new(&source, mpp(), 11);
    let [left, top, ..] = derivation.margin;
    let [width, height] = derivation.reference_size();
    for (index, stain) in STAINS.iter().enumerate().skip(1) {
        let (image, warp) = derivation.bend(index, &planes).expect("bent");
        // Through the file's text, as a reader of it would.
        let text = serde_json::to_string(&warp).expect("JSON");
        let warp: Warp = serde_json::from_str(&text).expect("the same warp");
        let mut seen = 0;
        // Centres of whole squares, source pixels.
        for y in (SQUARE / 2..240).step_by(SQUARE as usize).filter(|&y| y > top && y < top + height) {
            for x in (SQUARE / 2..300).step_by(SQUARE as usize).filter(|&x| x > left && x < left + width) {
                let reference = UmPoint::from_pixels(f64::from(x - left) + 0.5, f64::from(y - top) + 0.5, mpp());
                let (sx, sy) = warp.apply(reference).to_pixels(mpp());
                if (0.0..f64::from(image.width())).contains(&sx) && (0.0..f64::from(image.height())).contains(&sy) {
                    let red = image.get_pixel(sx as u32, sy as u32)[0];
                    assert_eq!(red < 150, marked(x, y), "{} at {x}, {y}: red {red}", stain.name);
                    seen += 1;
                }
            }
        }
        assert!(seen > 60, "{seen} squares");
    }
}
