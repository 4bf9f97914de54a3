//! Landmarks: points that a person has set on a slide, as CSV files hold them.

use std::fs::File;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::deformation::SectionMap;
use crate::units::{Level0Point, Mpp};
use crate::untrusted;

/// A point in level-0 pixels of the full canvas, **pixel centres at integers**, as annotation tools write them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Landmark {
    pub id: String,
    pub x: f64,
    pub y: f64,
}

/// A landmark file that cannot be read or written.
#[derive(Debug, thiserror::Error)]
#[error("{}: {reason}", path.display())]
pub struct LandmarkError {
    pub path: PathBuf,
    pub reason: String,
}

impl LandmarkError {
    /// What a person can do about it.
    pub fn hint(&self) -> &'static str {
        "landmarks are a CSV with the header id,x,y: level-0 pixels, centres at integers"
    }

    fn new(path: &Path, reason: &impl ToString) -> Self {
        Self { path: path.into(), reason: reason.to_string() }
    }
}

/// Reads the columns `id`, `x` and `y`; others are not looked at.
///
/// # Errors
/// The file cannot be read, a column is missing, or a number is none.
pub fn read(path: &Path) -> Result<Vec<Landmark>, LandmarkError> {
    let file = untrusted::open_named(path, untrusted::SMALL).map_err(|error| LandmarkError::new(path, &error))?;
    let mut reader = csv::ReaderBuilder::new().trim(csv::Trim::All).from_reader(file);
    let points = reader.deserialize().collect::<Result<Vec<Landmark>, _>>();
    let points = points.map_err(|error| LandmarkError::new(path, &error))?;
    match points.iter().find(|point| !point.x.is_finite() || !point.y.is_finite()) {
        Some(point) => Err(LandmarkError::new(path, &format!("landmark {} has no place", point.id))),
        None => Ok(points),
    }
}

/// Writes points with four decimals: a ten-thousandth of a pixel.
///
/// # Errors
/// The file cannot be written.
pub fn write(path: &Path, points: &[Landmark]) -> Result<(), LandmarkError> {
    let write = || {
        let mut writer = csv::Writer::from_writer(File::create_new(path)?);
        writer.write_record(["id", "x", "y"])?;
        for Landmark { id, x, y } in points {
            writer.write_record([id, &format!("{x:.4}"), &format!("{y:.4}")])?;
        }
        writer.flush().map_err(csv::Error::from)
    };
    write().map_err(|error| LandmarkError::new(path, &error))
}

/// Where `points` of a slide with `from` micrometres per level-0 pixel lie on the slide that `map` leads to, which has
/// `to`.
pub fn carry(points: &[Landmark], map: &SectionMap, from: Mpp, to: Mpp) -> Vec<Landmark> {
    let carried = |point: &Landmark| {
        let there = map.apply(Level0Point { x: point.x + 0.5, y: point.y + 0.5 }.to_um(from)).to_level0(to);
        Landmark { id: point.id.clone(), x: there.x - 0.5, y: there.y - 0.5 }
    };
    points.iter().map(carried).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::units::Affine;

    fn point(id: &str, x: f64, y: f64) -> Landmark {
        Landmark { id: id.into(), x, y }
    }

    #[test]
    fn a_file_is_read_as_it_was_written_and_its_other_columns_are_left_alone() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let path = folder.path().join("points.csv");
        let points = [point("1", 12.25, -3.0), point("gland, left", 0.0001, 7e5)];
        write(&path, &points).expect("writable");
        assert_eq!(read(&path).expect("readable"), points);
        std::fs::write(&path, "who, y, x, id\nA, 2.5, 1, 7\n").expect("writable");
        assert_eq!(read(&path).expect("readable"), [point("7", 1.0, 2.5)]);
    }

    #[test]
    fn bad_files_are_named_with_reason_and_hint() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let path = folder.path().join("points.csv");
        for (text, reason) in [
            ("id,x\n1,2\n", "missing field `y`"),
            ("id,x,y\n1,2,far\n", "line: 2"),
            ("id,x,y\n9,NaN,1\n", "landmark 9"),
        ] {
            std::fs::write(&path, text).expect("writable");
            let said = read(&path).expect_err("refused").to_string();
            assert!(said.contains("points.csv") && said.contains(reason), "{said}");
        }
    }

    #[test]
    fn pixel_centres_are_integers_on_both_slides() {
        // The centre of pixel 3 at 0.5 µm is at 1.75 µm; 10 µm further, in pixels of 0.25 µm, it is 47 - 0.5.
        let shift = Affine([[1.0, 0.0, 10.0], [0.0, 1.0, 0.0]]).into();
        let mpp = |um| Mpp::new(um).expect("plausible");
        let carried = carry(&[point("a", 3.0, 0.0)], &shift, mpp(0.5), mpp(0.25));
        assert_eq!(carried, [point("a", 46.5, 0.5)]);
    }
}
