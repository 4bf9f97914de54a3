//! `tissuemap-train` as a user meets it, on a slide so small that a fit takes seconds.

use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use tissuemap::contract::Precision;
use tissuemap::infer::Model;

use xtask::planted::{Plan, plant};

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
# So few steps do not leave the even start with the default's 0.1.
lambda = 0.4
[joint]
epochs = 3
batch = 60
"#;

/// SIGKILL leaves nothing to clean up behind it: the same command goes on from the last checkpoint, and what it ends with, the
/// curve of losses included, is what a fit that nobody disturbed ends with.
#[test]
fn a_fit_killed_in_the_middle_goes_on_and_ends_with_the_same_curve_and_model() {
    let folder = tempfile::tempdir().expect("folder");
    derived(folder.path());
    let config = folder.path().join("train.toml");
    // Long enough to be caught in the middle of it.
    let text = SMALL.replacen("epochs = 4\n", "epochs = 40\n", 1);
    std::fs::write(&config, format!("checkpoint_every_epochs = 1\n{text}")).expect("written");
    let fit = |name: &str| {
        let mut command = Command::new(support::program("tissuemap-train"));
        command.arg("fit").arg("--config").arg(&config).arg("--out").arg(folder.path().join(name));
        command.stdout(Stdio::null()).stderr(Stdio::piped());
        command
    };
    let finish = |name: &str| {
        let Output { status, stderr, .. } = fit(name).output().expect("starts");
        let said = String::from_utf8_lossy(&stderr).into_owned();
        assert!(status.success(), "{said}");
        said
    };
    finish("whole.onnx");

    let rows =
        || std::fs::read_to_string(folder.path().join("killed.run/metrics.csv")).map_or(0, |t| t.lines().count());
    let mut kills = 0;
    for until in [6, 25, 48] {
        let mut running = fit("killed.onnx").spawn().expect("starts");
        let deadline = Instant::now() + Duration::from_mins(2);
        while rows() < until && running.try_wait().expect("asked").is_none() {
            assert!(Instant::now() < deadline, "no epoch in two minutes");
            std::thread::sleep(Duration::from_millis(5));
        }
        kills += usize::from(running.try_wait().expect("asked").is_none());
        running.kill().expect("killed");
        running.wait().expect("ended");
    }
    assert!(kills >= 2, "{kills} of 3 caught it at work");
    assert!(!folder.path().join("killed.onnx").exists(), "no model before the end");
    let said = finish("killed.onnx");
    assert!(said.contains("continuing from the checkpoint"), "{said}");
    for (whole, killed) in [("whole.run/metrics.csv", "killed.run/metrics.csv"), ("whole.onnx", "killed.onnx")] {
        let read = |name: &str| std::fs::read(folder.path().join(name)).expect("written");
        assert!(read(whole) == read(killed), "{killed} differs from {whole}");
    }
}

/// One derived section set in `folder`.
fn derived(folder: &Path) {
    let derive = Command::new(support::program("xtask"))
        .args(["derive", "--seed", "5", "--case", "small", "--out"])
        .arg(folder)
        .output()
        .expect("xtask runs");
    assert!(derive.status.success(), "{}", String::from_utf8_lossy(&derive.stderr));
}

#[test]
fn a_trained_model_is_exported_again_and_named() {
    let folder = tempfile::tempdir().expect("folder");
    derived(folder.path());
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
        done(&["export", "--run", "@model.run", "--out", "@again.onnx", "--precision", precision, "--force"]);
        assert!(read("again.onnx") == read(first), "{precision}: the same weights and patches give the same file");
    }

    let (run, again) = (at("model.run"), at("again.onnx"));
    let (run, again) = (run.to_string_lossy(), again.to_string_lossy());
    let (code, _, stderr) = tissuemap_train(&["export", "--run", &run, "--out", &again]);
    assert_eq!(code, Some(64), "nothing is replaced unasked: {stderr}");
    assert!(stderr.contains("again.onnx: is there already") && stderr.contains("--force"), "{stderr}");

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

/// Planted tissue through OpenSlide, a small sweep, and the truth of every patch.
#[test]
fn a_sweep_counts_the_kinds_of_planted_tissue_and_is_not_made_twice() {
    let folder = tempfile::tempdir().expect("folder");
    let slides = folder.path().join("slides");
    plant(&Plan { kinds: 4, slides: 1, size: (2000, 1600), seed: 7 }, &slides).expect("planted");
    let (config, out) = (folder.path().join("train.toml"), folder.path().join("model.onnx"));
    let text = "cpu_threads = 1\n[patches]\nper_set = 500\n\
        [autoencoder]\nwidths = [8, 16, 32, 32]\nlatent_dim = 16\nepochs = 12\nbatch = 50\nlearning_rate = 0.003\n\
        [imsat]\nbatch = 100\n[joint]\nbatch = 100\n\
        [sweep]\nclusters = \"2-8\"\nseeds = 2\nhidden = [32]\nepochs = 20\n";
    std::fs::write(&config, text).expect("written");
    let sweep = || {
        let arguments = ["sweep", "--config", &config.to_string_lossy(), "--out", &out.to_string_lossy()];
        let (code, stdout, stderr) = tissuemap_train(&arguments);
        assert_eq!(code, Some(0), "{stderr}");
        (stdout, stderr)
    };
    let (table, said) = sweep();
    let chosen = table.lines().find(|line| line.split(',').nth(2) == Some("1")).expect("a choice");
    let clusters: u32 = chosen.split(',').next().and_then(|field| field.parse().ok()).expect("a number");
    assert!(clusters.abs_diff(4) <= 1, "{table}");
    assert!(said.contains(&format!("{clusters} clusters, by a margin of")), "{said}");
    let (again, said) = sweep();
    assert_eq!(again, table);
    assert!(said.contains("the sweep is done already"), "{said}");
}
