//! The map as QuPath reads it: one annotation a cluster, merged polygons with holes, in level-0 pixels.

use std::io::Write;

use geojson::{Feature, FeatureWriter, Geometry, GeometryValue, JsonObject, Position};
use serde_json::json;
use uuid::Uuid;

use super::polygons::{Vertex, polygons};
use super::{AnyError, Record};
use crate::contract::Cluster;
use crate::map::LabelMap;
use crate::slide::SlideInfo;
use crate::units::UmPoint;

/// Writes the feature collection, feature by feature.
///
/// **Origin:** QuPath shows the part of the canvas inside `openslide.bounds-*`, so coordinates are level-0 pixels **from
/// the bounds origin**; each feature's metadata says so and names the offset. Cells that reach beyond the bounds are cut
/// off there.
pub(super) fn write(
    out: impl Write,
    map: &LabelMap,
    slide: &SlideInfo,
    clusters: &[Cluster],
    record: &Record,
) -> Result<(), AnyError> {
    let bounds = slide.bounds;
    let position = |&(col, row): &Vertex| {
        let corner =
            UmPoint { x: map.origin.x + f64::from(col) * map.cell_um, y: map.origin.y + f64::from(row) * map.cell_um };
        let at = corner.to_level0(slide.mpp);
        let relative = |value: f64, origin: u32, size: u32| {
            // A hundredth of a pixel: enough for a border, and files half as long.
            ((value - f64::from(origin)).clamp(0.0, f64::from(size)) * 100.0).round() / 100.0
        };
        Position::from([relative(at.x, bounds.x, bounds.width), relative(at.y, bounds.y, bounds.height)])
    };
    let registration =
        record.registration.iter().map(|v| format!("{} {}", v.stain, v.verdict)).collect::<Vec<_>>().join(", ");
    let mut writer = FeatureWriter::from_writer(out);
    for (label, pieces) in polygons(map) {
        let Some(cluster) = clusters.iter().find(|c| c.id == label) else { continue };
        let coordinates =
            pieces.iter().map(|rings| rings.iter().map(|ring| ring.iter().map(position).collect()).collect()).collect();
        let area = record.clusters.iter().find(|c| c.id == label);
        let mut measurements = json!({
            "Area µm^2": area.map_or(0.0, |c| c.area_um2),
            "Share of tissue": area.map_or(0.0, |c| c.fraction_of_tissue),
            "Cells": area.map_or(0, |c| c.cells),
        });
        // Only what the model can tell: QuPath takes an absent measurement for unknown.
        for (name, share) in [
            ("Share unfamiliar", area.and_then(|c| c.unfamiliar_fraction)),
            ("Share untypical", area.and_then(|c| c.untypical_fraction)),
        ] {
            if let Some(share) = share {
                measurements[name] = share.into();
            }
        }
        let properties = json!({
            "objectType": "annotation",
            "name": cluster.name,
            "classification": { "name": cluster.name, "color": cluster.color },
            "isLocked": true,
            "measurements": measurements,
            "metadata": {
                "run": record.run_id,
                "model": record.model.sha256,
                "origin": format!("level-0 pixels from the slide's bounds origin ({}, {})", bounds.x, bounds.y),
                // QuPath's metadata are texts.
                "registration": registration.clone(),
                "notice": super::RESEARCH_USE_ONLY,
            },
        });
        let id =
            Uuid::new_v5(&Uuid::NAMESPACE_OID, format!("{} {} {label}", record.run_id, record.slide.stain).as_bytes());
        writer.write_feature(&Feature {
            bbox: None,
            geometry: Some(Geometry::new(GeometryValue::MultiPolygon { coordinates })),
            id: Some(geojson::feature::Id::String(id.to_string())),
            properties: properties.as_object().cloned().or_else(|| Some(JsonObject::new())),
            foreign_members: None,
        })?;
    }
    writer.finish()?;
    Ok(())
}
