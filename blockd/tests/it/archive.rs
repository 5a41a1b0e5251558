//! The archive tier: points that leave their vaults, are listed without being read, and come back for a time.

use crate::fixture::{Daemon, State, failure, job_failure, noise};
use control::{
    ArchivePoint, BackupRequest, CreateVault, DeletePointQuery, Immutability, Job, JobState, Kind,
    RehydratePoint, RestoreRequest, RunRequest, Tier, VaultProtection,
};
use std::fs;
use std::path::Path;

const SIZE: usize = 4 << 20;

/// A disk with two points in the vault `main`, the first of which no tier but vaults holds, and an archive `cold`.
fn with_archive(state: &State, cold: &Path) -> (Daemon, Vec<u8>) {
    let daemon = state.start();
    daemon.create("web", SIZE as u64);
    let first = noise(1, SIZE);
    daemon.write("web", 0, &first);
    assert_eq!(daemon.backup("web").error, None);
    daemon.write("web", 0, &noise(2, 1 << 20));
    assert_eq!(daemon.backup("web").error, None);
    daemon.client().delete_point("web@1", &DeletePointQuery::from(Tier::Instant)).expect("deleted");
    let store = cold.display().to_string();
    let request = CreateVault { name: "cold".into(), store, archive: true, ..CreateVault::default() };
    assert!(daemon.client().create_vault(&request).expect("an archive").archive);
    (daemon, first)
}

fn archive(daemon: &Daemon, point: &str) -> Job {
    let begun = daemon.client().archive_point(point, &ArchivePoint { to: "cold".into() }).expect("begun");
    daemon.finished(&begun)
}

fn rehydrate(daemon: &Daemon, point: &str, seconds: u64) -> Job {
    let request = RehydratePoint { seconds, vault: None };
    daemon.finished(&daemon.client().rehydrate_point(point, &request).expect("begun"))
}

fn tiers(daemon: &Daemon, point: &str) -> Vec<Tier> {
    daemon.client().point(point).expect("a point").tiers
}

/// Has the appliance believe that it is so many days later.
fn later(state: &State, days: i64) {
    let ms = jiff::Timestamp::now().as_millisecond() + days * 86_400_000;
    fs::write(state.file("clock"), format!("seen_unix_ms = {ms}\n")).expect("written");
}

#[test]
fn a_point_goes_to_an_archive_and_comes_back_for_a_time() {
    let (state, cold) = (State::new(), tempfile::tempdir().expect("a directory"));
    let place = cold.path().join("store");
    let (daemon, first) = with_archive(&state, &place);
    let client = daemon.client();
    // what it costs: all of it there, and freed only what the second point does not need
    let cost = client.archive_cost("web@1", "cold").expect("a cost");
    let near = |bytes: u64, mib: u64| bytes.abs_diff(mib << 20) < 128 << 10;
    let point = &cost.points[0];
    assert!(near(point.bytes_archived, 4) && near(point.bytes_freed, 1), "{cost:?}");
    assert_eq!((point.vault.as_str(), &point.obstacle), ("main", &None));
    let job = archive(&daemon, "web@1");
    assert_eq!((job.state, job.error.clone()), (JobState::Done, None), "{job:?}");
    assert!(job.bytes_stored > SIZE as u64 && job.chunks_reused == 0, "{job:?}");
    let shown = client.point("web@1").expect("listed");
    assert_eq!(
        (shown.tiers, shown.vaults, shown.archives),
        (vec![Tier::Archive], vec![], vec!["cold".into()])
    );
    assert_eq!(
        client.deleted_points(None).expect("points").points[0].name,
        "web@1",
        "the vault's can come back"
    );
    // it is not read there, and every way in says what to do
    let rehydrates = |(kind, said): (Kind, String)| {
        assert!(kind == Kind::Unavailable && said.contains("archive cold"), "{kind:?} {said}");
    };
    let run = RunRequest { point: "web@1".into(), name: "back".into(), hydrate: true };
    let refused = client.run(&run).expect_err("archived");
    assert!(refused.help().is_some_and(|help| help.contains("rehydrate web@1 --for")), "{refused:?}");
    rehydrates(failure(client.run(&run)));
    rehydrates(job_failure(&daemon.restore("web@1", "new")));
    assert!(daemon.try_export("web@1").is_err());
    let request = RestoreRequest { point: "web@1".into(), to: "new".into(), ..RestoreRequest::default() };
    let preflight = client.preflight(&request).expect("told");
    assert!(preflight.tier == Tier::Archive && !preflight.unlocked, "{preflight:?}");
    assert!(preflight.obstacles.iter().any(|said| said.contains("archive cold")), "{preflight:?}");
    // the disk goes into the cupboard
    assert!(daemon.stop().success());
    let cupboard = cold.path().join("cupboard");
    fs::rename(&place, &cupboard).expect("moved");
    let daemon = state.start();
    assert_eq!(tiers(&daemon, "web@1"), [Tier::Archive]);
    assert_eq!(rehydrate(&daemon, "web@1", 3600).state, JobState::Done, "the vault still had it");
    let query = DeletePointQuery::from(Tier::Vault);
    let (kind, said) = failure(daemon.client().delete_point("web@1", &query));
    assert!(kind == Kind::Refused && said.contains("archive cold"), "what cannot be seen is no copy: {said}");
    let query = DeletePointQuery { last_copy: true, ..query };
    daemon.client().delete_point("web@1", &query).expect("deleted again");
    assert!(daemon.stop().success());
    // and is taken out again; a catalog that is lost forgets nothing then
    fs::rename(&cupboard, &place).expect("moved back");
    fs::remove_file(state.file("catalog.db")).expect("removed");
    later(&state, 20);
    let daemon = state.start();
    daemon.eventually("the vault's copy is gone for good", |client| {
        client.deleted_points(None).expect("points").points.is_empty()
    });
    let job = rehydrate(&daemon, "web@1", 3600);
    assert_eq!((job.state, job.error.clone()), (JobState::Done, None), "{job:?}");
    assert!(job.chunks_reused >= 768, "what the vault has is not stored again: {job:?}");
    assert_eq!(tiers(&daemon, "web@1"), [Tier::Vault, Tier::Archive]);
    assert!(daemon.client().point("web@1").expect("a point").rehydrated_until.is_some());
    assert!(daemon.read("web@1") == first);
    assert!(daemon.stop().success());
    later(&state, 21);
    let daemon = state.start();
    daemon.eventually("its time is over", |_| tiers(&daemon, "web@1") == [Tier::Archive]);
    // what is asked for again is not copied while it can come back
    let job = rehydrate(&daemon, "web@1", 3600);
    assert_eq!((job.state, job.bytes_read), (JobState::Done, 0), "{job:?}");
    assert!(daemon.read("web@1") == first);
    let check = daemon.finished(&daemon.client().check_vault("cold").expect("begun"));
    assert_eq!(check.state, JobState::Done, "{check:?}");
    daemon.client().delete_point("web@1", &DeletePointQuery::from(Tier::Archive)).expect("deleted");
    assert_eq!(tiers(&daemon, "web@1"), [Tier::Vault]);
}

#[test]
fn nothing_leaves_a_vault_before_it_is_proven_to_lie_in_the_archive() {
    let (state, cold) = (State::new(), tempfile::tempdir().expect("a directory"));
    let place = cold.path().join("store");
    let (daemon, first) = with_archive(&state, &place);
    assert_eq!(archive(&daemon, "web@1").error, None);
    assert_eq!(rehydrate(&daemon, "web@1", 3600).error, None);
    let packs: Vec<_> =
        files(&place).into_iter().filter(|path| path.display().to_string().contains("packs")).collect();
    for pack in &packs {
        let mut bytes = fs::read(pack).expect("a pack");
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        fs::write(pack, bytes).expect("damaged");
    }
    let (kind, said) = job_failure(&archive(&daemon, "web@1"));
    assert_eq!(kind, Kind::Corrupt, "{said}");
    assert_eq!(tiers(&daemon, "web@1"), [Tier::Vault, Tier::Archive], "the vault's stays");
    assert!(daemon.read("web@1") == first);
}

#[test]
fn what_may_not_leave_stays() {
    let (state, cold) = (State::new(), tempfile::tempdir().expect("a directory"));
    let (daemon, _) = with_archive(&state, &cold.path().join("store"));
    let client = daemon.client();
    let to = |name: &str| ArchivePoint { to: name.into() };
    assert_eq!(failure(client.archive_point("web@1", &to("nowhere"))).0, Kind::NotFound);
    let (kind, said) = failure(client.archive_point("web@1", &to("main")));
    assert!(kind == Kind::Invalid && said.contains("no archive"), "{said}");
    client.hold_point("web@1", "audit").expect("held");
    let (kind, said) = failure(client.archive_point("web@1", &to("cold")));
    assert!(kind == Kind::Refused && said.contains("audit"), "{said}");
    let obstacle = client.archive_cost("web@1", "cold").expect("a cost").points[0].obstacle.clone();
    assert!(obstacle.is_some_and(|why| why.contains("audit")));
    client.release_point("web@1").expect("released");
    let days = VaultProtection {
        immutability: Some(Immutability::On),
        immutable_days: Some(7),
        ..VaultProtection::default()
    };
    client.protect_vault("main", &days).expect("protected");
    assert_eq!(failure(client.archive_point("web@1", &to("cold"))).0, Kind::Refused);
    daemon.snapshot("web");
    let (kind, said) = failure(client.archive_point("web@3", &to("cold")));
    assert!(kind == Kind::Conflict && said.contains("no vault holds it"), "{said}");
    let backup = BackupRequest { item: "web".into(), vault: Some("cold".into()), ..BackupRequest::default() };
    assert_eq!(failure(client.backup(&backup)).0, Kind::Invalid);
    let request = RehydratePoint { seconds: 60, vault: None };
    assert_eq!(failure(client.rehydrate_point("web@1", &request)).0, Kind::Conflict);
    assert_eq!(failure(client.rehydrate_point("web@9", &request)).0, Kind::NotFound);
    assert!(client.policies().expect("policies").iter().all(|policy| policy.name != "cold/default"));
    let policy =
        "[schedule]\nat = [\"00:00\"]\n[retention]\ndaily = 1\n[archive]\nto = \"main\"\nafter-days = 1\n";
    assert_eq!(failure(client.apply_policy("far", policy)).0, Kind::Invalid);
    assert_eq!(failure(client.apply_policy("cold/own", policy)).0, Kind::Invalid);
    assert_eq!(tiers(&daemon, "web@1"), [Tier::Vault]);
}

#[test]
fn a_policy_sends_points_to_the_archive_and_judges_them_there() {
    let (state, cold) = (State::new(), tempfile::tempdir().expect("a directory"));
    let (daemon, first) = with_archive(&state, &cold.path().join("store"));
    assert_eq!(daemon.backup("web").error, None);
    let policy = |monthly: &str| {
        format!(
            "zone = \"UTC\"\n[schedule]\nat = [\"00:00\"]\n[retention]\nlatest = 1\n{monthly}\
             [archive]\nto = \"cold\"\nafter-days = 1\n"
        )
    };
    let with_months = policy("monthly = { count = 12, day = 1 }\n");
    daemon.client().apply_policy("far", &with_months).expect("a policy");
    daemon.client().protect("web", Some("far")).expect("protected");
    daemon.eventually("what nothing keeps goes", |client| {
        client.deleted_points(None).expect("points").points.iter().any(|point| point.name == "web@2")
    });
    assert_eq!(tiers(&daemon, "web@1"), [Tier::Vault], "it is too young");
    assert!(daemon.stop().success());
    later(&state, 2);
    let daemon = state.start();
    daemon.eventually("the old one is archived", |_| tiers(&daemon, "web@1") == [Tier::Archive]);
    let kept = daemon.client().point("web@1").expect("a point").kept;
    assert_eq!(kept.iter().map(|kept| kept.reason.as_str()).collect::<Vec<_>>(), ["monthly"]);
    assert!(tiers(&daemon, "web@3").contains(&Tier::Vault), "the newest stays");
    // brought back it is left alone as long as it was asked for
    assert_eq!(rehydrate(&daemon, "web@1", 86_400).error, None);
    assert!(daemon.read("web@1") == first);
    daemon.client().apply_policy("far", &with_months).expect("again, which makes a round");
    std::thread::sleep(std::time::Duration::from_secs(1));
    assert_eq!(tiers(&daemon, "web@1"), [Tier::Vault, Tier::Archive]);
    // a policy without months lets it go from both
    let text = policy("daily = 1\n");
    assert_eq!(failure(daemon.client().apply_policy("far", &text)).0, Kind::Refused);
    let plan = daemon.client().plan_policy("far", &text).expect("a plan");
    assert!(plan.lost.iter().any(|lost| lost.point == "web@1"), "{plan:?}");
    daemon.client().apply_plan(&plan.id).expect("applied");
    daemon.eventually("it goes from both", |client| {
        client.points(Some("web")).expect("points").points.iter().all(|point| point.name != "web@1")
    });
}

fn files(dir: &Path) -> Vec<std::path::PathBuf> {
    let entries = fs::read_dir(dir).expect("a directory").map(|entry| entry.expect("an entry").path());
    entries.flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] }).collect()
}

#[test]
fn what_was_deleted_from_the_archive_is_archived_again_and_stays() {
    let (state, cold) = (State::new(), tempfile::tempdir().expect("a directory"));
    let (daemon, first) = with_archive(&state, &cold.path().join("store"));
    assert_eq!(archive(&daemon, "web@1").error, None);
    assert_eq!(rehydrate(&daemon, "web@1", 86_400).error, None);
    daemon.client().delete_point("web@1", &DeletePointQuery::from(Tier::Archive)).expect("home for good");
    assert_eq!(archive(&daemon, "web@1").error, None);
    assert_eq!(tiers(&daemon, "web@1"), [Tier::Archive]);
    assert_eq!(rehydrate(&daemon, "web@1", 60).error, None);
    assert!(daemon.read("web@1") == first);
}

#[test]
fn nothing_is_lost_or_written_where_nothing_is_mounted_any_longer() {
    let (state, cold) = (State::new(), tempfile::tempdir().expect("a directory"));
    let place = cold.path().join("store");
    let (daemon, first) = with_archive(&state, &place);
    let client = daemon.client();
    assert_eq!(archive(&daemon, "web@1").error, None);
    let far = cold.path().join("far");
    let request =
        CreateVault { name: "far".into(), store: far.display().to_string(), ..CreateVault::default() };
    client.create_vault(&request).expect("a vault");
    let backup = || {
        let request =
            BackupRequest { item: "web".into(), vault: Some("far".into()), ..BackupRequest::default() };
        daemon.finished(&client.backup(&request).expect("begun"))
    };
    assert_eq!(backup().error, None);
    // as an unmounted directory looks
    let away = |dir: &Path| {
        fs::rename(dir, dir.with_extension("away")).expect("away");
        fs::create_dir(dir).expect("an empty directory");
    };
    [&place, &far].into_iter().for_each(|dir| away(dir));
    assert_eq!(tiers(&daemon, "web@1"), [Tier::Archive], "it is known what lies there");
    let warnings = client.status().expect("status").warnings;
    assert!(!warnings.iter().any(|warning| warning.contains("lost")), "{warnings:?}");
    assert!(warnings.iter().any(|warning| warning.contains("still mounted")), "{warnings:?}");
    let (kind, said) = job_failure(&backup());
    assert!(kind == Kind::Unavailable && said.contains("still mounted"), "{kind:?} {said}");
    for dir in [&place, &far] {
        assert_eq!(files(dir), [""; 0].map(std::path::PathBuf::from), "nothing is written there");
        fs::remove_dir(dir).expect("still empty");
        fs::rename(dir.with_extension("away"), dir).expect("mounted again");
    }
    assert_eq!(backup().error, None);
    assert_eq!(rehydrate(&daemon, "web@1", 3600).error, None);
    assert_eq!(daemon.read("web@1"), first);
}
