//! The gate beyond holds and terms: a second person, immutability, and time that jumps.

use crate::fixture::{Daemon, State, failure, noise};
use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair};
use control::{
    Approval, ApprovalState, AuditOutcome, AuditQuery, Client, CreateToken, DeletePointQuery, Immutability,
    JobState, Kind, Role, Tier, UnprotectQuery, VaultProtection, signed_text,
};
use std::fs;

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A guard: its key, and its own client.
struct Guard {
    pair: Ed25519KeyPair,
    client: Client,
}

impl Guard {
    fn enrol(daemon: &Daemon, name: &str) -> Self {
        let pair = Ed25519KeyPair::generate().expect("a key");
        let key = Some(hex(pair.public_key().as_ref()));
        let (vaults, items) = (Vec::new(), Vec::new());
        let request = CreateToken { name: name.into(), role: Role::Guard, vaults, items, days: None, key };
        let secret = daemon.client().create_token(&request).expect("a guard").secret;
        let client = Client::new(daemon.client().socket()).expect("a client").with_token(secret);
        Self { pair, client }
    }

    fn sign(&self, approval: &Approval) -> String {
        hex(self.pair.sign(signed_text(&approval.statement, ApprovalState::Approved).as_bytes()).as_ref())
    }

    /// Approves the one request that waits.
    fn approve(&self) -> Approval {
        let waits = |approval: &Approval| approval.state == ApprovalState::Pending;
        let pending: Vec<_> = self.client.approvals().expect("approvals").into_iter().filter(waits).collect();
        let [approval] = pending.as_slice() else { panic!("one waits, not {pending:#?}") };
        self.client.decide_approval(&approval.id, true, &self.sign(approval)).expect("approved")
    }
}

fn stored(count: u64) -> (State, Daemon) {
    let state = State::new();
    let daemon = state.start();
    daemon.create("web", 1 << 20);
    for seed in 1..=count {
        daemon.write("web", 0, &noise(seed, 4096));
        assert_eq!(daemon.backup("web").state, JobState::Done);
    }
    (state, daemon)
}

fn delete(daemon: &Daemon, name: &str) -> Result<control::PointDeleted, control::Error> {
    daemon.client().delete_point(name, &DeletePointQuery::from(Tier::Vault))
}

fn protect(daemon: &Daemon, request: VaultProtection) -> Result<control::Vault, control::Error> {
    daemon.client().protect_vault("main", &request)
}

#[test]
fn what_is_critical_takes_a_guard_once() {
    let (state, daemon) = stored(4);
    delete(&daemon, "web@1").expect("without a guard an admin is enough");
    let guard = Guard::enrol(&daemon, "eve");
    let (kind, said) = failure(delete(&daemon, "web@2"));
    assert!(kind == Kind::Refused && said.contains("approval of a guard"), "{said}");
    assert!(daemon.client().point("web@2").expect("there").tiers.contains(&Tier::Vault));
    // an admin cannot sign, and a guard cannot ask
    let pending = daemon.client().approvals().expect("approvals").remove(0);
    let by_admin = daemon.client().decide_approval(&pending.id, true, &guard.sign(&pending));
    assert_eq!(failure(by_admin).0, Kind::Refused);
    let by_guard = guard.client.delete_point("web@2", &DeletePointQuery::from(Tier::Vault));
    assert_eq!(failure(by_guard).0, Kind::Refused);
    // signed for one, another is asked for
    let approved = guard.approve();
    assert_eq!(approved.about["point"], "web@2");
    assert_eq!(failure(delete(&daemon, "web@3")).0, Kind::Refused);
    daemon.kill();
    let daemon = state.start();
    delete(&daemon, "web@2").expect("approved, over a crash");
    let used = daemon.client().approval(&approved.id).expect("it");
    assert_eq!((used.state, used.guard.as_deref()), (ApprovalState::Used, Some("token eve")));
    daemon.client().undelete_point("web@2").expect("it is back");
    assert_eq!(failure(delete(&daemon, "web@2")).0, Kind::Refused, "once is once");
    let replay = guard.client.decide_approval(&approved.id, true, &guard.sign(&approved));
    assert_eq!(failure(replay).0, Kind::Refused);
    // the instant tier is not stored data; its copies go as ever
    daemon.client().delete_point("web@3", &DeletePointQuery::from(Tier::Instant)).expect("deleted");
    let entries = daemon.client().audit(&AuditQuery::default()).expect("entries");
    let is_by = |entry: &&control::AuditEntry| {
        let approval = entry.about.get("approval").and_then(|id| id.as_str());
        entry.action.starts_with("DELETE") && approval == Some(used.id.as_str())
    };
    let passed = entries.iter().find(is_by);
    let passed = passed.expect("the log says by which approval");
    assert_eq!((passed.action.as_str(), passed.outcome), ("DELETE /v1/points/{point}", AuditOutcome::Asked));
}

/// Every verb that the issue of a second person is about asks for one, and leaving the second person out is one of them.
#[test]
fn every_way_around_a_guard_takes_that_guard() {
    let (_state, daemon) = stored(3);
    let roomy = "zone = \"UTC\"\n[schedule]\nat = [\"00:00\"]\n[retention]\nlatest = 10\n";
    let tight = roomy.replace("10", "1");
    let client = daemon.client();
    client.apply_policy("roomy", roomy).expect("a policy");
    client.apply_policy("tight", &tight).expect("a policy that nothing stands under");
    client.protect("web", Some("roomy")).expect("protected");
    let guard = Guard::enrol(&daemon, "eve");
    let plan = client.plan_policy("roomy", &tight).expect("a plan");
    assert_eq!(plan.lost.len(), 2);
    let token = |name: &str, role, key| CreateToken {
        name: name.to_owned(),
        role,
        vaults: Vec::new(),
        items: Vec::new(),
        days: None,
        key,
    };
    let other_guard = token("mallory", Role::Guard, Some("ab".repeat(32)));
    let delete_data = UnprotectQuery { delete_data: true, pause: false };
    let shorter = VaultProtection { soft_delete_days: Some(14), ..VaultProtection::default() };
    protect(&daemon, VaultProtection { soft_delete_days: Some(30), ..shorter }).expect("longer needs nobody");
    for (what, error) in [
        ("delete a point", delete(&daemon, "web@1").err()),
        ("delete all data", client.unprotect("web", &delete_data).err()),
        ("cut retention by a plan", client.apply_plan(&plan.id).err()),
        ("cut retention by another policy", client.protect("web", Some("tight")).err()),
        ("cut the term of soft delete", protect(&daemon, shorter).err()),
        ("another guard", client.create_token(&other_guard).err()),
        ("no guard", client.delete_token("eve").err()),
        ("change keys", client.rotate_vault_key("main").err()),
    ] {
        let error = error.unwrap_or_else(|| panic!("{what} passed"));
        assert!(error.kind() == Kind::Refused && error.to_string().contains("guard"), "{what}: {error}");
    }
    assert_eq!(client.approvals().expect("approvals").len(), 8);
    // what takes nothing away goes on without
    client.create_token(&token("ops", Role::Operator, None)).expect("a token");
    client.delete_token("ops").expect("removed");
    client.protect("web", Some("roomy")).expect("the same policy");
    let operator = client.create_token(&token("ops", Role::Operator, None)).expect("a token").secret;
    let operator = Client::new(client.socket()).expect("a client").with_token(operator);
    assert_eq!(failure(operator.protect("web", Some("tight"))).0, Kind::Refused, "an operator cuts nothing");
    assert_eq!(client.points(Some("web")).expect("points").points.len(), 3);
    drop(guard);
}

#[test]
fn what_is_immutable_stays_and_what_is_locked_stays_so() {
    let (state, daemon) = stored(4);
    let on = VaultProtection {
        immutability: Some(Immutability::On),
        immutable_days: Some(7),
        ..VaultProtection::default()
    };
    assert_eq!(failure(protect(&daemon, VaultProtection { immutable_days: Some(0), ..on })).0, Kind::Invalid);
    assert_eq!(protect(&daemon, on).expect("on").immutability, Immutability::On);
    let (kind, said) = failure(delete(&daemon, "web@1"));
    assert!(kind == Kind::Refused && said.contains("immutable until"), "{said}");
    // nor does a policy
    let tight = "zone = \"UTC\"\n[schedule]\nat = [\"00:00\"]\n[retention]\nlatest = 1\n";
    daemon.client().apply_policy("tight", tight).expect("a policy");
    daemon.client().protect("web", Some("tight")).expect("protected");
    std::thread::sleep(std::time::Duration::from_secs(3));
    assert_eq!(daemon.client().deleted_points(None).expect("points").points, []);
    let off = VaultProtection { immutability: Some(Immutability::Off), ..VaultProtection::default() };
    protect(&daemon, off).expect("it is not locked");
    delete(&daemon, "web@1").expect("deleted");
    protect(&daemon, on).expect("on again");
    let locked = VaultProtection { immutability: Some(Immutability::Locked), ..on };
    protect(&daemon, locked).expect("locked");
    daemon.kill();
    let daemon = state.start();
    for less in [off, on, VaultProtection { immutable_days: Some(6), ..VaultProtection::default() }] {
        let (kind, said) = failure(protect(&daemon, less));
        assert!(kind == Kind::Refused && said.contains("locked"), "{less:?}: {said}");
    }
    let longer = VaultProtection { immutable_days: Some(8), ..VaultProtection::default() };
    assert_eq!(protect(&daemon, longer).expect("longer").immutable_days, 8);
    assert_eq!(failure(delete(&daemon, "web@2")).0, Kind::Refused);
    let shown = daemon.client().vault("main").expect("a vault");
    assert_eq!((shown.immutability, shown.immutable_days), (Immutability::Locked, 8));
}

#[test]
fn a_clock_that_jumped_deletes_nothing() {
    let (state, daemon) = stored(2);
    assert_eq!(daemon.client().clock().expect("the time").jump, None);
    assert!(daemon.stop().success());
    // as if the daemon's last look at the time was three days ago
    let seen = |days: i64| {
        let ms = jiff::Timestamp::now().as_millisecond() - days * 86_400_000;
        fs::write(state.file("clock"), format!("seen_unix_ms = {ms}\n")).expect("written");
    };
    seen(3);
    let daemon = state.start();
    let (kind, said) = failure(delete(&daemon, "web@1"));
    assert!(kind == Kind::Refused && said.contains("clock jumped"), "{said}");
    let warnings = daemon.client().status().expect("status").warnings;
    assert!(warnings.iter().any(|said| said.contains("clock jumped")), "{warnings:?}");
    assert_eq!(daemon.backup("web").state, JobState::Done, "backups go on");
    let guard = Guard::enrol(&daemon, "eve");
    assert_eq!(failure(daemon.client().accept_clock()).0, Kind::Refused, "that is for two");
    guard.approve();
    assert_eq!(daemon.client().accept_clock().expect("accepted").jump, None);
    let error = delete(&daemon, "web@1").expect_err("it takes a guard");
    assert!(error.to_string().contains("guard"), "{error}");
    guard.approve();
    delete(&daemon, "web@1").expect("deleted");
    assert!(daemon.stop().success());
    // the host's clock is set back: the appliance's stands
    seen(-5);
    let daemon = state.start();
    let now: jiff::Timestamp = daemon.client().clock().expect("the time").now.parse().expect("a time");
    assert!(now.as_second() > jiff::Timestamp::now().as_second() + 4 * 86_400, "{now}");
    let made = daemon.snapshot("web");
    let time: jiff::Timestamp = daemon.client().point(&made).expect("a point").time.parse().expect("a time");
    assert!(time.as_second() >= now.as_second(), "a point of {time} after {now}");
}

/// A guest whose disk was encrypted: the point of it must not push the good ones out.
#[test]
fn a_point_unlike_its_past_displaces_nothing() {
    let (state, daemon) = stored(7);
    daemon.write("web", 0, &noise(99, 1 << 20));
    let job = daemon.backup("web");
    assert!(job.note.as_deref().is_some_and(|note| note.contains("web@8 is suspect")), "{job:?}");
    let policy = "zone = \"UTC\"\n[schedule]\nat = [\"00:00\"]\n[retention]\nlatest = 2\n";
    daemon.client().apply_policy("two", policy).expect("a policy");
    daemon.client().protect("web", Some("two")).expect("protected");
    std::thread::sleep(std::time::Duration::from_secs(3));
    daemon.kill();
    let daemon = state.start();
    let point = daemon.client().point("web@8").expect("it");
    assert!(point.suspect.is_some_and(|why| why.contains("new to the vault")));
    let reasons = |name: &str| daemon.client().point(name).expect("a point").kept.len();
    assert!(reasons("web@6") > 0 && reasons("web@5") == 0, "two good ones stay beside it");
    let warnings = daemon.client().status().expect("status").warnings;
    assert!(warnings.iter().any(|said| said.contains("web@8 is suspect")), "{warnings:?}");
    assert_eq!(daemon.client().deleted_points(None).expect("points").points, [], "nothing is pruned");
    assert_eq!(failure(daemon.client().accept_point("web@7")).0, Kind::Conflict);
    daemon.eventually("it is told", |client| {
        let events = client.recent_events().expect("events");
        events.iter().any(|event| event.kind == control::EventKind::SuspectPoint && event.about == "web@8")
    });
    daemon.client().accept_point("web@8").expect("it was meant to be");
    daemon
        .eventually("the rest goes", |client| client.deleted_points(None).expect("points").points.len() == 6);
}
