use super::*;
use rand::SeedableRng;
use tch::{Device, IndexOp};

const OFF: AugmentConfig =
    AugmentConfig { rotations: false, flips: false, shift_px: 0, stain_jitter: 0.0, hue_jitter: 0.0, neighbours: 0.0 };

fn generator() -> ChaCha8Rng {
    ChaCha8Rng::seed_from_u64(3)
}

fn patches(count: i64) -> Tensor {
    // Every pixel of a channel has a value of its own.
    let channel = Tensor::arange(64, (Kind::Int64, Device::Cpu)).view([1, 1, 8, 8]);
    let offset = Tensor::arange(6, (Kind::Int64, Device::Cpu)).view([1, 6, 1, 1]) * 20;
    (channel + offset).repeat([count, 1, 1, 1]).to_kind(Kind::Uint8)
}

fn seen(config: &AugmentConfig, count: i64) -> Tensor {
    views(&patches(count), config, &mut generator()).expect("views")
}

#[test]
fn nothing_switched_on_changes_nothing() {
    assert_eq!(seen(&OFF, 20), patches(20));
}

#[test]
fn turning_and_mirroring_gives_the_eight_positions_of_a_square_and_all_planes_alike() {
    let seen = seen(&AugmentConfig { rotations: true, flips: true, ..OFF }, 200);
    let patch = patches(1).i(0);
    let turned: Vec<Tensor> = (0..8)
        .map(|i| {
            let turned = patch.rot90(i % 4, [1, 2]);
            if i < 4 { turned } else { turned.flip([2]) }
        })
        .collect();
    let mut found = [0; 8];
    for i in 0..200 {
        let which = turned.iter().position(|t| *t == seen.i(i)).expect("one of the eight");
        found[which] += 1;
    }
    assert!(found.iter().all(|&count| count > 10), "{found:?}");
}

#[test]
fn a_shift_moves_the_patch_and_reflects_it_at_the_edge() {
    let view = ViewTransform { coordinates: coordinates(0, false, [2, -1], 4), stain: vec![1.0] };
    let source: Vec<u8> = (0..16).collect();
    let mut target = vec![0; 16];
    view.apply(&source, 4, &mut target);
    // Columns 2, 3, 2, 1; rows 1, 0, 1, 2.
    assert_eq!(target, [6, 7, 6, 5, 2, 3, 2, 1, 6, 7, 6, 5, 10, 11, 10, 9]);
}

#[test]
fn stain_jitter_scales_optical_density_and_leaves_glass_and_order_alone() {
    let mut generator = generator();
    let config = AugmentConfig { stain_jitter: 0.1, hue_jitter: 0.05, ..OFF };
    for _ in 0..100 {
        for curve in stain_factors(&config, &mut generator).map(stain_curve) {
            assert_eq!(curve[255], 255, "glass");
            assert!(curve.windows(2).all(|pair| pair[0] <= pair[1]), "order");
            // One factor on every density: that of grey 127 is ln 2.
            let density = |grey: usize| -((f64::from(curve[grey]) + 1.0) / 256.0).ln();
            assert!((density(63) / density(127) - 2.0).abs() < 0.05, "{} {}", density(63), density(127));
        }
    }
}

#[test]
fn a_gpus_operations_give_the_views_that_the_processor_gives() {
    let config = AugmentConfig { shift_px: 3, rotations: true, flips: true, stain_jitter: 0.2, hue_jitter: 0.1, ..OFF };
    let mut generator = generator();
    let views: Vec<ViewTransform> = (0..50).map(|_| ViewTransform::draw(&config, 6, 8, &mut generator)).collect();
    let patches = Tensor::randint(256, [50, 6, 8, 8], (Kind::Uint8, Device::Cpu));
    let [one, all] = [on_cpu, on_device].map(|make| make(&patches, &views).expect("views"));
    assert_eq!(one, all);
    assert_ne!(one, patches);
}

#[test]
fn views_depend_on_the_generator_only() {
    let config = AugmentConfig::default();
    assert_eq!(
        seen(&AugmentConfig { shift_px: 3, ..config.clone() }, 9),
        seen(&AugmentConfig { shift_px: 3, ..config }, 9)
    );
}
