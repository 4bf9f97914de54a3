use std::fs;

use super::*;

#[test]
fn printed_configuration_is_the_default() {
    let parsed: Config = toml::from_str(DEFAULT_TOML).expect("parses");
    assert_eq!(parsed, Config::default());
    // Every key is there to be seen, not only defaulted.
    let keys = |value: &toml::Value| value.as_table().map(|t| t.keys().cloned().collect::<Vec<_>>());
    let printed: toml::Value = toml::from_str(DEFAULT_TOML).expect("parses");
    let complete = toml::Value::try_from(Config::default()).expect("serialises");
    assert_eq!(keys(&printed), keys(&complete));
    for (name, section) in complete.as_table().expect("table") {
        assert_eq!(keys(&printed[name.as_str()]), keys(section), "[{name}]");
    }
}

#[test]
fn commented_keys_parse() {
    let uncommented = DEFAULT_TOML.replace("# manifest =", "manifest =").replace("# mpp =", "mpp =");
    let uncommented = uncommented.replace("# held_out =", "held_out =").replace("# revision =", "revision =");
    let config: Config = toml::from_str(&uncommented).expect("parses");
    assert_eq!(config.revision, Some(1));
    let SetFolder { manifest, mpp, held_out, .. } = &config.sets[0];
    assert!(manifest.is_some() && mpp.is_some() && *held_out);
}

#[test]
fn defaults_are_accepted_and_make_a_shape() {
    assert_eq!(Config::default().validate(), Ok(()));
    assert_eq!(Config::default().shape().inner_px(), 4);
}

#[test]
fn unknown_keys_are_refused() {
    for text in ["clutsers = 3", "[imsat]\nbeta = 1.0", "[[sets]]\nfolder = \"a\"\nmmp = 1.0"] {
        assert!(toml::from_str::<Config>(text).is_err(), "{text}");
    }
}

#[test]
fn a_mistake_in_the_file_is_reported_in_one_line_with_its_number() {
    let file = tempfile::NamedTempFile::new().expect("file");
    fs::write(file.path(), "seed = 1\n\n[imsat]\nlamda = 2\n").expect("written");
    let text = Config::read(file.path()).expect_err("misspelt").to_string();
    assert!(text.contains("line 4: unknown field `lamda`") && !text.contains('\n'), "{text}");
}

#[test]
fn nonsense_is_refused_with_key_and_reason() {
    type Spoil = fn(&mut Config);
    let cases: [(Spoil, &str); 17] = [
        (|c| c.sets.clear(), "sets is empty"),
        (|c| c.sets[0].held_out = true, "none is left to train on"),
        (|c| c.stains.clear(), "stains is empty"),
        (|c| c.stains.push(c.stains[0].clone()), "listed twice"),
        (|c| c.reference = "CD31".into(), "not one of the stains"),
        (|c| c.clusters = 1, "clusters = 1"),
        (|c| c.imsat.restarts = 0, "imsat.restarts = 0"),
        (|c| c.patches.patch_px = 72, "cannot be halved 4 times"),
        (|c| c.patches.stride_px = 65, "patches.stride_px = 65"),
        (|c| c.patches.held_out_fraction = 0.0, "held_out_fraction"),
        (|c| c.patches.held_out_fraction = f64::NAN, "held_out_fraction"),
        (|c| (c.clusters, c.imsat.batch) = (8, 60), "less than 8 patches per cluster (64)"),
        (|c| c.imsat.batch = 159, "less than 8 patches per cluster (160)"),
        (|c| c.sweep.seeds = 1, "sweep.seeds = 1"),
        (|c| c.imsat.mu = -1.0, "imsat.mu"),
        (|c| c.joint.learning_rate = f64::INFINITY, "joint.learning_rate"),
        (|c| c.autoencoder.widths.clear(), "widths is empty"),
    ];
    for (spoil, expected) in cases {
        let mut config = Config::default();
        spoil(&mut config);
        let reason = config.validate().expect_err(expected);
        assert!(reason.contains(expected), "{reason:?} lacks {expected:?}");
    }
    assert!(toml::from_str::<Config>("[patches]\nmpp = 0.0").is_err());
    assert!(toml::from_str::<Config>("[sweep]\nclusters = \"9-4\"").is_err());
}

#[test]
fn the_number_of_clusters_is_a_number_or_auto() {
    let clusters = |text: &str| toml::from_str::<Config>(text).map(|config| config.clusters).ok();
    assert_eq!(clusters("clusters = 13"), Some(13));
    assert_eq!((clusters("clusters = \"auto\""), clusters("clusters = 0"), clusters("")), (Some(0), Some(0), Some(0)));
    assert_eq!(clusters("clusters = \"many\""), None);
}

#[test]
fn a_key_is_read_under_its_old_name_with_a_warning() {
    let (old, new) = ("[imsat]\nstarts = 7\n", "[imsat]\nrestarts = 7\n");
    let read = |text: &str| toml::from_str::<Config>(text).expect("parses");
    assert_eq!(read(old), read(new));
    assert_eq!(read(old).imsat.restarts, 7);
    assert_eq!(old_names(old), ["imsat.starts is an old name; use imsat.restarts"]);
    assert_eq!(old_names(new), Vec::<String>::new());
    for (table, old, new) in RENAMED_KEYS {
        let text = |key: &str| format!("[{table}]\n{key} = 1\n");
        assert_eq!(read(&text(old)), read(&text(new)), "{table}.{old}");
    }
    assert!(toml::from_str::<Config>("[imsat]\nstarts = 1\nrestarts = 2\n").is_err(), "both names of one key");
}
