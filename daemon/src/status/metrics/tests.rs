use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::PermissionsExt;

use super::*;
use crate::journal::JobId;
use crate::status::pulse::Heart;
use crate::status::{CurrentJob, Product};

/// Reads the text format as Prometheus does, and holds it to its rules for names; metric with labels to value.
fn parse(text: &str) -> BTreeMap<String, f64> {
    let name = |name: &str| name.chars().all(|c| c.is_ascii_lowercase() || c == '_') && name.starts_with("tissuemap_");
    let (mut kinds, mut helped, mut values) = (BTreeMap::new(), BTreeSet::new(), BTreeMap::new());
    for line in text.lines() {
        let words: Vec<&str> = line.splitn(4, ' ').collect();
        match words[..] {
            ["#", "HELP", family, _] => assert!(name(family) && helped.insert(family), "{line}"),
            ["#", "TYPE", family, kind] => {
                assert!(helped.contains(family) && kinds.insert(family, kind).is_none(), "{line}");
                assert_eq!(kind == "counter", family.ends_with("_total"), "{line}");
            }
            _ => {
                let (metric, value) = line.rsplit_once(' ').expect("a value");
                let family = metric.split('{').next().expect("a name");
                assert!(kinds.contains_key(family), "{line}: no TYPE before it");
                if let Some(labels) = metric.strip_prefix(family).filter(|labels| !labels.is_empty()) {
                    let inner = labels.strip_prefix('{').and_then(|l| l.strip_suffix("\"}")).expect("labels");
                    let (label, text) = inner.split_once("=\"").expect("a label");
                    assert!(label.chars().all(|c| c.is_ascii_lowercase()), "{line}");
                    let plain = text.replace("\\\\", "").replace("\\\"", "").replace("\\n", "");
                    assert!(!plain.contains(['"', '\\']), "{line}");
                }
                assert!(values.insert(metric.to_owned(), value.parse().expect("a number")).is_none(), "{line}: twice");
            }
        }
    }
    assert!(text.ends_with('\n'));
    values
}

#[test]
fn figures_are_what_prometheus_reads_and_what_the_status_says() {
    let mut status = Status { state: State::Busy, model: "/a \"b\"\\\n.onnx sha256:ab".into(), ..Status::default() };
    status.queue = vec!["c2".into(), "c3".into()];
    status.job = Some(CurrentJob { id: JobId(1), set: "c1".into(), stage: "infer", progress: 0.5, left: None });
    status.push_outcome("c0".into(), Ok(Product::default()));
    status.push_outcome("bad".into(), Err("torn".into()));
    status.totals.last_job_seconds = Some(2.5);
    let read = parse(&text(&status, Some(123_456_789_012), UNIX_EPOCH + Duration::from_secs(1_700_000_000)));
    let expected = [
        ("up", 1.0),
        ("start_time_seconds", 1.7e9),
        ("state{state=\"busy\"}", 1.0),
        ("state{state=\"idle\"}", 0.0),
        ("queue_length", 2.0),
        ("job_running", 1.0),
        ("jobs_done_total", 1.0),
        ("jobs_failed_total", 1.0),
        ("jobs_quarantined_total", 0.0),
        ("jobs{state=\"quarantined\"}", 0.0),
        ("last_job_duration_seconds", 2.5),
        ("state_free_bytes", 123_456_789_012.0),
        ("model_info{model=\"/a \\\"b\\\"\\\\\\n.onnx sha256:ab\"}", 1.0),
    ];
    for (metric, value) in expected {
        assert_eq!(read.get(&format!("tissuemap_{metric}")), Some(&value), "{metric} of {read:?}");
    }
    assert!(!parse(&text(&Status::default(), None, UNIX_EPOCH)).contains_key("tissuemap_state_free_bytes"));
}

#[tokio::test(start_paused = true)]
async fn the_file_is_whole_fresh_as_long_as_there_is_a_pulse_and_says_in_the_end_that_nothing_runs() {
    let folder = tempfile::tempdir().expect("tempdir");
    let file = folder.path().join("tissuemap.prom");
    let (status, watched) = watch::channel(Status { state: State::Idle, ..Status::default() });
    let heart = Heart::new();
    heart.beat();
    let keeper = tokio::spawn(keep(file.clone(), folder.path().into(), watched, heart.pulse()));
    let read = || parse(&fs::read_to_string(&file).expect("readable"));
    tokio::time::sleep(Duration::from_secs(1)).await;
    let first = read();
    assert_eq!((first["tissuemap_up"], first["tissuemap_state{state=\"idle\"}"]), (1.0, 1.0));
    assert!(first["tissuemap_state_free_bytes"] > 0.0);

    status.send_modify(|status| status.queue.push("c1".into()));
    heart.beat();
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(read()["tissuemap_queue_length"], 1.0);

    // The loop stands still.
    tokio::time::sleep(Duration::from_mins(1)).await;
    fs::remove_file(&file).expect("there");
    status.send_modify(|status| status.queue.push("c2".into()));
    tokio::time::sleep(Duration::from_mins(1)).await;
    assert!(!file.exists(), "nobody vouches for these figures");

    drop(status);
    keeper.await.expect("it ends");
    assert_eq!(read(), BTreeMap::from([("tissuemap_up".to_owned(), 0.0)]));
    assert_eq!(fs::metadata(&file).expect("there").permissions().mode() & 0o777, 0o644);
    assert_eq!(fs::read_dir(folder.path()).expect("readable").count(), 1, "nothing else is left");
}
