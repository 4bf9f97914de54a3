//! Annotations as QuPath exports them: areas with a class, in level-0 pixels from the corner of the slide's scanned part.

use std::collections::BTreeMap;
use std::path::Path;

use geojson::{Feature, GeometryValue, Position};
use serde_json::Value;

use tissuemap::untrusted::{self, Bounded};

use crate::system::error::TrainError;

/// Far more than any genuine file of this kind has.
const MAX_BYTES: u64 = 1 << 30;

/// A closed line.
pub type Ring = Vec<[f64; 2]>;
/// What the even-odd rule leaves of its rings: a shell and holes.
pub type Polygon = Vec<Ring>;

/// The areas of one file by class.
#[derive(Debug, Default, PartialEq)]
pub struct Annotations {
    /// Polygons of each class, level-0 pixels from the bounds' corner.
    pub classes: BTreeMap<String, Vec<Polygon>>,
    /// Annotations that have a class and an area.
    pub used: usize,
    /// Annotations without a class.
    pub without_class: usize,
    /// Points and lines.
    pub without_area: usize,
}

impl std::fmt::Display for Annotations {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { classes, used, without_class, without_area } = self;
        write!(f, "{used} annotations of {} classes; ignored: {without_class} without a class", classes.len())?;
        write!(f, ", {without_area} without an area")
    }
}

impl Annotations {
    /// Reads a `GeoJSON` file: a collection of features, a list of them (as QuPath's scripts write), or one.
    ///
    /// # Errors
    /// [`TrainError::Unusable`] if it is no such file or no annotation can be used; [`TrainError::File`] when it cannot be
    /// read.
    pub fn read(path: &Path) -> Result<Self, TrainError> {
        let refuse = |reason: String| TrainError::Unusable {
            path: path.to_owned(),
            reason,
            remedy: "export annotations from QuPath as GeoJSON, each with a class",
        };
        let bytes = untrusted::open_named(path, MAX_BYTES).and_then(Bounded::bytes)?;
        let value: Value = serde_json::from_slice(&bytes).map_err(|e| refuse(e.to_string()))?;
        let features = match value {
            Value::Array(features) => features,
            Value::Object(mut object) if object.get("type") == Some(&"FeatureCollection".into()) => {
                match object.remove("features") {
                    Some(Value::Array(features)) => features,
                    _ => return Err(refuse("the collection has no features".to_owned())),
                }
            }
            feature => vec![feature],
        };
        let mut annotations = Self::default();
        for (i, feature) in features.into_iter().enumerate() {
            let feature = serde_json::from_value(feature).map_err(|e| refuse(format!("feature {}: {e}", i + 1)))?;
            annotations.add(feature);
        }
        if annotations.used == 0 {
            return Err(refuse(format!("no annotation can be used: {annotations}")));
        }
        Ok(annotations)
    }

    fn add(&mut self, feature: Feature) {
        let Some(class) = class(&feature) else {
            self.without_class += 1;
            return;
        };
        let polygons = match feature.geometry.map(|geometry| geometry.value) {
            Some(GeometryValue::Polygon { coordinates }) => vec![coordinates],
            Some(GeometryValue::MultiPolygon { coordinates }) => coordinates,
            _ => {
                self.without_area += 1;
                return;
            }
        };
        let point = |position: &Position| [position.as_slice()[0], position.as_slice()[1]];
        let ring = |ring: Vec<Position>| ring.iter().map(point).collect();
        let polygons = polygons.into_iter().map(|rings| rings.into_iter().map(ring).collect());
        self.classes.entry(class).or_default().extend(polygons);
        self.used += 1;
    }
}

/// QuPath writes a derived class such as `Tumour: Positive` as the list of its parts.
fn class(feature: &Feature) -> Option<String> {
    let classification = feature.properties.as_ref()?.get("classification")?;
    let parts = || classification.get("names")?.as_array()?.iter().map(Value::as_str).collect::<Option<Vec<_>>>();
    let name = classification.get("name").and_then(Value::as_str).map(str::to_owned);
    name.or_else(|| Some(parts()?.join(": "))).map(|name| name.trim().to_owned()).filter(|name| !name.is_empty())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use serde_json::json;

    fn read(value: &Value) -> Result<Annotations, TrainError> {
        let file = tempfile::NamedTempFile::new().expect("file");
        fs::write(file.path(), value.to_string()).expect("written");
        Annotations::read(file.path())
    }

    fn feature(class: &Value, geometry: &Value) -> Value {
        json!({"type": "Feature", "id": "0", "geometry": geometry,
            "properties": {"objectType": "annotation", "classification": class}})
    }

    fn square() -> Value {
        json!({"type": "Polygon", "coordinates": [[[0, 0], [4, 0], [4, 4], [0, 4], [0, 0]], [[1, 1], [1, 2], [2, 2], [1, 1]]]})
    }

    #[test]
    fn areas_come_by_class_and_the_rest_is_counted() {
        let two = json!({"type": "MultiPolygon", "coordinates": [square()["coordinates"], square()["coordinates"]]});
        let features = [
            feature(&json!({"name": "Stroma", "color": [1, 2, 3]}), &square()),
            feature(&json!({"name": "Stroma"}), &two),
            feature(&json!({"names": ["Tumour", "Positive"]}), &square()),
            feature(&json!({"name": "Stroma"}), &json!({"type": "Point", "coordinates": [1, 2]})),
            feature(&json!(null), &square()),
            json!({"type": "Feature", "geometry": square(), "properties": {"objectType": "annotation"}}),
        ];
        let found = read(&json!({"type": "FeatureCollection", "features": features})).expect("reads");
        assert_eq!((found.used, found.without_class, found.without_area), (3, 2, 1));
        assert_eq!(found.classes.keys().collect::<Vec<_>>(), ["Stroma", "Tumour: Positive"]);
        assert_eq!(found.classes["Stroma"].len(), 3);
        assert_eq!(found.classes["Stroma"][0].len(), 2, "a shell and a hole");
        assert_eq!(found.classes["Stroma"][0][0][2], [4.0, 4.0]);
        assert_eq!(read(&json!(features)).expect("a bare list"), found);
        assert_eq!(read(&features[0]).expect("one feature").used, 1);
    }

    #[test]
    fn what_is_no_annotation_is_refused_in_one_line() {
        for value in [
            json!(7),
            json!({"type": "FeatureCollection"}),
            json!([{"type": "Feature", "geometry": {"type": "Polygon", "coordinates": [[["a", "b"]]]}}]),
            json!([{"type": "Feature", "geometry": {"type": "Polygon", "coordinates": [[[1]]]}}]),
            json!([feature(&json!(null), &square())]),
            json!([]),
        ] {
            let error = read(&value).expect_err("refused");
            assert!(!error.to_string().contains('\n') && error.exit_code() == 64, "{error}");
        }
    }
}
