//! Machines and groups: `vm/web` is its disks `vm/web/vda`, `group/shop` its members, and their points.

use crate::fixture::{State, failure, noise};
use block::BlockSource;
use control::{
    BackupRequest, ChangesQuery, CreateDisk, JobState, Kind, Point, Tier, TransferKind, UnprotectQuery,
};

fn names(points: &[Point]) -> Vec<&str> {
    points.iter().map(|point| point.name.as_str()).collect()
}

#[test]
fn the_disks_of_a_machine_have_points_at_one_instant_under_one_number() {
    let state = State::new();
    let daemon = state.start();
    let client = daemon.client();
    ["vm/web/vda", "vm/web/vdb", "vm/web2/vda", "web"]
        .into_iter()
        .for_each(|name| daemon.create(name, 1 << 20));
    let uri = client.disk("vm/web/vda").expect("a disk").uri;
    assert!(uri.starts_with("nbd+unix:///vm/web/vda?socket="), "{uri}");
    let first = noise(1, 1 << 20);
    daemon.write("vm/web/vda", 0, &first);
    // one disk alone runs ahead
    assert_eq!(daemon.snapshot("vm/web/vda"), "vm/web/vda@1");
    let points = client.snapshot(&["vm/web".into()]).expect("points");
    assert_eq!(names(&points), ["vm/web/vda@2", "vm/web/vdb@2"]);
    assert_eq!(points[0].time, points[1].time);
    daemon.write("vm/web/vda", 4096, &noise(2, 4096));
    // a point's export, by both ways in
    assert_eq!(daemon.read("vm/web/vda@2"), first);
    let found = client.point("vm/web/vda@2").expect("a point");
    let export: nbd::Uri = found.uri.parse().expect("a URI");
    assert_eq!(nbd::Client::connect(&export, 1).expect("served").size().get(), 1 << 20);
    let since = ChangesQuery { since: Some("vm/web/vda@2".into()), until: None };
    assert_eq!(client.changes("vm/web/vda", &since).expect("changes").bytes, 4096);
    let listed = |item: &str| client.points(Some(item)).expect("points").points;
    assert_eq!(names(&listed("vm/web")), ["vm/web/vda@1", "vm/web/vda@2", "vm/web/vdb@2"]);
    assert_eq!(names(&listed("vm/web@2")), ["vm/web/vda@2", "vm/web/vdb@2"]);
    assert_eq!(names(&listed("vm/web@latest")), ["vm/web/vda@2", "vm/web/vdb@2"]);
    assert_eq!(names(&listed("vm/web/vdb@2")), ["vm/web/vdb@2"]);
    // what takes one disk's point says which there are
    let error = client.point("vm/web@2").expect_err("several");
    assert_eq!(error.kind(), Kind::Invalid, "{error}");
    assert!(
        error.help().is_some_and(|help| help.contains("vm/web/vda@2, vm/web/vdb@2")),
        "{:?}",
        error.help()
    );
    for (missing, asked) in [("vm/web@9", "vm/web@9"), ("vm/none@1", "vm/none@1")] {
        let (kind, message) = failure(client.points(Some(asked)));
        assert_eq!(kind, Kind::NotFound, "{message}");
        assert!(message.contains(missing), "{message}");
    }
    assert_eq!(failure(client.points(Some("vm/none"))).0, Kind::NotFound);
    assert_eq!(failure(client.snapshot(&["vm/none".into()])).0, Kind::NotFound);
    let twice = failure(client.snapshot(&["vm/web".into(), "vm/web/vdb".into()]));
    assert!(twice.0 == Kind::Invalid && twice.1.contains("vm/web/vdb"), "{twice:?}");
    for bad in ["vm/web", "vm/web/", "vm//vda", "vm/web/vda/x", "vm/Web/vda", "other/web/vda"] {
        let (kind, message) = failure(client.create_disk(&CreateDisk {
            name: bad.into(),
            size: 4096,
            fill: false,
            base: None,
        }));
        assert_eq!(kind, Kind::Invalid, "{message}");
    }
    client.delete_disk("vm/web/vdb").expect("deleted");
    assert_eq!(names(&client.snapshot(&["vm/web".into()]).expect("points")), ["vm/web/vda@3"]);
}

#[test]
fn a_machine_is_backed_up_as_one_and_each_disk_restores() {
    let state = State::new();
    let daemon = state.start();
    let contents = [noise(1, 1 << 20), noise(2, 2 << 20)];
    for (name, content) in ["vm/db/vda", "vm/db/vdb"].into_iter().zip(&contents) {
        daemon.create(name, content.len() as u64);
        daemon.write(name, 0, content);
    }
    let backup = || daemon.backup("vm/db");
    let full = backup();
    assert_eq!((full.state, full.kind, full.base), (JobState::Done, Some(TransferKind::Full), None));
    assert_eq!((full.point.as_deref(), full.bytes_changed), (Some("vm/db@1"), 3 << 20));
    assert_eq!((full.bytes_done, full.bytes_total), (3 << 20, 3 << 20));
    daemon.write("vm/db/vdb", 65536, &noise(3, 4096));
    let next = backup();
    assert_eq!((next.kind, next.bytes_changed), (Some(TransferKind::Incremental), 4096));
    assert_eq!(next.base.as_deref(), Some("vm/db/vda@1, vm/db/vdb@1"));
    ["vm/db/vda", "vm/db/vdb"]
        .into_iter()
        .for_each(|name| drop(daemon.client().delete_disk(name).expect("gone")));
    for (name, content) in ["vda", "vdb"].into_iter().zip(&contents) {
        let job = daemon.restore(&format!("vm/db/{name}@1"), &format!("vm/again/{name}"));
        assert_eq!(job.error, None);
        assert_eq!(daemon.read(&format!("vm/again/{name}")), *content);
    }
    // points of a machine none of whose disks lives
    let listed = daemon.client().points(Some("vm/db@2")).expect("points").points;
    assert_eq!(names(&listed), ["vm/db/vda@2", "vm/db/vdb@2"]);
    let request = BackupRequest { item: "vm/none".into(), ..BackupRequest::default() };
    assert_eq!(failure(daemon.client().backup(&request)).0, Kind::NotFound);
}

fn strings(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

#[test]
fn a_group_is_one_item_of_disks_and_machines() {
    let state = State::new();
    let daemon = state.start();
    let client = daemon.client();
    ["vm/web/vda", "vm/web/vdb", "db"].into_iter().for_each(|name| daemon.create(name, 1 << 20));
    assert_eq!(failure(client.set_group("group/shop", &strings(&["vm/web", "gone"]))).0, Kind::NotFound);
    assert_eq!(failure(client.set_group("shop", &strings(&["db"]))).0, Kind::Invalid);
    assert_eq!(failure(client.set_group("group/shop", &strings(&["vm/web", "vm/web/vda"]))).0, Kind::Invalid);
    let group = client.set_group("group/shop", &strings(&["vm/web", "db"])).expect("made");
    assert_eq!(group.disks, ["vm/web/vda", "vm/web/vdb", "db"]);
    // a member runs ahead by itself
    assert_eq!(daemon.snapshot("db"), "db@1");
    let content = noise(1, 1 << 20);
    daemon.write("db", 0, &content);
    daemon.write("vm/web/vda", 0, &content);
    let full = daemon.backup("group/shop");
    assert_eq!((full.error.clone(), full.point.as_deref()), (None, Some("group/shop@2")));
    let listed = |item: &str| client.points(Some(item)).expect("points").points;
    assert_eq!(names(&listed("group/shop@2")), ["db@2", "vm/web/vda@2", "vm/web/vdb@2"]);
    assert_eq!(names(&listed("group/shop")), ["db@1", "db@2", "vm/web/vda@2", "vm/web/vdb@2"]);
    assert!(listed("group/shop@latest").windows(2).all(|two| two[0].time == two[1].time));
    assert_eq!(daemon.read("db@2"), content);
    // the same number of one member alone is no point of the group
    assert_eq!(daemon.snapshot("db"), "db@3");
    assert_eq!(failure(client.points(Some("group/shop@3"))).0, Kind::NotFound);
    assert_eq!(failure(client.point("group/shop@2")).0, Kind::Invalid);
    assert_eq!(failure(client.points(Some("group/none@1"))).0, Kind::NotFound);
    // its members are spoken for, the last disk of a machine too, and none comes to be in it twice
    assert_eq!(failure(client.delete_disk("db")).0, Kind::Conflict);
    client.delete_disk("vm/web/vdb").expect("one of two");
    assert_eq!(failure(client.delete_disk("vm/web/vda")).0, Kind::Conflict);
    assert_eq!(failure(client.rename_disk("db", "vm/web/db")).0, Kind::Invalid);
    assert_eq!(client.rename_disk("db", "data").expect("renamed").name, "data");
    assert_eq!(client.group("group/shop").expect("it follows").members, ["vm/web", "data"]);
    assert!(daemon.stop().success());
    let daemon = state.start();
    let client = daemon.client();
    assert_eq!(client.groups().expect("groups").len(), 1);
    // a renaming that a kill cut short is ended at the next start
    assert!(daemon.stop().success());
    let groups = std::fs::read_to_string(state.file("groups.toml")).expect("the groups");
    std::fs::write(state.file("groups.toml"), groups.replace("data", "db")).expect("as before the kill");
    std::fs::write(state.file("renaming.toml"), "from = \"db\"\nto = \"data\"\n").expect("as at the kill");
    let daemon = state.start();
    let client = daemon.client();
    assert_eq!(client.group("group/shop").expect("it follows").members, ["vm/web", "data"]);
    assert!(!state.file("renaming.toml").exists());
    client.delete_group("group/shop").expect("removed");
    client.delete_disk("data").expect("nobody names it");
}

#[test]
fn a_group_stands_under_a_policy_with_all_its_members() {
    let state = State::new();
    let daemon = state.start();
    let client = daemon.client();
    ["vm/web/vda", "db", "mail"].into_iter().for_each(|name| daemon.create(name, 1 << 20));
    client.set_group("group/shop", &strings(&["vm/web", "db"])).expect("made");
    let always = "[schedule]\nevery-hours = 1\n[retention]\nlatest = 2\n";
    client.apply_policy("often", always).expect("a policy");
    client.protect("group/shop", Some("often")).expect("protected");
    let stored = |item: &str| {
        let points = client.points(Some(item)).expect("points").points;
        points.into_iter().filter(|point| point.tiers.contains(&Tier::Vault)).collect::<Vec<_>>()
    };
    daemon.eventually("a backup of them all is made", |_| stored("group/shop").len() == 2);
    let made = stored("group/shop");
    assert_eq!((names(&made), &made[0].time), (vec!["db@1", "vm/web/vda@1"], &made[1].time));
    let point = client.point("vm/web/vda@1").expect("a point");
    assert_eq!(point.policy.as_deref(), Some("main/often"));
    assert_eq!(client.policy("often").expect("it").items, ["group/shop"]);
    // nothing stands under two
    for item in ["db", "vm/web", "vm/web/vda"] {
        assert_eq!(failure(client.protect(item, None)).0, Kind::Conflict, "{item}");
    }
    client.protect("mail", None).expect("another");
    assert_eq!(failure(client.set_group("group/shop", &strings(&["vm/web", "mail"]))).0, Kind::Conflict);
    assert_eq!(failure(client.delete_group("group/shop")).0, Kind::Conflict);
    // a disk of a machine in it leaves by no back door
    assert_eq!(failure(client.rename_disk("vm/web/vda", "web")).0, Kind::Conflict);
    client.rename_disk("db", "data").expect("it stays a member");
    assert_eq!(client.point("data@1").expect("a point").policy.as_deref(), Some("main/often"));
    // five backups later two points of each are left
    for _ in 0..5 {
        assert_eq!(daemon.backup("group/shop").error, None);
    }
    client.apply_policy("often", &format!("{always}# again\n")).expect("wakes the keeper");
    daemon.eventually("what is not kept goes", |_| stored("group/shop").len() == 4);
    assert_eq!(names(&stored("group/shop@latest")), ["data@6", "vm/web/vda@6"]);
    // where its members cannot be told nothing is planned, applied or deleted
    assert!(daemon.stop().success());
    let groups = std::fs::read(state.file("groups.toml")).expect("the groups");
    std::fs::write(state.file("groups.toml"), b"groups = 7").expect("damaged");
    let daemon = state.start();
    let client = daemon.client();
    let harsh = "[schedule]\nevery-hours = 1\n[retention]\nlatest = 1\n";
    assert_eq!(failure(client.plan_policy("often", harsh)).0, Kind::Corrupt);
    assert_eq!(failure(client.apply_policy("often", harsh)).0, Kind::Corrupt);
    let all = UnprotectQuery { delete_data: true, pause: false };
    assert_eq!(failure(client.unprotect("group/shop", &all)).0, Kind::Corrupt);
    let warnings = client.status().expect("status").warnings;
    assert!(warnings.iter().any(|warning| warning.contains("no group can be used")), "{warnings:?}");
    assert!(daemon.stop().success());
    std::fs::write(state.file("groups.toml"), groups).expect("put back");
    let daemon = state.start();
    let client = daemon.client();
    let retained = UnprotectQuery { delete_data: false, pause: false };
    client.unprotect("group/shop", &retained).expect("no more");
    client.delete_group("group/shop").expect("removed");
}
