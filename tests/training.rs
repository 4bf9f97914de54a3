//! `tissuemap-train` as a user meets it, on a slide so small that a fit takes seconds.

use std::process::{Command, Output};

use tissuemap::contract::Precision;
use tissuemap::infer::Model;

use crate::support;

fn tissuemap_train(arguments: &[&str]) -> (Option<i32>, String, String) {
    let Output { status, stdout, stderr } =
        Command::new(support::program("tissuemap-train")).args(arguments).output().expect("starts");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("UTF-8");
    (status.code(), text(stdout), text(stderr))
}

#[test]
fn printed_configuration_is_a_file_that_fit_reads() {
    let (code, printed, _) = tissuemap_train(&["config"]);
    assert_eq!(code, Some(0));
    let folder = tempfile::tempdir().expect("folder");
    let (config, out) = (folder.path().join("train.toml"), folder.path().join("model.onnx"));
    std::fs::write(&config, printed).expect("written");
    let arguments = ["fit", "--config", &config.to_string_lossy(), "--out", &out.to_string_lossy()];
    let (code, _, stderr) = tissuemap_train(&arguments);
    // It gets as far as looking for the slides.
    let slides = folder.path().join("slides");
    assert!(stderr.contains(&format!("error: {}: No such file", slides.display())), "{stderr}");
    assert_eq!(code, Some(2));
    assert!(!out.exists());
}

#[test]
fn wrong_usage_and_configuration_end_with_64_and_a_hint() {
    let folder = tempfile::tempdir().expect("folder");
    let config = folder.path().join("train.toml");
    std::fs::write(&config, "[imsat]\nlamda = 1.0\n").expect("written");
    let config = config.to_string_lossy();
    let cases: [(&[&str], &[&str]); 4] = [
        (&["fit"], &["--config"]),
        (&["fit", "--config", "absent.toml", "--out", "x.onnx"], &["absent.toml", "hint: "]),
        (&["fit", "--config", &config, "--out", "x.onnx"], &["lamda", "hint: "]),
        (
            &["fit", "--config", &config, "--out", "x.onnx", "--device", "cuda:99"],
            &["cuda:99", "hint: use --device cpu"],
        ),
    ];
    for (arguments, expected) in cases {
        let (code, stdout, stderr) = tissuemap_train(arguments);
        assert_eq!((code, stdout.as_str()), (Some(64), ""), "{arguments:?}");
        for part in expected {
            assert!(stderr.contains(part), "{part:?} missing in {stderr:?}");
        }
    }
}

#[test]
fn help_shows_examples() {
    for arguments in [["--help"].as_slice(), &["fit", "--help"]] {
        let (code, stdout, _) = tissuemap_train(arguments);
        assert_eq!(code, Some(0));
        assert!(stdout.contains("tissuemap-train fit --config train.toml --out model.onnx"), "{stdout}");
    }
}

/// What fits one section in seconds.
const SMALL: &str = r#"
clusters = 3
cpu_threads = 1
[[sets]]
folder = "."
[[stains]]
name = "HE"
[patches]
patch_px = 16
stride_px = 16
mpp = 2.0
per_set = 600
[autoencoder]
widths = [4, 8]
latent_dim = 8
epochs = 4
batch = 40
learning_rate = 0.005
[imsat]
hidden = [32, 32]
epochs = 15
batch = 60
learning_rate = 0.005
[joint]
epochs = 3
batch = 60
"#;

#[test]
fn a_trained_model_is_exported_again_and_named() {
    let folder = tempfile::tempdir().expect("folder");
    let derive = Command::new(support::program("xtask"))
        .args(["derive", "--seed", "5", "--case", "small", "--out"])
        .arg(folder.path())
        .output()
        .expect("xtask runs");
    assert!(derive.status.success(), "{}", String::from_utf8_lossy(&derive.stderr));
    let at = |name: &str| folder.path().join(name);
    let done = |arguments: &[&str]| {
        let paths: Vec<String> = arguments
            .iter()
            .map(|argument| {
                argument.strip_prefix('@').map_or((*argument).to_owned(), |name| at(name).display().to_string())
            })
            .collect();
        let (code, stdout, stderr) = tissuemap_train(&paths.iter().map(String::as_str).collect::<Vec<_>>());
        assert_eq!(code, Some(0), "{arguments:?}: {stderr}");
        stdout
    };
    std::fs::write(at("train.toml"), SMALL).expect("written");
    let said = done(&["fit", "--config", "@train.toml", "--out", "@model.onnx", "--precision", "fp16"]);
    assert!(said.contains("model.fp16.onnx: fp16") && said.contains("fp16 against fp32: same cluster for"), "{said}");

    let read = |name: &str| std::fs::read(at(name)).expect("written");
    for (precision, first) in [("fp32", "model.onnx"), ("fp16", "model.fp16.onnx")] {
        done(&["export", "--run", "@model.run", "--out", "@again.onnx", "--precision", precision]);
        assert!(read("again.onnx") == read(first), "{precision}: the same weights and patches give the same file");
    }

    std::fs::write(at("names.toml"), "[clusters.2]\nname = \"stroma\"\n").expect("written");
    done(&["name", "@model.fp16.onnx", "@names.toml", "--out", "@named.onnx"]);
    let mut named = Model::load(&at("named.onnx")).expect("loads");
    assert_eq!((named.precision(), named.contract().clusters[1].name.as_str()), (Precision::Fp16, "stroma"));
    assert!(named.verify_golden().expect("golden patches pass").passes());
    let typicality = named.contract().typicality.as_ref().expect("what is typical");
    assert!(typicality.bounds.iter().any(Option::is_some), "60 held-out patches in three clusters: {typicality:?}");
    let card = String::from_utf8(read("named.card.md")).expect("text");
    assert!(
        card.contains("| stroma |") && card.contains("same cluster as in float32") && card.contains(named.sha256())
    );
}
