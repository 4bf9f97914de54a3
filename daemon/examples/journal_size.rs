//! How large a journal of so many sets is, how long it takes to open, and what the process then holds in memory:
//!
//! ```text
//! cargo run --release -p tissuemap-daemon --example journal_size -- 2000 5
//! ```

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Instant;

use tissuemap::section_set::SetKey;
use tissuemap_daemon::journal::{Change, Contents, Input, Journal};

type AnyError = Box<dyn std::error::Error>;

#[allow(clippy::print_stdout)]
fn main() -> Result<(), AnyError> {
    let mut arguments = std::env::args().skip(1).map(|argument| argument.parse::<usize>());
    let (sets, stains) = (arguments.next().unwrap_or(Ok(2000))?, arguments.next().unwrap_or(Ok(5))?);
    let folder = tempfile::tempdir()?;
    let started = Instant::now();
    let mut journal = Journal::open(folder.path())?;
    for set in 0..sets {
        let case = format!("case{set:05}");
        let stain = |stain: usize| {
            let slide = format!("/srv/scanner/incoming/2026-11-23/{case}_stain{stain}.svs");
            let hash = format!("{set:016x}{stain:016x}");
            (format!("stain{stain}"), Input { slide, bytes: 1 << 30, seen: hash.clone(), content: None })
        };
        let inputs: BTreeMap<String, Input> = (0..stains).map(stain).collect();
        let contents: Contents = inputs.iter().map(|(stain, input)| (stain.clone(), input.seen.clone())).collect();
        let key = SetKey { case: case.clone(), block: None };
        let id = journal.request(Path::new("/srv/scanner/incoming"), &key, "ab12", false, &inputs)?.0.id;
        // A tenth stays to be done.
        if set % 10 != 0 {
            journal.apply(id, &Change::Begun { attempt: 1, model: "ab12".into() })?;
            journal.apply(id, &Change::Done { contents, reason: String::new() })?;
        }
    }
    drop(journal);
    println!("{sets} sets of {stains} slides: written in {:.2} s", started.elapsed().as_secs_f64());
    println!("{} kB on the disk", folder.path().join(Journal::FILE).metadata()?.len() / 1000);

    let started = Instant::now();
    let journal = Journal::open(folder.path())?;
    let open = journal.open_jobs()?.len();
    println!("opened, checked and {open} open jobs read in {:.3} s", started.elapsed().as_secs_f64());
    let status = std::fs::read_to_string("/proc/self/status")?;
    status
        .lines()
        .filter(|line| line.starts_with("VmRSS") || line.starts_with("VmHWM"))
        .for_each(|line| println!("{line}"));
    Ok(())
}
