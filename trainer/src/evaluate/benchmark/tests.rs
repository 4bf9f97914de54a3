use super::*;
use std::collections::BTreeMap;
use std::path::Path;

use image::{Rgb, RgbImage};

use super::table::Role;
use crate::config::AugmentConfig;
use crate::testing::seeded;

/// Images of 32 pixels in class folders: flat ones, each class with a colour of its own, `count` each.
fn images(classes: &[(&str, [u8; 3])], count: u8) -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("folder");
    for (class, colour) in classes {
        std::fs::create_dir(folder.path().join(class)).expect("made");
        for i in 0..count {
            let noise = |x: u32, y: u32| ((x * 7 + y * 13 + u32::from(i) * 5) % 16) as u8;
            let image = RgbImage::from_fn(33, 32, |x, y| Rgb(colour.map(|v| v.saturating_add(noise(x, y)))));
            image.save(folder.path().join(class).join(format!("case{}_{i}.png", i / 2))).expect("written");
        }
    }
    folder
}

fn command(folder: &Path) -> BenchmarkCommand {
    BenchmarkCommand {
        images: folder.to_owned(),
        class: None,
        parent: None,
        same: Vec::new(),
        patch_px: 16,
        clusters: None,
        seeds: Seeds(1..=2),
        folds: 2,
        config: None,
        ablate: Vec::new(),
        each: None,
        most_patches: 6000,
        device: "cpu".to_owned(),
        cpu_threads: 1,
    }
}

const THREE: [(&str, [u8; 3]); 3] = [("a", [200, 60, 120]), ("b", [60, 60, 160]), ("c", [210, 200, 220])];

#[test]
fn classes_come_from_folders_or_names_and_two_names_may_mean_the_same() {
    let folder = images(&THREE, 4);
    let none = LabelRules { class: None, parent: None, same: BTreeMap::new() };
    let found = LabelledImages::find(folder.path(), &none).expect("found");
    assert_eq!((found.classes.join(" "), found.images.len()), ("a b c".to_owned(), 12));
    let same = BTreeMap::from([("a".to_owned(), "b".to_owned())]);
    let merged = LabelledImages::find(folder.path(), &LabelRules { same, ..none.clone() }).expect("found");
    assert_eq!(merged.classes, ["b", "c"]);
    let by_case = LabelRules { class: Some(Regex::new(r"(?:nothing(x))|case(\d)").expect("a rule")), ..none.clone() };
    assert_eq!(LabelledImages::find(folder.path(), &by_case).expect("found").classes, ["0", "1"]);
    let error = LabelledImages::find(&folder.path().join("a"), &none).expect_err("no classes");
    assert!(error.to_string().ends_with("a: no labelled images"), "{error}");
    assert!(error.hint().is_some_and(|hint| hint.contains("--class")), "{error}");
}

#[test]
fn images_of_one_parent_stay_together_and_every_class_is_on_both_sides() {
    let folder = images(&THREE, 8);
    let parent = Some(Regex::new(r"/(case\d)_").expect("a rule"));
    let found =
        LabelledImages::find(folder.path(), &LabelRules { class: None, parent, same: BTreeMap::new() }).expect("found");
    for parts in (0..20).flat_map(|seed| found.folds(2, seed)) {
        let parents = parts.each_ref().map(|part| part.iter().map(|i| i.parent.clone()).collect::<BTreeSet<_>>());
        assert!(parents[0].is_disjoint(&parents[1]));
        assert_eq!(parts.each_ref().map(Vec::len), [12, 12]);
        for part in &parts {
            assert_eq!(part.iter().map(|image| image.class).collect::<BTreeSet<_>>().len(), 3);
        }
    }
}

#[test]
fn patches_lie_side_by_side_around_the_middle_and_bad_images_are_left_out() {
    let folder = images(&THREE[..2], 2);
    std::fs::write(folder.path().join("a").join("broken.png"), b"no image").expect("written");
    RgbImage::new(8, 8).save(folder.path().join("b").join("small.png")).expect("written");
    let none = LabelRules { class: None, parent: None, same: BTreeMap::new() };
    let found = LabelledImages::find(folder.path(), &none).expect("found");
    let cut = LabelledPatches::cut(&found.images, 16, 100, 1).expect("cut");
    assert_eq!((cut.patches.count(), cut.class.len()), (16, 16));
    let first: Vec<(i64, i64)> = cut.patches.origins()[..4].iter().map(|o| (o.x, o.y)).collect();
    assert_eq!(first, [(0, 0), (16, 0), (0, 16), (16, 16)]);
    let sets: BTreeSet<u32> = cut.patches.origins().iter().map(|o| o.set).collect();
    assert_eq!(sets.len(), 4);
    assert_eq!(LabelledPatches::cut(&found.images, 16, 5, 1).expect("cut").class.len(), 8, "whole images");
}

#[test]
fn plain_colours_are_told_apart_by_every_method_and_the_table_says_so() {
    let _turn = seeded(1);
    let folder = images(&THREE, 12);
    let mut text = Vec::new();
    command(folder.path()).run(&mut text).expect("runs");
    let text = String::from_utf8(text).expect("text");
    assert_eq!(text.lines().count(), 1 + 2 * 7, "{text}");
    for line in text.lines().skip(1) {
        let fields: Vec<&str> = line.split(',').collect();
        let accuracy: f64 = fields[3].parse().expect("a number");
        assert!(accuracy > 0.6, "{line}");
        if fields[0] == THIS_METHOD || fields[1] == "colour statistics" {
            assert_eq!(accuracy, 1.0, "{line}");
        }
    }
}

fn agreement(figure: f64) -> Agreement {
    Agreement { accuracy: figure, nmi: figure, ari: figure, purity: figure }
}

fn method(role: Role, context: bool) -> ComparedMethod {
    let method = match role {
        Role::Baseline => ComparedMethod::new("k-means", "x", context),
        Role::Variant => ComparedMethod::new(THIS_METHOD, "x", context),
        Role::Whole => ComparedMethod::new(THIS_METHOD, FULL_METHOD, context),
    };
    assert_eq!(method.role, role);
    method
}

#[test]
fn a_lead_within_a_standard_deviation_is_no_lead() {
    let verdict = |own: [f64; 2], other: [f64; 2]| {
        let figures = Figures::from([
            (method(Role::Whole, true), own.map(agreement).to_vec()),
            (method(Role::Variant, true), [0.9, 0.9].map(agreement).to_vec()),
            (method(Role::Baseline, false), other.map(agreement).to_vec()),
        ]);
        table::verdicts(&figures)
    };
    assert!(verdict([0.60, 0.62], [0.50, 0.52]).iter().all(|line| line.contains(" is above every")));
    assert!(verdict([0.50, 0.62], [0.50, 0.52]).iter().all(|line| line.contains(" is NOT above every")));
    assert_eq!(verdict([0.60, 0.62], [0.50, 0.52]).len(), 2);
}

#[test]
fn a_variant_is_compared_seed_by_seed() {
    let one = Figures::from([
        (method(Role::Whole, true), vec![agreement(0.5)]),
        (method(Role::Variant, true), vec![agreement(0.6)]),
    ]);
    assert_eq!(table::differences(&one), ["x: NMI +0.100, ARI +0.100 against the whole method (one seed)"]);
    let figures = Figures::from([
        (method(Role::Whole, true), [0.50, 0.70, 0.60].map(agreement).to_vec()),
        (method(Role::Variant, true), [0.40, 0.59, 0.48].map(agreement).to_vec()),
        (method(Role::Variant, false), [0.10, 0.10, 0.10].map(agreement).to_vec()),
    ]);
    let lines = table::differences(&figures);
    assert_eq!(lines.len(), 1, "{lines:?}");
    // Differences -0.10, -0.11, -0.12: deviation 0.01, of the mean of three 0.0058.
    assert!(lines[0].starts_with("x: NMI -0.110 ± 0.006, ARI -0.110 ± 0.006 "), "{}", lines[0]);
}

#[test]
fn an_addition_is_switched_alone_and_back_again() {
    use clap::ValueEnum;
    let usual = AugmentConfig::default();
    for addition in Augmentation::value_variants() {
        let (other, name) = addition.toggled(&usual);
        assert_ne!(other, usual, "{name}");
        if *addition != Augmentation::All {
            let (again, back) = addition.toggled(&other);
            assert_eq!(again, usual, "{back}");
            assert_ne!(name, back);
        }
    }
    assert_eq!(Augmentation::Neighbours.toggled(&usual).1, "with neighbours");
    assert_eq!(Augmentation::HueJitter.toggled(&usual).1, "without hue jitter");
    assert!(!Augmentation::All.toggled(&usual).0.changes());
}

#[test]
fn seeds_are_a_number_or_the_first_and_the_last() {
    let of = |text: &str| text.parse::<Seeds>().map(|seeds| seeds.0.collect::<Vec<_>>());
    assert_eq!(of("3"), Ok(vec![1, 2, 3]));
    assert_eq!(of("6-7"), Ok(vec![6, 7]));
    for wrong in ["0", "", "-3", "4-3", "0-2", "1-", "a", "1-2-3"] {
        assert!(of(wrong).expect_err("refused").contains("6-10"), "{wrong}");
    }
}

#[test]
fn every_fit_is_kept_to_go_on_from_and_a_collapsed_one_counts_as_one_cluster() {
    let _turn = seeded(1);
    let folder = images(&THREE, 12);
    let (config, each) = (folder.path().join("never.toml"), folder.path().join("each.csv"));
    std::fs::write(&config, "[imsat]\nlearning_rate = 1e-9\nstarts = 1\n[[sets]]\nfolder = '.'\n").expect("written");
    let ablate = vec![Augmentation::HueJitter, Augmentation::All];
    let mut run = BenchmarkCommand { ablate, seeds: Seeds(2..=2), ..command(folder.path()) };
    (run.config, run.each) = (Some(config), Some(each.clone()));
    let table = |run: &BenchmarkCommand| {
        let mut text = Vec::new();
        run.run(&mut text).map(|()| String::from_utf8(text).expect("text"))
    };
    let text = table(&run).expect("runs");
    let names: Vec<&str> = text.lines().skip(1).filter_map(|line| line.split(',').nth(1)).collect();
    let wanted = ["without any", "without hue jitter", "latent of views"];
    assert_eq!(names, wanted.map(|name| [name, name]).concat(), "{text}");
    assert!(text.lines().skip(1).all(|line| line.ends_with(",0.3333,0.0000,0.0000,0.0000,0.0000,0.0000")), "{text}");

    // What is in the file is believed, not done again.
    let rows = std::fs::read_to_string(&each).expect("written");
    assert_eq!(rows.lines().count(), 1 + 2 * 3 * 2, "two folds, three fits, with and without context: {rows}");
    let accuracy = |line: &str| line.replace(",without any,true,0.3333333333333333,", ",without any,true,0.125,");
    std::fs::write(&each, rows.lines().map(|line| accuracy(line) + "\n").collect::<String>()).expect("written");
    let again = table(&run).expect("reads");
    assert!(again.contains("tissuemap,without any,yes,0.1250,0.0000,"), "{again}");

    run.folds = 3;
    let error = table(&run).expect_err("other settings");
    assert!(matches!(error, TrainError::Unusable { .. }) && error.exit_code() == 64, "{error}");
    assert!(error.to_string().contains("each.csv: it has results of other images or other settings"), "{error}");
    std::fs::write(&each, "no table\n").expect("written");
    assert!(matches!(table(&run), Err(TrainError::Unusable { .. })));
}
