//! Adam (Kingma, Ba 2015), because the optimiser of libtorch that tch exposes cannot save and restore its moments, and a
//! resumed fit must end in the same model as an uninterrupted one.

use tch::Tensor;
use tch::nn::VarStore;

/// Decay of the gradient's mean; the published default, also IMSAT's.
const BETA_1: f64 = 0.9;
/// Decay of the squared gradient's mean; the published default.
const BETA_2: f64 = 0.999;
/// Guards the division; the published default.
const EPSILON: f64 = 1e-8;

#[derive(Debug)]
struct Slot {
    name: String,
    parameter: Tensor,
    first: Tensor,
    second: Tensor,
}

/// The optimiser of one phase of a fit.
#[derive(Debug)]
pub struct Adam {
    slots: Vec<Slot>,
    steps: i32,
    learning_rate: f64,
}

impl Adam {
    /// For all trained variables of `store` whose names begin with `prefix`, in the order of their names.
    pub fn new(store: &VarStore, prefix: &str, learning_rate: f64) -> Self {
        let mut slots: Vec<Slot> = store
            .variables()
            .into_iter()
            .filter(|(name, parameter)| name.starts_with(prefix) && parameter.requires_grad())
            .map(|(name, parameter)| {
                let zeros = || parameter.detach().zeros_like();
                Slot { name, first: zeros(), second: zeros(), parameter }
            })
            .collect();
        slots.sort_by(|a, b| a.name.cmp(&b.name));
        Self { slots, steps: 0, learning_rate }
    }

    /// One step down the gradient of `loss`.
    pub fn minimise(&mut self, loss: &Tensor) {
        for slot in &mut self.slots {
            slot.parameter.zero_grad();
        }
        loss.backward();
        let _frozen = tch::no_grad_guard();
        self.steps += 1;
        let step_size = self.learning_rate / (1.0 - BETA_1.powi(self.steps));
        let second_correction = 1.0 - BETA_2.powi(self.steps);
        for slot in &mut self.slots {
            let gradient = slot.parameter.grad();
            if !gradient.defined() {
                continue;
            }
            slot.first.copy_(&(&slot.first * BETA_1 + &gradient * (1.0 - BETA_1)));
            slot.second.copy_(&(&slot.second * BETA_2 + gradient.square() * (1.0 - BETA_2)));
            let scale = (&slot.second / second_correction).sqrt() + EPSILON;
            slot.parameter -= &slot.first / scale * step_size;
        }
    }

    /// Steps taken so far.
    pub fn steps(&self) -> i32 {
        self.steps
    }

    /// The moments by name, sharing storage with the optimiser.
    pub fn moments(&self) -> Vec<(String, Tensor)> {
        let named = |slot: &Slot| {
            [("first", &slot.first), ("second", &slot.second)]
                .map(|(moment, tensor)| (format!("adam.{moment}.{}", slot.name), tensor.shallow_clone()))
        };
        self.slots.iter().flat_map(named).collect()
    }

    /// Goes on after `steps` steps; the moments are restored through [`Adam::moments`].
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
