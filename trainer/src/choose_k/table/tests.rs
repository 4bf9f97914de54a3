use std::fs;

use super::*;

fn indices(good: f64) -> Indices {
    Indices {
        silhouette: good,
        davies_bouldin: 1.0,
        calinski_harabasz: 1.0,
        dunn: 0.1,
        generalised_dunn: good / 3.0,
        xie_beni: f64::INFINITY,
    }
}

fn sweep() -> Sweep {
    let fit = |seed, collapse| FitSummary { seed, sizes: vec![30, 0, 10], collapse, entropies: [0.1, 0.6] };
    let candidate = |clusters| Candidate {
        evidence: Evidence {
            clusters,
            latent: indices(0.1),
            umap: None,
            stability: Some(0.7),
            coherence: None,
            bic: Some(1.0 / 3.0),
            regions: Some(3),
        },
        fits: vec![fit(1, None), fit(2, Some("one cluster took all".to_owned()))],
    };
    let choice = |rule| Choice { rule, clusters: 3, next: Some(4), margin: 0.125, scores: vec![0.0, 0.125] };
    Sweep {
        fingerprint: "ab".to_owned(),
        patches: 40,
        choice: choice(ChoiceRule::Likelihood),
        by_rank: choice(ChoiceRule::Rank),
        candidates: vec![candidate(3), candidate(4)],
    }
}

#[test]
fn what_is_written_is_read_to_the_last_bit_infinity_included() {
    let folder = tempfile::tempdir().expect("folder");
    let [json, table] = ["sweep.json", "sweep.csv"].map(|name| folder.path().join(name));
    assert_eq!(Sweep::read(&json), None);
    sweep().write(&json, &table).expect("written");
    assert_eq!(Sweep::read(&json), Some(sweep()));
    assert_eq!(fs::read_to_string(&table).expect("read"), sweep().csv());
    fs::write(&json, "{").expect("written");
    assert_eq!(Sweep::read(&json), None, "half a file is none");
}

#[test]
fn the_table_has_a_field_for_every_column_and_the_verdict_says_over_which() {
    let csv = sweep().csv();
    let rows: Vec<Vec<&str>> = csv.lines().map(|line| line.split(',').collect()).collect();
    assert!(rows.len() == 3 && rows.iter().all(|row| row.len() == rows[0].len()), "{csv}");
    let field = |row: usize, name: &str| rows[row][rows[0].iter().position(|&column| column == name).expect(name)];
    assert_eq!((field(1, "clusters"), field(1, "chosen"), field(2, "chosen")), ("3", "1", "0"));
    assert_eq!((field(1, "map_dunn"), field(1, "stability"), field(1, "xie_beni")), ("", "0.700000", "inf"));
    assert_eq!((field(1, "used_clusters"), field(1, "collapsed"), field(1, "smallest_share")), ("2.00", "1", "0.2500"));
    assert_eq!(sweep().verdict(), "3 clusters, by a margin of 0.125 over 4 (nats per patch, BIC)");
}
