//! What is there again after the daemon ended, in order or not.

use crate::fixture::{Daemon, State, job_failure, noise};
use control::{BackupRequest, JobState, Kind};
use std::fs;

#[test]
fn a_clean_end_and_a_kill_lose_nothing_acknowledged() {
    let state = State::new();
    let daemon = state.start();
    daemon.create("web", 4 << 20);
    let mut content = noise(1, 4 << 20);
    daemon.write("web", 0, &content);
    assert!(daemon.stop().success());
    let daemon = state.start();
    assert_eq!(daemon.client().disk("web").expect("a disk").opened.as_deref(), Some("clean"));
    assert_eq!(daemon.read("web"), content);
    let point = daemon.snapshot("web");
    // never flushed
    daemon.write("web", 12345, b"only in the page cache");
    content[12345..][..22].copy_from_slice(b"only in the page cache");
    daemon.kill();
    let daemon = state.start();
    assert_eq!(daemon.client().disk("web").expect("a disk").opened.as_deref(), Some("live-map"));
    assert_eq!(daemon.read("web"), content);
    let query = control::ChangesQuery { since: Some(point), until: None };
    let changes = daemon.client().changes("web", &query).expect("changes");
    assert_eq!(changes.ranges.iter().map(|range| range.offset).collect::<Vec<_>>(), [12288]);
}

#[test]
fn without_its_catalog_everything_is_back_but_the_history_of_jobs() {
    let state = State::new();
    let daemon = state.start();
    ["web", "db"].into_iter().for_each(|name| daemon.create(name, 1 << 20));
    daemon.write("web", 0, &noise(1, 1 << 20));
    assert_eq!(daemon.backup("web").state, JobState::Done);
    daemon.snapshot("db");
    let before = daemon.client().status().expect("status");
    let points = daemon.client().points(None).expect("points");
    assert_eq!(daemon.client().jobs().expect("jobs").len(), 1);
    assert!(daemon.stop().success());
    fs::remove_file(state.file("catalog.db")).expect("removed");
    let daemon = state.start();
    let after = daemon.client().status().expect("status");
    let known = |disks: &[control::Disk]| -> Vec<(String, String, Option<u64>, u64)> {
        disks.iter().map(|disk| (disk.name.clone(), disk.id.clone(), disk.size, disk.points)).collect()
    };
    assert_eq!(known(&after.disks), known(&before.disks));
    assert_eq!(after.vaults, before.vaults);
    assert_eq!(daemon.client().points(None).expect("points"), points);
    assert_eq!(daemon.client().jobs().expect("jobs"), []);
    // and the next backup still knows its base
    assert_eq!(daemon.backup("web").base.as_deref(), Some("web@1"));
}

#[test]
fn a_backup_that_was_cut_off_goes_on_and_sends_nothing_twice() {
    const MIB: u64 = 1 << 20;
    let state = State::new();
    fs::create_dir(state.path()).expect("a directory");
    let config = "parallel-jobs = 1\ntransfer-bytes-per-second = 20_000_000\n";
    fs::write(state.file("blockd.toml"), config).expect("a configuration");
    let daemon = state.start();
    let content = noise(7, 100 * MIB as usize);
    for name in ["first", "second"] {
        daemon.create(name, 128 * MIB);
    }
    daemon.write("first", 0, &content);
    daemon.write("second", 0, &noise(8, MIB as usize));
    let begin = |name: &str| {
        let request = BackupRequest { item: name.to_owned(), ..BackupRequest::default() };
        daemon.client().backup(&request).expect("a job")
    };
    let (first, second) = (begin("first"), begin("second"));
    daemon.eventually("packs are stored", |_| {
        let packs = state.files("vaults/main");
        let packs = packs.iter().filter(|file| file.components().any(|part| part.as_os_str() == "packs"));
        packs.filter(|file| file.extension().is_some_and(|end| end == "BLOB")).count() >= 3
    });
    daemon.kill();
    fs::remove_file(state.file("blockd.toml")).expect("removed");
    let daemon = state.start();
    for job in [&first, &second] {
        let seen = daemon.client().job(&job.id).expect("a job");
        assert_eq!(job_failure(&seen), (Kind::Unavailable, "interrupted".to_owned()));
    }
    for point in ["first@1", "second@1"] {
        daemon.eventually("it goes on", |client| {
            client.point(point).expect("a point").tiers == [control::Tier::Instant, control::Tier::Vault]
        });
    }
    // a point is there a moment before its job has ended
    let ended = |client: &control::Client| {
        let jobs = client.jobs().expect("jobs");
        jobs.into_iter().filter(|job| job.state == JobState::Done).collect::<Vec<_>>()
    };
    daemon.eventually("both have ended", |client| ended(client).len() == 2);
    let again = ended(daemon.client());
    assert!(again.iter().all(|job| job.id != first.id && job.id != second.id));
    let of_first = again.iter().find(|job| job.item == "first").expect("a job");
    assert!(of_first.chunks_reused >= 2 * 4096, "two whole packs arrived: {of_first:?}");
    let of = |item: &str| daemon.backup(item);
    assert_eq!(of("second").base.as_deref(), Some("second@1"), "the next builds on it");
    daemon.client().delete_disk("first").expect("deleted");
    assert!(daemon.read("first@1")[..content.len()] == content);
}

#[test]
fn a_cancelled_restore_leaves_no_disk() {
    let state = State::new();
    fs::create_dir(state.path()).expect("a directory");
    fs::write(state.file("blockd.toml"), "parallel-jobs = 1\n").expect("a configuration");
    let daemon = state.start();
    daemon.create("web", 128 << 20);
    daemon.write("web", 0, &noise(3, 32 << 20));
    daemon.write("web", 64 << 20, &noise(4, 32 << 20));
    let point = daemon.snapshot("web");
    let before = state.files("disks").len();
    let begin = |to: &str| {
        let request =
            control::RestoreRequest { point: point.clone(), to: to.to_owned(), ..Default::default() };
        daemon.client().restore(&request).expect("a job")
    };
    let jobs = [begin("one"), begin("two")];
    for job in jobs.iter().rev() {
        daemon.client().cancel_job(&job.id).expect("asked");
    }
    let ended = jobs.each_ref().map(|job| daemon.finished(job).state);
    assert_eq!(ended[1], JobState::Cancelled);
    let listed: Vec<String> =
        daemon.client().disks().expect("disks").into_iter().map(|disk| disk.name).collect();
    assert!(!listed.contains(&"two".to_owned()), "{listed:?}");
    if ended[0] == JobState::Cancelled {
        assert_eq!(listed, ["web"]);
        assert_eq!(state.files("disks").len(), before);
    }
}

#[test]
fn a_copied_state_does_not_share_memory_with_the_original() {
    let state = State::new();
    let daemon = state.start();
    daemon.create("web", 1 << 20);
    daemon.write("web", 0, b"original");
    assert!(daemon.stop().success());
    let copy = State::new();
    let copied = std::process::Command::new("cp").arg("-a").arg(state.path()).arg(copy.path()).status();
    assert!(copied.expect("cp").success());
    let (first, second) = (state.start(), Daemon::start(&copy.path()));
    second.write("web", 0, b"the copy");
    assert_eq!(first.read("web")[..8], *b"original");
    second.kill();
    assert_eq!(Daemon::start(&copy.path()).read("web")[..8], *b"the copy");
    assert_eq!(first.read("web")[..8], *b"original");
}

/// Makes the last job look as if the daemon had been killed before it could write that the job is done.
fn unsay(state: &State, operation: &str) {
    let catalog = rusqlite::Connection::open(state.file("catalog.db")).expect("a catalog");
    let changed = catalog
        .execute(
            "UPDATE jobs SET state = 'running', body = json_set(body, '$.state', 'running')
             WHERE json_extract(body, '$.operation') = ?1",
            [operation],
        )
        .expect("written");
    assert_eq!(changed, 1);
}

#[test]
fn a_job_killed_after_its_work_is_done_and_one_killed_before_is_not() {
    let state = State::new();
    let daemon = state.start();
    daemon.create("web", 1 << 20);
    let content = noise(1, 1 << 20);
    daemon.write("web", 0, &content);
    let backup = daemon.backup("web");
    let restore = daemon.restore("web@1", "again");
    assert_eq!(daemon.read("again"), content);
    assert!(daemon.stop().success());
    unsay(&state, "backup");
    unsay(&state, "restore");
    let daemon = state.start();
    for job in [&backup, &restore] {
        let seen = daemon.client().job(&job.id).expect("a job");
        assert_eq!((seen.state, seen.error), (JobState::Done, None), "{}", seen.operation);
    }
    daemon.client().delete_disk("again").expect("deleted");
    let vault = control::DeletePointQuery::from(control::Tier::Vault);
    daemon.client().delete_point("web@1", &vault).expect("deleted");
    assert!(daemon.stop().success());
    unsay(&state, "backup");
    unsay(&state, "restore");
    let daemon = state.start();
    for job in [&backup, &restore] {
        let seen = daemon.client().job(&job.id).expect("a job");
        assert_eq!(seen.state, JobState::Failed, "{}", seen.operation);
        assert_eq!(seen.error.map(|error| error.kind), Some(Kind::Unavailable));
    }
}

#[test]
fn a_disk_that_is_being_filled_is_whole_or_gone() {
    let state = State::new();
    let daemon = state.start();
    let fill =
        |name: &str| control::CreateDisk { name: name.to_owned(), size: 1 << 20, fill: true, base: None };
    for name in ["whole", "half"] {
        assert_eq!(
            daemon.client().create_disk(&fill(name)).expect("a disk").state,
            control::DiskState::Filling
        );
        daemon.write(name, 0, &noise(1, 1 << 20));
    }
    let refused = daemon.client().snapshot(&["half".to_owned()]).expect_err("no point of half a disk");
    assert_eq!(refused.kind(), Kind::Unavailable);
    assert_eq!(daemon.client().disk_ready("whole").expect("ready").state, control::DiskState::Ready);
    // asked again, as after a lost answer
    assert_eq!(daemon.client().disk_ready("whole").expect("ready").state, control::DiskState::Ready);
    daemon.kill();
    let daemon = state.start();
    let names: Vec<String> =
        daemon.client().disks().expect("disks").into_iter().map(|disk| disk.name).collect();
    assert_eq!(names, ["whole"]);
    assert_eq!(daemon.read("whole"), noise(1, 1 << 20));
    daemon.snapshot("whole");
    assert_eq!(fs::read_dir(state.file("disks")).expect("listed").count(), 2, "layers and a name file");
}
