//! How much a contract may say. What a model says about itself travels between processes, over the bus and into every result:
//! a list without a limit becomes an answer that cannot be given.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::metadata::{ContractError, key};
use super::{MAX_CLUSTERS, MAX_GOLDEN, MAX_STAINS, ModelContract};

/// Names longer than this break legends and file names.
pub const MAX_NAME_CHARS: usize = 64;

/// Other names of one stain. Laboratories that write a stain in a dozen ways are rare.
pub const MAX_ALIASES: usize = 64;

/// Other names of all stains together.
pub const MAX_ALIASES_IN_ALL: usize = 256;

/// The greatest `revision`: fourteen digits are a date with its time, to the second.
pub const MAX_REVISION: u64 = 99_999_999_999_999;

/// A revision that merely counts stays below this.
const MAX_COUNT: u64 = 1_000_000;

/// Bytes that the value of a metadata key may have. Those of arrays follow from the contract's largest shapes.
pub(super) fn value_bytes(key: &str) -> usize {
    match key {
        // 64 MiB of patches that hardly compress, in base64; the file's own limit is lower.
        key::GOLDEN => 96 << 20,
        // 254 centroids of 4,096 dimensions, in base64, and as many bounds.
        key::TYPICALITY => 8 << 20,
        // Shown to people, and part of no message.
        key::TRAINING => 1 << 20,
        // 272 or 254 names of 64 characters, each of which JSON may write as twelve bytes.
        key::STAINS | key::CLUSTERS => 256 << 10,
        _ => 1024,
    }
}

fn at_most(key: &'static str, what: &'static str, found: usize, most: usize) -> Result<(), ContractError> {
    if found <= most { Ok(()) } else { Err(ContractError::TooMany { key, what, found, most }) }
}

/// Counts the golden patches before they are unpacked.
pub(super) fn check_golden(count: usize) -> Result<(), ContractError> {
    at_most(key::GOLDEN, "golden patches", count, MAX_GOLDEN)
}

/// Counts what the contract lists, and measures its names and its revision.
pub(super) fn check(contract: &ModelContract) -> Result<(), ContractError> {
    let aliases = || contract.stains.iter().map(|stain| stain.aliases.len());
    at_most(key::STAINS, "stains", contract.stains.len(), MAX_STAINS as usize)?;
    at_most(key::STAINS, "aliases of one stain", aliases().max().unwrap_or_default(), MAX_ALIASES)?;
    at_most(key::STAINS, "aliases of all stains", aliases().sum(), MAX_ALIASES_IN_ALL)?;
    at_most(key::CLUSTERS, "clusters", contract.clusters.len(), MAX_CLUSTERS as usize)?;
    check_golden(contract.golden.len())?;
    let stains = contract.stains.iter().flat_map(|stain| std::iter::once(&stain.name).chain(&stain.aliases));
    let stains = stains.map(|name| (key::STAINS, name));
    for (key, name) in stains.chain(contract.clusters.iter().map(|cluster| (key::CLUSTERS, &cluster.name))) {
        let found = name.chars().count();
        if found > MAX_NAME_CHARS {
            return Err(ContractError::NameTooLong { key, begins: name.chars().take(16).collect(), found });
        }
    }
    match contract.training.get("revision") {
        None | Some(serde_json::Value::Null) => Ok(()),
        Some(number) if number.as_u64().is_some_and(|number| number <= MAX_REVISION) => Ok(()),
        // Its text is at most as long as the value of the key, and clipped there.
        Some(other) => Err(ContractError::revision(other)),
    }
}

/// Whether a revision is greater than a count or a date of this day can be (`20261201`, with hour, minute and second, or
/// seconds or milliseconds since 1970): every later model would need one that is greater still.
pub fn is_ahead_of_time(revision: u64, now: SystemTime) -> bool {
    // Clocks and time zones differ by up to a day.
    let tomorrow = now + Duration::from_hours(24);
    let Ok(stamp) = jiff::Timestamp::try_from(tomorrow) else { return false };
    let dated = |pattern: &str| stamp.strftime(pattern).to_string().parse().unwrap_or(u64::MAX);
    let since = tomorrow.duration_since(UNIX_EPOCH).unwrap_or_default();
    let most = match revision {
        10_000_000..=99_999_999 => dated("%Y%m%d"),
        1_000_000_000..=9_999_999_999 => since.as_secs().max(dated("%Y%m%d%H")),
        100_000_000_000..=999_999_999_999 => dated("%Y%m%d%H%M"),
        1_000_000_000_000..=9_999_999_999_999 => since.as_millis() as u64,
        10_000_000_000_000.. => dated("%Y%m%d%H%M%S"),
        _ => MAX_COUNT,
    };
    revision > most
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn revisions_that_no_count_and_no_date_of_today_reaches_are_ahead_of_time() {
        // 2026-12-01 00:00:00 UTC.
        let now = UNIX_EPOCH + Duration::from_hours(498_912);
        for fine in [0, 1, 999_999, 20_261_201, 20_261_202, 1_796_083_200, 2_026_120_112, 202_612_011_530] {
            assert!(!is_ahead_of_time(fine, now), "{fine}");
        }
        for fine in [1_796_083_200_000, 20_261_201_153_059] {
            assert!(!is_ahead_of_time(fine, now), "{fine}");
        }
        let ahead = [1_000_001, 9_999_999, 20_261_203, 99_991_231, 123_456_789, 9_999_999_999, 300_001_010_000];
        for ahead in ahead.into_iter().chain([99_999_999_999, 9_999_999_999_999, MAX_REVISION, u64::MAX]) {
            assert!(is_ahead_of_time(ahead, now), "{ahead}");
        }
    }
}
