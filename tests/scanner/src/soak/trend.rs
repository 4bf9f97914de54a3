//! Whether a figure grows, told robustly: peaks while a set is processed are no growth.

/// By how much the figure grew over these samples of (seconds, value): the median of the slopes between all pairs of
/// samples (Theil and Sen), times the time that they span. Nothing where there are fewer than three samples.
pub(super) fn growth(samples: &[(f64, f64)]) -> Option<f64> {
    let (first, last) = (samples.first()?, samples.last()?);
    let pairs = samples.iter().enumerate().flat_map(|(at, a)| samples[at + 1..].iter().map(move |b| (a, b)));
    let mut slopes: Vec<f64> = pairs.filter(|(a, b)| b.0 > a.0).map(|(a, b)| (b.1 - a.1) / (b.0 - a.0)).collect();
    if samples.len() < 3 || slopes.is_empty() {
        return None;
    }
    slopes.sort_by(f64::total_cmp);
    Some(slopes[slopes.len() / 2] * (last.0 - first.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steady_growth_is_told_and_peaks_are_not() {
        let rising: Vec<_> = (0..50).map(|i| (f64::from(i) * 10.0, 100.0 + 2.0 * f64::from(i))).collect();
        assert!((growth(&rising).expect("enough") - 98.0).abs() < 1e-9);
        let peaks: Vec<_> = (0..50).map(|i| (f64::from(i) * 10.0, if i % 7 == 3 { 900.0 } else { 100.0 })).collect();
        assert!(growth(&peaks).expect("enough").abs() < 1e-9);
        let both: Vec<_> = rising.iter().zip(&peaks).map(|(a, b)| (a.0, a.1 + b.1)).collect();
        assert!((growth(&both).expect("enough") - 98.0).abs() < 5.0);
        assert_eq!(growth(&rising[..2]), None);
    }
}
