//! How long it takes until a worker is replaced.

use std::time::Duration;

/// The first replacement comes at once. Further ones, when workers do not live to do anything, wait twice as long each.
const BACK_OFF: Duration = Duration::from_millis(500);
const BACK_OFF_MOST: Duration = Duration::from_secs(30);

/// Nothing after the first death, then longer and longer.
pub(super) fn back_off(idle_deaths: u32) -> Duration {
    match idle_deaths {
        0 | 1 => Duration::ZERO,
        n => BACK_OFF.saturating_mul(1 << (n - 2).min(16)).min(BACK_OFF_MOST),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_replacement_comes_at_once_and_hopeless_ones_ever_more_rarely() {
        let waits: Vec<u128> = (0..=9).map(|deaths| back_off(deaths).as_millis()).collect();
        assert_eq!(waits, [0, 0, 500, 1000, 2000, 4000, 8000, 16000, 30000, 30000]);
    }
}
