//! The optimiser Adam (Kingma, Ba 2015). The optimiser of libtorch is not used because tch cannot save and restore its moments, and a
//! resumed fit must give the same model as an uninterrupted one.

use tch::nn::VarStore;
use tch::{Kind, Tensor};

/// Decay of the mean of the gradient; the published default, also of IMSAT.
const BETA_1: f64 = 0.9;
/// Decay of the mean of the squared gradient; the published default.
const BETA_2: f64 = 0.999;
/// Prevents a division by zero; the published default.
const EPSILON: f64 = 1e-8;

/// The optimiser of one phase of a fit.
///
/// Each moment of all parameters is one vector, because many small updates would take longer on a GPU than the gradients.
#[derive(Debug)]
pub struct Adam {
    /// In the order of their values in the vectors.
    parameters: Vec<(String, Tensor)>,
    first: Tensor,
    second: Tensor,
    steps: i32,
    learning_rate: f64,
}

impl Adam {
    /// For all trained variables of `store` whose names begin with `prefix`, in the order of their names.
    pub fn new(store: &VarStore, prefix: &str, learning_rate: f64) -> Self {
        let mut parameters: Vec<(String, Tensor)> = store
            .variables()
            .into_iter()
            .filter(|(name, parameter)| name.starts_with(prefix) && parameter.requires_grad())
            .collect();
        parameters.sort_by(|(a, _), (b, _)| a.cmp(b));
        let count: usize = parameters.iter().map(|(_, parameter)| parameter.numel()).sum();
        let zeros = || Tensor::zeros([count as i64], (Kind::Float, store.device()));
        Self { parameters, first: zeros(), second: zeros(), steps: 0, learning_rate }
    }

    /// One step down the gradient of `loss`.
    pub fn minimise(&mut self, loss: &Tensor) {
        let parameters: Vec<&Tensor> = self.parameters.iter().map(|(_, parameter)| parameter).collect();
        let gradients = Tensor::run_backward(&[loss], &parameters, false, false);
        let _frozen = tch::no_grad_guard();
        let flat = |(parameter, gradient): (&&Tensor, &Tensor)| {
            // The loss may not depend on a parameter.
            if gradient.defined() { gradient.reshape([-1]) } else { parameter.zeros_like().reshape([-1]) }
        };
        let gradient = Tensor::cat(&parameters.iter().zip(&gradients).map(flat).collect::<Vec<_>>(), 0);
        self.steps += 1;
        let step_size = self.learning_rate / (1.0 - BETA_1.powi(self.steps));
        let second_correction = 1.0 - BETA_2.powi(self.steps);
        self.first *= BETA_1;
        self.first += &gradient * (1.0 - BETA_1);
        self.second *= BETA_2;
        self.second += gradient.square() * (1.0 - BETA_2);
        let scale = (&self.second / second_correction).sqrt() + EPSILON;
        let steps = self.parts(&(&self.first / scale * step_size));
        for ((_, parameter), step) in self.parameters.iter_mut().zip(steps) {
            *parameter -= step;
        }
    }

    /// A vector's values for each parameter, in its shape, sharing storage.
    fn parts(&self, vector: &Tensor) -> Vec<Tensor> {
        let lengths: Vec<i64> = self.parameters.iter().map(|(_, parameter)| parameter.numel() as i64).collect();
        let parts = vector.split_with_sizes(&lengths, 0);
        parts.iter().zip(&self.parameters).map(|(part, (_, parameter))| part.view_as(parameter)).collect()
    }

    /// Steps taken so far.
    pub fn steps(&self) -> i32 {
        self.steps
    }

    /// The moments by name, sharing storage with the optimiser.
    pub fn moments(&self) -> Vec<(String, Tensor)> {
        let named = |moment: &str, vector: &Tensor| -> Vec<(String, Tensor)> {
            let names = self.parameters.iter().map(|(name, _)| format!("adam.{moment}.{name}"));
            names.zip(self.parts(vector)).collect()
        };
        let mut moments = named("first", &self.first);
        moments.extend(named("second", &self.second));
        moments
    }

    /// Continues after `steps` steps; the moments are restored through [`Adam::moments`].
    pub fn resume(&mut self, steps: i32) {
        self.steps = steps;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tch::nn::OptimizerConfig;
    use tch::{Device, Kind};

    #[test]
    fn steps_equal_those_of_libtorch() {
        let target = Tensor::from_slice(&[1.0f32, -2.0, 3.0]);
        let loss = |x: &Tensor| ((x - &target).square() * Tensor::from_slice(&[1.0f32, 10.0, 0.1])).sum(Kind::Float);
        let (ours, theirs) = (VarStore::new(Device::Cpu), VarStore::new(Device::Cpu));
        let (x, y) = (ours.root().zeros("x", &[3]), theirs.root().zeros("x", &[3]));
        let mut adam = Adam::new(&ours, "", 0.05);
        let mut reference = tch::nn::Adam::default().build(&theirs, 0.05).expect("optimiser");
        for _ in 0..50 {
            adam.minimise(&loss(&x));
            reference.backward_step(&loss(&y));
            assert!(x.allclose(&y, 1e-5, 1e-6, false), "{x} {y}");
        }
    }

    #[test]
    fn only_variables_under_the_prefix_move() {
        let store = VarStore::new(Device::Cpu);
        let (a, b) = ((store.root() / "a").ones("x", &[1]), (store.root() / "b").ones("x", &[1]));
        Adam::new(&store, "a.", 0.1).minimise(&(&a * &b).sum(Kind::Float));
        assert!(f64::try_from(&a).expect("scalar") < 1.0);
        assert_eq!(f64::try_from(&b).expect("scalar"), 1.0);
    }
}
