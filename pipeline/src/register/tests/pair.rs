use super::*;
use crate::deformation::Deformation;

fn noise_image(width: u32, height: u32, seed: u64) -> RgbImage {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    RgbImage::from_fn(width, height, |_, _| Rgb(std::array::from_fn(|_| rng.random_range(0..=255u8))))
}

/// Where blobs merge, their edges truly lie elsewhere in the other stain: a median of about half a pixel. The finest
/// level has two pixels to one of its own.
const OTHER_STAIN_PX: f64 = 0.65;
const SAME_STAIN_PX: f64 = 0.5;
/// A quarter of what one half-pixel mistake on the finest level would cause.
const BIAS_PX: f64 = 0.25;

#[test]
fn known_maps_between_two_stains_are_recovered_to_a_fraction_of_a_pixel() {
    let tissue = Tissue::new(1);
    let fixed = tissue.fixed();
    let cases = [
        ("as it lies", placed(0.0, 1.0, false, [209.5, 164.5]), (420, 330)),
        ("turned by 37°", placed(37.0, 1.0, false, [230.0, 240.0]), (520, 510)),
        ("turned by 122.5°, between two search angles", placed(122.5, 0.96, false, [220.0, 260.0]), (480, 500)),
        ("upside down and stretched", placed(180.0, 1.05, false, [200.0, 170.0]), (420, 330)),
        ("mirrored", placed(8.0, 0.98, true, [240.0, 150.0]), (450, 330)),
        ("mirrored, turned, on a smaller canvas", placed(-95.0, 1.0, true, [140.0, 190.0]), (290, 360)),
    ];
    for (name, truth, size) in cases {
        let found = register(&fixed, &tissue.moving(size, back(truth)), mpp(), &RegisterParams::default()).expect(name);
        let (error, bias) = (tissue.error(&found.map, back(truth)), tissue.bias(&found.map, back(truth)));
        assert!(error < OTHER_STAIN_PX && bias < BIAS_PX, "{name}: {error}, mean {bias} px, {:?}", found.quality);
        assert!((found.quality.determinant - truth.determinant()).abs() < 0.01, "{name}: {:?}", found.quality);
        assert!(found.quality.ngf_after < found.quality.ngf_before + 1e-9, "{name}: {:?}", found.quality);
        assert_eq!(found.quality.verdict, Verdict::Good, "{name}: {:?}", found.quality);
    }
}

#[test]
fn smooth_displacements_are_recovered_to_a_fraction_of_a_pixel() {
    let tissue = Tissue::new(8);
    let fixed = tissue.fixed();
    for (name, stain, truth, largest) in [
        ("the same stain", 0, placed(0.0, 1.0, false, [209.5, 164.5]), 8.0),
        ("another stain", 1, placed(0.0, 1.0, false, [209.5, 164.5]), 8.0),
        ("the same stain, turned", 0, placed(64.0, 1.0, false, [230.0, 240.0]), 6.0),
        ("another stain, turned", 1, placed(64.0, 1.0, false, [230.0, 240.0]), 6.0),
        ("another stain, mirrored", 1, placed(-20.0, 1.0, true, [240.0, 250.0]), 6.0),
    ] {
        let origin_of = bent(truth, largest);
        let moving = tissue.stained(stain, (500, 500), &origin_of);
        let found = register(&fixed, &moving, mpp(), &RegisterParams::default()).expect(name);
        let (error, bias) = (tissue.error(&found.map, &origin_of), tissue.bias(&found.map, &origin_of));
        let bound = if stain == 0 { SAME_STAIN_PX } else { OTHER_STAIN_PX };
        assert!(error < bound && bias < BIAS_PX, "{name}: {error}, mean {bias} px, {:?}", found.quality);
        let affine = PixelMap(Deformation { affine: found.map.0.affine, field: None });
        let without = tissue.error(&affine, &origin_of);
        assert!(without > 2.0 * error, "{name}: the affine part alone errs by {without} px, hardly more than {error}");
        assert_ne!(found.quality.verdict, Verdict::Refused, "{name}: {:?}", found.quality);
    }
}

#[test]
fn another_tissue_has_a_smaller_search_margin_than_the_right_one() {
    let fixed = Tissue::new(3).fixed();
    let margin = |seed| {
        let moving = Tissue::new(seed).moving((WIDTH, HEIGHT), |p| p);
        let found = register(&fixed, &moving, mpp(), &RegisterParams::default()).expect("textured");
        found.quality.search_margin.expect("a search over all angles meets rivals")
    };
    let (right, wrong) = (margin(3), margin(4));
    assert!(right > 0.2 && wrong < 0.1, "right {right}, wrong {wrong}");
}

#[test]
fn one_and_two_threads_find_the_same_map_to_the_last_bit() {
    let tissue = Tissue::new(5);
    let fixed = tissue.fixed();
    let moving = tissue.moving((WIDTH, HEIGHT), bent(placed(51.0, 1.0, false, [215.0, 180.0]), 5.0));
    let [one, two] = [1, 2].map(|threads| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("threads");
        pool.install(|| register(&fixed, &moving, mpp(), &RegisterParams::default())).expect("textured")
    });
    assert!(!one.uncertainty_um.is_empty());
    // Displacements, uncertainty and figures included.
    assert_eq!(one, two);
}

#[test]
fn images_that_cannot_be_registered_are_refused_with_the_reason() {
    let params = RegisterParams::default();
    let tissue = Tissue::new(6).fixed();
    let blank = RgbImage::from_pixel(300, 200, Rgb([240; 3]));
    let refusal = |fixed: &RgbImage, moving: &RgbImage, params: &RegisterParams| {
        register(fixed, moving, mpp(), params).expect_err("must not be found")
    };
    assert_eq!(refusal(&tissue, &blank, &params), RegisterError::Blank { side: Side::Moving });
    assert_eq!(refusal(&blank, &tissue, &params), RegisterError::Blank { side: Side::Fixed });
    for (width, height) in [(0, 0), (1, 1), (1, 5000), (500, 79)] {
        let expected = RegisterError::TooSmall { side: Side::Fixed, width, height, min: 80 };
        assert_eq!(refusal(&RgbImage::new(width, height), &tissue, &params), expected);
    }
    for (name, params) in [
        ("search_angle_step_deg", RegisterParams { search_angle_step_deg: f64::NAN, ..params.clone() }),
        ("finest_factor", RegisterParams { finest_factor: 3, ..params.clone() }),
        ("bending_weight", RegisterParams { bending_weight: 0.0, ..params.clone() }),
    ] {
        let refused = refusal(&tissue, &tissue, &params);
        assert!(matches!(refused, RegisterError::Parameter { name: n, .. } if n == name), "{refused:?}");
    }
}

#[test]
fn odd_shapes_and_pure_noise_end_without_a_panic_and_are_not_trusted() {
    let params = RegisterParams { finest_factor: 1, ..RegisterParams::default() };
    let sizes = [(40, 40), (41, 700), (700, 41), (640, 480)];
    for (fixed_width, fixed_height) in sizes {
        for (width, height) in sizes {
            let (fixed, moving) = (noise_image(fixed_width, fixed_height, 1), noise_image(width, height, 2));
            let Ok(found) = register(&fixed, &moving, mpp(), &params) else { continue };
            let (x, y) = found.map.apply(20.0, 20.0);
            assert!(x.is_finite() && y.is_finite(), "{found:?}");
            assert_ne!(found.quality.verdict, Verdict::Good, "{:?}", found.quality);
        }
    }
}

#[test]
fn parameters_read_from_a_file_keep_defaults_and_refuse_unknown_keys() {
    let params: RegisterParams = serde_json::from_str(r#"{"search_candidates": 7}"#).expect("known key");
    assert_eq!(params, RegisterParams { search_candidates: 7, ..RegisterParams::default() });
    assert!(serde_json::from_str::<RegisterParams>(r#"{"candidates": 7}"#).is_err());
}
