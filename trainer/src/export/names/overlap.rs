//! How much of each cluster lies under the annotations of each class.

use std::collections::BTreeMap;
use std::path::Path;

use tissuemap::overlay::{LABELS_PNG, Record, read_record};
use tissuemap::untrusted;

use crate::export::names::annotations::{Annotations, Polygon};
use crate::system::error::TrainError;

/// A cell is looked at in so many points along each side: an area is then known to a sixteenth of a cell.
const POINTS: usize = 4;

const OTHER_FOLDER: &str = "give the .tissuemap folder that lies beside the annotated slide";

/// A label map beside a slide, and where it lies.
#[derive(Debug)]
pub struct AnnotatedMap {
    record: Record,
    cols: usize,
    /// Row-major; 0 is background, 1…K are clusters.
    labels: Vec<u8>,
}

/// Areas in µm², summed over slides.
#[derive(Debug, PartialEq)]
pub struct Overlap {
    /// Of each cluster, from the first on.
    pub cluster: Vec<f64>,
    /// What of it lies under annotations of whichever class.
    pub annotated: Vec<f64>,
    /// What of it lies under annotations of each class.
    pub classes: BTreeMap<String, Vec<f64>>,
}

impl AnnotatedMap {
    /// Reads the map in a result folder that the model of this SHA-256 made.
    ///
    /// # Errors
    /// [`TrainError::Unusable`]: it is no such folder, or another model made it, whose clusters are others.
    pub fn read(folder: &Path, model_sha256: &str) -> Result<Self, TrainError> {
        let refuse = |reason: String, remedy| TrainError::Unusable { path: folder.to_owned(), reason, remedy };
        let record =
            read_record(folder).ok_or_else(|| refuse("it holds no result of tissuemap".to_owned(), OTHER_FOLDER))?;
        if record.model.sha256 != model_sha256 {
            return Err(refuse(
                format!(
                    "its map was made by the model {:.12}…, not by this one ({model_sha256:.12}…)",
                    record.model.sha256
                ),
                "give the model that made the map: the names fit every copy of it; or map the slide again",
            ));
        }
        let labels = untrusted::image(&folder.join(LABELS_PNG))
            .map_err(|e| refuse(format!("{LABELS_PNG}: {e}"), OTHER_FOLDER))?;
        let labels = labels.to_luma8();
        if labels.dimensions() != (record.map.cols, record.map.rows) {
            return Err(refuse(format!("{LABELS_PNG} and result.json differ in size"), "map the slide again"));
        }
        Ok(Self { cols: record.map.cols as usize, labels: labels.into_raw(), record })
    }

    /// From level-0 pixels counted from the bounds' corner, as QuPath does, to points of this map; (0, 0) is the first
    /// cell's corner.
    fn to_points(&self, [x, y]: [f64; 2]) -> [f64; 2] {
        let (slide, map) = (&self.record.slide, &self.record.map);
        let points_per_pixel = slide.mpp.get() / map.cell_um * POINTS as f64;
        let along = |v: f64, bounds: u32, origin: f64| (v + f64::from(bounds) - origin) * points_per_pixel;
        [along(x, slide.bounds.x, map.origin_level0[0]), along(y, slide.bounds.y, map.origin_level0[1])]
    }
}

impl Overlap {
    /// None yet, for so many clusters.
    pub fn new(clusters: usize) -> Self {
        Self { cluster: vec![0.0; clusters], annotated: vec![0.0; clusters], classes: BTreeMap::new() }
    }

    /// Adds one slide, row of points by row of points.
    pub fn add(&mut self, map: &AnnotatedMap, annotations: &Annotations) {
        let point_um2 = (map.record.map.cell_um / POINTS as f64).powi(2);
        let clusters = self.cluster.len();
        let index = |label: u8| (1..=clusters).contains(&usize::from(label)).then(|| usize::from(label) - 1);
        for cluster in map.labels.iter().filter_map(|&label| index(label)) {
            self.cluster[cluster] += point_um2 * (POINTS * POINTS) as f64;
        }
        let shapes: Vec<(&String, Vec<MapPolygon>)> = annotations
            .classes
            .iter()
            .map(|(class, polygons)| (class, polygons.iter().map(|polygon| MapPolygon::new(polygon, map)).collect()))
            .collect();
        let width = map.cols * POINTS;
        for (row, labels) in map.labels.chunks(map.cols).enumerate() {
            for line in row * POINTS..(row + 1) * POINTS {
                let mut anywhere = vec![false; width];
                for (class, shapes) in &shapes {
                    let mut inside = vec![false; width];
                    shapes.iter().for_each(|shape| shape.fill(line, &mut inside));
                    let areas = self.classes.entry((*class).clone()).or_insert_with(|| vec![0.0; clusters]);
                    for (i, _) in inside.iter().enumerate().filter(|(_, inside)| **inside) {
                        anywhere[i] = true;
                        if let Some(cluster) = index(labels[i / POINTS]) {
                            areas[cluster] += point_um2;
                        }
                    }
                }
                for (i, _) in anywhere.iter().enumerate().filter(|(_, inside)| **inside) {
                    if let Some(cluster) = index(labels[i / POINTS]) {
                        self.annotated[cluster] += point_um2;
                    }
                }
            }
        }
    }
}

/// A polygon in points of a map.
struct MapPolygon {
    edges: Vec<[[f64; 2]; 2]>,
    least: f64,
    most: f64,
}

impl MapPolygon {
    fn new(polygon: &Polygon, map: &AnnotatedMap) -> Self {
        let mut edges = Vec::new();
        for ring in polygon {
            let points: Vec<[f64; 2]> = ring.iter().map(|&point| map.to_points(point)).collect();
            // Rings are closed, whether or not they say so.
            edges.extend(points.iter().zip(points.iter().cycle().skip(1)).map(|(&a, &b)| [a, b]));
        }
        let heights = || edges.iter().map(|[[_, y], _]| *y);
        Self {
            least: heights().fold(f64::INFINITY, f64::min),
            most: heights().fold(f64::NEG_INFINITY, f64::max),
            edges,
        }
    }

    /// Marks the points of a line that lie inside, by the even-odd rule.
    fn fill(&self, line: usize, inside: &mut [bool]) {
        let y = line as f64 + 0.5;
        if y < self.least || y > self.most {
            return;
        }
        let mut crossings: Vec<f64> = self
            .edges
            .iter()
            .filter(|[[_, y0], [_, y1]]| (*y0 > y) != (*y1 > y))
            .map(|[[x0, y0], [x1, y1]]| x0 + (y - y0) / (y1 - y0) * (x1 - x0))
            .collect();
        crossings.sort_by(f64::total_cmp);
        let first_after = |x: f64| ((x - 0.5).ceil().max(0.0) as usize).min(inside.len());
        let spans: Vec<_> =
            crossings.as_chunks().0.iter().map(|&[from, to]| first_after(from)..first_after(to)).collect();
        spans.into_iter().for_each(|span| inside[span].fill(true));
    }
}
