//! What a disk goes through, and what is said of it on the way.

use crate::fixture::{State, failure, noise};
use block::{BlockDevice, BlockSource, ByteOffset, ByteRange};
use control::{
    BackupRequest, ChangesQuery, CreateVault, DeleteDiskQuery, JobState, Kind, Tier, TransferKind,
};

#[test]
fn a_disk_is_made_served_sealed_and_deleted() {
    let state = State::new();
    let daemon = state.start();
    let client = daemon.client();
    // a size no block divides
    daemon.create("odd", (3 << 20) + 513);
    let disk = client.disk("odd").expect("a disk");
    assert_eq!(disk.size, Some((3 << 20) + 513));
    assert_eq!(
        failure(client.create_disk(&control::CreateDisk {
            name: "odd".into(),
            size: 1,
            fill: false,
            base: None
        }))
        .0,
        Kind::Conflict
    );
    let tail = noise(1, 513);
    daemon.write("odd", 3 << 20, &tail);
    let point = daemon.snapshot("odd");
    assert_eq!(point, "odd@1");
    daemon.write("odd", 3 << 20, &noise(2, 513));
    for name in ["odd@1", "odd@latest", &format!("odd@{}", client.point("odd@1").expect("a point").time)] {
        let source = daemon.export(name);
        assert!(source.read_only());
        let mut bytes = vec![0; 513];
        source.read_at(ByteOffset::new(3 << 20), &mut bytes).expect("read");
        assert_eq!(bytes, tail, "{name}");
        assert!(source.write_at(ByteOffset::ZERO, b"x").is_err(), "a point is not written");
    }
    let listed = nbd::Client::list(daemon.export("odd").uri()).expect("a list");
    let names: Vec<&str> = listed.iter().map(|export| export.name.as_str()).collect();
    assert_eq!(names, ["odd", "odd@1"]);
    let open = daemon.export("odd");
    let (kind, message) = failure(client.delete_disk("odd"));
    assert_eq!((kind, message.contains("connected")), (Kind::Conflict, true), "{message}");
    drop(open);
    wait_until(|| client.disk("odd").expect("a disk").writers == 0);
    client.delete_disk("odd").expect("deleted");
    assert_eq!(failure(client.disk("odd")).0, Kind::NotFound);
    assert!(state.files("disks").is_empty(), "{:?}", state.files("disks"));
}

/// What `disk leave` stands on.
#[test]
fn a_disk_is_deleted_on_condition_only_if_nothing_was_written_since() {
    let state = State::new();
    let daemon = state.start();
    daemon.create("web", 1 << 20);
    let first = daemon.snapshot("web");
    daemon.create("other", 1 << 20);
    let others = daemon.snapshot("other");
    let delete = |point: &str| {
        let unchanged_since = Some(point.to_owned());
        daemon.client().delete_disk_if("web", &DeleteDiskQuery { unchanged_since, adopted_file: false })
    };
    assert_eq!(failure(delete(&others)).0, Kind::Invalid, "a point of another disk proves nothing");
    let refused = |change: &dyn Fn(&nbd::Client)| {
        let export = daemon.export("web");
        change(&export);
        let (kind, message) = failure(delete(&first));
        assert_eq!((kind, message.contains("connected")), (Kind::Conflict, true), "{message}");
        drop(export);
        wait_until(|| daemon.client().disk("web").expect("a disk").writers == 0);
        let (kind, message) = failure(delete(&first));
        assert_eq!((kind, message.contains("written to since")), (Kind::Conflict, true), "{message}");
    };
    refused(&|export| export.write_at(ByteOffset::new(7), &[1]).expect("written"));
    let second = daemon.snapshot("web");
    assert_eq!(failure(delete(&first)).0, Kind::Conflict, "a later point does not hide the write");
    refused(&|export| export.discard(ByteRange::between(0, 8192)).expect("trimmed"));
    let third = daemon.snapshot("web");
    assert_eq!(failure(delete(&second)).0, Kind::Conflict);
    delete(&third).expect("nothing was written since");
    assert_eq!(failure(daemon.client().disk("web")).0, Kind::NotFound);
}

/// The server notices a connection's end a moment after the client.
fn wait_until(done: impl Fn() -> bool) {
    for _ in 0..1000 {
        if done() {
            return;
        }
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    panic!("waited in vain");
}

#[test]
fn several_disks_are_sealed_at_one_instant_or_not_at_all() {
    let state = State::new();
    let daemon = state.start();
    ["a", "b"].into_iter().for_each(|name| daemon.create(name, 1 << 20));
    let points = daemon.client().snapshot(&["a".into(), "b".into()]).expect("two points");
    assert_eq!([&points[0].name, &points[1].name], ["a@1", "b@1"]);
    assert_eq!(points[0].consistency, control::Consistency::Crash);
    for bad in [vec!["a".to_owned(), "nope".to_owned()], vec!["a".to_owned(), "a".to_owned()], vec![]] {
        assert!(daemon.client().snapshot(&bad).is_err(), "{bad:?}");
    }
    assert_eq!(daemon.client().points(None).expect("points").points.len(), 2);
}

#[test]
fn trims_and_zeroes_are_changes_of_their_own_kind() {
    let state = State::new();
    let daemon = state.start();
    daemon.create("web", 1 << 20);
    daemon.write("web", 0, &noise(1, 1 << 20));
    let point = daemon.snapshot("web");
    let export = daemon.export("web");
    export.discard(ByteRange::between(8192, 16384)).expect("trimmed");
    export.write_at(ByteOffset::new(100), b"x").expect("written");
    let query = ChangesQuery { since: Some(point), until: None };
    let changes = daemon.client().changes("web", &query).expect("changes");
    let ranges: Vec<_> =
        changes.ranges.iter().map(|range| (range.offset, range.length, range.kind)).collect();
    assert_eq!(ranges, [(0, 4096, control::ChangeKind::Data), (8192, 8192, control::ChangeKind::Zero)]);
}

#[test]
fn each_vault_has_its_own_bases() {
    let state = State::new();
    let daemon = state.start();
    let store = tempfile::tempdir().expect("a directory");
    let path = store.path().join("second").display().to_string();
    let made = daemon
        .client()
        .create_vault(&CreateVault {
            name: "second".into(),
            store: path,
            soft_delete_days: None,
            ..CreateVault::default()
        })
        .expect("a vault");
    assert!(std::fs::read_to_string(&made.recovery_sheet).expect("a sheet").contains("second"));
    daemon.create("web", 1 << 20);
    daemon.write("web", 0, &noise(1, 1 << 20));
    let to = |vault: &str, full: bool| {
        let request = BackupRequest {
            item: "web".into(),
            vault: Some(vault.to_owned()),
            full,
            ..BackupRequest::default()
        };
        daemon.finished(&daemon.client().backup(&request).expect("a job"))
    };
    assert_eq!(to("main", false).kind, Some(TransferKind::Full));
    daemon.write("web", 0, &noise(2, 4096));
    let first = to("second", false);
    assert_eq!((first.kind, first.bytes_changed), (Some(TransferKind::Full), 1 << 20));
    let next = to("main", false);
    assert_eq!(
        (next.kind, next.bytes_changed, next.base.as_deref()),
        (Some(TransferKind::Incremental), 4096, Some("web@1"))
    );
    let full = to("main", true);
    assert_eq!((full.kind, full.bytes_changed), (Some(TransferKind::Full), 1 << 20));
    assert_eq!(daemon.client().point("web@2").expect("a point").vaults, ["second"]);
    let check = daemon.finished(&daemon.client().check_vault("main").expect("a job"));
    assert_eq!(check.state, JobState::Done, "{check:?}");
    assert!(check.check.is_some_and(|check| check.ok && check.points == 3));
    let verified: Vec<bool> = daemon
        .client()
        .points(Some("web"))
        .expect("points")
        .points
        .iter()
        .map(|point| point.verified)
        .collect();
    assert_eq!(verified, [true, false, true, true]);
}

#[test]
fn a_point_leaves_one_tier_or_all() {
    let state = State::new();
    let daemon = state.start();
    daemon.create("web", 1 << 20);
    daemon.write("web", 0, &noise(1, 70_000));
    let name = daemon.backup("web").point.expect("a point");
    let content = daemon.read(&name);
    let from = |tier| control::DeletePointQuery::from(tier);
    let deleted = daemon.client().delete_point(&name, &from(Tier::Instant)).expect("deleted");
    assert_eq!((deleted.deleted, deleted.remaining), (vec![Tier::Instant], vec![Tier::Vault]));
    assert_eq!(failure(daemon.client().delete_point(&name, &from(Tier::Instant))).0, Kind::NotFound);
    assert_eq!(daemon.read(&name), content, "from the vault");
    // the vault's copy is still a base, though the disk has deleted the point
    daemon.write("web", 4096, &noise(2, 4096));
    let next = daemon.backup("web");
    assert_eq!((next.kind, next.bytes_changed), (Some(TransferKind::Incremental), 4096));
    daemon.client().delete_point(&name, &from(Tier::Vault)).expect("deleted");
    assert_eq!(failure(daemon.client().point(&name)).0, Kind::NotFound);
    let restored = daemon.restore(&next.point.expect("a point"), "again");
    assert_eq!(restored.error, None);
    assert_eq!(daemon.read("again"), daemon.read("web"));
}

#[test]
fn a_disk_that_a_job_reads_is_not_deleted_and_errors_name_it() {
    let state = State::new();
    let daemon = state.start();
    daemon.create("web", 512 << 20);
    let piece = noise(1, 1 << 20);
    let export = daemon.export("web");
    for at in 0..96 {
        export.write_at(ByteOffset::new(at << 20), &piece).expect("written");
    }
    drop(export);
    wait_until(|| daemon.client().disk("web").expect("a disk").writers == 0);
    let point = daemon.snapshot("web");
    let id = daemon.client().disk("web").expect("a disk").id;
    let request = control::RestoreRequest { point: point.clone(), to: "again".into(), ..Default::default() };
    let mut refused = 0;
    let mut said = Vec::new();
    let job = daemon.client().restore(&request).expect("a job");
    while !daemon.client().job(&job.id).expect("a job").state.is_final() {
        if let Err(error) = daemon.client().delete_disk("web") {
            refused += 1;
            said.push(error.to_string());
        }
    }
    let job = daemon.finished(&job);
    // whoever was faster: either the disk stayed, or the job says by name why it failed
    match job.state {
        JobState::Done => assert!(refused > 0 && said[0].contains("a job works with it"), "{said:?}"),
        _ => said.push(job.error.expect("a reason").message),
    }
    assert!(said.iter().all(|text| text.contains("web") && !text.contains(&id)), "{said:?}");
}

#[test]
fn the_largest_disk_is_served_backed_up_and_restored() {
    const LARGEST: u64 = block::MAX_DISK_SIZE;
    let state = State::new();
    let daemon = state.start();
    let too_large = control::CreateDisk { name: "more".into(), size: LARGEST + 1, fill: false, base: None };
    let (kind, message) = failure(daemon.client().create_disk(&too_large));
    assert!(kind == Kind::Invalid && message.contains(&LARGEST.to_string()), "{message}");
    daemon.create("web", LARGEST);
    let content = noise(1, 5000);
    // the end, and the boundary between two files of the layer
    let places = [LARGEST - 5000, (8 << 40) - 2500];
    places.into_iter().for_each(|at| daemon.write("web", at, &content));
    let point = daemon.backup("web").point.expect("a point");
    let restored = daemon.restore(&point, "again");
    assert_eq!(restored.error, None);
    for name in [point.as_str(), "again"] {
        let export = daemon.export(name);
        assert_eq!(export.size().get(), LARGEST);
        for at in places {
            let mut back = vec![0; content.len()];
            export.read_at(ByteOffset::new(at), &mut back).expect("read");
            assert_eq!(back, content, "{name} at {at}");
        }
    }
}

#[test]
fn shared_memory_holds_the_maps_of_living_disks_and_nothing_after_a_clean_end() {
    let state = State::new();
    let daemon = state.start();
    let maps = || -> Vec<_> {
        let dirs = state.volatile();
        assert_eq!(dirs.len(), 1, "{dirs:?}");
        std::fs::read_dir(&dirs[0])
            .expect("a directory")
            .map(|entry| entry.expect("an entry").path())
            .collect()
    };
    daemon.create("web", 4 << 20);
    daemon.create("kept", 4 << 20);
    daemon.write("web", 0, &noise(1, 1 << 20));
    daemon.snapshot("web");
    daemon.backup("web");
    daemon.restore("web@1", "again");
    daemon.client().delete_point("web@1", &control::DeletePointQuery::default()).expect("deleted");
    assert_eq!(maps().len(), 3, "{:?}", maps());
    for name in ["web", "again"] {
        wait_until(|| daemon.client().disk(name).expect("a disk").writers == 0);
        daemon.client().delete_disk(name).expect("deleted");
    }
    assert_eq!(maps().len(), 1, "{:?}", maps());
    assert!(daemon.stop().success());
    assert_eq!(state.volatile(), [] as [std::path::PathBuf; 0]);
}

#[test]
fn a_disk_is_renamed_with_its_points_and_its_policy() {
    let state = State::new();
    let daemon = state.start();
    for name in ["web", "db", "vm/x/vda"] {
        daemon.create(name, 1 << 20);
    }
    let content = noise(5, 1 << 20);
    daemon.write("web", 0, &content);
    assert_eq!(daemon.backup("web").error, None);
    daemon.client().protect("web", None).expect("protected");
    daemon.client().protect("vm/x", None).expect("protected");
    let id = daemon.client().disk("web").expect("a disk").id;
    let refused = |name: &str, to: &str| failure(daemon.client().rename_disk(name, to)).0;
    assert_eq!(refused("web", "db"), Kind::Conflict);
    assert_eq!(refused("web", "web"), Kind::Conflict);
    assert_eq!(refused("web", "We b"), Kind::Invalid);
    assert_eq!(refused("none", "mail"), Kind::NotFound);
    assert_eq!(refused("vm/x/vda", "alone"), Kind::Conflict, "it would leave the machine's policy");
    assert_eq!(refused("db", "vm/x/vdz"), Kind::Conflict, "it would come under that policy");
    daemon.create("past", 1 << 20);
    assert_eq!(daemon.backup("past").error, None);
    daemon.client().delete_disk("past").expect("deleted");
    assert_eq!(refused("db", "past"), Kind::Conflict, "past@1 would mean another point");
    let client = daemon.export("web");
    assert_eq!(refused("web", "mail"), Kind::Conflict, "a client is connected");
    drop(client);
    let renamed = daemon.client().rename_disk("web", "mail").expect("renamed");
    assert_eq!((renamed.name.as_str(), renamed.id), ("mail", id));
    assert_eq!(failure(daemon.client().disk("web")).0, Kind::NotFound);
    assert!(daemon.try_export("web").is_err());
    assert_eq!(daemon.client().rename_disk("vm/x/vda", "vm/x/vdb").expect("renamed").name, "vm/x/vdb");
    daemon.kill();
    let daemon = state.start();
    assert!(daemon.read("mail") == content);
    assert!(daemon.read("mail@1") == content);
    assert_eq!(failure(daemon.client().point("web@1")).0, Kind::NotFound);
    let items = daemon.client().items().expect("items");
    assert_eq!(items.iter().map(|item| item.item.as_str()).collect::<Vec<_>>(), ["mail", "vm/x"]);
    assert_eq!(daemon.backup("mail").base.as_deref(), Some("mail@1"), "the next is an increment");
    daemon.create("web", 1 << 20);
    assert_eq!(daemon.snapshot("web"), "web@1", "the name is free");
}
