//! Any bytes as a model file: no panic, no runaway allocation, and what passes reads back as itself.
#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use prost::Message;
use tissuemap::contract::graph::{GraphBuilder, int};
use tissuemap::contract::{LATENT, ModelContract, example, preflight, signature};
use tissuemap::units::Mpp;

/// Random bytes rarely get past the first field; overwriting a part of a sound model reaches every later check.
static SOUND: LazyLock<Vec<u8>> = LazyLock::new(|| example::bytes(&["HE"], 8, Mpp::new(0.5).expect("plausible"), 2));

/// The same with codes, steps and zero points, for the rules of quantisation.
static QUANTISED: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let mut model = preflight(&SOUND).expect("sound");
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

fn check(bytes: &[u8]) {
    if let Ok(model) = preflight(bytes)
        && let Ok(contract) = ModelContract::read(&model)
    {
        let mut again = model;
        contract.write(&mut again);
        assert_eq!(ModelContract::read(&again), Ok(contract));
    }
}

fuzz_target!(|bytes: &[u8]| {
    check(bytes);
    if let Some((offset, patch)) = bytes.split_first_chunk() {
        for sound in [&SOUND, &QUANTISED] {
            let mut file = sound.to_vec();
            let at = usize::from(u16::from_le_bytes(*offset)) % file.len();
            let end = (at + patch.len()).min(file.len());
            file.splice(at..end, patch.iter().copied());
            check(&file);
        }
    }
});
