//! Size, ancestry and what is told of changes.

use crate::fixture::{Daemon, State, failure, noise};
use block::{BlockDevice, BlockSource, ByteOffset};
use control::{ChangesQuery, CreateVault, JobState, Kind, ResizeDisk, TransferKind};
use std::process::Command;

fn resize(daemon: &Daemon, size: u64, attached: bool) -> Result<control::Disk, control::Error> {
    daemon.client().resize_disk("web", &ResizeDisk { size, attached })
}

#[test]
fn clients_keep_the_size_they_were_told() {
    let state = State::new();
    let daemon = state.start();
    daemon.create("web", 1 << 20);
    daemon.write("web", 0, &noise(1, 1 << 20));
    let point = daemon.snapshot("web");
    let early = daemon.export("web");
    assert_eq!(resize(&daemon, 2 << 20, false).expect("grown").size, Some(2 << 20));
    assert_eq!(early.size().get(), 1 << 20);
    let late = daemon.export("web");
    assert_eq!(late.size().get(), 2 << 20);
    late.write_at(ByteOffset::new((2 << 20) - 5), b"after").expect("written");
    let (kind, why) = failure(resize(&daemon, 1 << 19, false));
    assert!(kind == Kind::Conflict && why.contains("connected"), "{why}");
    // asked for in so many words: what is gone fails, the rest serves
    resize(&daemon, 1 << 19, true).expect("shrunk");
    let mut bytes = vec![0; 4096];
    assert!(late.read_at(ByteOffset::new(1 << 20), &mut bytes).is_err());
    early.read_at(ByteOffset::new((1 << 19) - 4096), &mut bytes).expect("what is left");
    assert_eq!(bytes, noise(1, 1 << 20)[(1 << 19) - 4096..1 << 19]);
    drop((early, late));
    resize(&daemon, 1 << 20, false).expect("grown again");
    assert!(daemon.read("web")[1 << 19..].iter().all(|&byte| byte == 0), "old data");
    assert_eq!(daemon.read(&point), noise(1, 1 << 20), "the point keeps its size");
    assert_eq!(failure(resize(&daemon, 0, false)).0, Kind::Invalid);
    daemon.kill();
    let daemon = state.start();
    assert_eq!(daemon.client().disk("web").expect("a disk").size, Some(1 << 20));
}

/// A full, an increment of the larger disk and one of the smaller: each restores to the byte.
#[test]
fn increments_follow_the_size() {
    let state = State::new();
    let daemon = state.start();
    daemon.create("web", (1 << 20) + 777);
    daemon.write("web", 0, &noise(1, (1 << 20) + 777));
    let mut made = vec![(daemon.backup("web"), daemon.read("web"))];
    for (size, at) in [(3 << 20, 2 << 20), ((1 << 19) + 5, 0), (2 << 20, (2 << 20) - 9000)] {
        resize(&daemon, size, false).expect("resized");
        daemon.write("web", at, &noise(size, 9000));
        made.push((daemon.backup("web"), daemon.read("web")));
    }
    for (number, (job, content)) in made.iter().enumerate() {
        assert_eq!(job.state, JobState::Done, "{job:?}");
        let kind = if number == 0 { TransferKind::Full } else { TransferKind::Incremental };
        assert_eq!(job.kind, Some(kind), "{number}");
        let name = job.point.clone().expect("a point");
        let from = control::DeletePointQuery::from(control::Tier::Instant);
        daemon.client().delete_point(&name, &from).expect("deleted");
        assert!(daemon.read(&name) == *content, "{name} from the vault");
    }
}

/// What nbdinfo says of a context: (start, length, flags).
fn mapped(uri: &str, context: &str) -> Vec<(u64, u64, u64)> {
    let output = Command::new("nbdinfo")
        .args(["--json", &format!("--map={context}"), uri])
        .output()
        .expect("nbdinfo, from libnbd-bin");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let extents: Vec<serde_json::Value> = serde_json::from_slice(&output.stdout).expect("JSON");
    let number = |extent: &serde_json::Value, field: &str| extent[field].as_u64().expect("a number");
    extents.iter().map(|e| (number(e, "offset"), number(e, "length"), number(e, "type"))).collect()
}

#[test]
fn foreign_tools_read_what_changed_as_a_dirty_bitmap() {
    let state = State::new();
    let daemon = state.start();
    daemon.create("web", 1 << 20);
    for (offset, seed) in [(0, 1), (65536, 2), (131_072, 3)] {
        daemon.write("web", offset, &noise(seed, 8192));
        daemon.snapshot("web");
    }
    let point = daemon.client().point("web@3").expect("a point");
    let listed = Command::new("nbdinfo").args(["--json", &point.uri]).output().expect("nbdinfo");
    let listed: serde_json::Value = serde_json::from_slice(&listed.stdout).expect("JSON");
    let contexts = &listed["exports"][0]["contexts"];
    let named = ["base:allocation", "qemu:dirty-bitmap:web@1", "qemu:dirty-bitmap:web@2"];
    assert_eq!(*contexts, serde_json::json!(named));
    let all = [(0, 65536, 0), (65536, 8192, 1), (73728, 57344, 0), (131_072, 8192, 1), (139_264, 909_312, 0)];
    assert_eq!(mapped(&point.uri, named[1]), all);
    // the same as JSON, and as a copier wants it
    let query = ChangesQuery { since: Some("web@1".into()), until: Some("web@3".into()) };
    let changes = daemon.client().changes("web", &query).expect("changes");
    let dirty: Vec<_> =
        all.iter().filter(|extent| extent.2 == 1).map(|extent| (extent.0, extent.1)).collect();
    let ranges: Vec<_> = changes.ranges.iter().map(|range| (range.offset, range.length)).collect();
    assert_eq!(ranges, dirty);
    // the point in between goes; what lies on both sides of it is still known
    daemon.client().delete_point("web@2", &Default::default()).expect("deleted");
    assert_eq!(mapped(&point.uri, named[1]), all);
    assert_eq!(mapped(&daemon.client().disk("web").expect("a disk").uri, "base:allocation").len(), 6);
}

/// A state directory is copied; original and copy go their own ways and back up to the same vault. Neither believes what
/// the other left there.
#[test]
fn a_copied_state_and_its_original_do_not_take_each_other_for_a_base() {
    let (one, two) = (State::new(), State::new());
    let store = tempfile::tempdir().expect("a directory");
    let store = store.path().join("shared").display().to_string();
    let backup = |daemon: &Daemon| {
        let vault = Some("shared".to_owned());
        let request =
            control::BackupRequest { item: "web".into(), vault, ..control::BackupRequest::default() };
        daemon.finished(&daemon.client().backup(&request).expect("a job"))
    };
    let daemon = one.start();
    daemon
        .client()
        .create_vault(&CreateVault {
            name: "shared".into(),
            store,
            soft_delete_days: None,
            ..CreateVault::default()
        })
        .expect("a vault");
    daemon.create("web", 1 << 20);
    daemon.write("web", 0, &noise(1, 1 << 20));
    assert_eq!(backup(&daemon).kind, Some(TransferKind::Full));
    assert!(daemon.stop().success());
    let copied = Command::new("cp").arg("-a").arg(one.path()).arg(two.path()).status().expect("cp");
    assert!(copied.success());
    let mut left = Vec::new();
    for (round, state) in [&one, &two, &two, &one].into_iter().enumerate() {
        let daemon = state.start();
        daemon.write("web", 65536 * round as u64, &noise(100 + round as u64, 4096));
        let job = backup(&daemon);
        assert_eq!(job.state, JobState::Done, "{job:?}");
        // the copy finds the original's second point, and the original that both now have one
        let expected = if round == 1 { TransferKind::Full } else { TransferKind::Incremental };
        if round < 3 {
            assert_eq!(job.kind, Some(expected), "round {round}: {job:?}");
            assert_eq!(job.note.is_some(), round == 1, "{job:?}");
        }
        if round == 1 {
            assert!(job.chunks_reused > 0, "compared by hash: {job:?}");
        }
        left.push((job.point.expect("a point"), daemon.read("web")));
        assert!(daemon.stop().success());
    }
    // everything in the vault is what its disk was, whoever made it
    let daemon = one.start();
    let check = daemon.finished(&daemon.client().check_vault("shared").expect("a job"));
    assert_eq!(check.state, JobState::Done, "{check:?}");
    let points = daemon.client().points(Some("web")).expect("points").points;
    assert_eq!(points.iter().filter(|point| point.vaults.contains(&"shared".to_owned())).count(), 5);
    let all: Vec<Vec<u8>> = points.iter().map(|point| daemon.read(&point.name)).collect();
    for (name, content) in left {
        assert!(all.contains(&content), "{name} of one of them is not to be had");
    }
}
