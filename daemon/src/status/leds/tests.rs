use std::fs;
use std::path::Path;

use super::*;
use crate::config::{self, Leds};
use crate::disk::Shortage;
use crate::journal::JobId;
use crate::status::CurrentJob;
use crate::status::pulse::Heart;

fn idle() -> Status {
    Status { state: State::Idle, ..Status::default() }
}

fn job() -> CurrentJob {
    CurrentJob { id: JobId(1), set: "c1".into(), stage: "infer", progress: 0.5, left: None }
}

#[test]
fn the_pattern_tells_alive_busy_and_attention_apart() {
    use Light::{Dark, Fast, Slow};

    let show = |status: Status| {
        let Pattern { ready, busy, attention } = pattern(&status);
        (ready, busy, attention)
    };
    assert_eq!(show(Status::default()), (Dark, Dark, Dark), "starting");
    assert_eq!(show(idle()), (Slow, Dark, Dark));
    assert_eq!(show(Status { state: State::Busy, job: Some(job()), ..idle() }), (Slow, Slow, Dark));
    assert_eq!(show(Status { paused: true, ..idle() }), (Dark, Dark, Slow));
    assert_eq!(show(Status { problems: vec!["torn".into()], ..idle() }), (Slow, Dark, Fast));
    let short = Shortage { path: "/slides".into(), free: Some(0), needed: 1 };
    assert_eq!(show(Status { disk: Some(short), ..idle() }), (Dark, Dark, Fast));
    assert_eq!(show(Status { state: State::Draining, job: Some(job()), ..idle() }), (Dark, Slow, Dark));
}

#[test]
fn whatever_is_lit_goes_out_again_within_a_second_and_comes_back() {
    for light in [Light::Slow, Light::Fast] {
        let lit: Vec<bool> = (0..40).map(|i| light.is_lit(Duration::from_millis(100 * i))).collect();
        assert!(lit.windows(11).all(|window| window.contains(&true) && window.contains(&false)), "{light:?} {lit:?}");
    }
    assert!((0..40).all(|i| !Light::Dark.is_lit(Duration::from_millis(100 * i))));
}

/// Three LEDs as the kernel shows them.
fn kernel_leds(folder: &Path) -> Leds {
    for name in ["ready", "busy", "attention"] {
        let led = folder.join(name);
        fs::create_dir(&led).expect("create");
        for (file, text) in [("brightness", "1\n"), ("max_brightness", "255\n"), ("trigger", "[heartbeat] none\n")] {
            fs::write(led.join(file), text).expect("write");
        }
    }
    let light = |name: &str| Some(config::Light::Class(name.into()));
    Leds {
        ready: light("ready"),
        busy: light("busy"),
        attention: light("attention"),
        class_folder: folder.into(),
        ..Leds::default()
    }
}

fn brightness(folder: &Path, name: &str) -> String {
    fs::read_to_string(folder.join(name).join("brightness")).expect("readable")
}

#[tokio::test(start_paused = true)]
async fn h13_lights_follow_the_status_and_the_pulse_and_are_dark_in_the_end() {
    let folder = tempfile::tempdir().expect("tempdir");
    let lamps = lamps(&kernel_leds(folder.path()));
    assert!(lamps.iter().all(Option::is_some));
    assert_eq!(fs::read_to_string(folder.path().join("ready/trigger")).expect("readable"), "none");
    let (status, watched) = watch::channel(idle());
    let heart = Heart::new();
    let driver = tokio::spawn(drive(lamps, watched, heart.pulse()));

    let mut seen = Vec::new();
    for _ in 0..24 {
        heart.beat();
        tokio::time::sleep(Duration::from_millis(500)).await;
        let lit = brightness(folder.path(), "ready");
        assert!(["255", "0"].contains(&lit.as_str()), "{lit}");
        seen.push(lit == "255");
        assert_eq!(["busy", "attention"].map(|name| brightness(folder.path(), name)), ["0", "0"]);
    }
    assert!(seen.contains(&true) && seen.contains(&false), "blinks: {seen:?}");

    status.send_modify(|status| status.problems.push("torn".into()));
    let mut seen = Vec::new();
    for _ in 0..200 {
        // Nobody vouches any more.
        tokio::time::sleep(Duration::from_millis(150)).await;
        seen.push(["ready", "attention"].map(|name| brightness(folder.path(), name)));
    }
    assert!(seen.iter().any(|lit| lit[1] == "255"), "the problem shows: {seen:?}");
    let dark = ["0", "0"].map(str::to_owned);
    assert!(seen[120..].iter().all(|lit| *lit == dark), "dark without a pulse: {seen:?}");

    heart.beat();
    tokio::time::sleep(Duration::from_millis(1100)).await;
    drop(status);
    driver.await.expect("it ends");
    assert_eq!(["ready", "busy", "attention"].map(|name| brightness(folder.path(), name)), ["0", "0", "0"]);
}

#[test]
fn lights_that_are_not_there_are_left_out() {
    // No Raspberry Pi, or built without pins.
    let pin = (!Path::new("/dev/gpiomem").exists()).then_some(config::Pin(17));
    let leds = Leds {
        ready: Some(config::Light::Class("nonexistent".into())),
        busy: pin.map(config::Light::Gpio),
        button: pin,
        ..Leds::default()
    };
    assert!(lamps(&leds).iter().all(Option::is_none));
    let told = leds.lights().into_iter().flatten().map(|light| look(light, &leds).expect_err("not there").to_string());
    assert!(told.into_iter().all(|told| told.contains("nonexistent") || told.contains("gpio17")));
    assert!(button(&leds).is_none());
}
