//! Structural similarity of two pictures ("Image quality assessment: from error visibility to structural similarity",
//! Wang et al. 2004): luminance, contrast and structure compared in a small window around each pixel.
//!
//! Values equal scikit-image's `structural_similarity` with Gaussian weights of σ 1.5, population covariance and a range
//! of 255: windows that reach beyond the border are left out.

/// Side of the window in pixels; smaller channels have no SSIM.
pub(super) const WINDOW: usize = 11;
/// Of the Gaussian that weighs the window's pixels.
const SIGMA: f64 = 1.5;
/// (K₁·L)² and (K₂·L)² with K₁ = 0.01, K₂ = 0.03 and L = 255: keep the quotients finite where a window is black or flat.
const C1: f64 = (0.01 * 255.0) * (0.01 * 255.0);
const C2: f64 = (0.03 * 255.0) * (0.03 * 255.0);

/// Mean SSIM of two channels of 8-bit values, row-major, `width` pixels wide: 1 where they are equal, 0 where nothing of
/// the structure is left, below 0 where it is inverted. None where no window fits.
///
/// # Panics
/// Where the channels are not of one size, or no whole number of rows.
pub(super) fn ssim(a: &[u8], b: &[u8], width: usize) -> Option<f64> {
    assert!(a.len() == b.len() && a.len().is_multiple_of(width), "both channels are of one size");
    if width < WINDOW || a.len() / width < WINDOW {
        return None;
    }
    let weights = weights();
    let local_mean = |value: &dyn Fn(f64, f64) -> f64| {
        let values: Vec<f64> = a.iter().zip(b).map(|(&a, &b)| value(f64::from(a), f64::from(b))).collect();
        smooth(&values, width, &weights)
    };
    let (mean_a, mean_b) = (local_mean(&|a, _| a), local_mean(&|_, b| b));
    let (square_a, square_b, product) =
        (local_mean(&|a, _| a * a), local_mean(&|_, b| b * b), local_mean(&|a, b| a * b));
    let similarity = |i: usize| {
        let (ma, mb) = (mean_a[i], mean_b[i]);
        let (variance_a, variance_b, covariance) = (square_a[i] - ma * ma, square_b[i] - mb * mb, product[i] - ma * mb);
        (2.0 * ma * mb + C1) * (2.0 * covariance + C2) / ((ma * ma + mb * mb + C1) * (variance_a + variance_b + C2))
    };
    Some((0..mean_a.len()).map(similarity).sum::<f64>() / mean_a.len() as f64)
}

/// Of the window's rows and columns alike; they sum to 1.
fn weights() -> [f64; WINDOW] {
    let mut weights = std::array::from_fn(|i| {
        let distance = i as f64 - (WINDOW / 2) as f64;
        (-0.5 * (distance / SIGMA).powi(2)).exp()
    });
    let sum: f64 = weights.iter().sum();
    weights.iter_mut().for_each(|weight| *weight /= sum);
    weights
}

/// Weighted means over every window that lies inside, row-major: along the rows, then along the columns.
fn smooth(values: &[f64], width: usize, weights: &[f64; WINDOW]) -> Vec<f64> {
    let inner = width - (WINDOW - 1);
    let rows: Vec<f64> = values
        .chunks_exact(width)
        .flat_map(|row| row.windows(WINDOW).map(|window| window.iter().zip(weights).map(|(v, w)| v * w).sum()))
        .collect();
    let height = rows.len() / inner - (WINDOW - 1);
    let column = |i: usize| weights.iter().enumerate().map(|(k, w)| rows[i + k * inner] * w).sum();
    (0..height * inner).map(column).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde::Deserialize;

    use super::*;

    /// What scikit-image said: golden/ssim.py. Three channels one after the other.
    #[derive(Deserialize)]
    struct Golden {
        width: usize,
        height: usize,
        a: Vec<u8>,
        b: Vec<u8>,
        ssim: f64,
    }

    #[test]
    fn values_equal_those_of_scikit_image() {
        let cases: BTreeMap<String, Golden> =
            serde_json::from_str(include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/golden/ssim.json")))
                .expect("golden numbers");
        assert_eq!(cases.len(), 6);
        for (name, Golden { width, height, a, b, ssim: expected }) in cases {
            let channels = a.chunks_exact(width * height).zip(b.chunks_exact(width * height));
            let found: Vec<f64> = channels.map(|(a, b)| ssim(a, b, width).expect("a window fits")).collect();
            let mean = found.iter().sum::<f64>() / 3.0;
            assert!((mean - expected).abs() < 1e-9, "{name}: {mean} {expected}");
        }
    }

    #[test]
    fn inverted_structure_is_negative_and_too_small_planes_have_none() {
        let texture: Vec<u8> = (0..400).map(|i| (i * 37 % 101 + 80) as u8).collect();
        let inverted: Vec<u8> = texture.iter().map(|v| 255 - v).collect();
        assert!(ssim(&texture, &inverted, 20).expect("fits") < -0.5);
        assert_eq!(ssim(&texture[..100], &texture[..100], 10), None);
    }
}
