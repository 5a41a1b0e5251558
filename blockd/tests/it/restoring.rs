//! Restores to new disks: where each block is read, what they take by the measure of earlier ones, and that they go on after a kill.

use crate::fixture::{Daemon, State, noise};
use control::{
    ArchivePoint, CreateVault, DeletePointQuery, Job, JobState, RehydratePoint, RestoreRequest, RunRequest,
    RunState, Tier,
};
use sim::server::{BUCKET, Server};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

const MIB: u64 = 1 << 20;
const PATIENCE: Duration = Duration::from_secs(60);

fn to(name: &str) -> RestoreRequest {
    RestoreRequest { point: "web@1".into(), to: name.into(), ..RestoreRequest::default() }
}

fn done(daemon: &Daemon, job: Result<Job, control::Error>) -> Job {
    let job = daemon.finished(&job.expect("begun"));
    assert_eq!((job.state, &job.error), (JobState::Done, &None), "{}", daemon.log());
    job
}

/// `web`, of which the vault `main` alone holds `web@1`.
fn stored(daemon: &Daemon, size: u64) -> Vec<u8> {
    let content = noise(1, size as usize);
    daemon.create("web", size);
    daemon.write("web", 0, &content);
    assert_eq!(daemon.backup("web").error, None);
    daemon.client().delete_point("web@1", &DeletePointQuery::from(Tier::Instant)).expect("deleted");
    content
}

/// Moves `web@1` to an archive, and brings it back to these vaults.
fn archived_and_back(daemon: &Daemon, cold: &Path, vaults: &[&str]) {
    let client = daemon.client();
    let store = cold.display().to_string();
    let request = CreateVault { name: "cold".into(), store, archive: true, ..CreateVault::default() };
    client.create_vault(&request).expect("an archive");
    done(daemon, client.archive_point("web@1", &ArchivePoint { to: "cold".into() }));
    for vault in vaults {
        let request = RehydratePoint { seconds: 3600, vault: Some((*vault).to_owned()) };
        done(daemon, client.rehydrate_point("web@1", &request));
    }
}

fn bucket(server: &Server, name: &str) -> CreateVault {
    let options = format!(
        "endpoint = http://127.0.0.1:{}\nallow-http = true\nregion = us-east-1\naccess-key-id = test\n\
         secret-access-key = s3cr3t\n",
        server.port()
    );
    let store = format!("s3://{BUCKET}/{name}");
    CreateVault { name: name.into(), store, store_options: Some(options), ..CreateVault::default() }
}

/// Killed in the middle, a restore to a new disk goes on with what it has, and the disk is there when it is whole.
#[test]
fn a_restore_to_a_new_disk_goes_on_after_a_kill() {
    let size = 96 * MIB;
    let rounds = if std::env::var_os("BLOCKD_SOAK").is_some() { 60 } else { 6 };
    let state = State::new();
    let mut daemon = state.start();
    let content = stored(&daemon, size);
    let mut went_on = 0;
    for round in 0..rounds {
        let name = format!("new-{round}");
        let begun = daemon.client().restore(&RestoreRequest { verify: round % 2 == 0, ..to(&name) });
        let job = begun.expect("begun").id;
        let far_enough = size / 8 * (1 + round % 6);
        let is_under_way = |job: &Job| !job.state.is_final() && job.bytes_done < far_enough;
        while is_under_way(&daemon.client().job(&job).expect("the job")) {
            std::thread::yield_now();
        }
        if round % 3 == 2 {
            assert!(daemon.stop().success());
        } else {
            daemon.kill();
        }
        daemon = state.start();
        let began = Instant::now();
        while daemon.client().disk(&name).is_err() {
            let is_known = daemon.client().jobs().expect("jobs");
            assert!(began.elapsed() < PATIENCE, "{is_known:?}\n{}", daemon.log());
            std::thread::sleep(Duration::from_millis(10));
        }
        assert!(daemon.read(&name) == content, "round {round}");
        let jobs = daemon.client().jobs().expect("jobs");
        let last = jobs.iter().find(|job| job.target.as_deref() == Some(&name)).expect("its job");
        if last.id != job {
            went_on += 1;
            // the pieces under way at the kill may have been any of the last few
            let (read, under_way) = (last.bytes_read, 16 * MIB);
            assert!(
                read < size && read + far_enough <= size + under_way,
                "round {round}: {read} of {size}, {far_enough} were there"
            );
        }
        daemon.client().delete_disk(&name).expect("deleted");
    }
    println!("{went_on} of {rounds} went on");
    assert!(went_on > 0, "none was killed under way");
}

/// A vault on this host is asked before one behind a network, whatever they are called.
#[test]
fn a_local_vault_goes_before_a_remote_one() {
    let (state, cold) = (State::new(), tempfile::tempdir().expect("a directory"));
    let (daemon, server) = (state.start(), Server::moto());
    daemon.client().create_vault(&bucket(&server, "far")).expect("a vault");
    let content = stored(&daemon, 2 * MIB);
    archived_and_back(&daemon, &cold.path().join("store"), &["far", "main"]);
    assert_eq!(daemon.client().point("web@1").expect("a point").vaults, ["main", "far"]);
    let restored = done(&daemon, daemon.client().restore(&to("new")));
    assert_eq!(restored.vault.as_deref(), Some("main"));
    let run = RunRequest { point: "web@1".into(), name: "try".into(), hydrate: false };
    assert_eq!(daemon.client().run(&run).expect("it runs").vault.as_deref(), Some("main"));
    assert!(daemon.read("new") == content);
}

/// A bucket that takes requests and says nothing: within seconds it is said that reads wait for it, and all goes on afterwards.
#[test]
fn a_store_that_says_nothing_is_named_within_seconds() {
    let state = State::new();
    let (daemon, server) = (state.start(), Server::moto());
    let client = daemon.client();
    client.create_vault(&bucket(&server, "far")).expect("a vault");
    let content = noise(1, 4 * MIB as usize);
    daemon.create("web", 4 * MIB);
    daemon.write("web", 0, &content);
    let request = control::BackupRequest {
        item: "web".into(),
        vault: Some("far".into()),
        full: false,
        keep_seconds: None,
        require: None,
    };
    done(&daemon, client.backup(&request));
    client.delete_point("web@1", &DeletePointQuery::from(Tier::Instant)).expect("deleted");
    let run = RunRequest { point: "web@1".into(), name: "try".into(), hydrate: false };
    client.run(&run).expect("it runs");
    let export = daemon.export("try");
    block::BlockSource::read_at(&export, block::ByteOffset::ZERO, &mut [0; 4096]).expect("the first block");
    server.pause();
    let reader = std::thread::spawn(move || {
        let mut found = vec![0; 4096];
        let read = block::BlockSource::read_at(&export, block::ByteOffset::new(3 * MIB), &mut found);
        read.map(|()| found)
    });
    let began = Instant::now();
    let shown = loop {
        let shown = client.run_status("try").expect("its status");
        if shown.trouble.is_some() && shown.waiting > 0 {
            break shown;
        }
        assert!(began.elapsed() < Duration::from_secs(8), "{shown:?}");
        std::thread::sleep(Duration::from_millis(50));
    };
    println!("said after {:?}: {:?}", began.elapsed(), shown.trouble);
    assert_eq!(shown.state, RunState::Stalled);
    assert!(client.status().expect("status").warnings.iter().any(|warning| warning.contains("try")));
    server.resume();
    let found = reader.join().expect("its end").expect("it waited");
    assert!(found == content[3 * MIB as usize..][..4096]);
    let began = Instant::now();
    while client.run_status("try").expect("its status").state == RunState::Stalled {
        assert!(began.elapsed() < PATIENCE, "it answers again");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// A run that is called something else goes on, and nobody is told that it does not.
#[test]
fn a_run_that_is_renamed_is_not_said_to_be_stalled() {
    let state = State::new();
    fs::create_dir(state.path()).expect("a directory");
    fs::write(state.file("blockd.toml"), "hydration-bytes-per-second = 4194304\n").expect("a configuration");
    let daemon = state.start();
    let content = stored(&daemon, 8 * MIB);
    let run = RunRequest { point: "web@1".into(), name: "try-0".into(), hydrate: true };
    daemon.client().run(&run).expect("it runs");
    for round in 0..5 {
        let (from, to) = (format!("try-{round}"), format!("try-{}", round + 1));
        daemon.client().rename_disk(&from, &to).expect("renamed");
        for _ in 0..10 {
            let shown = daemon.client().run_status(&to).expect("its status");
            assert!(shown.state != RunState::Stalled, "{shown:?}\n{}", daemon.log());
            std::thread::sleep(Duration::from_millis(10));
        }
    }
    let began = Instant::now();
    while daemon.client().run_status("try-5").expect("its status").state != RunState::Independent {
        assert!(began.elapsed() < PATIENCE, "{}", daemon.log());
        std::thread::sleep(Duration::from_millis(20));
    }
    assert!(daemon.read("try-5") == content);
}

/// What a restore is said to take is what the last ones took for as many bytes.
#[test]
fn an_estimate_is_what_earlier_restores_measured() {
    let state = State::new();
    let daemon = state.start();
    let client = daemon.client();
    stored(&daemon, 12 * MIB);
    assert_eq!(client.preflight(&to("new")).expect("told").estimate_ms, None, "nothing was measured");
    let (mut bytes, mut took_ms) = (0, 0);
    for number in 0..3 {
        let job = done(&daemon, client.restore(&to(&format!("new-{number}"))));
        (bytes, took_ms) = (bytes + job.bytes_read, took_ms + job.duration_ms);
    }
    let told = client.preflight(&to("new")).expect("told");
    let speed = bytes * 1000 / took_ms;
    assert_eq!((told.measured_jobs, told.estimate_ms), (3, Some(told.bytes_to_read * 1000 / speed)));
    assert_eq!(told.bytes_to_read, 12 * MIB);
}

/// The packs below a directory.
fn packs(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).expect("a directory") {
        let path = entry.expect("an entry").path();
        match path.is_dir() {
            true => found.extend(packs(&path)),
            false if path.to_string_lossy().contains("/packs/") => found.push(path),
            false => {}
        }
    }
    found
}

/// A copy in a vault that rotted hides nothing: what it lacks is read from the archive, and bringing the point back heals it.
#[test]
fn a_damaged_copy_hides_no_good_one() {
    let (state, cold) = (State::new(), tempfile::tempdir().expect("a directory"));
    let daemon = state.start();
    let content = stored(&daemon, 4 * MIB);
    archived_and_back(&daemon, &cold.path().join("store"), &["main"]);
    // a daemon that has decoded a frame reads it no more
    assert!(daemon.stop().success());
    for pack in packs(&state.file("vaults/main")) {
        let mut bytes = fs::read(&pack).expect("a pack");
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        fs::write(&pack, bytes).expect("hurt");
    }
    let daemon = state.start();
    let client = daemon.client();
    let run = RunRequest { point: "web@1".into(), name: "try".into(), hydrate: false };
    client.run(&run).expect("it runs");
    assert!(daemon.read("try") == content, "what is damaged comes from the archive");
    done(&daemon, client.restore(&RestoreRequest { verify: true, ..to("new") }));
    assert!(daemon.read("new") == content);
    assert_eq!(client.point("web@1").expect("a point").damaged, ["main"], "and it is said");
    let request = RehydratePoint { seconds: 3600, vault: None };
    done(&daemon, client.rehydrate_point("web@1", &request));
    assert!(client.point("web@1").expect("a point").damaged.is_empty(), "{}", daemon.log());
    let checked = daemon.finished(&client.check_vault("main").expect("begun"));
    assert_eq!((checked.state, &checked.error), (JobState::Done, &None), "{checked:?}");
}
