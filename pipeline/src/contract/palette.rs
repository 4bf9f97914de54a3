//! Default cluster colours: as different as possible, also for colour-blind eyes.
//!
//! The first seven are the palette of Okabe and Ito (*Color Universal Design*, 2008) without its black. The rest follow the
//! max-min idea of Glasbey et al. (*Colour displays for categorical images*, 2007): each next colour is the one whose
//! nearest neighbour among those taken is farthest, where a distance counts as little as the worst of three eyes sees it:
//! normal, protanope and deuteranope (simulated after Viénot, Brettel and Mollon, 1999). Distances are Euclidean in Oklab
//! (Ottosson, 2020).

use super::Cluster;

const OKABE_ITO: [[u8; 3]; 7] =
    [[230, 159, 0], [86, 180, 233], [0, 158, 115], [240, 228, 66], [0, 114, 178], [213, 94, 0], [204, 121, 167]];

/// Glass and the ink of legends are taken from the start.
const RESERVED: [[u8; 3]; 2] = [[255, 255, 255], [0, 0, 0]];

/// Oklab lightness that candidates may have; darker or lighter ones all look alike over a blended thumbnail.
const LIGHTNESS: std::ops::RangeInclusive<f32> = 0.35..=0.95;

/// Levels per channel; the candidates among these 13³ = 2197 colours are enough for 254 clusters.
const STEPS: u16 = 13;

/// One colour as three kinds of eyes see it, in Oklab.
type Seen = [[f32; 3]; 3];

/// `k` clusters named `cluster 1` … with distinguishable colours; the first k of `k + 1` clusters are the same.
pub fn clusters_default(k: u8) -> Vec<Cluster> {
    (1..=k).zip(colors(k.into())).map(|(id, color)| Cluster { id, name: format!("cluster {id}"), color }).collect()
}

fn colors(k: usize) -> Vec<[u8; 3]> {
    let level = |i: u16| (i * 255 / (STEPS - 1)) as u8;
    let grid = (0..STEPS.pow(3)).map(|i| [level(i / STEPS.pow(2)), level(i / STEPS % STEPS), level(i % STEPS)]);
    let mut colors: Vec<[u8; 3]> = OKABE_ITO.into_iter().take(k).collect();
    let taken: Vec<Seen> = RESERVED.iter().chain(&OKABE_ITO).map(|&color| seen(color)).collect();
    let nearest_taken =
        |candidate: &Seen| taken.iter().map(|other| distance(candidate, other)).fold(f32::INFINITY, f32::min);
    let mut candidates: Vec<([u8; 3], Seen, f32)> = grid
        .map(|color| (color, seen(color)))
        .filter(|(_, seen)| LIGHTNESS.contains(&seen[0][0]))
        .map(|(color, seen)| (color, seen, nearest_taken(&seen)))
        .collect();
    while colors.len() < k {
        let Some(&(color, chosen, _)) = candidates.iter().max_by(|a, b| a.2.total_cmp(&b.2)) else { break };
        colors.push(color);
        for (_, seen, nearest) in &mut candidates {
            *nearest = nearest.min(distance(seen, &chosen));
        }
    }
    colors
}

fn seen(color: [u8; 3]) -> Seen {
    let [r, g, b] = color.map(linear);
    // Viénot et al.: dichromats see red and green as one mixture; blue shifts a little.
    let protanope = [0.112_38 * r + 0.887_62 * g, 0.112_38 * r + 0.887_62 * g, 0.004_01 * (r - g) + b];
    let deuteranope = [0.292_75 * r + 0.707_25 * g, 0.292_75 * r + 0.707_25 * g, 0.022_34 * (g - r) + b];
    [[r, g, b], protanope, deuteranope].map(oklab)
}

fn distance(a: &Seen, b: &Seen) -> f32 {
    let euclidean = |p: &[f32; 3], q: &[f32; 3]| p.iter().zip(q).map(|(x, y)| (x - y).powi(2)).sum::<f32>().sqrt();
    a.iter().zip(b).map(|(p, q)| euclidean(p, q)).fold(f32::INFINITY, f32::min)
}

/// sRGB (IEC 61966-2-1) to linear light.
fn linear(channel: u8) -> f32 {
    let v = f32::from(channel) / 255.0;
    if v <= 0.040_45 { v / 12.92 } else { ((v + 0.055) / 1.055).powf(2.4) }
}

fn oklab([r, g, b]: [f32; 3]) -> [f32; 3] {
    let l = (0.412_221_47 * r + 0.536_332_55 * g + 0.051_445_993 * b).max(0.0).cbrt();
    let m = (0.211_903_5 * r + 0.680_699_5 * g + 0.107_396_96 * b).max(0.0).cbrt();
    let s = (0.088_302_46 * r + 0.281_718_85 * g + 0.629_978_7 * b).max(0.0).cbrt();
    [
        0.210_454_26 * l + 0.793_617_8 * m - 0.004_072_047 * s,
        1.977_998_5 * l - 2.428_592_2 * m + 0.450_593_7 * s,
        0.025_904_037 * l + 0.782_771_77 * m - 0.808_675_77 * s,
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_clusters_keep_the_colours_of_fewer() {
        let many = clusters_default(254);
        assert_eq!(many.len(), 254);
        for k in [2, 7, 8, 20] {
            assert_eq!(clusters_default(k), many[..k.into()]);
        }
    }

    #[test]
    fn twenty_four_colours_differ_for_every_eye_and_from_glass_and_ink() {
        let colors: Vec<Seen> = colors(24).iter().chain(&RESERVED).map(|&color| seen(color)).collect();
        for (i, a) in colors.iter().enumerate() {
            for b in &colors[..i] {
                // A just noticeable difference is about 0.02 in Oklab.
                assert!(distance(a, b) > 0.04, "{}", distance(a, b));
            }
        }
    }
}
