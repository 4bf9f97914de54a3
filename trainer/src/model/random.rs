//! Normally distributed random numbers.
//!
//! `rand_distr` is not used: it draws other numbers (ziggurat algorithm), so every seed would give another model than before, and the
//! published figures and the demo model could not be made again.

use std::f64::consts::TAU;

use rand::{Rng, RngExt};

/// Standard normal numbers (Box & Muller 1958), two a draw.
pub fn normals<R: Rng>(generator: &mut R) -> impl Iterator<Item = f32> + '_ {
    std::iter::repeat_with(move || {
        let (radius, angle): (f64, f64) = (generator.random(), generator.random());
        let (sine, cosine) = (TAU * angle).sin_cos();
        // The draw may be 0, but never 1.
        [sine, cosine].map(|axis| ((-2.0 * (1.0 - radius).ln()).sqrt() * axis) as f32)
    })
    .flatten()
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;
    use rand_chacha::ChaCha8Rng;

    use super::*;

    #[test]
    fn moments_are_those_of_the_standard_normal_distribution() {
        let mut generator = ChaCha8Rng::seed_from_u64(1);
        let drawn: Vec<f64> = normals(&mut generator).take(200_000).map(f64::from).collect();
        let moment = |power: i32| drawn.iter().map(|x| x.powi(power)).sum::<f64>() / drawn.len() as f64;
        assert!(moment(1).abs() < 0.01 && (moment(2) - 1.0).abs() < 0.02, "{} {}", moment(1), moment(2));
        assert!(moment(3).abs() < 0.05 && (moment(4) - 3.0).abs() < 0.1, "{} {}", moment(3), moment(4));
    }
}
