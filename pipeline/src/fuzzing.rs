//! What holds of any bytes in the files that this library reads: nothing panics, and what is accepted reads back as itself.
//!
//! The fuzz targets in `fuzz/` try these properties with coverage, the tests below on the committed inputs and on damaged
//! copies of them. The functions panic where a property does not hold.

#![allow(clippy::missing_panics_doc, reason = "panicking is how they tell")]

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use prost::Message;

use crate::contract::graph::{GraphBuilder, int};
use crate::contract::onnx::{ModelProto, StringStringEntryProto};
use crate::contract::{LATENT, ModelContract, example, is_name, preflight, signature};
use crate::overlay;
use crate::section_set::{Manifest, Namer, NamingRules, group};
use crate::units::Mpp;

static SOUND: LazyLock<ModelProto> = LazyLock::new(|| example::model(&["HE"], 8, Mpp::new(0.5).expect("plausible"), 2));

static SOUND_BYTES: LazyLock<Vec<u8>> = LazyLock::new(|| SOUND.encode_to_vec());

/// The same with codes, steps and zero points, for the rules of quantisation.
static QUANTISED: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let mut model = SOUND.clone();
    let mut more = GraphBuilder::new("more", signature(&model).expect("sound"));
    more.int8s("codes", &[2, 1], &[-63, 63]);
    more.floats("steps", &[2], &[0.5, 0.25]);
    more.floats("step", &[], &[0.5]);
    more.uint8s("zero", &[], &[1]);
    more.halves("half", &[1], &[0x3c00]);
    more.node("DequantizeLinear", &["codes", "steps"], "numbers", &[int("axis", 0)]);
    more.node("QuantizeLinear", &[LATENT, "step", "zero"], "latent_codes", &[]);
    let more = more.finish().graph.unwrap_or_default();
    let graph = model.graph.as_mut().expect("sound");
    graph.initializer.extend(more.initializer);
    graph.node.extend(more.node);
    let bytes = model.encode_to_vec();
    assert!(preflight(&bytes).is_ok());
    bytes
});

/// A model file: the bytes themselves, and sound models of which they overwrite a part.
pub fn model(bytes: &[u8]) {
    whole_model(bytes);
    if let Some((offset, patch)) = bytes.split_first_chunk() {
        for sound in [&SOUND_BYTES, &QUANTISED] {
            let mut file = sound.to_vec();
            let at = usize::from(u16::from_le_bytes(*offset)) % file.len();
            let end = (at + patch.len()).min(file.len());
            file.splice(at..end, patch.iter().copied());
            whole_model(&file);
        }
    }
}

fn whole_model(bytes: &[u8]) {
    if let Ok(model) = preflight(bytes) {
        assert_eq!(preflight(&model.encode_to_vec()).as_ref(), Ok(&model));
        read_contract(model);
    }
}

/// What a model says about itself: every line `key=value` replaces an entry of a sound model's metadata, every line without
/// a `=` removes one.
pub fn contract(bytes: &[u8]) {
    let mut model = SOUND.clone();
    for line in String::from_utf8_lossy(bytes).lines() {
        let (key, value) = line.split_once('=').map_or((line, None), |(key, value)| (key, Some(value.to_owned())));
        let key = format!("tissuemap.{key}");
        model.metadata_props.retain(|entry| entry.key() != key);
        let entry = value.map(|value| StringStringEntryProto { key: Some(key), value: Some(value) });
        model.metadata_props.extend(entry);
    }
    read_contract(model);
}

fn read_contract(mut model: ModelProto) {
    if let Ok(contract) = ModelContract::read(&model) {
        assert_eq!(contract.validate(), Ok(()));
        let names = contract.stains.iter().map(|stain| &stain.name).chain(contract.clusters.iter().map(|c| &c.name));
        names.for_each(|name| assert!(is_name(name), "{name:?}"));
        contract.write(&mut model);
        assert_eq!(ModelContract::read(&model), Ok(contract));
    }
}

/// Names of slides, with rules and a manifest. A line after `/` is a naming pattern, after `=` a stain with its aliases
/// between commas, after `,` a line of the manifest; every other line is a file name.
pub fn naming(bytes: &[u8]) {
    let mut rules = NamingRules::default();
    let (mut patterns, mut manifest, mut paths) = (Vec::new(), Vec::new(), Vec::new());
    for line in bytes.split(|&byte| byte == b'\n') {
        let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
        match line.split_first() {
            Some((b'/', pattern)) => patterns.push(text(pattern)),
            Some((b'=', names)) => {
                let mut names = text(names).split(',').map(str::to_owned).collect::<Vec<_>>();
                let stain = names.remove(0);
                rules.stains.entry(stain).or_default().extend(names);
            }
            Some((b',', row)) => manifest.extend([row, b"\n"].concat()),
            _ => paths.push(PathBuf::from(OsStr::from_bytes(line))),
        }
    }
    if !patterns.is_empty() {
        rules.patterns = patterns;
    }
    let manifest = read_manifest(&manifest);
    let Ok(namer) = Namer::new(&rules) else { return };
    let grouped = group(&paths, &namer, manifest.as_ref());
    let slides = || grouped.sets.iter().flat_map(|set| &set.slides);
    assert_eq!(slides().count() + grouped.errors.len(), paths.len(), "every slide is in one set or refused");
    for set in &grouped.sets {
        assert!(!set.key.case.is_empty() && set.key.block.as_ref().is_none_or(|block| !block.is_empty()), "{set:?}");
    }
    for (stain, _) in slides() {
        assert_eq!(namer.stain(stain), *stain, "a canonical name stands for itself");
    }
    paths.reverse();
    assert_eq!(group(&paths, &namer, manifest.as_ref()).sets, grouped.sets, "the order of arriving changes nothing");
}

fn read_manifest(csv: &[u8]) -> Option<Manifest> {
    if csv.is_empty() {
        return None;
    }
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("manifest.csv");
    std::fs::write(&path, csv).expect("writable");
    let manifest = Manifest::read(&path);
    if let Err(error) = &manifest {
        assert!(error.to_string().contains("manifest.csv"), "{error}");
    }
    manifest.ok()
}

/// A `result.json`.
pub fn record(bytes: &[u8]) {
    let place = tempfile::tempdir().expect("a temporary folder");
    let folder = place.path().join("c1_HE.tissuemap");
    std::fs::create_dir(&folder).expect("writable");
    let path = folder.join(overlay::RESULT_JSON);
    std::fs::write(&path, bytes).expect("writable");
    let verified = overlay::verify(&folder, true, &mut |_| {});
    let Some(record) = overlay::read_record(&folder) else {
        assert!(verified.is_err(), "what is no record proves nothing");
        return;
    };
    let beside = |path: &Path| path.starts_with(place.path());
    let verified = verified.expect("it was read");
    let looked_at = verified.outputs.iter().chain(&verified.slides).map(|checked| checked.path.as_path());
    looked_at.for_each(|path| assert!(beside(path), "{}: led elsewhere", path.display()));
    let text = serde_json::to_string(&record).expect("a record is JSON");
    std::fs::write(&path, &text).expect("writable");
    let again = overlay::read_record(&folder).expect("its own text is a record");
    assert_eq!(serde_json::to_string(&again).expect("a record is JSON"), text);
}

#[cfg(test)]
#[path = "../../fuzz/shared/replay.rs"]
mod replay;

#[cfg(test)]
mod tests {
    use super::replay::hold;

    #[test]
    fn h10_a_damaged_model_is_refused_or_reads_back() {
        hold("preflight", 256, super::model);
    }

    #[test]
    fn h10_damaged_metadata_are_refused_or_read_back() {
        hold("contract", 256, super::contract);
    }

    #[test]
    fn any_names_rules_and_manifest_give_every_slide_one_place() {
        hold("naming", 256, super::naming);
    }

    #[test]
    fn a_damaged_record_is_refused_or_reads_back() {
        hold("record", 256, super::record);
    }
}
