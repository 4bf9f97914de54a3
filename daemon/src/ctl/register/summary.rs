//! `registration.json` and the table on standard output: how each section was judged.

use serde::Serialize;
use tissuemap::escape::for_people;
use tissuemap::overlay::RESEARCH_USE_ONLY;
use tissuemap::placement::Placement;
use tissuemap::register::{RegistrationQuality, Verdict};
use tissuemap::slide::SlideInfo;
use tissuemap::transform::{SlideFrame, software};
use tissuemap::units::Mpp;

use super::Section;
use crate::exit::{Exit, Failure};

pub(super) const FILE: &str = "registration.json";
const FORMAT: &str = "tissuemap-registration/1";
const HEADER: [&str; 7] =
    ["section", "verdict", "error µm", "tissue overlap", "area factors", "search margin", "cycle error µm"];

/// One run of `tissuemapctl register`.
#[derive(Debug, Serialize)]
pub(super) struct Summary {
    format: &'static str,
    software: String,
    research_use_only: &'static str,
    fixed: SlideFrame,
    /// Resolution at which the sections were registered and the pictures are drawn.
    registration_mpp: Mpp,
    pub(super) sections: Vec<SectionSummary>,
    /// Everything that was written, by which a later `--force` knows that it may be replaced.
    pub(super) files: Vec<String>,
}

/// One moving section.
#[derive(Debug, Serialize)]
pub(super) struct SectionSummary {
    pub(super) name: String,
    slide: SlideFrame,
    pub(super) verdict: Verdict,
    /// Why the verdict is not better; empty when it is good.
    pub(super) reasons: Vec<String>,
    /// `None` where no map was found; there are no files then.
    quality: Option<RegistrationQuality>,
    files: Vec<String>,
}

impl SectionSummary {
    pub(super) fn new(section: &Section, placement: &Placement, files: Vec<String>) -> Self {
        let quality = placement.quality().cloned();
        let (verdict, reasons) = placement.verdict().unwrap_or((Verdict::Refused, Vec::new()));
        let (name, slide) = (section.name.clone(), section.slide.info().into());
        Self { name, slide, verdict, reasons, quality, files }
    }

    fn row(&self) -> [String; HEADER.len()] {
        let figures = self.quality.as_ref().map(|q| {
            let or_dash = |value: Option<String>| value.unwrap_or_else(|| "-".into());
            [
                format!("{:.1}", q.estimated_error_um),
                format!("{:.0} %", 100.0 * q.tissue_overlap_fraction),
                format!("{:.2} to {:.2}", q.jacobian_min, q.jacobian_max),
                or_dash(q.search_margin.map(|margin| format!("{margin:.2}"))),
                or_dash(q.cycle_error_um.map(|error| format!("{error:.1}"))),
            ]
        });
        let [error, overlap, area, margin, cycle] = figures.unwrap_or_else(|| std::array::from_fn(|_| "-".into()));
        [self.name.clone(), self.verdict.to_string(), error, overlap, area, margin, cycle]
    }
}

impl Summary {
    pub(super) fn new(fixed: &SlideInfo, registration_mpp: Mpp) -> Self {
        Self {
            format: FORMAT,
            software: software(),
            research_use_only: RESEARCH_USE_ONLY,
            fixed: fixed.into(),
            registration_mpp,
            sections: Vec::new(),
            files: vec![FILE.into()],
        }
    }

    pub(super) fn add(&mut self, section: SectionSummary) {
        self.files.extend(section.files.iter().cloned());
        self.sections.push(section);
    }

    /// What `registration.json` holds and `--json` prints.
    pub(super) fn json(&self) -> Result<String, Failure> {
        serde_json::to_string_pretty(self).map(|text| text + "\n").map_err(|error| Exit::Internal.because(&error))
    }

    /// A line for each section, in columns.
    pub(super) fn table(&self) -> String {
        let mut rows = vec![HEADER.map(str::to_owned)];
        let shown = |cell: String| for_people(&cell).to_string();
        rows.extend(self.sections.iter().map(|section| section.row().map(shown)));
        let widths: [usize; HEADER.len()] =
            std::array::from_fn(|column| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0));
        let line = |row: &[String; HEADER.len()]| {
            let cells = row.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}"));
            cells.collect::<Vec<_>>().join("  ").trim_end().to_owned() + "\n"
        };
        rows.iter().map(line).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tissuemap::slide::{SlideSource, SyntheticSlide};

    use super::*;

    #[test]
    fn a_section_without_a_map_is_refused_and_has_no_figures() {
        let mpp = Mpp::new(1.0).expect("plausible");
        let slide: Arc<dyn SlideSource> = Arc::new(SyntheticSlide::new(image::RgbImage::new(8, 8), mpp));
        let mut summary = Summary::new(slide.info(), mpp);
        let section = Section { name: "case7_KI67".into(), slide };
        let placement = Placement::LeftOut { reason: "blank".into(), refused: None };
        summary.add(SectionSummary::new(&section, &placement, Vec::new()));
        let table = summary.table();
        let cells = |line: &str| -> Vec<String> {
            line.split("  ").map(|cell| cell.trim().to_owned()).filter(|cell| !cell.is_empty()).collect()
        };
        let lines: Vec<Vec<String>> = table.lines().map(cells).collect();
        assert_eq!(lines[0], HEADER);
        assert_eq!(lines[1], ["case7_KI67", "refused", "-", "-", "-", "-", "-"]);
        assert!(summary.json().expect("JSON").contains("\"blank\""));
    }
}
