//! Names for clusters, drafted from what lies under annotations, with the evidence for each.
//!
//! A cluster gets the class that most of its annotated area has. It stays unnamed where too little of it is annotated to
//! tell, or where no class stands out. Clusters of one class are numbered: `stroma 1`, `stroma 2`, so that nobody takes them
//! for one cluster, and a person can merge or rename them.

use std::collections::BTreeMap;
use std::fmt::Write;

use tissuemap::contract::is_name;

use crate::export::names::file::quoted;
use crate::export::names::overlap::Overlap;

/// Share of a cluster's annotated area that must be of one class.
const MIN_PURITY: f64 = 0.6;
/// Share of a cluster's area that must be annotated: what lies elsewhere may be other tissue.
const MIN_COVERAGE: f64 = 0.05;
/// Annotated area that a cluster must have, in cells of the model's map: fewer are a border's accident.
const MIN_CELLS: f64 = 10.0;

/// What the annotations say of one cluster.
#[derive(Debug, Clone, PartialEq)]
pub struct NameProposal {
    /// The cluster's id.
    pub id: usize,
    /// Its area in cells of the model's map.
    pub cells: f64,
    /// Share of its area that is annotated.
    pub coverage: f64,
    /// The class of most of it and that class's share of the annotated area, where there is any.
    pub best: Option<(String, f64)>,
    /// The name, or why it gets none.
    pub name: Result<String, String>,
}

/// One finding a cluster, in the order of their ids. `cell_um2`: area of a cell of the model's map.
pub fn proposals(overlap: &Overlap, cell_um2: f64) -> Vec<NameProposal> {
    let mut proposals: Vec<NameProposal> = (0..overlap.cluster.len()).map(|i| finding(overlap, i, cell_um2)).collect();
    let mut of_class: BTreeMap<String, Vec<usize>> = BTreeMap::new();
    for (i, finding) in proposals.iter().enumerate() {
        if let Ok(class) = &finding.name {
            of_class.entry(class.clone()).or_default().push(i);
        }
    }
    for (class, members) in of_class.into_iter().filter(|(_, members)| members.len() > 1) {
        for (number, i) in members.into_iter().enumerate() {
            proposals[i].name = named(&format!("{class} {}", number + 1));
        }
    }
    proposals
}

fn finding(overlap: &Overlap, i: usize, cell_um2: f64) -> NameProposal {
    let (area, annotated) = (overlap.cluster[i], overlap.annotated[i]);
    let coverage = if area > 0.0 { annotated / area } else { 0.0 };
    // Of equal areas the first class by name.
    let best = overlap.classes.iter().rev().max_by(|a, b| a.1[i].total_cmp(&b.1[i]));
    let best = best.filter(|_| annotated > 0.0).map(|(class, areas)| (class.clone(), areas[i] / annotated));
    let annotated_cells = annotated / cell_um2;
    let name = match &best {
        _ if area == 0.0 => Err("it has no cells on these maps".to_owned()),
        None => Err("no annotation lies over it".to_owned()),
        Some(_) if annotated_cells < MIN_CELLS => {
            Err(format!("annotations lie over {annotated_cells:.1} of its cells; {MIN_CELLS} are needed"))
        }
        Some(_) if coverage < MIN_COVERAGE => Err(format!(
            "annotations lie over {:.1} % of it; {:.0} % are needed",
            100.0 * coverage,
            100.0 * MIN_COVERAGE
        )),
        Some((class, purity)) if *purity < MIN_PURITY => Err(format!(
            "its commonest class, {class}, has {:.0} % of what is annotated; {:.0} % are needed",
            100.0 * purity,
            100.0 * MIN_PURITY
        )),
        Some((class, _)) => named(class),
    };
    NameProposal { id: i + 1, cells: area / cell_um2, coverage, best, name }
}

fn named(name: &str) -> Result<String, String> {
    if is_name(name) { Ok(name.to_owned()) } else { Err(format!("{name:?} is too long for a name")) }
}

/// The draft as a file of names, the evidence in comments.
pub fn toml(proposals: &[NameProposal]) -> String {
    let mut out = "# Proposed from annotations; the comments say on what evidence.\n".to_owned();
    for NameProposal { id, coverage, best, name, .. } in proposals {
        // Writing into a String cannot fail.
        let _ = match (name, best) {
            (Ok(name), Some((class, purity))) => write!(
                out,
                "\n# {:.0} % of what is annotated of it is {}; {:.0} % of it is annotated.\n[clusters.{id}]\nname = {}\n",
                100.0 * purity,
                class.escape_debug(),
                100.0 * coverage,
                quoted(name)
            ),
            (Err(reason), _) => writeln!(out, "\n# Cluster {id} stays unnamed: {}.", reason.escape_debug()),
            (Ok(_), None) => Ok(()),
        };
    }
    out
}

/// The same for people.
pub fn table(proposals: &[NameProposal]) -> String {
    let mut out = "cluster     cells  annotated  purity  name\n".to_owned();
    for NameProposal { id, cells, coverage, best, name } in proposals {
        let purity = best.as_ref().map_or_else(|| "-".to_owned(), |(_, purity)| format!("{:.0} %", 100.0 * purity));
        let name = name.as_ref().map_or_else(|reason| format!("(unnamed: {reason})"), Clone::clone);
        let _ = writeln!(out, "{id:7} {cells:9.0} {:8.1} % {purity:>7}  {}", 100.0 * coverage, name.escape_debug());
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Five clusters of 1000 µm² in cells of 10 µm².
    fn overlap(annotated: [f64; 5], classes: &[(&str, [f64; 5])]) -> Overlap {
        Overlap {
            cluster: vec![1000.0, 1000.0, 1000.0, 1000.0, 0.0],
            annotated: annotated.to_vec(),
            classes: classes.iter().map(|(name, areas)| ((*name).to_owned(), areas.to_vec())).collect(),
        }
    }

    #[test]
    fn pure_clusters_are_named_and_the_others_say_why_not() {
        let found = proposals(
            &overlap(
                [500.0, 500.0, 60.0, 0.0, 0.0],
                &[("gland", [450.0, 260.0, 60.0, 0.0, 0.0]), ("stroma", [50.0, 240.0, 0.0, 0.0, 0.0])],
            ),
            10.0,
        );
        assert_eq!(
            (found[0].name.clone(), found[0].best.clone()),
            (Ok("gland".to_owned()), Some(("gland".to_owned(), 0.9)))
        );
        let reason = |i: usize| found[i].name.clone().expect_err("unnamed");
        assert!(reason(1).contains("gland, has 52 %"), "{}", reason(1));
        assert!(reason(2).contains("over 6.0 of its cells"), "{}", reason(2));
        assert!(reason(3).contains("no annotation"), "{}", reason(3));
        assert!(reason(4).contains("no cells"), "{}", reason(4));
        assert_eq!(table(&found).lines().count(), 6);
    }

    #[test]
    fn coverage_counts_beside_the_number_of_cells() {
        let found = proposals(&overlap([40.0, 50.0, 0.0, 0.0, 0.0], &[("gland", [40.0, 50.0, 0.0, 0.0, 0.0])]), 1.0);
        assert!(found[0].name.as_ref().is_err_and(|reason| reason.contains("4.0 % of it")), "{:?}", found[0]);
        assert_eq!(found[1].name, Ok("gland".to_owned()));
    }

    #[test]
    fn clusters_of_one_class_are_numbered() {
        let areas = [500.0, 0.0, 500.0, 0.0, 0.0];
        let found = proposals(&overlap(areas, &[("stroma", areas)]), 10.0);
        assert_eq!(found[0].name, Ok("stroma 1".to_owned()));
        assert_eq!(found[2].name, Ok("stroma 2".to_owned()));
    }

    #[test]
    fn a_class_that_is_no_name_gives_none() {
        let long = "x".repeat(65);
        let areas = [500.0, 0.0, 0.0, 0.0, 0.0];
        let found = proposals(&overlap(areas, &[(long.as_str(), areas)]), 10.0);
        assert!(found[0].name.is_err());
    }

    #[test]
    fn hostile_class_names_stay_within_their_comment_and_string() {
        let areas = [500.0, 0.0, 0.0, 0.0, 0.0];
        let text = toml(&proposals(&overlap(areas, &[("a\" \\ #]", areas)]), 10.0));
        let parsed: toml::Table = text.parse().expect("TOML");
        assert_eq!(parsed["clusters"]["1"]["name"].as_str(), Some("a\" \\ #]"));
        let text = toml(&proposals(&overlap(areas, &[("a\n[clusters.2]", areas)]), 10.0));
        assert!(text.parse::<toml::Table>().expect("TOML").is_empty(), "{text}");
    }
}
