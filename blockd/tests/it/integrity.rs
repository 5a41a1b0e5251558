//! Damage at rest, and disks that stop and go on: found, named, and healed without a restart.

use crate::fixture::{Daemon, State, failure, job_failure, noise};
use block::{BlockDevice, BlockSource, ByteOffset};
use control::{DiskState, Job, JobState, Kind, RunRequest, RunState};
use std::fs;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

const SIZE: u64 = 8 << 20;

fn scrub(daemon: &Daemon, disk: &str) -> Job {
    let job = daemon.client().scrub_disk(disk).expect("a job");
    daemon.finished(&job)
}

fn disk_dir(daemon: &Daemon, state: &State, name: &str) -> PathBuf {
    state.file("disks").join(daemon.client().disk(name).expect("a disk").id)
}

/// Turns one bit over.
fn flip(path: &PathBuf, offset: u64) {
    let file = fs::OpenOptions::new().read(true).write(true).open(path).expect("a file");
    let mut byte = [0];
    file.read_exact_at(&mut byte, offset).expect("a byte");
    file.write_all_at(&[byte[0] ^ 4], offset).expect("written");
}

/// The oldest layer of a disk.
fn oldest_layer(daemon: &Daemon, state: &State, name: &str) -> PathBuf {
    disk_dir(daemon, state, name).join("0000000000000001.layer")
}

/// The one that takes writes.
fn newest_layer(daemon: &Daemon, state: &State, name: &str) -> PathBuf {
    let dir = disk_dir(daemon, state, name);
    let files = std::fs::read_dir(dir).expect("a directory").map(|entry| entry.expect("an entry").path());
    files.filter(|path| path.extension().is_some_and(|ending| ending == "layer")).max().expect("a layer")
}

fn read(daemon: &Daemon, export: &str, offset: u64) -> Result<Vec<u8>, String> {
    let mut bytes = vec![0; 4096];
    let read = daemon.export(export).read_at(ByteOffset::new(offset), &mut bytes);
    read.map(|()| bytes).map_err(|error| error.to_string())
}

#[test]
fn a_flipped_bit_is_named_and_hurts_only_its_block() {
    let state = State::new();
    let daemon = state.start();
    daemon.create("web", SIZE);
    let content = noise(1, SIZE as usize);
    daemon.write("web", 0, &content);
    let point = daemon.snapshot("web");
    daemon.write("web", 40 << 12, &[7; 4096]);
    let later = daemon.snapshot("web");
    let clean = scrub(&daemon, "web");
    assert_eq!((clean.state, clean.error), (JobState::Done, None));
    let clean = clean.scrub.expect("what it found");
    assert_eq!((clean.ok, clean.layers, clean.bytes_read), (true, 2, SIZE + 4096));
    let layer = oldest_layer(&daemon, &state, "web");
    flip(&layer, (40 << 12) + 9);
    flip(&layer, (900 << 12) + 4000);

    let job = scrub(&daemon, "web");
    let (kind, message) = job_failure(&job);
    assert_eq!(kind, Kind::Corrupt, "{message}");
    let found = job.scrub.expect("what it found");
    let hurt: Vec<_> = found.hurt.iter().map(|hurt| (hurt.offset, hurt.length, hurt.live)).collect();
    assert_eq!(hurt, [(40 << 12, 4096, false), (900 << 12, 4096, true)]);
    assert_eq!(found.hurt[0].points, std::slice::from_ref(&point));
    assert_eq!(found.hurt[1].points, [point.clone(), later.clone()]);

    // a point: always; the live disk: at the first read since the open
    for export in [&*point, &*later, "web"] {
        let said = read(&daemon, export, 900 << 12).expect_err("damaged");
        for part in ["block 900", "0000000000000001.layer", "point 1", "point 2"] {
            assert!(said.contains(part), "{export}: {said}");
        }
        assert_eq!(read(&daemon, export, 899 << 12).expect("its neighbour"), content[899 << 12..900 << 12]);
    }
    let shown = daemon.client().disk("web").expect("a disk");
    assert_eq!((shown.state, shown.damage.len()), (DiskState::Ready, 2));
    assert!(
        daemon.client().status().expect("status").warnings.iter().any(|warning| warning.contains("scrub"))
    );

    // nothing hurt goes into a vault or a new disk
    let backup = daemon.backup("web");
    assert_eq!(job_failure(&backup).0, Kind::Corrupt);
    let restored = daemon.restore(&point, "again");
    assert_eq!(job_failure(&restored).0, Kind::Corrupt);
    assert_eq!(failure(daemon.client().disk("again")).0, Kind::NotFound);

    // writing the whole block heals the live disk, and it is known across a restart
    daemon.write("web", 900 << 12, &[9; 4096]);
    assert!(daemon.stop().success());
    let daemon = state.start();
    assert_eq!(read(&daemon, "web", 900 << 12).expect("overwritten"), [9; 4096]);
    assert!(read(&daemon, &later, 900 << 12).is_err());
    let still = scrub(&daemon, "web").scrub.expect("what it found");
    assert_eq!(still.bytes_hurt, 2 * 4096);
}

/// A point that a vault holds too restores whatever became of its layers, and a scrub's findings are known without a read.
#[test]
fn a_damaged_layer_is_known_and_the_vault_stands_in_for_it() {
    let state = State::new();
    let daemon = state.start();
    daemon.create("web", SIZE);
    let content = noise(1, SIZE as usize);
    daemon.write("web", 0, &content);
    assert_eq!(daemon.backup("web").error, None);
    assert_eq!(scrub(&daemon, "web").error, None);
    flip(&oldest_layer(&daemon, &state, "web"), (900 << 12) + 4000);
    assert_eq!(job_failure(&scrub(&daemon, "web")).0, Kind::Corrupt);
    assert_eq!(daemon.client().disk("web").expect("a disk").damage.len(), 1);
    let warnings = daemon.client().status().expect("status").warnings;
    assert!(warnings.iter().any(|warning| warning.contains("1 damaged blocks")), "{warnings:?}");
    let restored = daemon.restore("web@1", "again");
    assert_eq!(restored.error, None);
    assert!(restored.note.is_some_and(|note| note.contains("damaged")));
    let whence = restored.restore.expect("where it came from");
    assert!(whence.bytes_vault > 0 && whence.bytes_instant > 0, "{whence:?}");
    assert!(daemon.read("again") == content);
}

/// So do a run that stands on it, what hydrates that, and the point's export; a block that nobody else has fails as before.
#[test]
fn a_run_of_a_damaged_point_reads_from_the_vault_what_it_lacks() {
    let state = State::new();
    let daemon = state.start();
    daemon.create("web", SIZE);
    let content = noise(1, SIZE as usize);
    daemon.write("web", 0, &content);
    assert_eq!(daemon.backup("web").error, None);
    daemon.write("web", 0, &[1; 4096]);
    let later = daemon.snapshot("web");
    assert_eq!(scrub(&daemon, "web").error, None);
    let run = |point: &str, name: &str| {
        let request = RunRequest { point: point.to_owned(), name: name.to_owned(), hydrate: false };
        daemon.client().run(&request).expect("it runs");
    };
    run("web@1", "try");
    run(&later, "other");
    for block in [3, 900, 901] {
        flip(&oldest_layer(&daemon, &state, "web"), (block << 12) + 77);
    }
    assert!(daemon.read("web@1") == content && daemon.read("try") == content);
    assert!(read(&daemon, "other", 900 << 12).expect_err("only its disk has it").contains("block 900"));
    daemon.client().promote("try").expect("asked");
    daemon.eventually("it becomes independent", |client| {
        client.run_status("try").expect("its status").state == RunState::Independent
    });
    assert!(daemon.read("try") == content);
    assert!(!daemon.client().disk("web").expect("a disk").damage.is_empty(), "it is known all the same");
}

/// Checksums are made without anybody asking for them.
#[test]
fn sealed_layers_get_their_sums_in_the_background() {
    let state = State::new();
    let daemon = state.start();
    daemon.create("web", SIZE);
    daemon.write("web", 0, &noise(1, SIZE as usize));
    daemon.snapshot("web");
    let dir = disk_dir(&daemon, &state, "web");
    let media = block::linux::LinuxMedia::new(&dir, &dir).expect("a directory");
    let are_whole = || check::Directory::open(&media, "").is_ok_and(|disk| disk.chain.layers[0].sums_whole);
    let patience = (0..200).find(|_| {
        std::thread::sleep(Duration::from_millis(50));
        are_whole()
    });
    assert!(patience.is_some(), "no sums after ten seconds");
    let report = check::check_directory(&media, "", true);
    assert_eq!((report.findings.len(), report.blocks_verified), (0, SIZE / 4096));
}

/// The map that only says what changed in epoch 2, once the layer of that deleted point was folded away.
fn old_change_map(daemon: &Daemon, state: &State) -> PathBuf {
    let dir = disk_dir(daemon, state, "web");
    let media = block::linux::LinuxMedia::new(&dir, &dir).expect("a directory");
    let map = (0..600).find_map(|_| {
        std::thread::sleep(Duration::from_millis(50));
        let chain = check::Directory::open(&media, "").ok()?.chain;
        let changes = chain.seals.iter().find(|seal| seal.epoch == 2)?.changes;
        chain.layers.iter().all(|layer| layer.map != changes).then_some(changes)
    });
    dir.join(format!("{:016x}.map", map.expect("the layer is folded")))
}

#[test]
fn a_damaged_change_map_costs_a_whole_read_and_nothing_else() {
    let state = State::new();
    let daemon = state.start();
    daemon.create("web", SIZE);
    let mut content = noise(1, SIZE as usize);
    daemon.write("web", 0, &content);
    assert_eq!(daemon.backup("web").error, None);
    let mut change = |block: usize| {
        daemon.write("web", (block << 12) as u64, &[block as u8; 4096]);
        content[block << 12..][..4096].fill(block as u8);
        content.clone()
    };
    change(2);
    let second = daemon.snapshot("web");
    change(3);
    daemon.snapshot("web");
    daemon.client().delete_point(&second, &control::DeletePointQuery::default()).expect("deleted");
    flip(&old_change_map(&daemon, &state), 70);

    // an increment would need it
    let expected = change(4);
    let job = daemon.backup("web");
    assert_eq!((job.state, job.base.as_deref()), (JobState::Done, None), "{:?}", job.error);
    let note = job.note.expect("it says why");
    assert!(note.contains("since web@1") && note.contains(".map") && note.contains("read whole"), "{note}");
    let in_vault = |point: &str| {
        let instant = control::DeletePointQuery::from(control::Tier::Instant);
        daemon.client().delete_point(point, &instant).expect("deleted");
        daemon.read(point)
    };
    assert!(in_vault(&job.point.expect("its point")) == expected);

    // it is shown, and every later increment does without it
    let warnings = daemon.client().status().expect("status").warnings;
    assert!(warnings.iter().any(|warning| warning.contains("change map")), "{warnings:?}");
    let damage = daemon.client().disk("web").expect("a disk").damage;
    assert!(damage.len() == 1 && damage[0].file.ends_with(".map"), "{damage:?}");
    change(5);
    let job = daemon.backup("web");
    assert_eq!((job.base.as_deref(), job.note), (Some("web@4"), None));

    // a full backup, which asks for all that was ever written
    let expected = change(6);
    let request = control::BackupRequest {
        item: "web".to_owned(),
        vault: None,
        full: true,
        ..control::BackupRequest::default()
    };
    let job = daemon.finished(&daemon.client().backup(&request).expect("a job"));
    assert_eq!((job.state, job.base.as_deref()), (JobState::Done, None), "{:?}", job.error);
    assert!(job.note.is_some_and(|note| note.contains(".map")));
    assert!(in_vault(&job.point.expect("its point")) == expected);

    let (kind, message) = job_failure(&scrub(&daemon, "web"));
    assert_eq!(kind, Kind::Corrupt, "{message}");
    assert!(message.contains("1 change map") && !message.contains("0 bytes"), "{message}");
}

#[test]
fn a_missing_file_is_damage_and_not_absence() {
    let state = State::new();
    let daemon = state.start();
    daemon.create("web", 1 << 20);
    daemon.write("web", 0, &noise(1, 1 << 20));
    daemon.snapshot("web");
    daemon.write("web", 0, b"later");
    scrub(&daemon, "web");
    let dir = disk_dir(&daemon, &state, "web");
    assert!(daemon.stop().success());
    let is_judged = |path: &PathBuf| {
        let name = path.file_name().expect("a name").to_string_lossy();
        name == "chain"
            || [".layer", ".map", ".sums", ".committed", ".journal"].iter().any(|end| name.ends_with(end))
    };
    let files: Vec<PathBuf> =
        fs::read_dir(&dir).expect("a directory").map(|entry| entry.expect("an entry").path()).collect();
    let files: Vec<PathBuf> = files.into_iter().filter(is_judged).collect();
    assert!(files.len() >= 7, "{files:?}");
    let aside = dir.with_extension("aside");
    let judge = |path: &PathBuf| {
        let daemon = state.start();
        let disk = daemon.client().disk("web").expect("it keeps its place");
        let error = disk.error.unwrap_or_else(|| panic!("{} is gone and the disk opened", path.display()));
        assert_eq!(error.kind, Kind::Corrupt, "{}: {}", path.display(), error.message);
        let name = path.file_name().expect("a name").to_string_lossy().into_owned();
        assert!(error.message.contains(&name), "{name}: {}", error.message);
        let refused = daemon.try_export("web").err().expect("it does not serve").to_string();
        assert!(refused.contains(&name), "{name}: {refused}");
        assert!(daemon.stop().success());
    };
    for path in &files {
        fs::rename(path, &aside).expect("set aside");
        judge(path);
        fs::rename(&aside, path).expect("put back");
    }
    fs::rename(&dir, &aside).expect("set aside");
    judge(&dir);
    fs::rename(&aside, &dir).expect("put back");
    assert_eq!(state.start().read("web")[..5], *b"later");
}

/// An edited name must not serve another disk.
#[test]
fn an_edited_name_is_noticed() {
    let state = State::new();
    let daemon = state.start();
    ["one", "two"].into_iter().for_each(|name| daemon.create(name, 1 << 20));
    daemon.write("one", 0, b"first");
    let id = daemon.client().disk("one").expect("a disk").id;
    assert!(daemon.stop().success());
    let path = state.file("disks").join(format!("{id}.disk"));
    let bytes = fs::read(&path).expect("a name");
    let at = bytes.windows(3).position(|window| window == b"one").expect("the name");
    let mut edited = bytes.clone();
    edited[at..at + 3].copy_from_slice(b"six");
    fs::write(&path, edited).expect("edited");
    let daemon = state.start();
    assert_eq!(failure(daemon.client().disk("six")).0, Kind::NotFound);
    assert_eq!(daemon.read(&id)[..5], *b"first", "it serves under its id");
    assert!(daemon.client().status().expect("status").warnings.iter().any(|warning| warning.contains(&id)));
    assert!(daemon.stop().success());
    fs::write(&path, bytes).expect("put back");
    assert_eq!(state.start().read("one")[..5], *b"first");
}

/// A daemon whose calls of this kind for this file fail at the given one of each thread.
fn start_failing(state: &State, call: &str, path: &PathBuf, error: &str, when: u64) -> Daemon {
    let mut strace = Command::new("strace");
    strace.args(["-f", "-qq", "-o", "/dev/null", "-e", &format!("trace={call}"), "-P"]).arg(path);
    strace.args(["-e", &format!("inject={call}:error={error}:when={when}"), "--"]);
    Daemon::start_under(strace, &state.path()).expect("a daemon")
}

#[test]
fn a_disk_recovers_from_a_failed_sync_without_a_restart() {
    let state = State::new();
    let daemon = state.start();
    daemon.create("web", 1 << 20);
    daemon.write("web", 0, &[1; 8192]);
    let layer = oldest_layer(&daemon, &state, "web");
    assert!(daemon.stop().success());
    // the second sync of a thread: not that of the open
    let daemon = start_failing(&state, "fdatasync", &layer, "EIO", 2);
    let export = daemon.export("web");
    export.write_at(ByteOffset::ZERO, &[2; 4096]).expect("written");
    export.flush().expect("the first sync");
    export.write_at(ByteOffset::new(1 << 16), &[3; 4096]).expect("written");
    export.flush().expect_err("the sync fails");
    let shown = daemon.client().disk("web").expect("a disk");
    assert_eq!(shown.state, DiskState::Failed);
    let error = shown.error.expect("why");
    assert_eq!(error.kind, Kind::Poisoned);
    assert!(error.help.is_some_and(|help| help.contains("recover")), "{}", error.message);
    assert!(export.flush().is_err(), "no later sync heals it");
    // a recovery whose own sync fails may be repeated
    let mut tries = (0..4).map(|_| daemon.client().recover_disk("web", control::RecoverQuery::default()));
    let recovered = tries.find_map(Result::ok).unwrap_or_else(|| panic!("not recovered: {}", daemon.log()));
    assert_eq!((recovered.state, recovered.opened.as_deref()), (DiskState::Ready, Some("committed")));
    assert!(export.read_at(ByteOffset::ZERO, &mut [0; 512]).is_err(), "an old connection learns of it");
    drop(export);
    let found = daemon.read("web");
    assert_eq!((found[0], found[5000]), (2, 1), "what was flushed is there");
    daemon.write("web", 0, &[4; 512]);
    daemon.snapshot("web");
    assert_eq!(
        daemon.client().recover_disk("web", control::RecoverQuery::default()).expect("nothing to do").state,
        DiskState::Ready
    );
    daemon.kill();
    assert_eq!(state.start().read("web")[0], 4);
}

#[test]
fn a_child_reads_on_while_the_disk_below_is_recovered() {
    let state = State::new();
    let daemon = state.start();
    daemon.create("web", 1 << 20);
    daemon.write("web", 0, &[1; 8192]);
    daemon.snapshot("web");
    let base = Some(control::NewBase::Point("web@1".to_owned()));
    let request = control::CreateDisk { name: "child".to_owned(), base, ..control::CreateDisk::default() };
    daemon.client().create_disk(&request).expect("a child");
    let layer = newest_layer(&daemon, &state, "web");
    assert!(daemon.stop().success());
    let daemon = start_failing(&state, "fdatasync", &layer, "EIO", 2);
    let (child, export) = (daemon.export("child"), daemon.export("web"));
    let reads = || {
        let mut bytes = [0; 8192];
        child.read_at(ByteOffset::ZERO, &mut bytes).map(|()| bytes == [1; 8192])
    };
    export.write_at(ByteOffset::ZERO, &[2; 4096]).expect("written");
    export.flush().expect("the first sync");
    export.write_at(ByteOffset::ZERO, &[3; 4096]).expect("written");
    export.flush().expect_err("the sync fails");
    assert!(reads().expect("of the sealed layer"));
    std::thread::scope(|scope| {
        let recover = || daemon.client().recover_disk("web", control::RecoverQuery::default());
        let recovery = scope.spawn(move || (0..4).map(|_| recover()).find_map(Result::ok));
        while !recovery.is_finished() {
            assert!(reads().expect("no moment without"));
        }
        recovery.join().expect("no panic").unwrap_or_else(|| panic!("not recovered: {}", daemon.log()));
    });
    assert!(reads().expect("through the new value"));
    child.write_at(ByteOffset::new(100), &[9; 8]).expect("completed from below");
    drop((child, export));
    daemon.kill();
    let found = state.start().read("child");
    assert_eq!((found[99], found[100], found[108]), (1, 9, 1));
}

#[test]
fn a_disk_that_lacked_descriptors_is_opened_when_there_are_some() {
    let state = State::new();
    let daemon = state.start();
    daemon.create("web", 1 << 20);
    daemon.write("web", 0, b"kept");
    let chain = disk_dir(&daemon, &state, "web").join("chain");
    assert!(daemon.stop().success());
    let daemon = start_failing(&state, "openat", &chain, "EMFILE", 1);
    let first = daemon.client().disk("web").expect("a disk");
    // the background may have been quicker
    if let Some(error) = first.error {
        assert_eq!((first.state, error.kind), (DiskState::Failed, Kind::Unavailable));
    }
    let opened = (0..200).find(|_| {
        std::thread::sleep(Duration::from_millis(50));
        daemon.client().disk("web").expect("a disk").state == DiskState::Ready
    });
    assert!(opened.is_some(), "{}", daemon.log());
    assert_eq!(daemon.read("web")[..4], *b"kept");
}
