//! `tissuemap-train` as a user meets it, as far as that needs no slides.

use std::process::{Command, Output};

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
    let cases: [(&[&str], &[&str]); 5] = [
        (&["fit"], &["--config"]),
        (&["inspect", "--config", "absent.toml"], &["absent.toml", "hint: "]),
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
