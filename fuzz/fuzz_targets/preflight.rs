//! Any bytes as a model file: no panic, no runaway allocation, and what passes reads back as itself.
#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use tissuemap::contract::{ModelContract, example, preflight};
use tissuemap::units::Mpp;

/// Random bytes rarely get past the first field; overwriting a part of a sound model reaches every later check.
static SOUND: LazyLock<Vec<u8>> = LazyLock::new(|| example::bytes(&["HE"], 8, Mpp::new(0.5).expect("plausible"), 2));

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
        let mut file = SOUND.clone();
        let at = usize::from(u16::from_le_bytes(*offset)) % file.len();
        let end = (at + patch.len()).min(file.len());
        file.splice(at..end, patch.iter().copied());
        check(&file);
    }
});
