//! `tissuemapctl slide info`

use std::fmt::Write;

use tissuemap::escape::{self, for_people};
use tissuemap::slide::{OpenOptions, SlideInfo, open};

use super::InfoArgs;
use crate::exit::{self, Exit, Failure};
use crate::job::Fault;

/// Prints what is known about a slide without reading its pixels.
///
/// # Errors
/// The slide cannot be opened.
pub fn info(args: &InfoArgs) -> Result<(), Failure> {
    let options = OpenOptions { mpp: args.mpp, ..OpenOptions::default() };
    let slide = open(&args.slide, &options).map_err(|error| Exit::JobsFailed.with(Fault::from(error)))?;
    exit::print(&if args.json { escape::json(&json(slide.info())) } else { text(slide.info()) })
}

/// Key and value as OpenSlide's own tools print them.
fn text(info: &SlideInfo) -> String {
    let base = info.levels[0];
    let bounds = info.bounds;
    let mut out = format!(
        "{}\nvendor   {}\nsize     {} x {} px\nmpp      {}\nbounds   {} x {} px at ({}, {})\n",
        for_people(&info.path),
        for_people(&info.vendor),
        base.width,
        base.height,
        info.mpp.get(),
        bounds.width,
        bounds.height,
        bounds.x,
        bounds.y
    );
    // Writing to a string cannot fail.
    for (index, level) in info.levels.iter().enumerate() {
        let _ = writeln!(out, "level {index}  {} x {} px, downsample {}", level.width, level.height, level.downsample);
    }
    for (name, value) in &info.properties {
        let _ = writeln!(out, "{}: '{}'", for_people(name), for_people(value));
    }
    out
}

fn json(info: &SlideInfo) -> String {
    let level = |l: &tissuemap::slide::Level| serde_json::json!({ "width": l.width, "height": l.height, "downsample": l.downsample });
    let levels: Vec<_> = info.levels.iter().map(level).collect();
    let object = serde_json::json!({
        "path": info.path.to_string_lossy(), "vendor": info.vendor, "mpp": info.mpp, "levels": levels, "bounds": info.bounds,
        "properties": info.properties,
    });
    format!("{object:#}\n")
}
