//! Policies: what is backed up by itself, what goes, and what keeps it from going.

use crate::fixture::{Daemon, State, failure, noise};
use control::{BackupRequest, CreateVault, DeletePointQuery, Kind, Point, Tier, UnprotectQuery};
use std::fs;

const SIZE: usize = 1 << 20;

/// Any time of day: a point made now serves the slot before.
const TWO: &str = "zone = \"UTC\"\n[schedule]\nat = [\"00:00\"]\n[retention]\nlatest = 2\n";

/// The same with a slot that was half an hour ago, so that no other comes while a test runs.
fn due() -> String {
    let slot = jiff::Timestamp::now() - jiff::SignedDuration::from_mins(30);
    TWO.replace("00:00", &slot.strftime("%H:%M").to_string())
}

fn stored() -> (State, Daemon) {
    let state = State::new();
    let daemon = state.start();
    daemon.create("web", SIZE as u64);
    daemon.write("web", 0, &noise(1, SIZE));
    (state, daemon)
}

fn backups(daemon: &Daemon, count: u64) {
    for epoch in 1..=count {
        daemon.write("web", 0, &noise(epoch, 4096));
        assert_eq!(daemon.backup("web").error, None);
    }
}

fn points(daemon: &Daemon) -> Vec<Point> {
    daemon.client().points(Some("web")).expect("points").points
}

fn in_vault(daemon: &Daemon) -> Vec<String> {
    let is_in = |point: &Point| point.tiers.contains(&Tier::Vault);
    points(daemon).into_iter().filter(is_in).map(|point| point.name).collect()
}

fn delete(daemon: &Daemon, name: &str) -> Result<control::PointDeleted, control::Error> {
    daemon.client().delete_point(name, &DeletePointQuery::from(Tier::Vault))
}

#[test]
fn an_item_is_backed_up_once_a_slot() {
    let (state, daemon) = stored();
    daemon.client().apply_policy("two", &due()).expect("a policy");
    assert_eq!(failure(daemon.client().protect("nothing", None)).0, Kind::NotFound);
    assert_eq!(failure(daemon.client().protect("web", Some("daily"))).0, Kind::NotFound);
    let item = daemon.client().protect("web", Some("two")).expect("protected");
    assert_eq!((item.policy.as_str(), item.newest, item.restore_estimate_ms), ("main/two", None, None));
    daemon.eventually("a backup is made", |_| in_vault(&daemon) == ["web@1"]);
    // longer than a round of the keeper
    std::thread::sleep(std::time::Duration::from_secs(12));
    assert_eq!(in_vault(&daemon), ["web@1"], "the slot is served");
    assert_eq!(daemon.restore("web@1", "again").error, None);
    let items = daemon.client().items().expect("items");
    assert!(items[0].newest.is_some() && items[0].next.is_some() && !items[0].is_late, "{items:?}");
    assert!(items[0].restore_estimate_ms.is_some() && !items[0].is_slow, "{items:?}");
    assert!(daemon.stop().success());
    let daemon = state.start();
    assert_eq!(daemon.client().items().expect("items").len(), 1);
    let names: Vec<_> = daemon.client().policies().expect("policies").into_iter().map(|it| it.name).collect();
    assert_eq!(names, ["main/default", "main/two"]);
    assert_eq!(failure(daemon.client().delete_policy("two")).0, Kind::Conflict);
    let query = UnprotectQuery { delete_data: true, pause: false };
    daemon.client().unprotect("web", &query).expect("no more");
    daemon.client().delete_policy("two").expect("deleted");
    assert_eq!(in_vault(&daemon), [""; 0]);
    assert!(daemon.stop().success());
}

#[test]
fn a_point_that_is_kept_by_nothing_goes_and_can_come_back() {
    let (state, daemon) = stored();
    backups(&daemon, 5);
    daemon.client().hold_point("web@2", "audit").expect("held");
    daemon.client().apply_policy("two", TWO).expect("a policy");
    daemon.client().protect("web", Some("two")).expect("protected");
    daemon.eventually("what is not kept goes", |_| in_vault(&daemon) == ["web@2", "web@4", "web@5"]);
    let point = daemon.client().point("web@2").expect("the held one");
    assert_eq!((point.hold.as_deref(), point.policy.as_deref()), (Some("audit"), Some("main/two")));
    assert_eq!(point.kept.iter().map(|kept| kept.reason.as_str()).collect::<Vec<_>>(), ["hold"]);
    let newest = daemon.client().point("web@5").expect("the newest");
    assert_eq!(newest.kept.iter().map(|kept| kept.reason.as_str()).collect::<Vec<_>>(), ["latest", "floor"]);
    // they stay in the instant tier for two days; what comes back does so from the vault
    let instant = DeletePointQuery::from(Tier::Instant);
    daemon.client().delete_point("web@1", &instant).expect("deleted");
    assert_eq!(failure(daemon.client().point("web@1")).0, Kind::NotFound);
    let gone = daemon.client().deleted_points(Some("web")).expect("deleted points").points;
    assert_eq!(gone.iter().map(|point| point.name.as_str()).collect::<Vec<_>>(), ["web@1", "web@3"]);
    assert!(daemon.stop().success());
    let daemon = state.start();
    daemon.client().unprotect("web", &UnprotectQuery { delete_data: false, pause: true }).expect("paused");
    assert_eq!(daemon.client().undelete_point("web@1").expect("it is back").tiers, [Tier::Vault]);
    assert!(
        daemon.read("web@1")[..4096] == noise(1, 4096)
            && daemon.read("web@1")[4096..] == noise(1, SIZE)[4096..]
    );
    assert_eq!(failure(daemon.client().undelete_point("web@1")).0, Kind::NotFound);
    assert!(daemon.stop().success());
}

#[test]
fn the_gate_says_no_where_a_point_is_held_or_was_made_to_be_kept() {
    let (state, daemon) = stored();
    state.make_lab();
    assert!(daemon.stop().success());
    let daemon = state.start();
    let kept = BackupRequest {
        item: "web".into(),
        vault: None,
        keep_seconds: Some(3600),
        ..BackupRequest::default()
    };
    let kept = daemon.finished(&daemon.client().backup(&kept).expect("a job")).point.expect("a point");
    backups(&daemon, 1);
    assert!(failure(delete(&daemon, &kept)).1.contains("made to be kept until"));
    assert!(daemon.client().point(&kept).expect("a point").keep_until.is_some());
    for seconds in [0, u64::MAX] {
        let request =
            BackupRequest { item: "web".into(), keep_seconds: Some(seconds), ..BackupRequest::default() };
        assert_eq!(failure(daemon.client().backup(&request)).0, Kind::Invalid);
    }
    assert_eq!(points(&daemon).len(), 2, "no point is made then");
    daemon.client().hold_point("web@2", "evidence 7").expect("held");
    let (kind, said) = failure(delete(&daemon, "web@2"));
    assert!(kind == Kind::Refused && said.contains("evidence 7"), "{said}");
    assert_eq!(failure(daemon.client().hold_point("web@2", " ")).0, Kind::Invalid);
    assert!(daemon.stop().success());
    // a mark that rots holds its point, and says so
    let marks = state.files("marks");
    assert_eq!(marks.len(), 2);
    let held = marks.iter().find(|path| fs::read_to_string(path).expect("a mark").contains("evidence"));
    fs::write(held.expect("the mark of the hold"), b"hold = ").expect("damaged");
    let daemon = state.start();
    assert_eq!(failure(delete(&daemon, "web@2")).0, Kind::Refused);
    let warnings = daemon.client().status().expect("status").warnings;
    assert!(warnings.iter().any(|warning| warning.contains("marks/")), "{warnings:?}");
    daemon.client().release_point("web@2").expect("released");
    let deleted = delete(&daemon, "web@2").expect("deleted");
    assert_eq!((deleted.until, deleted.remaining), (None, vec![Tier::Instant]), "a lab has no term");
    assert_eq!(daemon.client().deleted_points(None).expect("points").points, []);
    assert!(daemon.stop().success());
}

#[test]
fn deleting_takes_a_term_and_terms_have_bounds() {
    let (_state, daemon) = stored();
    backups(&daemon, 1);
    let deleted = delete(&daemon, "web@1").expect("deleted");
    assert!(deleted.until.is_some());
    let usage = daemon.client().vault_usage("main").expect("usage");
    assert_eq!(usage.bytes_unreferenced, 0, "its data is all there");
    let outside = tempfile::tempdir().expect("a directory");
    let store = outside.path().join("store").display().to_string();
    let make = |days| {
        let soft_delete_days = Some(days);
        daemon.client().create_vault(&CreateVault {
            name: "far".into(),
            store: store.clone(),
            soft_delete_days,
            ..CreateVault::default()
        })
    };
    assert_eq!(failure(make(13)).0, Kind::Invalid);
    assert_eq!(failure(make(181)).0, Kind::Invalid);
    assert_eq!(make(180).expect("a vault").soft_delete_days, 180);
    assert!(daemon.client().policy("far/default").is_ok(), "a vault is born with a policy");
}

#[test]
fn a_policy_that_lets_points_go_takes_a_plan() {
    let (_state, daemon) = stored();
    backups(&daemon, 4);
    let roomy = TWO.replace("latest = 2", "latest = 10");
    daemon.client().apply_policy("two", &roomy).expect("a policy");
    daemon.client().protect("web", Some("two")).expect("protected");
    let (kind, said) = failure(daemon.client().apply_policy("two", TWO));
    assert!(kind == Kind::Refused && said.contains("2 recovery points"), "{said}");
    let plan = daemon.client().plan_policy("two", TWO).expect("a plan");
    let lost: Vec<_> = plan.lost.iter().map(|point| point.point.as_str()).collect();
    assert_eq!(lost, ["web@1", "web@2"]);
    assert!(plan.lost[0].bytes > SIZE as u64 / 2 && plan.lost[1].bytes < 100_000, "{:?}", plan.lost);
    // what was planned is no more what would happen
    backups(&daemon, 1);
    assert_eq!(failure(daemon.client().apply_plan(&plan.id)).0, Kind::Conflict);
    assert_eq!(failure(daemon.client().apply_plan("0123")).0, Kind::NotFound);
    let plan = daemon.client().plan_policy("two", TWO).expect("a plan");
    assert_eq!(plan.lost.len(), 3);
    assert_eq!(in_vault(&daemon).len(), 5, "a plan does nothing");
    daemon.client().apply_plan(&plan.id).expect("applied");
    daemon.eventually("they go", |_| in_vault(&daemon) == ["web@4", "web@5"]);
    let longer = daemon.client().plan_policy("two", &roomy).expect("a plan");
    assert!(longer.lost.is_empty());
    let (kind, said) = failure(daemon.client().apply_policy("two", "[schedule]\nat = [\"2:00\"]\n"));
    assert!(kind == Kind::Invalid, "{said}");
}
