//! The machine: libraries, kernel, limits, memory, graphics cards.

use std::fs;
use std::path::Path;

use tissuemap::infer::{self, Provider};
use tissuemap::slide;

use super::{Finding, Grade};
use crate::config::{Leds, Light, Watch, Worker};
use crate::job::Fault;
use crate::status::leds;

/// OpenSlide and ONNX Runtime: there, and new enough.
pub(super) fn libraries(tell: &mut dyn FnMut(Finding)) {
    for (check, version) in [("openslide", slide::openslide_version()), ("onnxruntime", infer::runtime_version())] {
        tell(match version {
            Ok(version) => Finding::ok(check, version),
            Err(error) => Finding::fail(check, &Fault::from_error(&error)),
        });
    }
}

/// Can a worker be confined to its folders?
pub(super) fn kernel() -> Finding {
    const CHECK: &str = "kernel";
    let text = |path: &str| fs::read_to_string(path).map(|text| text.trim().to_owned()).unwrap_or_default();
    let (release, modules) = (text("/proc/sys/kernel/osrelease"), text("/sys/kernel/security/lsm"));
    // Without securityfs nothing is known here; the confined worker of the model's check tells then.
    if modules.is_empty() || modules.split(',').any(|name| name == "landlock") {
        return Finding::ok(CHECK, format!("Linux {release}"));
    }
    Finding::warn(
        CHECK,
        format!("Linux {release} runs without landlock: a hostile slide could read what the daemon's user can"),
        "use Linux 6.2 or later with landlock in `lsm=`",
    )
}

/// Are there as many inotify watches as there are folders?
pub(super) fn watches(watched: &[Watch]) -> Finding {
    const CHECK: &str = "inotify";
    let limit = fs::read_to_string("/proc/sys/fs/inotify/max_user_watches");
    let Some(limit) = limit.ok().and_then(|text| text.trim().parse::<u64>().ok()) else {
        return Finding::warn(CHECK, "the kernel tells no limits", "slides are found by looking, only later");
    };
    let needed: u64 = watched.iter().filter(|watch| !watch.poll).map(|watch| folders(&watch.folder)).sum();
    let detail = format!("{needed} folders are watched, {limit} may be");
    // Others on the machine need some, too.
    if needed * 2 > limit {
        return Finding::warn(
            CHECK,
            detail,
            format!("sysctl fs.inotify.max_user_watches={}", (needed * 4).max(65_536)),
        );
    }
    Finding::ok(CHECK, detail)
}

/// Folders at and below, links not followed.
fn folders(folder: &Path) -> u64 {
    let Ok(entries) = fs::read_dir(folder) else { return 1 };
    let below = entries.flatten().filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
    1 + below.map(|entry| folders(&entry.path())).sum::<u64>()
}

/// Is there as much memory as a worker may take?
pub(super) fn memory(worker: &Worker) -> Finding {
    const CHECK: &str = "memory";
    let text = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"));
    let total = line.and_then(|rest| rest.trim().split(' ').next()?.parse::<u64>().ok()).map(|kib| kib >> 10);
    match total {
        Some(total) if total < worker.memory_mib => Finding::warn(
            CHECK,
            format!("{total} MiB, and a worker may take {}", worker.memory_mib),
            "lower `memory_mib` in [worker], so that a slide that takes too much ends its worker and nothing else",
        ),
        Some(total) => Finding::ok(CHECK, format!("{total} MiB; a worker may take {}", worker.memory_mib)),
        None => Finding::warn(CHECK, "cannot be told", "look at /proc/meminfo"),
    }
}

/// Is there a graphics card, where one is wanted?
pub(super) fn graphics(worker: &Worker) -> Finding {
    const CHECK: &str = "gpu";
    let wanted = worker.providers.iter().any(|&provider| provider != Provider::Cpu);
    let there = Path::new("/dev/nvidiactl").exists();
    match (wanted, there) {
        (false, _) => Finding::ok(CHECK, "none is wanted (`providers` in [worker])"),
        (true, true) => Finding::ok(CHECK, "an NVIDIA driver is there; the model's check tells what computes"),
        (true, false) if worker.providers.contains(&Provider::Cpu) => {
            Finding::ok(CHECK, "no NVIDIA driver (/dev/nvidiactl); the processor computes")
        }
        (true, false) => {
            let hint = "install the driver, or add \"cpu\" to `providers` in [worker]";
            Finding::fail(
                CHECK,
                &Fault::new("no NVIDIA driver (/dev/nvidiactl), and the processor may not compute", hint),
            )
        }
    }
}

/// Are the lights and the button there that the configuration names? The daemon serves without them.
pub(super) fn lights(leds: &Leds, tell: &mut dyn FnMut(Finding)) {
    let button = leds.button.map(Light::Gpio);
    let named =
        ["ready", "busy", "attention", "button"].into_iter().zip(leds.lights().into_iter().chain([button.as_ref()]));
    for (name, light) in named.filter_map(|(name, light)| Some((name, light?))) {
        let check = format!("light {name}");
        tell(match leds::look(light, leds) {
            Ok(()) => Finding::ok(check, "is there"),
            Err(fault) => Finding::of(check, Grade::Warn, &fault),
        });
    }
}
