//! Disks that run from recovery points, of either tier, through crashes and while a vault's store is away.

use crate::fixture::{Daemon, Dice, State, failure, noise};
use block::{BlockDevice, BlockSource, ByteOffset};
use control::{ChangesQuery, DeletePointQuery, JobState, Kind, Run, RunRequest, RunState, Tier};
use std::fs;
use std::process::Command;
use std::time::{Duration, Instant};

const MIB: u64 = 1 << 20;
/// Long beside what is waited for, on a machine busy with other tests.
const PATIENCE: Duration = Duration::from_secs(60);

/// A state with disk `web`, of which a vault alone holds `web@1`, and what that holds.
fn stored(size: u64, config: &str) -> (State, Vec<u8>) {
    let state = State::new();
    fs::create_dir(state.path()).expect("a directory");
    fs::write(state.file("blockd.toml"), config).expect("a configuration");
    let daemon = state.start();
    let mut content = noise(1, size as usize);
    // a part that is empty, and does not end with a chunk
    content[MIB as usize..MIB as usize + 300_000].fill(0);
    daemon.create("web", size);
    daemon.write("web", 0, &content);
    assert_eq!(daemon.backup("web").error, None);
    let instant = DeletePointQuery::from(Tier::Instant);
    daemon.client().delete_point("web@1", &instant).expect("deleted");
    assert!(daemon.stop().success());
    (state, content)
}

fn run(daemon: &Daemon, point: &str, name: &str, hydrate: bool) -> Run {
    let request = RunRequest { point: point.to_owned(), name: name.to_owned(), hydrate };
    daemon.client().run(&request).unwrap_or_else(|error| panic!("run {point}: {error}\n{}", daemon.log()))
}

/// Waits until a run is independent.
fn independent(daemon: &Daemon, name: &str) {
    let began = Instant::now();
    loop {
        let run = daemon.client().run_status(name).expect("its status");
        if run.state == RunState::Independent {
            return;
        }
        assert!(began.elapsed() < PATIENCE, "{run:?}\n{}", daemon.log());
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn a_run_is_a_disk_from_its_first_second_and_then_its_own() {
    let (state, mut content) = stored(8 * MIB, "");
    let daemon = state.start();
    let client = daemon.client();
    let begun = run(&daemon, "web@1", "try", false);
    assert_eq!(
        (begun.tier, begun.vault.as_deref(), begun.state),
        (Some(Tier::Vault), Some("main"), RunState::Kept)
    );
    assert!(daemon.read("try") == content);

    // written, snapshotted and backed up while it stands on the vault
    let mut write = |daemon: &Daemon, at: usize, bytes: &[u8]| {
        daemon.write("try", at as u64, bytes);
        content[at..at + bytes.len()].copy_from_slice(bytes);
        content.clone()
    };
    write(&daemon, 5000, &[1; 300]);
    let first = daemon.backup("try");
    assert_eq!((first.state, &first.error), (JobState::Done, &None));
    let then = write(&daemon, 2 * MIB as usize + 5, &[2; 5000]);
    let point = daemon.snapshot("try");

    let (kind, said) = failure(client.delete_point("web@1", &DeletePointQuery::default()));
    assert!(kind == Kind::Conflict && said.contains("try"), "{said}");
    let second = run(&daemon, "web@1", "other", false);
    assert_eq!(second.state, RunState::Kept);

    // hydration changes nothing, in no point
    client.promote("try").expect("asked");
    independent(&daemon, "try");
    assert!(daemon.read("try") == then && daemon.read(&point) == then);
    let since = ChangesQuery { since: Some(first.point.clone().expect("its point")), until: None };
    let changes = client.changes("try", &since).expect("changes");
    assert_eq!(changes.bytes, 2 * 4096, "only what was written: {:?}", changes.ranges);
    let next = daemon.backup("try");
    assert_eq!((next.kind, next.bytes_changed), (Some(control::TransferKind::Incremental), 2 * 4096));
    assert_eq!(client.disk("try").expect("the disk").base, None);
    assert_eq!(client.runs().expect("runs").len(), 1, "an independent disk is no run");
    assert_eq!(failure(client.discard("try")).0, Kind::Conflict);

    // the point goes once nothing stands on it
    client.discard("other").expect("discarded");
    client.delete_point("web@1", &DeletePointQuery::default()).expect("nobody needs it");
    assert!(daemon.stop().success());
    let daemon = state.start();
    assert!(daemon.read("try") == then && daemon.read(&point) == then);
}

#[test]
fn an_instant_point_runs_too_and_what_it_holds_is_given_back() {
    let state = State::new();
    let daemon = state.start();
    let client = daemon.client();
    let content = noise(3, 4 * MIB as usize);
    daemon.create("web", content.len() as u64);
    daemon.write("web", 0, &content);
    daemon.snapshot("web");
    daemon.write("web", 0, &[9; 4096]);
    let begun = run(&daemon, "web@1", "try", true);
    assert_eq!((begun.tier, begun.vault), (Some(Tier::Instant), None));
    assert!(daemon.read("try") == content);
    independent(&daemon, "try");
    client.delete_point("web@1", &DeletePointQuery::default()).expect("deleted");
    client.delete_disk("web").expect("nothing stands on it any more");
    assert!(daemon.read("try") == content);
    assert_eq!(failure(client.run_status("web")).0, Kind::NotFound);
    assert_eq!(failure(client.promote("try")).0, Kind::NotFound, "it stands on nothing");
}

/// The daemon is killed again and again while a run is hydrated under a guest that writes, and at last while it lets go.
#[test]
fn a_run_survives_being_killed_at_any_time() {
    let rounds = if std::env::var_os("BLOCKD_SOAK").is_some() { 200 } else { 12 };
    let (state, mut content) = stored(24 * MIB, "");
    let mut dice = Dice::new(5);
    let mut daemon = state.start();
    run(&daemon, "web@1", "try", true);
    let (mut releases, mut names) = (0, 0);
    for _ in 0..rounds {
        let export = daemon.export("try");
        for _ in 0..8 {
            let mut bytes = vec![0; 1 + dice.below(9000) as usize];
            let at = dice.below(content.len() as u64 - bytes.len() as u64);
            dice.fill(&mut bytes);
            export.write_at(ByteOffset::new(at), &bytes).expect("acknowledged");
            content[at as usize..at as usize + bytes.len()].copy_from_slice(&bytes);
            let from = dice.below(content.len() as u64 - 4096);
            let mut found = vec![0; 4096];
            export.read_at(ByteOffset::new(from), &mut found).expect("read");
            assert!(found == content[from as usize..from as usize + 4096], "at {from}");
        }
        std::thread::sleep(Duration::from_millis(dice.below(60)));
        drop(export);
        daemon.kill();
        daemon = state.start();
        assert!(daemon.read("try") == content, "after a kill: {:?}", daemon.client().run_status("try"));
        if daemon.client().run_status("try").expect("its status").state == RunState::Independent {
            // the next one begins from the same point
            releases += 1;
            names += 1;
            let old = format!("old-{names}");
            daemon.client().delete_disk("try").unwrap_or_else(|error| panic!("{old}: {error}"));
            run(&daemon, "web@1", "try", true);
            content = daemon.read("web@1");
        }
    }
    println!("{rounds} kills, {releases} of them past a release");
    daemon.client().promote("try").ok();
    independent(&daemon, "try");
    assert!(daemon.read("try") == content);
}

/// While the store is away what is here reads, what is not waits, nothing wrong is read, and all goes on when it is back.
#[test]
fn a_store_that_goes_away_is_waited_for() {
    let (state, content) = stored(8 * MIB, "");
    let daemon = state.start();
    run(&daemon, "web@1", "try", false);
    let export = daemon.export("try");
    let at_away = daemon.export("try");
    let mut here = vec![0; 4096];
    export.write_at(ByteOffset::new(7 * MIB), &[5; 4096]).expect("written");
    let (store, away) = (state.file("vaults/main"), state.file("vaults/away"));
    fs::rename(&store, &away).expect("taken away");
    let reader = std::thread::spawn(move || {
        let mut found = vec![0; 100_000];
        let began = Instant::now();
        at_away.read_at(ByteOffset::new(3 * MIB + 77), &mut found).expect("it waits");
        (found, began.elapsed())
    });
    let began = Instant::now();
    let shown = loop {
        let shown = daemon.client().run_status("try").expect("its status");
        if shown.trouble.is_some() && shown.waiting > 0 {
            break shown;
        }
        assert!(began.elapsed() < PATIENCE, "{shown:?}");
        std::thread::sleep(Duration::from_millis(10));
    };
    assert_eq!(shown.state, RunState::Stalled);
    assert!(daemon.client().status().expect("status").warnings.iter().any(|warning| warning.contains("try")));
    export.read_at(ByteOffset::new(7 * MIB), &mut here).expect("it is here");
    assert_eq!(here, [5; 4096]);
    fs::rename(&away, &store).expect("back");
    let (found, waited) = reader.join().expect("its end");
    assert!(found == content[3 * MIB as usize + 77..][..100_000], "read wrong after {waited:?}");
    daemon.client().promote("try").expect("asked");
    independent(&daemon, "try");
}

/// What one connection says and hears while the store of a run's point is away, in libnbd's words: a read and a write of a part of a
/// block that are not here wait; what is here is read, written and flushed meanwhile.
const ONE_CONNECTION: &str = r#"
import os, time
content = open(CONTENT, 'rb').read()
h.connect_uri(URI)
os.rename(STORE, AWAY)
far = [nbd.Buffer(100000) for _ in range(20)]
waiting = [h.aio_pread(buf, 3145728 + 77 + at * 4096) for at, buf in enumerate(far)]
waiting.append(h.aio_pwrite(nbd.Buffer.from_bytearray(bytearray(b'part')), 4194304 + 9))
began = time.time()
for at in range(200):
    h.pwrite(bytes([at]) * 4096, 7340032 + 4096 * at)
    h.flush()
    assert h.pread(4096, 7340032 + 4096 * at) == bytes([at]) * 4096
assert h.pread(4096, 1048576) == content[1048576:1048576 + 4096], 'it was read before'
assert not any(h.aio_command_completed(cookie) for cookie in waiting)
print('went on', time.time() - began < 10)
os.rename(AWAY, STORE)
while h.aio_in_flight() > 0: h.poll(-1)
assert all(h.aio_command_completed(cookie) for cookie in waiting)
for at, buf in enumerate(far):
    start = 3145728 + 77 + at * 4096
    expected = bytearray(content[start:start + 100000])
    found = bytearray(buf.to_bytearray())
    assert found == expected, at
assert h.pread(13, 4194304) == content[4194304:4194304 + 9] + b'part'
print('all came')
"#;

#[test]
fn what_waits_for_a_store_holds_up_nothing_else_of_its_connection() {
    let (state, content) = stored(8 * MIB, "");
    let daemon = state.start();
    run(&daemon, "web@1", "try", false);
    daemon.export("try").read_at(ByteOffset::new(MIB), &mut [0; 4096]).expect("read before");
    let file = state.file("content");
    fs::write(&file, &content).expect("a file");
    let shown = |path: std::path::PathBuf| format!("{:?}", path.display().to_string());
    let script = [
        ("CONTENT", shown(file)),
        ("URI", format!("{:?}", daemon.client().disk("try").expect("a disk").uri)),
        ("STORE", shown(state.file("vaults/main"))),
        ("AWAY", shown(state.file("vaults/away"))),
    ]
    .iter()
    .fold(ONE_CONNECTION.to_owned(), |script, (name, value)| script.replace(name, value));
    let mut nbdsh = Command::new("timeout");
    // python3-libnbd belongs to the distribution's python
    let path = format!("/usr/bin:/usr/sbin:{}", std::env::var("PATH").expect("a path"));
    let said = nbdsh.args(["60", "nbdsh", "-c", &script]).env("PATH", path).output().expect("nbdsh");
    let text = String::from_utf8_lossy(&said.stdout);
    let errors = String::from_utf8_lossy(&said.stderr);
    assert!(text.contains("went on True") && text.contains("all came"), "{text}{errors}\n{}", daemon.log());
}

/// A store that stays away fails the request that waited, in time, and no other.
#[test]
fn a_store_that_stays_away_fails_what_needs_it_in_time() {
    if std::env::var_os("BLOCKD_SOAK").is_none() {
        return;
    }
    let (state, _) = stored(4 * MIB, "");
    let daemon = state.start();
    run(&daemon, "web@1", "try", true);
    let export = daemon.export("try");
    fs::rename(state.file("vaults/main"), state.file("vaults/away")).expect("taken away");
    let began = Instant::now();
    let read = (0..4).map(|mib| export.read_at(ByteOffset::new(mib * MIB), &mut [0; 4096]));
    assert!(read.filter(Result::is_err).count() < 4, "what was brought before reads");
    assert!(began.elapsed() < 4 * Duration::from_secs(20), "{:?}", began.elapsed());
    export.write_at(ByteOffset::new(2 * MIB), &[7; 4096]).expect("whole blocks need nothing");
}

/// Exports, runs and restores of one point decode each chunk once, within the limit.
#[test]
fn decoded_chunks_are_shared_under_one_limit() {
    let (state, content) = stored(6 * MIB, "cache-bytes = 16777216\n");
    let daemon = state.start();
    let uses = || daemon.client().status().expect("status").cache;
    assert!(daemon.read("web@1") == content);
    let first = uses();
    run(&daemon, "web@1", "try", false);
    assert!(daemon.read("try") == content && daemon.read("web@1") == content);
    let then = uses();
    assert_eq!(then.misses, first.misses, "nothing is decoded twice");
    assert!(then.hits > first.hits && then.held <= then.limit && then.limit == 16 << 20, "{then:?}");
}
