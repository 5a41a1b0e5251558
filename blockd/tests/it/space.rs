//! Space of the instant tier, on a small filesystem of its own: what makes room, who waits, who fails, and that nothing
//! is lost by it.

use crate::fixture::{Daemon, Dice, State, job_failure, noise};
use block::linux::LinuxMedia;
use block::{BlockDevice, BlockSource, ByteOffset, Kind as StorageKind};
use control::{
    BackupRequest, CreateVault, DeletePointQuery, Job, JobState, Kind, RestoreRequest, Space, SpaceState,
    Tier, TransferKind,
};
use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;
use tempfile::TempDir;

const MIB: usize = 1 << 20;

/// What one epoch overwrites: all of the disk.
const SIZE: usize = 24 * MIB;

/// A small filesystem with a state directory on it, and a vault elsewhere.
struct Host {
    state: PathBuf,
    root: PathBuf,
    vault: TempDir,
    _dir: TempDir,
}

fn run(program: &str, arguments: &[&str]) {
    let done = Command::new(program).args(arguments).output();
    let done = done.unwrap_or_else(|error| panic!("{program}, of the packages tests need: {error}"));
    let said = String::from_utf8_lossy(&done.stderr);
    assert!(
        done.status.success(),
        "{program} {arguments:?} (this test needs to mount, so it needs root): {said}"
    );
}

impl Host {
    fn new(kind: &str, mebibytes: u32) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let (image, root) = (dir.path().join("image"), dir.path().join("root"));
        let image = image.to_str().expect("UTF-8");
        fs::create_dir(&root).expect("a directory");
        let log = dir.path().join("log");
        run("truncate", &["-s", &format!("{mebibytes}M"), image]);
        run(&format!("mkfs.{kind}"), &["-q", image]);
        run("mount", &["-o", "loop", image, root.to_str().expect("UTF-8")]);
        // where a test that fails can show it
        std::os::unix::fs::symlink(&log, root.join("state.log")).expect("a link");
        let vault = tempfile::tempdir().expect("a directory");
        Self { state: root.join("state"), root, vault, _dir: dir }
    }

    fn start(&self) -> Daemon {
        Daemon::start(&self.state)
    }

    /// A daemon with a disk, and a vault that takes nothing of this filesystem.
    fn begin(&self) -> Daemon {
        let daemon = self.start();
        daemon.create("web", SIZE as u64);
        let store = self.vault.path().join("far").to_str().expect("UTF-8").to_owned();
        daemon
            .client()
            .create_vault(&CreateVault {
                name: "far".to_owned(),
                store,
                soft_delete_days: None,
                ..CreateVault::default()
            })
            .expect("a vault");
        daemon
    }

    /// Takes all that is left of the filesystem.
    fn fill(&self) -> PathBuf {
        let filler = self.root.join("filler");
        let mut file = fs::File::create(&filler).expect("a filler");
        for piece in [vec![1; MIB], vec![1; 4096]] {
            while std::io::Write::write_all(&mut file, &piece).is_ok() {}
        }
        filler
    }

    fn judge_files(&self) {
        let disks = self.state.join("disks");
        let media = LinuxMedia::new(&disks, &disks).expect("the disks");
        let entries = fs::read_dir(&disks).expect("the disks").map(|entry| entry.expect("an entry"));
        for entry in entries.filter(|entry| entry.path().is_dir()) {
            let report = check::check_directory(&media, &entry.file_name().to_string_lossy(), true);
            assert_eq!(report.findings, []);
        }
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        if std::thread::panicking() {
            println!("{}", fs::read_to_string(self.root.join("state.log")).unwrap_or_default());
        }
        for live in State::volatile_of(&self.state) {
            fs::remove_dir_all(live).expect("live maps of the test");
        }
        run("umount", &["-l", self.root.to_str().expect("UTF-8")]);
    }
}

/// What the disk holds after so many epochs.
fn content(epoch: u64) -> Vec<u8> {
    noise(epoch, SIZE)
}

fn try_overwrite(export: &nbd::Client, epoch: u64) -> block::Result<()> {
    for (index, piece) in content(epoch).chunks(MIB).enumerate() {
        export.write_at(ByteOffset::new((index * MIB) as u64), piece)?;
    }
    Ok(())
}

fn overwrite(daemon: &Daemon, epoch: u64) {
    let export = daemon.export("web");
    try_overwrite(&export, epoch).unwrap_or_else(|error| panic!("epoch {epoch}: {error}\n{}", daemon.log()));
    export.flush().expect("flushed");
}

fn backup_to(daemon: &Daemon, vault: &str) -> Job {
    let request = BackupRequest { item: "web".into(), vault: Some(vault.into()), ..BackupRequest::default() };
    daemon.finished(&daemon.client().backup(&request).expect("a job"))
}

fn back_up(daemon: &Daemon) -> Job {
    let job = backup_to(daemon, "far");
    assert_eq!(job.state, JobState::Done, "{job:?}");
    job
}

fn space(daemon: &Daemon) -> Space {
    daemon.client().status().expect("status").space
}

fn tiers(daemon: &Daemon, epoch: u64) -> Vec<Tier> {
    daemon.client().point(&format!("web@{epoch}")).expect("the point").tiers
}

/// Waits until it is so, for as long as it takes a very slow machine.
fn eventually(what: &str, is_so: impl Fn() -> bool) {
    for _ in 0..1200 {
        if is_so() {
            return;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    panic!("in a minute it did not come to this: {what}");
}

#[test]
fn the_oldest_points_that_a_vault_holds_make_room_and_the_guest_never_notices() {
    let host = Host::new("ext4", 220);
    let daemon = host.begin();
    let (only_here, read_meanwhile, epochs) = (3, 2, 14);
    let mut reader = None;
    for epoch in 1..=epochs {
        overwrite(&daemon, epoch);
        if epoch == only_here {
            daemon.snapshot("web");
        } else {
            let job = back_up(&daemon);
            let kind = if epoch == 1 { TransferKind::Full } else { TransferKind::Incremental };
            assert_eq!((job.kind, job.bytes_changed), (Some(kind), SIZE as u64), "{job:?}");
        }
        if epoch == read_meanwhile {
            reader = Some(daemon.export(&format!("web@{epoch}")));
        }
    }
    let seen = space(&daemon);
    assert!(seen.shed_count >= 3, "so much does not fit: {seen:?}\n{}", daemon.log());
    assert_eq!(seen.shed.last().map(|shed| shed.point.as_str()), Some("web@1"), "the oldest first");
    assert!(seen.shed.iter().all(|shed| shed.vault == "far" && shed.disk == "web"), "{seen:?}");
    let order: Vec<&str> = seen.shed.iter().rev().map(|shed| shed.point.as_str()).collect();
    assert_eq!(order[..2], ["web@1", "web@4"], "what is read and what no vault holds stays");
    assert!(daemon.log().contains("shed: space is low"), "{}", daemon.log());
    assert_eq!(tiers(&daemon, only_here), [Tier::Instant]);
    assert_eq!(tiers(&daemon, read_meanwhile), [Tier::Instant, Tier::Vault]);
    assert_eq!(tiers(&daemon, 1), [Tier::Vault]);
    assert_eq!(daemon.client().points(Some("web")).expect("points").points.len() as u64, epochs);
    for epoch in 1..=epochs {
        assert!(daemon.read(&format!("web@{epoch}")) == content(epoch), "web@{epoch}");
    }
    let mut bytes = vec![0; SIZE];
    reader.as_ref().expect("an export").read_at(ByteOffset::ZERO, &mut bytes).expect("read");
    assert!(bytes == content(read_meanwhile), "under the reader");
    drop(reader);
    for epoch in epochs + 1..epochs + 4 {
        overwrite(&daemon, epoch);
        back_up(&daemon);
    }
    eventually("what is read no more leaves", || tiers(&daemon, read_meanwhile) == [Tier::Vault]);
    assert_eq!(tiers(&daemon, only_here), [Tier::Instant]);
    let (small, epoch) = (noise(99, 4096), epochs + 4);
    daemon.write("web", 8 << 20, &small);
    let job = back_up(&daemon);
    assert_eq!((job.kind, job.bytes_changed), (Some(TransferKind::Incremental), 4096), "{job:?}");
    let mut expected = content(epoch - 1);
    expected[8 << 20..(8 << 20) + 4096].copy_from_slice(&small);
    assert!(daemon.read("web") == expected && daemon.read(&format!("web@{epoch}")) == expected);
    assert!(daemon.stop().success());
    host.judge_files();
}

#[test]
fn a_host_that_is_full_to_the_last_block_fails_clearly_and_heals() {
    let host = Host::new("ext4", 200);
    let daemon = host.begin();
    overwrite(&daemon, 1);
    back_up(&daemon);
    overwrite(&daemon, 2);
    daemon.snapshot("web");
    daemon.create("new", 1 << 30);
    let export = daemon.export("new");
    let filler = host.fill();
    let piece = noise(7, MIB);
    let error = (0..200).find_map(|index| export.write_at(ByteOffset::new(index << 20), &piece).err());
    assert_eq!(error.expect("full").kind(), StorageKind::NoSpace);
    assert_eq!(tiers(&daemon, 1), [Tier::Vault], "what could go is gone");
    assert_eq!(tiers(&daemon, 2), [Tier::Instant]);
    let seen = space(&daemon);
    assert_eq!(seen.state, SpaceState::Exhausted, "{seen:?}");
    let warnings = daemon.client().status().expect("status").warnings;
    assert!(warnings.iter().any(|warning| warning.contains("blockctl backup")), "{warnings:?}");
    // what shedding gave back is taken too
    let rest = host.root.join("rest");
    fs::rename(&filler, &rest).expect("renamed");
    let filler = host.fill();
    export.flush().expect("a flush needs no room");
    assert!(daemon.read("web") == content(2), "reads go on");
    export.write_at(ByteOffset::ZERO, &piece).expect("so do writes in place");
    let job = daemon.client().check_vault("far").expect("a check begins on a full host");
    let job = daemon.finished(&job);
    assert_eq!(job.state, JobState::Done, "{job:?}");
    assert!(daemon.client().jobs().expect("jobs").iter().any(|known| known.id == job.id));
    assert!(daemon.client().check_vault("main").is_ok());
    match daemon.client().restore(&RestoreRequest {
        point: "web@1".into(),
        to: "back".into(),
        ..Default::default()
    }) {
        Err(error) => assert_eq!(error.kind(), Kind::NoSpace, "{error}"),
        Ok(job) => {
            let job = daemon.finished(&job);
            let help = job.error.clone().and_then(|error| error.help).expect("what to do");
            assert!(job_failure(&job).0 == Kind::NoSpace && help.contains("free space"), "{help}");
        }
    }
    let request = BackupRequest {
        item: "web".into(),
        vault: Some("main".into()),
        full: true,
        ..BackupRequest::default()
    };
    match daemon.client().backup(&request) {
        Err(error) => assert_eq!(error.kind(), Kind::NoSpace, "{error}"),
        Ok(job) => assert_eq!(job_failure(&daemon.finished(&job)).0, Kind::NoSpace),
    }
    let points = daemon.client().points(Some("web")).expect("points").points;
    for point in points.iter().filter(|point| point.epoch > 2) {
        daemon.client().delete_point(&point.name, &DeletePointQuery::default()).expect("a deletion works");
    }
    for disk in daemon.client().disks().expect("disks") {
        assert_eq!(disk.error, None, "nothing is poisoned");
    }
    fs::remove_file(&filler).and_then(|()| fs::remove_file(&rest)).expect("removed");
    export.write_at(ByteOffset::new(500 << 20), &piece).expect("it heals");
    export.flush().expect("flushed");
    eventually("there is enough", || space(&daemon).state == SpaceState::Enough);
    drop(export);
    overwrite(&daemon, 3);
    assert_eq!(back_up(&daemon).kind, Some(TransferKind::Incremental));
    assert_eq!(daemon.client().job(&job.id).expect("it is in the history").state, JobState::Done);
    assert!(daemon.stop().success());
    host.judge_files();
    let daemon = host.start();
    assert!(daemon.read("web") == content(3) && daemon.read("web@1") == content(1));
    assert!(daemon.stop().success());
}

#[test]
fn a_kill_while_points_leave_loses_nothing() {
    for kind in ["ext4", "xfs"] {
        // XFS is no smaller than 300 MiB
        let host = Host::new(kind, if kind == "xfs" { 300 } else { 200 });
        let mut dice = Dice::new(5);
        let mut daemon = host.begin();
        let (mut epoch, mut names) = (0, Vec::new());
        for round in 0..14 {
            epoch += 1;
            overwrite(&daemon, epoch);
            let job = back_up(&daemon);
            names.push((job.point.expect("a point"), epoch));
            // in the midst of what the next epoch makes leave
            let torn = epoch + 1;
            let export = daemon.export("web");
            std::thread::scope(|scope| {
                let writer = scope.spawn(|| try_overwrite(&export, torn));
                std::thread::sleep(Duration::from_millis(dice.below(60)));
                daemon.kill();
                drop(writer.join());
            });
            host.judge_files();
            daemon = host.start();
            let (now, before, after) = (daemon.read("web"), content(epoch), content(torn));
            let blocks = now.chunks(512).zip(before.chunks(512)).zip(after.chunks(512));
            for (at, ((is, old), new)) in blocks.enumerate() {
                assert!(is == old || is == new, "{kind}, round {round}: sector {at}");
            }
        }
        // by their tiers: a daemon that is killed takes along its own count of what left
        let points = daemon.client().points(Some("web")).expect("points").points;
        let gone = points.iter().filter(|point| point.tiers == [Tier::Vault]).count();
        assert!(gone > 3, "{kind}: {gone} points left");
        for (name, epoch) in names {
            assert!(daemon.read(&name) == content(epoch), "{kind}: {name}");
        }
        assert!(daemon.stop().success());
    }
}

#[test]
fn a_budget_is_kept_though_the_host_has_room() {
    let state = State::new();
    fs::create_dir(state.path()).expect("a directory");
    let text = "instant-budget-bytes = 100_000_000\ninstant-reserve-bytes = 20_000_000\n";
    fs::write(state.file("blockd.toml"), text).expect("a configuration");
    let daemon = state.start();
    daemon.create("web", SIZE as u64);
    for epoch in 1..=8 {
        overwrite(&daemon, epoch);
        assert_eq!(backup_to(&daemon, "main").state, JobState::Done);
    }
    let seen = space(&daemon);
    assert!(seen.shed_count > 2 && seen.budget == Some(100_000_000), "{seen:?}");
    assert!(seen.used <= 100_000_000 && seen.reserve == 20_000_000, "{seen:?}");
    // points that no vault holds stay, so at some point there is no room
    let export = daemon.export("web");
    let error = (9..20).find_map(|epoch| {
        let failed = try_overwrite(&export, epoch).err();
        if failed.is_none() {
            daemon.snapshot("web");
        }
        failed
    });
    assert_eq!(error.expect("the budget is used up").kind(), StorageKind::NoSpace);
    let seen = space(&daemon);
    assert_eq!(seen.state, SpaceState::Exhausted, "{seen:?}");
    assert!(seen.used <= 100_000_000, "{seen:?}");
    export.flush().expect("flushed");
    let only_here = daemon.client().points(Some("web")).expect("points").points;
    let only_here: Vec<_> = only_here.iter().filter(|point| point.tiers == [Tier::Instant]).collect();
    assert!(!only_here.is_empty());
    for point in only_here {
        daemon.client().delete_point(&point.name, &DeletePointQuery::default()).expect("deleted");
    }
    try_overwrite(&export, 30).expect("room is made of what was deleted");
    assert!(daemon.read("web") == content(30));
    drop(export);
    assert!(daemon.stop().success());
}

#[test]
fn a_reserve_that_cannot_be_is_refused_by_name() {
    let state = State::new();
    fs::create_dir(state.path()).expect("a directory");
    fs::write(state.file("blockd.toml"), "instant-reserve-bytes = 4096\n").expect("a configuration");
    let refused = crate::fixture::refused(&state.path(), &[]);
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success() && said.contains("instant-reserve-bytes is 4096"), "{said}");
}

#[test]
fn a_point_whose_copy_a_check_found_damaged_stays() {
    let host = Host::new("ext4", 200);
    let daemon = host.begin();
    overwrite(&daemon, 1);
    back_up(&daemon);
    overwrite(&daemon, 2);
    back_up(&daemon);
    let mut packs = Vec::new();
    let mut dirs = vec![host.vault.path().to_owned()];
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(&dir).expect("a directory") {
            let path = entry.expect("an entry").path();
            let is_pack = path.components().any(|part| part.as_os_str() == "packs");
            if path.is_dir() {
                dirs.push(path)
            } else if is_pack {
                packs.push(path)
            }
        }
    }
    assert!(!packs.is_empty());
    for pack in packs {
        let mut bytes = fs::read(&pack).expect("a pack");
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        fs::write(&pack, bytes).expect("damaged");
    }
    let job = daemon.client().check_vault("far").expect("a check");
    assert_eq!(job_failure(&daemon.finished(&job)).0, Kind::Corrupt);
    let export = daemon.export("web");
    let failed = (3..12).find_map(|epoch| {
        let failed = try_overwrite(&export, epoch).err();
        if failed.is_none() {
            daemon.snapshot("web");
        }
        failed
    });
    assert_eq!(failed.expect("nothing can leave").kind(), StorageKind::NoSpace);
    for epoch in 1..=2 {
        assert_eq!(tiers(&daemon, epoch), [Tier::Instant, Tier::Vault], "it may be the only good copy");
        assert!(daemon.read(&format!("web@{epoch}")) == content(epoch));
    }
    drop(export);
    assert!(daemon.stop().success());
}

#[test]
fn a_daemon_starts_where_there_is_no_room_at_all_and_serves_when_there_is() {
    let host = Host::new("ext4", 160);
    let daemon = host.begin();
    overwrite(&daemon, 1);
    assert_eq!(back_up(&daemon).error, None);
    overwrite(&daemon, 2);
    daemon.kill();
    let filler = host.fill();
    let daemon = host.start();
    let client = daemon.client();
    assert_eq!(client.jobs().expect("jobs").len(), 1, "what is known of the past is known still");
    let disk = client.disk("web").expect("it is listed");
    assert_eq!(disk.error.map(|error| error.kind), Some(Kind::NoSpace));
    assert!(daemon.read("web@1") == content(1), "a vault has it");
    fs::remove_file(filler).expect("removed");
    eventually("the disk is open", || client.disk("web").expect("a disk").error.is_none());
    assert!(daemon.read("web") == content(2), "what was flushed is there");
    eventually("there is enough", || space(&daemon).state == SpaceState::Enough);
    overwrite(&daemon, 3);
    assert_eq!(back_up(&daemon).error, None);
    assert!(daemon.stop().success());
    host.judge_files();
}
