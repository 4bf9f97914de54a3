//! From colours to stain concentrations and back, in optical density, where stains add (Beer and Lambert).

use image::RgbImage;
use rayon::prelude::*;

use super::plane::Plane;

/// Optical density per unit concentration in red, green and blue.
pub(crate) type StainVector = [f64; 3];

/// Haematoxylin and DAB as measured by Ruifrok and Johnston (Anal Quant Cytol Histol 23:291, 2001), unit length.
pub(crate) const HAEMATOXYLIN: StainVector = [0.650, 0.704, 0.286];
pub(crate) const DAB: StainVector = [0.268, 0.570, 0.776];

/// Macenko's β: optical densities below it are glass, or too pale to tell stains apart. Compared with the mean of the
/// three channels, because a bright eosin hardly absorbs red and would be left out channel by channel.
const BETA: f64 = 0.15;

/// Macenko's α: the angles of the two stains are the 1st and 99th percentile, so that debris does not decide.
const ALPHA: f64 = 0.01;

/// The two stains of an HE section, separated.
pub(crate) struct Separated {
    /// Colour of the glass.
    pub(crate) glass: [u8; 3],
    /// Concentrations; 1 is the slide's own strong staining (95th percentile of the stained pixels).
    pub(crate) haematoxylin: Plane,
    /// Concentrations, scaled like `haematoxylin`.
    pub(crate) eosin: Plane,
}

/// Separates an HE image with stain vectors estimated from the image itself (Macenko et al., ISBI 2009, 1107).
pub(crate) fn separate(image: &RgbImage) -> Separated {
    let glass = glass_colour(image);
    let [h, e] = stain_vectors(image, glass);
    // Least squares for two stains: c = (VᵀV)⁻¹ Vᵀ od, with the 2 × 2 inverse written out.
    let dot = |a: &StainVector, b: &StainVector| -> f64 { a.iter().zip(b).map(|(a, b)| a * b).sum() };
    let (hh, he, ee) = (dot(&h, &h), dot(&h, &e), dot(&e, &e));
    let det = (hh * ee - he * he).max(1e-6);
    let unmix = |a: f64, b: f64, own: StainVector, other: StainVector| {
        let row: StainVector = std::array::from_fn(|i| (a * own[i] - b * other[i]) / det);
        let plane = Plane::from_fn(image.width() as usize, image.height() as usize, |x, y| {
            dot(&row, &density(image.get_pixel(x as u32, y as u32).0, glass)).max(0.0) as f32
        });
        let strong = plane.quantile(0.95, |v| v > BETA as f32).max(f32::MIN_POSITIVE);
        Plane { values: plane.values.iter().map(|v| v / strong).collect(), ..plane }
    };
    Separated { glass, haematoxylin: unmix(ee, he, h, e), eosin: unmix(hh, he, e, h) }
}

/// Light that passes: `glass · exp(−Σ concentration · vector)`, in 8-bit units, not rounded.
pub(crate) fn transmitted(glass: [u8; 3], stains: [(f32, StainVector); 2]) -> [f32; 3] {
    std::array::from_fn(|i| {
        let density: f64 = stains.iter().map(|(concentration, vector)| f64::from(*concentration) * vector[i]).sum();
        (f64::from(glass[i]) * (-density).exp()) as f32
    })
}

/// Natural-logarithm optical density against the glass. A zero is read as one: the sensor cannot tell them apart.
fn density(rgb: [u8; 3], glass: [u8; 3]) -> StainVector {
    std::array::from_fn(|i| -(f64::from(rgb[i].max(1)) / f64::from(glass[i].max(1))).ln())
}

/// Per channel the most frequent value of the brighter quarter of the scale; 255 where nothing is that bright.
fn glass_colour(image: &RgbImage) -> [u8; 3] {
    std::array::from_fn(|channel| {
        let mut histogram = [0u64; 256];
        image.pixels().for_each(|pixel| histogram[pixel[channel] as usize] += 1);
        let (value, count) =
            (192..=255u8).map(|v| (v, histogram[v as usize])).max_by_key(|&(_, n)| n).unwrap_or((255, 0));
        if count == 0 { 255 } else { value }
    })
}

/// Haematoxylin's and eosin's directions, unit length, haematoxylin (the one that absorbs more red) first.
fn stain_vectors(image: &RgbImage, glass: [u8; 3]) -> [StainVector; 2] {
    let stained: Vec<StainVector> = image
        .as_raw()
        .par_chunks_exact(3)
        .map(|p| density([p[0], p[1], p[2]], glass))
        .filter(|od| od.iter().sum::<f64>() / 3.0 > BETA)
        .collect();
    let mut covariance = [[0.0; 3]; 3];
    for od in &stained {
        for i in 0..3 {
            for j in 0..3 {
                covariance[i][j] += od[i] * od[j];
            }
        }
    }
    // Second moments about the origin: the plane of the two stains contains "no stain". Densities are positive, hence
    // so is the first eigenvector (Perron and Frobenius), and angles around it do not wrap.
    let first = leading_eigenvector(covariance);
    let value = first.iter().zip(multiply(covariance, first)).map(|(a, b)| a * b).sum::<f64>();
    let mut rest = covariance;
    for i in 0..3 {
        for j in 0..3 {
            rest[i][j] -= value * first[i] * first[j];
        }
    }
    let second = leading_eigenvector(rest);
    let project = |od: &StainVector, axis: &StainVector| od.iter().zip(axis).map(|(a, b)| a * b).sum::<f64>();
    let mut angles: Vec<f64> = stained.iter().map(|od| project(od, &second).atan2(project(od, &first))).collect();
    angles.sort_unstable_by(f64::total_cmp);
    let vector = |q: f64| {
        let angle = angles.get((angles.len().saturating_sub(1) as f64 * q).round() as usize).copied().unwrap_or(0.0);
        let vector: StainVector = std::array::from_fn(|i| (angle.cos() * first[i] + angle.sin() * second[i]).max(0.0));
        normalised(vector)
    };
    let (a, b) = (vector(ALPHA), vector(1.0 - ALPHA));
    if a[0] >= b[0] { [a, b] } else { [b, a] }
}

/// Power iteration; the matrices here have well separated eigenvalues (total density, then the stains' difference).
fn leading_eigenvector(matrix: [[f64; 3]; 3]) -> StainVector {
    // Not orthogonal to any plausible answer.
    let mut vector = normalised([1.0, 0.9, -0.3]);
    for _ in 0..200 {
        vector = normalised(multiply(matrix, vector));
    }
    if vector.iter().sum::<f64>() < 0.0 { vector.map(|v| -v) } else { vector }
}

fn multiply(matrix: [[f64; 3]; 3], vector: StainVector) -> StainVector {
    matrix.map(|row| row.iter().zip(vector).map(|(a, b)| a * b).sum())
}

fn normalised(vector: StainVector) -> StainVector {
    let length = vector.iter().map(|v| v * v).sum::<f64>().sqrt().max(f64::MIN_POSITIVE);
    vector.map(|v| v / length)
}

#[cfg(test)]
mod tests {
    use image::Rgb;

    use super::*;

    #[test]
    fn separation_recovers_a_painted_mixture() {
        let glass = [244, 243, 245];
        // Macenko's published HE directions, normalised.
        let (h, e) = (normalised([0.5626, 0.7201, 0.4062]), normalised([0.2159, 0.8012, 0.5581]));
        let truth = |x: u32, y: u32| (x as f32 / 100.0, y as f32 / 100.0);
        let image = RgbImage::from_fn(121, 121, |x, y| {
            let (ch, ce) = truth(x, y);
            Rgb(if x + y < 30 { glass } else { transmitted(glass, [(ch, h), (ce, e)]).map(|v| v.round() as u8) })
        });
        let separated = separate(&image);
        assert_eq!(separated.glass, glass);
        // Both planes are scaled by their own 95th percentile: ratios within a plane are what must agree.
        let ratio =
            |plane: &Plane, a: (usize, usize), b: (usize, usize)| f64::from(plane.at(a.0, a.1) / plane.at(b.0, b.1));
        assert!((ratio(&separated.haematoxylin, (50, 40), (100, 40)) - 0.5).abs() < 0.06);
        assert!((ratio(&separated.eosin, (40, 50), (40, 100)) - 0.5).abs() < 0.06);
        assert!(separated.haematoxylin.at(0, 100) < 0.1, "eosin alone leaves no haematoxylin");
        assert!(separated.eosin.at(100, 0) < 0.1, "haematoxylin alone leaves no eosin");
    }
}
