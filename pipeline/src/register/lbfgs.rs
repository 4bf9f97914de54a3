//! Limited-memory BFGS: the two-loop recursion (Nocedal & Wright, Numerical Optimization, 2nd ed., algorithm 7.4) with a
//! line search for the strong Wolfe conditions (algorithms 3.5 and 3.6).

use std::collections::VecDeque;

/// Sufficient decrease and curvature constants of the Wolfe conditions; the book's values for quasi-Newton methods.
const WOLFE_DECREASE: f64 = 1e-4;
const WOLFE_CURVATURE: f64 = 0.9;
/// Evaluations one line search may use. A quasi-Newton step needs one or two; more than this means that the function
/// is not smooth at this scale, and the best point so far is as good as it gets.
const LINE_SEARCH_EVALUATIONS: usize = 20;

/// When to stop, and how far to step at first.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Options {
    /// Pairs of steps and gradient changes remembered.
    pub(crate) memory: usize,
    pub(crate) max_iterations: usize,
    /// Euclidean length of the very first trial step, in units of the unknowns.
    pub(crate) first_step: f64,
    /// Stop when an iteration lowers the value by less than this share of it.
    pub(crate) relative_decrease: f64,
}

/// Where a minimisation ended.
#[derive(Debug)]
pub(crate) struct Minimum {
    pub(crate) x: Vec<f64>,
    pub(crate) value: f64,
}

/// A point visited by the line search along the current direction.
struct Trial {
    step: f64,
    x: Vec<f64>,
    value: f64,
    gradient: Vec<f64>,
    /// Directional derivative.
    slope: f64,
}

/// Minimises `function`, which returns the value at its first argument and writes the gradient into the second.
/// The point returned is never worse than `start`.
pub(crate) fn minimize(
    start: &[f64],
    options: &Options,
    mut function: impl FnMut(&[f64], &mut [f64]) -> f64,
) -> Minimum {
    let mut x = start.to_vec();
    let mut gradient = vec![0.0; x.len()];
    let mut value = function(&x, &mut gradient);
    let mut pairs: VecDeque<Pair> = VecDeque::with_capacity(options.memory);
    for _ in 0..options.max_iterations {
        let steepness = norm(&gradient);
        if steepness == 0.0 || !steepness.is_finite() {
            break;
        }
        let mut direction = descent_direction(&gradient, &pairs);
        let mut first_trial = if pairs.is_empty() { options.first_step / steepness } else { 1.0 };
        if dot(&direction, &gradient) >= 0.0 {
            pairs.clear();
            direction = gradient.iter().map(|g| -g).collect();
            first_trial = options.first_step / steepness;
        }
        let Some(next) = line_search(&x, value, &gradient, &direction, first_trial, &mut function) else { break };
        let pair = Pair::new(&x, &gradient, &next);
        let decrease = value - next.value;
        (x, value, gradient) = (next.x, next.value, next.gradient);
        if let Some(pair) = pair {
            if pairs.len() == options.memory {
                pairs.pop_front();
            }
            pairs.push_back(pair);
        }
        if decrease <= options.relative_decrease * value.abs() {
            break;
        }
    }
    Minimum { x, value }
}

/// A step, the change of the gradient along it, and 1 over their inner product.
struct Pair {
    step: Vec<f64>,
    change: Vec<f64>,
    rho: f64,
}

impl Pair {
    /// `None` where the curvature is not clearly positive: such a pair would spoil the inverse Hessian.
    fn new(x: &[f64], gradient: &[f64], next: &Trial) -> Option<Self> {
        let step = difference(&next.x, x);
        let change = difference(&next.gradient, gradient);
        let curvature = dot(&step, &change);
        (curvature > 1e-12 * norm(&step) * norm(&change)).then(|| Self { step, change, rho: 1.0 / curvature })
    }
}

/// Two-loop recursion: minus the inverse Hessian estimate times the gradient.
fn descent_direction(gradient: &[f64], pairs: &VecDeque<Pair>) -> Vec<f64> {
    let mut direction: Vec<f64> = gradient.iter().map(|g| -g).collect();
    let mut weights = Vec::with_capacity(pairs.len());
    for pair in pairs.iter().rev() {
        let weight = pair.rho * dot(&pair.step, &direction);
        add_scaled(&mut direction, -weight, &pair.change);
        weights.push(weight);
    }
    if let Some(last) = pairs.back() {
        let scale = 1.0 / (last.rho * dot(&last.change, &last.change));
        direction.iter_mut().for_each(|d| *d *= scale);
    }
    for (pair, weight) in pairs.iter().zip(weights.iter().rev()) {
        let correction = weight - pair.rho * dot(&pair.change, &direction);
        add_scaled(&mut direction, correction, &pair.step);
    }
    direction
}

/// A step that satisfies the strong Wolfe conditions, or failing that the best one seen if it lowers the value at all.
fn line_search(
    x: &[f64],
    value: f64,
    gradient: &[f64],
    direction: &[f64],
    first_trial: f64,
    function: &mut impl FnMut(&[f64], &mut [f64]) -> f64,
) -> Option<Trial> {
    let slope = dot(gradient, direction);
    let mut visit = |step: f64| {
        let mut at = x.to_vec();
        add_scaled(&mut at, step, direction);
        let mut gradient = vec![0.0; x.len()];
        let value = function(&at, &mut gradient);
        let slope = dot(&gradient, direction);
        Trial { step, x: at, value: if value.is_finite() { value } else { f64::INFINITY }, gradient, slope }
    };
    let too_high = |trial: &Trial| trial.value > value + WOLFE_DECREASE * trial.step * slope;
    let flat_enough = |trial: &Trial| trial.slope.abs() <= -WOLFE_CURVATURE * slope;

    // `low` is the best point that satisfies the decrease condition; the minimiser lies between it and `high`.
    let mut low = Trial { step: 0.0, x: x.to_vec(), value, gradient: gradient.to_vec(), slope };
    let mut high: Option<Trial> = None;
    let mut step = first_trial;
    for _ in 0..LINE_SEARCH_EVALUATIONS {
        let trial = visit(step);
        if too_high(&trial) || trial.value >= low.value {
            high = Some(trial);
        } else if flat_enough(&trial) {
            return Some(trial);
        } else {
            let towards_high = high.as_ref().map_or(1.0, |high| high.step - low.step);
            if trial.slope * towards_high >= 0.0 {
                high = Some(low);
            }
            low = trial;
        }
        step = match &high {
            None => 2.0 * low.step,
            Some(high) => interpolate(&low, high),
        };
    }
    (low.step > 0.0).then_some(low)
}

/// The minimiser of the parabola through the value and slope at `low` and the value at `high`, kept a tenth of the
/// interval away from both ends so that the interval shrinks.
fn interpolate(low: &Trial, high: &Trial) -> f64 {
    let width = high.step - low.step;
    let excess = high.value - low.value - low.slope * width;
    let share = if excess.is_finite() && excess > 0.0 { -0.5 * low.slope * width / excess } else { 0.5 };
    low.step + width * share.clamp(0.1, 0.9)
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

fn norm(a: &[f64]) -> f64 {
    dot(a, a).sqrt()
}

fn difference(a: &[f64], b: &[f64]) -> Vec<f64> {
    a.iter().zip(b).map(|(a, b)| a - b).collect()
}

fn add_scaled(a: &mut [f64], factor: f64, b: &[f64]) {
    a.iter_mut().zip(b).for_each(|(a, b)| *a += factor * b);
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const OPTIONS: Options = Options { memory: 6, max_iterations: 200, first_step: 1.0, relative_decrease: 1e-16 };

    fn rosenbrock(x: &[f64], gradient: &mut [f64]) -> f64 {
        gradient.fill(0.0);
        let mut value = 0.0;
        for i in 0..x.len() - 1 {
            let (valley, offset) = (x[i + 1] - x[i] * x[i], 1.0 - x[i]);
            value += 100.0 * valley * valley + offset * offset;
            gradient[i] -= 400.0 * valley * x[i] + 2.0 * offset;
            gradient[i + 1] += 200.0 * valley;
        }
        value
    }

    #[test]
    fn rosenbrock_valley_is_followed_to_its_minimum() {
        for start in [vec![-1.2, 1.0], vec![3.0, -2.0, 0.5, 1.0, -1.0]] {
            let mut evaluations = 0;
            let end = minimize(&start, &OPTIONS, |x, g| {
                evaluations += 1;
                rosenbrock(x, g)
            });
            let end = end.x;
            assert!(end.iter().all(|x| (x - 1.0).abs() < 1e-5), "{end:?}");
            assert!(evaluations < 250, "{evaluations} evaluations");
        }
    }

    #[test]
    fn a_function_without_descent_leaves_the_start_untouched() {
        let end = minimize(&[2.0, 3.0], &OPTIONS, |_, g| {
            g.fill(1.0);
            7.0
        });
        assert_eq!(end.x, [2.0, 3.0]);
    }

    proptest! {
        #[test]
        fn convex_quadratics_are_solved(curvature in prop::collection::vec(0.1f64..10.0, 4), centre in prop::collection::vec(-5.0f64..5.0, 4)) {
            let end = minimize(&[0.0; 4], &OPTIONS, |x, g| {
                for i in 0..4 {
                    g[i] = curvature[i] * (x[i] - centre[i]);
                }
                (0..4).map(|i| 0.5 * curvature[i] * (x[i] - centre[i]).powi(2)).sum()
            });
            prop_assert!(end.x.iter().zip(&centre).all(|(x, c)| (x - c).abs() < 1e-3), "{end:?} {centre:?}");
        }
    }
}
