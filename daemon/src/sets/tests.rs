mod absence;

use std::time::SystemTime;

use proptest::prelude::*;

use super::*;
use crate::arrive::members::Member;

const WAIT: u64 = 100;
const STAINS: [&str; 3] = ["HE", "CD31", "CC10"];

fn key(case: &str) -> SetKey {
    SetKey { case: case.into(), block: None }
}

fn sets(incomplete: Incomplete) -> Sets {
    Sets::new(vec![STAINS.map(String::from).to_vec()], Duration::from_secs(WAIT), incomplete)
}

/// The ready slides of case c1 with these stains, each file as long as its number says.
fn update(sets: &mut Sets, now: u64, slides: &[(&str, u64)]) -> Vec<SetKey> {
    let path = |stain: &str| PathBuf::from(format!("c1_{stain}.svs"));
    let fingerprint = |stain: &str, bytes| {
        Fingerprint::new(vec![Member { path: path(stain), bytes, modified: SystemTime::UNIX_EPOCH }])
    };
    let ready = slides.iter().map(|&(stain, bytes)| (path(stain), fingerprint(stain, bytes))).collect();
    let set = SectionSet { key: key("c1"), slides: slides.iter().map(|(s, _)| ((*s).to_owned(), path(s))).collect() };
    sets.update(Duration::from_secs(now), if slides.is_empty() { vec![] } else { vec![set] }, &ready)
}

const ALL: [(&str, u64); 3] = [("HE", 1), ("CD31", 1), ("CC10", 1)];

proptest! {
    #[test]
    fn h03_stains_in_any_order_give_one_complete_job(order in Just(ALL.to_vec()).prop_shuffle(),
                                                   gaps in prop::collection::vec(0..WAIT, 3), policy in 0..3) {
        let mut sets = sets([Incomplete::Wait, Incomplete::Run, Incomplete::Skip][policy as usize]);
        let mut now = 0;
        let mut jobs = Vec::new();
        for (arrived, gap) in (1..=3).zip(gaps) {
            now += gap;
            for key in update(&mut sets, now, &order[..arrived]) {
                jobs.push(sets.start(&key).expect("queued").0.slides.len());
            }
        }
        prop_assert_eq!(jobs, [3]);
    }
}

#[test]
fn a_set_is_queued_once() {
    let mut sets = sets(Incomplete::Wait);
    assert_eq!(update(&mut sets, 0, &ALL), [key("c1")]);
    assert_eq!(update(&mut sets, 1, &ALL), []);
    assert!(sets.start(&key("c1")).is_some());
    assert!(sets.start(&key("c1")).is_none());
    sets.finish(&key("c1"), Ok(()));
    assert_eq!(update(&mut sets, WAIT * 9, &ALL), []);
}

#[test]
fn an_incomplete_set_waits_runs_or_is_skipped_after_the_deadline() {
    for (policy, queued, waits, problems) in
        [(Incomplete::Wait, 0, 1, 0), (Incomplete::Run, 1, 0, 0), (Incomplete::Skip, 0, 0, 1)]
    {
        let mut sets = sets(policy);
        assert_eq!(update(&mut sets, 0, &ALL[..2]), []);
        assert_eq!(update(&mut sets, WAIT - 1, &ALL[..2]), []);
        assert_eq!(sets.waiting().collect::<Vec<_>>(), ["c1 (CC10 missing)"]);
        assert_eq!(update(&mut sets, WAIT, &ALL[..2]).len(), queued, "{policy:?}");
        assert_eq!((sets.waiting().count(), sets.problems().count()), (waits, problems), "{policy:?}");
    }
}

#[test]
fn h03_a_late_stain_makes_the_set_run_again() {
    let mut sets = sets(Incomplete::Run);
    update(&mut sets, 0, &ALL[..2]);
    assert_eq!(update(&mut sets, WAIT, &ALL[..2]).len(), 1);
    sets.start(&key("c1"));
    sets.finish(&key("c1"), Ok(()));
    assert_eq!(update(&mut sets, WAIT + 1, &ALL).len(), 1);
}

#[test]
fn a_failed_set_is_tried_again_only_after_a_change() {
    let mut sets = sets(Incomplete::Wait);
    update(&mut sets, 0, &ALL);
    sets.start(&key("c1"));
    sets.finish(&key("c1"), Err(Fault::new("c1: no tissue", "scan again")));
    assert_eq!(update(&mut sets, 1, &ALL), []);
    assert_eq!(sets.problems().collect::<Vec<_>>(), [("c1".to_owned(), "c1: no tissue; hint: scan again".to_owned())]);
    assert_eq!(update(&mut sets, 2, &[("HE", 2), ALL[1], ALL[2]]), [key("c1")]);
    assert_eq!(sets.problems().count(), 0);
}

#[test]
fn a_set_that_is_put_back_waits_again_and_shows_why_until_it_starts() {
    let mut sets = sets(Incomplete::Wait);
    update(&mut sets, 0, &ALL);
    sets.start(&key("c1"));
    assert!(sets.put_back(&key("c1"), Some(Fault::new("share away", "wait"))));
    assert_eq!(update(&mut sets, 1, &ALL), [], "it is queued already");
    assert_eq!(sets.problems().count(), 1);
    assert!(sets.start(&key("c1")).is_some());
    assert_eq!(sets.problems().count(), 0);

    assert_eq!(update(&mut sets, 2, &ALL[..2]), []);
    assert!(!sets.put_back(&key("c1"), None), "a slide went");
    assert_eq!(update(&mut sets, 3, &ALL), [key("c1")]);
}

#[test]
fn a_person_can_have_an_incomplete_or_failed_set_processed() {
    let mut sets = sets(Incomplete::Wait);
    update(&mut sets, 0, &ALL[..1]);
    let (missing, left) = (vec!["CD31", "CC10"], Duration::from_secs(WAIT - 30));
    let standing = sets.standing(&key("c1"), Duration::from_secs(30));
    assert_eq!(standing, Some(Standing::Waits { missing, left, then: Incomplete::Wait }));
    assert_eq!(sets.place_of(Path::new("c1_HE.svs")), Some((&key("c1"), "HE")));
    assert!(sets.queue(&key("c1")));
    assert_eq!(sets.standing(&key("c1"), Duration::ZERO), None);
    assert_eq!(sets.start(&key("c1")).map(|(set, _)| set.slides.len()), Some(1));
    assert!(!sets.queue(&key("c1")), "it runs");
    sets.finish(&key("c1"), Err(Fault::new("c1: no tissue", "scan again")));
    assert!(sets.queue(&key("c1")));
    assert!(!sets.queue(&key("c2")), "not there");
}

#[test]
fn a_slide_rewritten_while_its_set_runs_leads_to_a_second_job() {
    let mut sets = sets(Incomplete::Wait);
    update(&mut sets, 0, &ALL);
    sets.start(&key("c1"));
    let rewritten = [("HE", 2), ALL[1], ALL[2]];
    assert_eq!(update(&mut sets, 1, &[]), []);
    assert_eq!(update(&mut sets, 2, &rewritten), []);
    sets.finish(&key("c1"), Ok(()));
    assert_eq!(update(&mut sets, 3, &rewritten), [key("c1")]);
}

#[test]
fn a_queued_set_that_changes_is_not_started_as_it_was() {
    let mut sets = sets(Incomplete::Wait);
    update(&mut sets, 0, &ALL);
    update(&mut sets, 1, &ALL[..2]);
    assert!(sets.start(&key("c1")).is_none());
}

#[test]
fn a_set_is_for_the_largest_model_that_it_is_complete_for_else_for_the_nearest_to_that() {
    let panels: Vec<Vec<String>> = [&["HE"][..], &["HE", "CD31"], &["CD31", "HE", "KI67", "COL1"]]
        .map(|panel| panel.iter().map(|stain| (*stain).to_owned()).collect())
        .to_vec();
    let chosen = |stains: &[&str]| {
        let slides = stains.iter().map(|stain| ((*stain).to_owned(), PathBuf::from(stain))).collect();
        choose(&panels, &slides)
    };
    assert_eq!(chosen(&["HE"]), Some(0));
    assert_eq!(chosen(&["HE", "CD31", "KI67"]), Some(1), "complete, and larger than the first");
    assert_eq!(chosen(&["HE", "CD31", "KI67", "COL1", "CC10"]), Some(2));
    assert_eq!(chosen(&["CD31", "KI67", "COL1"]), Some(2), "three quarters are more than a half");
    assert_eq!(chosen(&["CC10"]), Some(0), "the first of equals");
    assert_eq!(choose::<Vec<String>>(&[], &BTreeMap::new()), None);
}

#[test]
fn h22_a_finished_set_stays_so_while_a_slide_is_away_under_every_policy() {
    for policy in [Incomplete::Wait, Incomplete::Run, Incomplete::Skip] {
        let mut sets = sets(policy);
        update(&mut sets, 0, &ALL);
        sets.start(&key("c1"));
        sets.finish(&key("c1"), Ok(()));
        for (now, slides, notes) in [(1, &ALL[..2], 1), (WAIT * 9, &ALL[..1], 1), (WAIT * 10, &ALL[..], 0)] {
            assert_eq!(update(&mut sets, now, slides), [], "{policy:?}");
            assert_eq!((sets.waiting().count(), sets.problems().count()), (0, 0), "{policy:?}");
            assert_eq!(sets.notes().count(), notes, "{policy:?}");
        }
        assert_eq!(update(&mut sets, WAIT * 11, &[("HE", 2), ALL[1], ALL[2]]), [key("c1")], "other content");
    }
}
