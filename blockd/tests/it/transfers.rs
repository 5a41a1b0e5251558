//! How fast transfers go, and when they wait.

use crate::fixture::{State, noise};
use control::{BackupRequest, JobState};
use std::fs;
use std::time::{Duration, Instant};

const MIB: u64 = 1 << 20;

#[test]
fn transfers_keep_to_the_limit_together_and_end_at_once_when_cancelled() {
    let state = State::new();
    assert!(state.start().stop().success());
    fs::write(state.file("blockd.toml"), "transfer-bytes-per-second = 2_097_152\n").expect("a configuration");
    let daemon = state.start();
    for name in ["web", "db"] {
        // what was never written is not paid for
        daemon.create(name, 1 << 40);
        daemon.write(name, 0, &noise(1, 2 * MIB as usize));
    }
    let request = |item: &str| BackupRequest { item: item.into(), ..BackupRequest::default() };
    let begun = Instant::now();
    let jobs = ["web", "db"].map(|item| daemon.client().backup(&request(item)).expect("begun"));
    jobs.iter().for_each(|job| assert_eq!(daemon.finished(job).state, JobState::Done));
    let took = begun.elapsed();
    assert!(took > Duration::from_millis(1400), "4 MiB at 2 MiB a second took {took:?}");
    daemon.write("web", 0, &noise(2, 32 * MIB as usize));
    let long = daemon.client().backup(&request("web")).expect("begun");
    std::thread::sleep(Duration::from_millis(300));
    let asked = Instant::now();
    daemon.client().cancel_job(&long.id).expect("asked");
    assert_eq!(daemon.finished(&long).state, JobState::Cancelled);
    assert!(asked.elapsed() < Duration::from_secs(5), "{:?}", asked.elapsed());
    // nobody waits for a restore longer than it takes
    let begun = Instant::now();
    assert_eq!(daemon.restore("db@1", "back").state, JobState::Done);
    assert!(begun.elapsed() < Duration::from_secs(5));
}

#[test]
fn what_a_policy_asks_for_waits_for_the_end_of_the_hours() {
    let state = State::new();
    assert!(state.start().stop().success());
    let now = jiff::Zoned::now();
    let clock =
        |minutes: i64| (&now + jiff::SignedDuration::from_mins(minutes)).strftime("%H:%M").to_string();
    let hours =
        format!("[[transfer-hours]]\nfrom = \"{}\"\nuntil = \"{}\"\nwait = true\n", clock(-60), clock(60));
    fs::write(state.file("blockd.toml"), hours).expect("a configuration");
    let daemon = state.start();
    daemon.create("web", MIB);
    daemon.write("web", 0, &noise(1, 4096));
    let slot = (jiff::Timestamp::now() - jiff::SignedDuration::from_mins(30)).strftime("%H:%M").to_string();
    let policy = format!("zone = \"UTC\"\n[schedule]\nat = [\"{slot}\"]\n[retention]\nlatest = 2\n");
    daemon.client().apply_policy("two", &policy).expect("a policy");
    daemon.client().protect("web", Some("two")).expect("protected");
    daemon.eventually("a backup is due", |client| !client.jobs().expect("jobs").is_empty());
    // what is asked for by hand goes on beside it
    daemon.create("db", MIB);
    assert_eq!(daemon.backup("db").state, JobState::Done);
    let waiting = daemon.client().jobs().expect("jobs").into_iter().find(|job| job.item == "web");
    assert_eq!(waiting.expect("a job").state, JobState::Queued);
    assert!(daemon.stop().success());
    fs::write(state.file("blockd.toml"), "").expect("a configuration");
    let daemon = state.start();
    daemon.eventually("the hours are over", |client| {
        client.jobs().expect("jobs").iter().any(|job| job.item == "web" && job.state == JobState::Done)
    });
}
