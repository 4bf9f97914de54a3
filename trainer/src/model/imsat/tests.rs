use super::*;
use tch::nn::VarStore;
use tch::{Device, IndexOp};

use crate::model::adam::Adam;
use crate::testing::seeded;

const WEIGHTS: LossWeights = LossWeights { lambda: 0.1, mu: 4.0, xi: 10.0, view: 1.0 };

fn matrix(rows: &[&[f64]]) -> Tensor {
    Tensor::from_slice2(rows).to_kind(Kind::Float)
}

fn scalar(x: &Tensor) -> f64 {
    f64::try_from(x).expect("scalar")
}

#[test]
fn entropies_equal_hand_computed_values() {
    // Rows: certain of 0, certain of 1, undecided between both. Entropies 0, 0, ln 2; mean prediction (1/2, 1/2).
    let probs = matrix(&[&[1.0, 0.0], &[0.0, 1.0], &[0.5, 0.5]]);
    let (conditional, marginal) = entropies(&probs.clamp_min(1e-30).log());
    assert!((scalar(&conditional) - 2f64.ln() / 3.0).abs() < 1e-6);
    assert!((scalar(&marginal) - 2f64.ln()).abs() < 1e-6);

    // Mean prediction (0.8, 0.2): H = −0.8·ln 0.8 − 0.2·ln 0.2 = 0.500402.
    let (conditional, marginal) = entropies(&matrix(&[&[0.9, 0.1], &[0.7, 0.3]]).log());
    assert!((scalar(&marginal) - 0.500_402).abs() < 1e-5);
    // (0.325083 + 0.610864) / 2
    assert!((scalar(&conditional) - 0.467_974).abs() < 1e-5);
}

#[test]
fn a_cluster_nobody_chooses_does_not_make_the_entropy_nan() {
    let log_probs = matrix(&[&[0.0, -200.0], &[0.0, -200.0]]);
    let (conditional, marginal) = entropies(&log_probs);
    assert_eq!((scalar(&conditional), scalar(&marginal)), (0.0, 0.0));
}

#[test]
fn kl_divergence_equals_a_hand_computed_value_and_is_zero_for_equal_predictions() {
    let (p, q) = (matrix(&[&[0.5, 0.5]]).log(), matrix(&[&[0.25, 0.75]]).log());
    // 0.5·ln 2 + 0.5·ln(2/3) = 0.143841
    assert!((scalar(&kl_divergence(&p, &q)) - 0.143_841).abs() < 1e-5);
    assert!(scalar(&kl_divergence(&p, &p)).abs() < 1e-7);
}

#[test]
fn loss_combines_the_terms_with_lambda_and_mu() {
    let term = |v: f64| Tensor::from(v);
    let terms = LossTerms { vat: term(0.5), view: None, conditional_entropy: term(0.3), marginal_entropy: term(2.0) };
    assert!((scalar(&terms.loss(&WEIGHTS)) - (0.5 + 0.1 * (0.3 - 4.0 * 2.0))).abs() < 1e-12);
    let with_view = LossTerms { view: Some(term(0.1)), ..terms };
    assert!((scalar(&with_view.loss(&WEIGHTS)) - (0.3 + 0.1 * (0.3 - 4.0 * 2.0))).abs() < 1e-12);
}

#[test]
fn neighbour_distance_skips_the_sample_itself_and_nothing_else() {
    // On a line: distances of 0 to the others are 0 (a duplicate), 3, 5000.
    let x = matrix(&[&[0.0], &[0.0], &[3.0], &[5000.0]]);
    let nearest = |k| Vec::<f32>::try_from(&neighbour_distance(&x, k)).expect("floats");
    assert_eq!(nearest(1), [0.0, 0.0, 3.0, 4997.0]);
    assert_eq!(nearest(2), [3.0, 3.0, 3.0, 5000.0]);
    assert_eq!(nearest(3), [5000.0, 5000.0, 4997.0, 5000.0]);
    assert_eq!(nearest(10), nearest(3), "with fewer than k others, the farthest");
}

#[test]
fn neighbour_distance_is_the_same_across_block_borders() {
    let _turn = seeded(1);
    let count = DISTANCE_BLOCK + 300;
    let x = Tensor::randn([count, 4], (Kind::Double, Device::Cpu));
    let blocked = neighbour_distance(&x, 10);
    for i in [0, 1, DISTANCE_BLOCK - 1, DISTANCE_BLOCK, count - 1] {
        let all = (&x - x.i(i)).square().sum_dim_intlist(1, false, Kind::Double).sqrt();
        // The sample itself sorts first at 0.
        let expected = scalar(&all.sort(0, false).0.i(10));
        assert!((scalar(&blocked.i(i)) - expected).abs() < 1e-6, "row {i}");
    }
}

fn fresh(clusters: i64) -> (VarStore, Clusterer) {
    tch::manual_seed(7);
    let store = VarStore::new(Device::Cpu);
    let clusterer = Clusterer::new(&store.root(), 6, &[32, 32], clusters);
    (store, clusterer)
}

#[test]
fn predictions_of_planes_leave_uniform_however_far_apart_samples_lie() {
    let _turn = seeded(1);
    let kind = Tensor::from_slice(&[-2f32, 2.0]).repeat([300]).unsqueeze(1);
    let classes = &kind + kind.randn_like() * 0.5;
    // Two kinds along one direction, in so many others that every sample is far from its neighbours.
    let x = Tensor::cat(&[classes, Tensor::randn([600, 31], (Kind::Float, Device::Cpu))], 1);
    let config = ImsatConfig::default();
    let plain = neighbour_distance(&x, i64::from(config.neighbour)) * config.radius_factor;
    let undecided = |radius: &Tensor| {
        tch::manual_seed(2);
        let store = VarStore::new(Device::Cpu);
        let clusterer = Clusterer::new(&store.root(), 32, &[], 2);
        train(&store, &clusterer, &x, radius, 60);
        let log_probs = clusterer.log_probs(&x, Mode::Eval);
        -scalar(&(log_probs.exp() * &log_probs).sum_dim_intlist(1, false, Kind::Double).mean(Kind::Double)) / 2f64.ln()
    };
    let (with_plain, with_held) = (undecided(&plain), undecided(&radius(&x, &config)));
    assert!(with_plain > 0.95 && with_held < 0.7, "{with_plain} {with_held}");
}

#[test]
fn a_radius_is_made_smaller_for_planes_only_and_only_where_it_must() {
    let _turn = seeded(1);
    let x = Tensor::randn([400, 32], (Kind::Double, Device::Cpu));
    let planes = ImsatConfig::default();
    let layers = ImsatConfig { hidden: vec![8], ..planes.clone() };
    let plain = neighbour_distance(&x, 10) * planes.radius_factor;
    assert!(radius(&x, &layers).equal(&plain));
    // Ten times as far along one direction: information enough.
    let long = Tensor::cat(&[x.narrow(1, 0, 1) * 10.0, x.narrow(1, 1, 31)], 1);
    assert!(radius(&long, &planes).equal(&(neighbour_distance(&long, 10) * planes.radius_factor)));
    let smaller = radius(&x, &planes);
    let shares = &smaller / &plain;
    assert!(scalar(&(shares.max() - shares.min())) < 1e-12, "all by the same factor");
    let centred = &x - x.mean_dim([0i64].as_slice(), true, Kind::Double);
    let largest = scalar(&(centred.transpose(0, 1).matmul(&centred) / 400.0).linalg_eigvalsh("L").max());
    let mean = scalar(&smaller.square().mean(Kind::Double));
    assert!((mean - planes.lambda * largest / MARGIN).abs() < 1e-9, "{mean}");
    // Samples that do not differ have no neighbours at a distance.
    let same = Tensor::ones([20, 3], (Kind::Float, Device::Cpu));
    assert_eq!(scalar(&radius(&same, &planes).abs().max()), 0.0);
    assert!(scalar(&radius(&(same * f64::NAN), &planes).sum(Kind::Double)).is_nan(), "for the loss to tell");
}

#[test]
fn weights_start_small_the_output_layers_smallest() {
    let _turn = seeded(1);
    let (store, _) = fresh(40);
    let variables = store.variables();
    for (name, expected) in [
        ("0.weight", (0.1f64 / 6.0).sqrt()),
        ("1.weight", (0.1f64 / 32.0).sqrt()),
        ("output.weight", (1e-4f64 / 32.0).sqrt()),
    ] {
        let ratio = scalar(&variables[name].detach().std(false)) / expected;
        assert!((ratio - 1.0).abs() < 0.2, "{name}: {ratio}");
    }
}

#[test]
fn adversarial_direction_has_unit_length_even_for_a_fresh_clusterer() {
    let _turn = seeded(1);
    let (_store, clusterer) = fresh(4);
    let x = Tensor::randn([40, 6], (Kind::Float, Device::Cpu));
    let clean = clusterer.log_probs(&x, Mode::Perturbed).detach();
    let direction = adversarial_direction(&clusterer, &x, &clean, 10.0, &x.randn_like());
    let length = direction.square().sum_dim_intlist(1, false, Kind::Float).sqrt();
    assert!(length.allclose(&Tensor::ones_like(&length), 1e-4, 1e-4, false), "{length}");
}

#[test]
fn adversarial_direction_moves_predictions_more_than_a_random_one() {
    let _turn = seeded(1);
    let (store, clusterer) = fresh(4);
    let x = blobs(4, 6, 50).0;
    train(&store, &clusterer, &x, &(neighbour_distance(&x, 10) * 0.25), 20);
    let clean = clusterer.log_probs(&x, Mode::Perturbed).detach();
    let change = |d: &Tensor| scalar(&kl_divergence(&clean, &clusterer.log_probs(&(&x + d * 2.0), Mode::Perturbed)));
    let adversarial = change(&adversarial_direction(&clusterer, &x, &clean, 10.0, &x.randn_like()));
    let random = change(&unit(&x.randn_like()));
    assert!(adversarial > random, "{adversarial} against {random}");
}

#[test]
fn rows_of_zeros_stay_zeros_and_tiny_ones_become_unit() {
    let x = matrix(&[&[0.0, 0.0], &[3e-30, 4e-30]]);
    let lengths = unit(&x).square().sum_dim_intlist(1, false, Kind::Float);
    assert_eq!(scalar(&lengths.i(0)), 0.0);
    assert!((scalar(&lengths.i(1)) - 1.0).abs() < 1e-5);
}

#[test]
fn only_the_clean_pass_moves_the_running_statistics() {
    let _turn = seeded(1);
    let (store, clusterer) = fresh(3);
    let (reference_store, reference) = fresh(3);
    let x = Tensor::randn([64, 6], (Kind::Float, Device::Cpu));
    let radius = Tensor::ones([64], (Kind::Float, Device::Cpu));
    let _ = loss_terms(&clusterer, &x, None, &radius, &WEIGHTS, &x.randn_like());
    let _ = reference.log_probs(&x, Mode::Train);
    for (name, value) in store.variables() {
        assert_eq!(value, reference_store.variables()[&name], "{name}");
    }
}

#[test]
fn clean_prediction_is_detached_in_the_adversarial_term() {
    let _turn = seeded(1);
    let (store, clusterer) = fresh(3);
    let x = Tensor::randn([64, 6], (Kind::Float, Device::Cpu));
    // The gradient must be the one that a clean prediction given as a constant leads to.
    let radius = Tensor::full([64], 2.0, (Kind::Float, Device::Cpu));
    tch::manual_seed(11);
    loss_terms(&clusterer, &x, None, &radius, &WEIGHTS, &x.randn_like()).vat.backward();
    let gradient = |store: &VarStore| store.variables()["output.weight"].grad().copy();
    let with_terms = gradient(&store);

    let (other_store, other) = fresh(3);
    let constant = other.log_probs(&x, Mode::Train).detach().copy();
    tch::manual_seed(11);
    let direction = adversarial_direction(&other, &x, &constant, WEIGHTS.xi, &x.randn_like());
    kl_divergence(&constant, &other.log_probs(&(&x + direction * 2.0), Mode::Perturbed)).backward();
    assert!(with_terms.allclose(&gradient(&other_store), 1e-5, 1e-12, false));
}

/// `per_class` points of each of `classes` well-separated Gaussians in `dims` dimensions, and their classes.
fn blobs(classes: i64, dims: i64, per_class: i64) -> (Tensor, Vec<i64>) {
    tch::manual_seed(5);
    let centres = Tensor::randn([classes, dims], (Kind::Float, Device::Cpu)) * 4.0;
    let class: Vec<i64> = (0..classes * per_class).map(|i| i % classes).collect();
    let noise = Tensor::randn([classes * per_class, dims], (Kind::Float, Device::Cpu)) * 0.5;
    (centres.index_select(0, &Tensor::from_slice(&class)) + noise, class)
}

fn train(store: &VarStore, clusterer: &Clusterer, x: &Tensor, radius: &Tensor, epochs: usize) {
    let mut adam = Adam::new(store, "", 0.002);
    for _ in 0..epochs {
        let order = Tensor::randperm(x.size()[0], (Kind::Int64, Device::Cpu));
        for batch in order.split(100, 0) {
            let (x, radius) = (x.index_select(0, &batch), radius.index_select(0, &batch));
            let terms = loss_terms(clusterer, &x, None, &radius, &WEIGHTS, &x.randn_like());
            adam.minimise(&terms.loss(&WEIGHTS));
        }
    }
}

#[test]
fn separates_five_gaussian_blobs_in_ten_dimensions() {
    let _turn = seeded(1);
    let (x, class) = blobs(5, 10, 100);
    let store = VarStore::new(Device::Cpu);
    tch::manual_seed(2);
    let clusterer = Clusterer::new(&store.root(), 10, &[64, 64], 5);
    train(&store, &clusterer, &x, &(neighbour_distance(&x, 10) * 0.25), 40);
    let assigned = Vec::<i64>::try_from(&clusterer.log_probs(&x, Mode::Eval).argmax(1, false)).expect("integers");
    // Each cluster stands for its most frequent class; each class may be claimed once only.
    let mut counts = [[0usize; 5]; 5];
    for (&cluster, &class) in assigned.iter().zip(&class) {
        counts[cluster as usize][class as usize] += 1;
    }
    let majority: std::collections::BTreeSet<usize> =
        counts.iter().map(|row| (0..5).max_by_key(|&c| row[c]).unwrap_or(0)).collect();
    let correct: usize = counts.iter().filter_map(|row| row.iter().max()).sum();
    assert_eq!(majority.len(), 5, "two clusters stand for one class: {counts:?}");
    assert!(correct as f64 > 0.95 * class.len() as f64, "{correct} of {} right: {counts:?}", class.len());
}
