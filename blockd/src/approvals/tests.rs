//! What must not pass: an approval that is replayed, has expired, is of another request, of another person's, or the
//! requester's own.

use super::*;
use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair};
use block::linux::{KernelEntropy, LinuxMedia};
use block::{Time, linux::SystemClock};
use control::Role;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

#[derive(Default)]
struct Wall(AtomicU64);

impl Clock for Wall {
    fn now(&self) -> Time {
        Time { unix_ms: self.0.load(Ordering::SeqCst) }
    }

    fn monotonic_ns(&self) -> u64 {
        SystemClock.monotonic_ns()
    }
}

struct Bench {
    dir: tempfile::TempDir,
    wall: Arc<Wall>,
    pair: Ed25519KeyPair,
}

impl Bench {
    fn new() -> Self {
        let wall = Arc::new(Wall(AtomicU64::new(1_800_000_000_000)));
        let pair = Ed25519KeyPair::generate().expect("a key");
        Self { dir: tempfile::tempdir().expect("a directory"), wall, pair }
    }

    fn open(&self) -> Approvals {
        self.open_at(self.dir.path(), "appliance-1")
    }

    fn open_at(&self, dir: &Path, appliance: &str) -> Approvals {
        let media = Arc::new(LinuxMedia::new(dir, dir).expect("media"));
        let approvals =
            Approvals::open(media, self.wall.clone(), Arc::new(KernelEntropy), appliance.to_owned());
        approvals.expect("approvals")
    }

    fn guard(&self, who: &str) -> Caller {
        let key = self.pair.public_key().as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
        let mut caller = Caller::named(who);
        (caller.key, caller.role) = (Some(key), Role::Guard);
        caller
    }

    fn sign(&self, approval: &Approval, verdict: ApprovalState) -> String {
        let text = control::signed_text(&approval.statement, verdict);
        self.pair.sign(text.as_bytes()).as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
    }

    fn hours(&self, hours: u64) {
        self.wall.0.fetch_add(hours * 3_600_000, Ordering::SeqCst);
    }
}

fn about(point: &str) -> About {
    About::from([("point".to_owned(), point.into())])
}

/// Asks for the deletion of a point; the id of what lets it pass, if anything does.
fn ask(approvals: &Approvals, who: &str, point: &str) -> Result<String> {
    let about = about(point);
    let whole = serde_json::to_vec(&about).expect("JSON");
    approvals.permit(&Wanted { who, action: "DELETE /v1/points/{point}", about: &about, whole: &whole })
}

const APPROVED: ApprovalState = ApprovalState::Approved;

#[test]
fn what_a_guard_signed_passes_once_and_what_was_not_signed_never() {
    let bench = Bench::new();
    let approvals = bench.open();
    assert_eq!(ask(&approvals, "user 0", "web@1").err().map(|error| error.kind()), Some(Kind::Refused));
    assert!(ask(&approvals, "user 0", "web@1").is_err(), "asking twice is not being approved");
    assert_eq!(approvals.list().len(), 1, "and asks for one approval");
    let pending = approvals.list().remove(0);
    let guard = bench.guard("token eve");
    let signature = bench.sign(&pending, APPROVED);
    approvals.decide(&pending.id[..8], &guard, APPROVED, &signature).expect("approved");
    // over a restart
    let approvals = bench.open();
    let id = ask(&approvals, "user 0", "web@1").expect("it may pass");
    assert!(ask(&approvals, "user 0", "web@2").is_err(), "another request");
    assert!(ask(&approvals, "user 1", "web@1").is_err(), "another person");
    approvals.use_up(&id).expect("used");
    assert!(approvals.use_up(&id).is_err(), "twice");
    // replayed
    assert!(approvals.decide(&id, &guard, APPROVED, &signature).is_err());
    assert!(ask(&approvals, "user 0", "web@1").is_err(), "once is once");
    let again =
        approvals.list().into_iter().find(|it| it.state == ApprovalState::Pending && it.who == "user 0");
    let again = again.expect("it is asked for anew");
    assert!(approvals.decide(&again.id, &guard, APPROVED, &signature).is_err(), "the old signature");
    let approvals = bench.open();
    assert!(approvals.use_up(&id).is_err(), "that it was used is durable");
}

#[test]
fn signatures_of_others_and_of_other_things_are_refused() {
    let bench = Bench::new();
    let approvals = bench.open();
    assert!(ask(&approvals, "user 0", "web@1").is_err());
    assert!(ask(&approvals, "user 0", "web@2").is_err());
    let find =
        |point: &str| approvals.list().into_iter().find(|it| it.about["point"] == point).expect("a request");
    let (one, two) = (find("web@1"), find("web@2"));
    let guard = bench.guard("token eve");
    let right = bench.sign(&one, APPROVED);
    let flipped = format!("{}{}", if right.starts_with('0') { '1' } else { '0' }, &right[1..]);
    let stranger = Bench::new();
    for (what, signature) in [
        ("of another request", bench.sign(&two, APPROVED)),
        ("of a denial", bench.sign(&one, ApprovalState::Denied)),
        ("of another key", stranger.sign(&one, APPROVED)),
        ("with a flipped bit", flipped),
        ("none", String::new()),
        ("no hex", "é".repeat(64)),
    ] {
        assert!(approvals.decide(&one.id, &guard, APPROVED, &signature).is_err(), "{what}");
    }
    // the requester itself, had it a guard's key
    assert!(approvals.decide(&one.id, &bench.guard("user 0"), APPROVED, &right).is_err());
    // a guard without a key
    let mut keyless = bench.guard("token eve");
    keyless.key = None;
    assert!(approvals.decide(&one.id, &keyless, APPROVED, &right).is_err());
    // the same request of another appliance
    let other = tempfile::tempdir().expect("a directory");
    let elsewhere = bench.open_at(other.path(), "appliance-2");
    assert!(ask(&elsewhere, "user 0", "web@1").is_err());
    let theirs = elsewhere.list().remove(0);
    assert!(approvals.decide(&one.id, &guard, APPROVED, &bench.sign(&theirs, APPROVED)).is_err());
    assert!(ask(&approvals, "user 0", "web@1").is_err(), "nothing of that approved it");
    let denial = bench.sign(&two, ApprovalState::Denied);
    approvals.decide(&two.id, &guard, ApprovalState::Denied, &denial).expect("denied");
    assert!(
        approvals.decide(&two.id, &guard, APPROVED, &bench.sign(&two, APPROVED)).is_err(),
        "denied is denied"
    );
    approvals.decide(&one.id, &guard, APPROVED, &right).expect("the right one");
    assert!(ask(&approvals, "user 0", "web@1").is_ok());
}

#[test]
fn what_ran_out_is_over() {
    let bench = Bench::new();
    let approvals = bench.open();
    assert!(ask(&approvals, "user 0", "web@1").is_err());
    let first = approvals.list().remove(0);
    let guard = bench.guard("token eve");
    bench.hours(25);
    let late = approvals.decide(&first.id, &guard, APPROVED, &bench.sign(&first, APPROVED));
    assert!(late.is_err(), "a request that ran out");
    assert!(ask(&approvals, "user 0", "web@1").is_err());
    let second =
        approvals.list().into_iter().find(|it| it.state == ApprovalState::Pending).expect("a new one");
    approvals.decide(&second.id, &guard, APPROVED, &bench.sign(&second, APPROVED)).expect("approved");
    let id = ask(&approvals, "user 0", "web@1").expect("it may pass");
    bench.hours(25);
    assert!(approvals.use_up(&id).is_err(), "an approval that ran out");
    assert!(ask(&approvals, "user 0", "web@1").is_err());
    // what is long over is forgotten
    bench.hours(24 * 40);
    assert!(ask(&approvals, "user 0", "web@9").is_err());
    assert_eq!(approvals.list().len(), 1);
}

#[test]
fn a_damaged_approval_is_none() {
    let bench = Bench::new();
    let approvals = bench.open();
    assert!(ask(&approvals, "user 0", "web@1").is_err());
    let pending = approvals.list().remove(0);
    let guard = bench.guard("token eve");
    approvals.decide(&pending.id, &guard, APPROVED, &bench.sign(&pending, APPROVED)).expect("approved");
    let file = bench.dir.path().join(path(&pending.id));
    let text = std::fs::read_to_string(&file).expect("a file");
    std::fs::write(&file, &text[..text.len() / 2]).expect("damaged");
    assert!(ask(&bench.open(), "user 0", "web@1").is_err());
}
