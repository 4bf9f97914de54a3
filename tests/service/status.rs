//! One status, told in four ways.

use std::time::UNIX_EPOCH;

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use tissuemap_daemon::command::Commander;
use tissuemap_daemon::disk::Shortage;
use tissuemap_daemon::journal::JobId;
use tissuemap_daemon::status::dbus::{Access, Authority, Daemon1Proxy, Service};
use tissuemap_daemon::status::leds::{Light, pattern};
use tissuemap_daemon::status::{CurrentJob, State, Status, metrics, systemd};
use tokio::sync::watch;
use zbus::connection;
use zbus::proxy::CacheProperties;

use crate::support::bus::Bus;

fn on(bus: &Bus) -> connection::Builder<'static> {
    connection::Builder::address(zbus::Address::try_from(bus.address.as_str()).expect("valid"))
}

/// Any status that the loop can tell: busy with a job, idle without one, draining with or without, or starting with
/// nothing at all.
fn statuses() -> impl Strategy<Value = Status> {
    let names = || prop::collection::vec("[a-zA-Z0-9_.-]{1,12}", 0..4);
    let job = prop::option::of(("case-[a-z0-9]{1,6}", prop::sample::select(vec!["open", "infer"]), 0.0..1.0_f64));
    let short = prop::option::of(Just(Shortage { path: "/slides".into(), free: Some(1), needed: 2 }));
    (0..3, job, any::<bool>(), short, names(), names()).prop_map(|(phase, job, paused, disk, queue, problems)| {
        let job = job.map(|(set, stage, progress)| CurrentJob { id: JobId(1), set, stage, progress, left: None });
        let state = match (phase, &job) {
            (0, _) => return Status::default(),
            (1, Some(_)) => State::Busy,
            (1, None) => State::Idle,
            _ => State::Draining,
        };
        Status { state, job, paused, disk, queue, problems, ..Status::default() }
    })
}

#[test]
fn h13_lights_metrics_systemd_and_bus_never_contradict_each_other() {
    let runtime = tokio::runtime::Runtime::new().expect("runtime");
    let bus = Bus::session();
    let (sender, watched) = watch::channel(Status::default());
    let (_service, proxy) = runtime.block_on(async {
        let access = Access { status: watched, commander: Commander::new().0, authority: Authority::Bus };
        let service = Service::begin(on(&bus), access).await.expect("served");
        let client = on(&bus).build().await.expect("connected");
        let proxy = Daemon1Proxy::builder(&client).cache_properties(CacheProperties::No).build().await;
        (service, proxy.expect("there"))
    });
    let mut runner = TestRunner::new(Config { cases: 200, failure_persistence: None, ..Config::default() });
    let outcome = runner.run(&statuses(), |status| {
        let lights = pattern(&status);
        let line = systemd::line(&status);
        let text = metrics::text(&status, None, UNIX_EPOCH);
        let metric = |name: &str| {
            let value = text.lines().find_map(|line| line.strip_prefix(&format!("tissuemap_{name} ")));
            value.and_then(|value| value.parse::<usize>().ok())
        };
        sender.send_replace(status);
        let (state, job, queue, problems) = runtime.block_on(async {
            let state = proxy.state().await.expect("state");
            let job = proxy.current_job().await.expect("job");
            (state, job, proxy.queue().await.expect("queue"), proxy.problems().await.expect("problems"))
        });

        prop_assert_eq!(metric(&format!("state{{state=\"{state}\"}}")), Some(1));
        prop_assert_eq!(line.split([':', ';']).next(), Some(state.as_str()));

        let works = !job.is_empty();
        prop_assert_eq!(metric("job_running"), Some(usize::from(works)));
        prop_assert_eq!(lights.busy != Light::Dark, works);
        prop_assert_eq!(line.contains("case-"), works);
        prop_assert!(!works || line.contains(&job));

        prop_assert_eq!(metric("queue_length"), Some(queue.len()));
        prop_assert_eq!(line.contains(&format!("; {} queued", queue.len())), !queue.is_empty());

        prop_assert_eq!(metric("problems"), Some(problems.len()));
        prop_assert_eq!(line.contains(" problem"), !problems.is_empty());
        prop_assert!(problems.is_empty() || lights.attention == Light::Fast);

        prop_assert_eq!(metric("paused") == Some(1), line.ends_with("paused") || line.contains("; paused;"));
        prop_assert_eq!(metric("disk_full") == Some(1), line.ends_with("disk full"));
        let takes_work =
            ["idle", "busy"].contains(&state.as_str()) && metric("paused") == Some(0) && metric("disk_full") == Some(0);
        prop_assert_eq!(lights.ready != Light::Dark, takes_work);
        // Somebody who stands before the machine sees that it is alive, whatever else there is to see.
        let serves = ["idle", "busy"].contains(&state.as_str());
        prop_assert!(!serves || lights.ready != Light::Dark || lights.attention != Light::Dark);
        Ok(())
    });
    outcome.expect("they agree");
}
