//! Models dropped into the folder of a daemon that serves: real ONNX files, real worker processes, real slides.

use std::collections::BTreeMap;
use std::fs;
use std::io::Cursor;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use minisign::KeyPair;
use prost::Message;
use tempfile::TempDir;
use tissuemap::contract::onnx::{ModelProto, TensorProto};
use tissuemap::contract::{MAX_MODEL_BYTES, ModelContract, example};
use tissuemap::units::Mpp;
use tissuemap_daemon::command::Commander;
use tissuemap_daemon::config::Config;
use tissuemap_daemon::job::{Backend, Fault};
use tissuemap_daemon::journal::Journal;
use tissuemap_daemon::models::{ModelState, Models};
use tissuemap_daemon::run::Daemon;
use tissuemap_daemon::status::Status;
use tissuemap_daemon::worker::Workers;
use tokio::sync::{mpsc, watch};

use crate::support;
use crate::support::site::{STAINS, scanned, slide};

/// Nothing here takes longer, on a machine that does other things as well.
const PATIENCE: Duration = Duration::from_mins(3);

/// A running daemon over a folder of its own.
struct Lab {
    folder: TempDir,
    commander: Commander,
    workers: Arc<Workers>,
    status: watch::Receiver<Status>,
    stop: mpsc::Sender<&'static str>,
    daemon: tokio::task::JoinHandle<Result<(), Fault>>,
}

/// What a daemon needs before it begins, with a model to begin with and these lines in `[models]`.
fn site(settings: &str, first: &[u8]) -> TempDir {
    let folder = tempfile::tempdir().expect("tempdir");
    for name in ["incoming", "models"] {
        fs::create_dir(folder.path().join(name)).expect("create");
    }
    fs::write(folder.path().join("first.onnx"), first).expect("write");
    let text = format!(
        "model = \"first.onnx\"\nstate_folder = \"state\"\n[[watch]]\nfolder = \"incoming\"\nsettle_seconds = 1\n\
         scan_seconds = 1\n[bus]\nkind = \"none\"\n[worker]\nproviders = [\"cpu\"]\n[models]\nfolder = \"models\"\n\
         settle_seconds = 1\n{settings}"
    );
    fs::write(folder.path().join("tissuemapd.toml"), text).expect("write");
    folder
}

fn config(folder: &Path) -> Config {
    Config::read(&folder.join("tissuemapd.toml")).expect("valid")
}

impl Lab {
    fn serve(folder: TempDir) -> Self {
        let config = config(folder.path());
        let workers = Arc::new(Workers::start(&support::program("tissuemapd"), &config).expect("they start"));
        let models = Models::start(&config, &*workers).expect("a model");
        let journal = Journal::open(&config.state_folder()).expect("a journal");
        let (sender, status) = watch::channel(Status::default());
        let (commander, commands) = Commander::new();
        let daemon = Daemon::new(config, Arc::clone(&workers) as _, models, journal, sender, commands);
        let daemon = daemon.expect("no clash");
        let (stop, stopped) = mpsc::channel(1);
        let daemon = tokio::spawn(daemon.run(stopped, std::future::pending()));
        Self { folder, commander, workers, status, stop, daemon }
    }

    async fn end(self) -> TempDir {
        self.stop.send("test").await.expect("alive");
        self.daemon.await.expect("no panic").expect("a clean end");
        self.folder
    }

    fn models(&self) -> PathBuf {
        self.folder.path().join("models")
    }

    /// As a copying program brings it: under a hidden name, then renamed.
    fn drop_model(&self, name: &str, content: &[u8]) {
        let hidden = self.models().join(format!(".{name}"));
        fs::write(&hidden, content).expect("write");
        fs::rename(hidden, self.models().join(name)).expect("rename");
    }

    fn bring(&self, case: &str) {
        for stain in STAINS {
            let to = self.folder.path().join("incoming").join(slide(case, stain));
            fs::copy(scanned().join(slide("demo", stain)), to).expect("copy");
        }
    }

    async fn until(&mut self, what: &str, reached: impl FnMut(&Status) -> bool) -> Status {
        let reached = tokio::time::timeout(PATIENCE, self.status.wait_for(reached)).await;
        let told = reached.ok().map(|status| status.expect("the daemon lives").clone());
        told.unwrap_or_else(|| panic!("{what}: not within {PATIENCE:?}: {:?}", self.status.borrow()))
    }

    /// The models that the results of a case name, one for each stain.
    fn made_by(&self, case: &str) -> Vec<String> {
        let named = |stain: &str| {
            let result = self.folder.path().join("incoming").join(slide(case, stain)).with_extension("tissuemap");
            let text = fs::read(result.join("result.json")).expect("a result");
            let record: serde_json::Value = serde_json::from_slice(&text).expect("JSON");
            record["model"]["sha256"].as_str().expect("text").to_owned()
        };
        STAINS.map(named).to_vec()
    }
}

/// Name and hash of the model that serves.
fn serving(status: &Status) -> (String, String) {
    let active: Vec<_> = status.models.iter().filter(|row| row.state == ModelState::Active).collect();
    assert!(active.len() <= 1, "one model for these stains: {active:?}");
    active.first().map(|row| (row.name.clone(), row.sha256.clone())).unwrap_or_default()
}

fn done(status: &Status) -> u64 {
    status.models.iter().map(|row| row.jobs_done).sum()
}

/// A model of the tests' stains, of this revision.
fn revision(number: u64) -> ModelProto {
    let mut model = example::model(&STAINS, 64, Mpp::new(1.0).expect("plausible"), 5);
    let mut contract = ModelContract::read(&model).expect("a contract");
    contract.training = serde_json::json!({ "revision": number });
    contract.write(&mut model);
    model
}

fn bytes(number: u64) -> Vec<u8> {
    revision(number).encode_to_vec()
}

/// Revision 6 with another first weight.
fn with_weight(weight: f32) -> Vec<u8> {
    changed(|model| {
        let tensors = &mut model.graph.as_mut().expect("a graph").initializer;
        let weights: &mut TensorProto = tensors.iter_mut().find(|tensor| tensor.name() == "weights").expect("there");
        weights.raw_data.as_mut().expect("values")[..4].copy_from_slice(&weight.to_le_bytes());
    })
}

/// Revision 6 with a change.
fn changed(change: impl FnOnce(&mut ModelProto)) -> Vec<u8> {
    let mut model = revision(6);
    change(&mut model);
    model.encode_to_vec()
}

/// A protobuf field of bytes, fewer than 128.
fn field(number: u8, bytes: &[u8]) -> Vec<u8> {
    [&[number << 3 | 2, bytes.len() as u8], bytes].concat()
}

/// Models that must not serve where revision 5 does, each with the id of its refusal; the large ones last.
fn bad_models() -> Vec<(&'static str, Vec<u8>)> {
    let mut cut = bytes(6);
    cut.truncate(cut.len() / 2);
    let other_patches = changed(|model| {
        let entry = model.metadata_props.iter_mut().find(|entry| entry.key() == "tissuemap.patch_px");
        entry.expect("there").value = Some("32".into());
    });
    let an_output_less = changed(|model| drop(model.graph.as_mut().expect("a graph").output.pop()));
    let foreign = changed(|model| model.graph.as_mut().expect("a graph").node[0].domain = Some("evil".into()));
    vec![
        ("onnx.tensor-not-finite", with_weight(f32::NAN)),
        ("model.golden-mismatch", with_weight(0.5)),
        ("contract.graph-mismatch", other_patches),
        ("onnx.output-signature", an_output_less),
        ("onnx.custom-domain", foreign),
        ("onnx.external-data", field(7, &field(5, &field(13, b"/etc/passwd")))),
        ("onnx.not-protobuf", cut),
        ("model.downgrade", bytes(4)),
        ("onnx.too-large", vec![0; MAX_MODEL_BYTES as usize + 1]),
    ]
}

fn explained(id: &str) -> bool {
    let contract = fs::read_to_string(support::root().join("models/CONTRACT.md")).expect("there");
    contract.contains(&format!("| `{id}` |"))
}

#[tokio::test(flavor = "multi_thread")]
async fn h09_every_bad_model_is_refused_by_its_own_id_and_the_old_one_does_the_next_job() {
    let mut lab = Lab::serve(site("", &bytes(5)));
    let first = serving(&lab.until("a model", |s| s.models.len() == 1).await);
    let bad = bad_models();
    for (index, (id, content)) in bad.iter().enumerate() {
        let name = format!("{id}.onnx");
        lab.drop_model(&name, content);
        let status = lab.until(id, |s| s.rejections.len() > index).await;
        let told = status.rejections.back().expect("told");
        assert_eq!((told.name.as_str(), told.id.as_str()), (name.as_str(), *id), "{}", told.reason);
        assert!(told.reason.contains("; hint: ") && !told.reason.contains('\n'), "{}", told.reason);
        assert!(explained(id), "{id} is not in models/CONTRACT.md");
        assert_eq!(serving(&status), first);
        lab.until(id, |s| s.problems.iter().any(|told| told.contains(&name))).await;
        let aside = lab.models().join("rejected").join(&name);
        assert!(fs::read(&aside).expect("moved aside") == *content, "{id}");
        let reason = fs::read_to_string(aside.with_file_name(format!("{name}.reason.txt"))).expect("a reason");
        assert!(reason.contains(&format!("id: {id}\n")), "{reason}");
        assert!(!lab.models().join(&name).exists());
    }
    lab.bring("c1");
    lab.until("a job", |s| done(s) == 1).await;
    assert_eq!(lab.made_by("c1"), [(); 3].map(|()| first.1.clone()));
    // The store keeps what serves, and what a person may activate on purpose.
    let kept = fs::read_dir(lab.folder.path().join("state/worker/models")).expect("readable");
    let kept = kept.filter(|entry| !entry.as_ref().expect("readable").file_name().to_string_lossy().starts_with('.'));
    assert_eq!(kept.count(), 2);
    let row = lab.commander.activate("model.downgrade.onnx".into()).await.expect("on purpose");
    assert_eq!((row.state, row.revision), (ModelState::Active, Some(4)));
    lab.end().await;
}

fn signature(key: &KeyPair, content: &[u8]) -> String {
    let signed = minisign::sign(Some(&key.pk), &key.sk, Cursor::new(content), None, None);
    signed.expect("signed").into_string()
}

#[tokio::test(flavor = "multi_thread")]
async fn h09_where_keys_are_trusted_only_models_that_they_signed_serve() {
    let [trusted, stranger] = [(); 2].map(|()| KeyPair::generate_unencrypted_keypair().expect("a key"));
    let [first, second, third] = [5, 6, 7].map(bytes);
    let folder = site(&format!("trusted_keys = [{:?}]\n", trusted.pk.to_base64()), &first);
    fs::write(folder.path().join("first.onnx.minisig"), signature(&trusted, &first)).expect("write");
    let mut lab = Lab::serve(folder);
    let before = serving(&lab.until("a model", |s| s.models.len() == 1).await);

    let cases = [
        ("unsigned.onnx", None, "model.unsigned"),
        ("stranger.onnx", Some(signature(&stranger, &second)), "model.bad-signature"),
        ("other.onnx", Some(signature(&trusted, &third)), "model.bad-signature"),
        ("garbled.onnx", Some("untrusted comment: x\nRWQ\n".to_owned()), "model.bad-signature"),
    ];
    for (index, (name, signature, id)) in cases.iter().enumerate() {
        let beside = format!("{name}.minisig");
        if let Some(signature) = signature {
            fs::write(lab.models().join(&beside), signature).expect("write");
        }
        lab.drop_model(name, &second);
        let status = lab.until(name, |s| s.rejections.len() > index).await;
        let told = status.rejections.back().expect("told");
        assert_eq!((told.name.as_str(), told.id.as_str()), (*name, *id), "{}", told.reason);
        assert!(explained(id), "{id} is not in models/CONTRACT.md");
        assert_eq!(serving(&status), before);
        lab.until(name, |s| s.problems.iter().any(|told| told.contains(name))).await;
        assert_eq!(lab.models().join("rejected").join(&beside).exists(), signature.is_some(), "{beside}");
    }
    fs::write(lab.models().join("good.onnx.minisig"), signature(&trusted, &second)).expect("write");
    lab.drop_model("good.onnx", &second);
    lab.until("good.onnx", |s| serving(s).0 == "good.onnx").await;

    // A key that is not trusted any more: neither is what it signed.
    let folder = lab.end().await;
    let file = folder.path().join("tissuemapd.toml");
    let text = fs::read_to_string(&file).expect("there");
    fs::write(&file, text.replace(&trusted.pk.to_base64(), &stranger.pk.to_base64())).expect("write");
    let config = config(folder.path());
    let workers = Workers::start(&support::program("tissuemapd"), &config).expect("they start");
    let fault = Models::start(&config, &workers).err().expect("nothing may serve");
    assert_eq!(fault.id(), Some("model.bad-signature"), "{fault}");
}

/// How many models are dropped while sets are processed; more with `TISSUEMAP_SWAPS`.
fn swaps() -> usize {
    std::env::var("TISSUEMAP_SWAPS").ok().map_or(4, |number| number.parse().expect("a number"))
}

#[tokio::test(flavor = "multi_thread")]
async fn h11_swaps_under_load_lose_no_set_and_every_result_names_one_model() {
    let begun = Instant::now();
    let mut lab = Lab::serve(site("", &bytes(5)));
    let mut bad = bad_models();
    // It only takes time.
    bad.retain(|(id, _)| *id != "onnx.too-large");
    let mut good = vec![serving(&lab.until("a model", |s| s.models.len() == 1).await).1];
    let (mut cases, mut refused, mut while_busy) = (Vec::new(), 0, 0);
    for swap in 0..swaps() {
        // There are always sets to process, before, while and after the model comes.
        while (cases.len() as u64) < done(&lab.status.borrow()) + 4 {
            cases.push(format!("c{}", cases.len()));
            lab.bring(&cases[cases.len() - 1]);
        }
        let status = if swap % 3 == 2 {
            let (id, content) = &bad[refused % bad.len()];
            lab.drop_model(&format!("bad{swap}.onnx"), content);
            refused += 1;
            let is_told = |s: &Status| s.rejections.back().is_some_and(|last| last.number == refused as u64);
            let status = lab.until(id, is_told).await;
            assert_eq!(status.rejections.back().expect("told").id, *id);
            status
        } else {
            let name = format!("good{swap}.onnx");
            lab.drop_model(&name, &bytes(6 + swap as u64));
            let status = lab.until(&name, |s| serving(s).0 == name).await;
            good.push(serving(&status).1);
            status
        };
        while_busy += usize::from(status.job.is_some());
    }
    let status = lab.until("all sets", |s| done(s) >= cases.len() as u64 && s.jobs.is_empty()).await;
    assert_eq!(done(&status), cases.len() as u64, "each set once: {:?}", status.outcomes);
    assert!(status.models.iter().all(|row| row.jobs_failed == 0), "{:?}", status.models);
    let mut by_model: BTreeMap<String, u64> = BTreeMap::new();
    for case in &cases {
        let named = lab.made_by(case);
        assert!(named.iter().all(|sha256| *sha256 == named[0]), "{case}: one model for all stains: {named:?}");
        assert!(good.contains(&named[0]), "{case}: a model that did not serve: {named:?}");
        *by_model.entry(named[0].clone()).or_default() += 1;
    }
    for row in status.models.iter() {
        assert_eq!(by_model.get(&row.sha256).copied().unwrap_or_default(), row.jobs_done, "{}", row.name);
    }
    println!(
        "{} swaps ({refused} refused, {while_busy} while a set was processed), {} sets, none lost, by {} models, in {:.0} s",
        swaps(),
        cases.len(),
        by_model.len(),
        begun.elapsed().as_secs_f64()
    );
    lab.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn h11_what_becomes_of_a_dropped_file_later_changes_nothing_of_what_serves() {
    let mut lab = Lab::serve(site("", &bytes(5)));
    lab.drop_model("new.onnx", &bytes(6));
    let (_, sha256) = serving(&lab.until("new.onnx", |s| serving(s).0 == "new.onnx").await);
    // In place, so that a worker which had it open would see it.
    let file = fs::File::options().write(true).open(lab.models().join("new.onnx")).expect("there");
    file.set_len(100).expect("cut");
    let worker = lab.workers.jobs().pid.expect("serves");
    let killed = Command::new("kill").args(["-KILL", &worker.to_string()]).status().expect("kill runs");
    assert!(killed.success());
    lab.bring("c1");
    lab.until("a job", |s| done(s) == 1).await;
    assert_eq!(lab.made_by("c1"), [(); 3].map(|()| sha256.clone()));
    assert_eq!(lab.workers.jobs().starts, 2, "a worker that died is replaced by one with the same model");
    let status = lab.until("the cut file", |s| !s.rejections.is_empty()).await;
    assert_eq!(status.rejections[0].id, "onnx.not-protobuf");
    assert_eq!(serving(&status).1, sha256);
    lab.end().await;
}

#[test]
fn h11_every_model_has_a_worker_of_its_own_which_ends_with_it() {
    let folder = site("", &bytes(1));
    fs::write(folder.path().join("second.onnx"), bytes(2)).expect("write");
    let workers = Workers::start(&support::program("tissuemapd"), &config(folder.path())).expect("they start");
    let first = workers.load(&folder.path().join("first.onnx"), &|_| {}).expect("proved");
    let its_worker = workers.jobs().pid.expect("serves");
    let second = workers.load(&folder.path().join("second.onnx"), &|_| {}).expect("proved");
    assert_ne!(first.model().sha256, second.model().sha256);
    assert_ne!(workers.jobs().pid, Some(its_worker));
    drop(first);
    assert!(!Path::new(&format!("/proc/{its_worker}")).exists(), "it goes with its model");
}
