//! Recovery points that take the place of what a disk holds: what is kept, what is undone, who is kept out, and what a
//! crash in the middle leaves.

use crate::fixture::{Daemon, State, failure, noise};
use block::{BlockDevice, ByteOffset};
use control::{DeletePointQuery, Job, JobState, Kind, RestoreRequest, Tier};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

const MIB: u64 = 1 << 20;

fn of(point: &str) -> RestoreRequest {
    RestoreRequest { point: point.to_owned(), replace: Some("web".to_owned()), ..Default::default() }
}

fn undo() -> RestoreRequest {
    RestoreRequest { undo: true, ..of("") }
}

fn done(daemon: &Daemon, request: &RestoreRequest) -> Job {
    let job = daemon.client().restore(request).unwrap_or_else(|error| panic!("{error}"));
    let job = daemon.finished(&job);
    assert_eq!((job.state, &job.error), (JobState::Done, &None), "{}", daemon.log());
    job
}

/// `web`, with `web@1` in both tiers and something else since.
fn machine(state: &State) -> (Daemon, Vec<u8>, Vec<u8>) {
    let daemon = state.start();
    let mut content = noise(1, 8 * MIB as usize);
    content[3 * MIB as usize..4 * MIB as usize].fill(0);
    daemon.create("web", content.len() as u64);
    daemon.write("web", 0, &content);
    assert_eq!(daemon.backup("web").error, None);
    let mut later = content.clone();
    for (at, len) in [(5000, 300), (MIB as usize, 70_000), (3 * MIB as usize + 8192, 4096)] {
        let bytes = noise(at as u64, len);
        daemon.write("web", at as u64, &bytes);
        later[at..at + len].copy_from_slice(&bytes);
    }
    (daemon, content, later)
}

#[test]
fn only_what_differs_is_read_and_written_and_undo_puts_it_back() {
    let state = State::new();
    let (daemon, before, later) = machine(&state);
    let client = daemon.client();
    let foreseen = client.preflight(&of("web@1")).expect("a look ahead");
    assert!(foreseen.obstacles.is_empty() && foreseen.unlocked, "{foreseen:?}");
    assert_eq!((foreseen.tier, foreseen.estimate_ms), (Tier::Instant, None));
    let changed = foreseen.bytes_lost.expect("it is known");
    assert!((74_000..110_000).contains(&changed), "{changed}");
    assert_eq!(foreseen.bytes_unchanged, 8 * MIB - changed);

    let job = done(&daemon, &RestoreRequest { verify: true, ..of("web@1") });
    let restored = job.restore.expect("where it came from");
    assert_eq!(restored.bytes_unchanged, 8 * MIB - changed);
    assert!(restored.bytes_instant > 0 && restored.bytes_instant <= changed && restored.bytes_vault == 0);
    assert!(restored.bytes_verified >= 7 * MIB, "{restored:?}");
    assert!(daemon.read("web") == before);
    let safety = restored.safety_point.expect("a point of what was there");
    assert!(daemon.read(&safety) == later);

    assert!(daemon.read("web") == before);
    done(&daemon, &undo());
    assert!(daemon.read("web") == later);
    done(&daemon, &undo());
    assert!(daemon.read("web") == before, "an undo can be undone");

    // the next increment holds what differs, not the disk
    let next = daemon.backup("web");
    assert_eq!(next.error, None);
    assert!(next.bytes_changed < 200_000, "{}", next.bytes_changed);
    // and from the vault alone
    daemon.write("web", 2 * MIB, &[7; 100]);
    client.delete_point("web@1", &DeletePointQuery::from(Tier::Instant)).expect("deleted");
    let job = done(&daemon, &of("web@1"));
    assert!(job.restore.is_some_and(|restored| restored.bytes_vault > 0 && restored.bytes_vault < MIB));
    assert!(daemon.read("web") == before);
    let measured = client.preflight(&of("web@1")).expect("a look ahead");
    assert!(measured.estimate_ms.is_some() && measured.measured_jobs > 2, "{measured:?}");
}

#[test]
fn a_point_of_another_size_and_of_another_disk_fits_too() {
    let state = State::new();
    let (daemon, before, _) = machine(&state);
    let client = daemon.client();
    client.resize_disk("web", &control::ResizeDisk { size: 5 * MIB, attached: false }).expect("smaller");
    let shrunk = daemon.read("web");
    done(&daemon, &of("web@1"));
    assert!(daemon.read("web") == before);
    done(&daemon, &undo());
    assert!(daemon.read("web") == shrunk);
    let other = noise(9, 2 * MIB as usize + 512);
    daemon.create("other", other.len() as u64);
    daemon.write("other", 0, &other);
    daemon.snapshot("other");
    done(&daemon, &RestoreRequest { verify: true, ..of("other@1") });
    assert!(daemon.read("web") == other);
    assert_eq!(failure(client.restore(&of("web@77"))).0, Kind::NotFound);
    let both = RestoreRequest { to: "new".to_owned(), ..of("web@1") };
    assert_eq!(failure(client.restore(&both)).0, Kind::Invalid);
}

/// A disk that has grown since goes back to what it was, and nobody changes its size meanwhile.
#[test]
fn a_disk_that_has_grown_goes_back_and_keeps_its_size_meanwhile() {
    let state = State::new();
    let (daemon, before, _) = machine(&state);
    let client = daemon.client();
    let size = |size| control::ResizeDisk { size, attached: false };
    client.resize_disk("web", &size(64 * MIB)).expect("larger");
    let high = noise(5, 40 * MIB as usize);
    daemon.write("web", 20 * MIB, &high);
    assert!(client.preflight(&of("web@1")).expect("a look ahead").obstacles.is_empty());
    done(&daemon, &of("web@1"));
    assert!(daemon.read("web") == before);
    // somebody asks for one size after the other, all the time
    let (refused, is_over) = (AtomicU32::new(0), AtomicBool::new(false));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for larger in (1..).take_while(|_| !is_over.load(Ordering::SeqCst)) {
                match daemon.client().resize_disk("web", &size(64 * MIB + larger * 4096)) {
                    Err(error) if error.kind() == Kind::Conflict => refused.fetch_add(1, Ordering::SeqCst),
                    _ => 0,
                };
            }
        });
        let rounds = (0..50).take_while(|_| refused.load(Ordering::SeqCst) == 0);
        rounds.for_each(|_| drop(done(&daemon, &undo())));
        is_over.store(true, Ordering::SeqCst);
    });
    assert!(refused.into_inner() > 0, "no size was refused in 50 replacements");
}

#[test]
fn never_two_writers() {
    let state = State::new();
    let (daemon, before, _) = machine(&state);
    let guest = daemon.export("web");
    let points = daemon.client().points(Some("web")).expect("points").points.len();
    let (kind, said) = failure(daemon.client().restore(&of("web@1")));
    assert!(kind == Kind::Refused && said.contains("connected"), "{said}");
    assert_eq!(daemon.client().points(Some("web")).expect("points").points.len(), points, "no safety point");
    assert!(!daemon.client().preflight(&of("web@1")).expect("a look ahead").obstacles.is_empty());
    guest.write_at(ByteOffset::new(0), &[1; 512]).expect("it goes on");
    done(&daemon, &RestoreRequest { force_disconnect: true, ..of("web@1") });
    assert!(guest.write_at(ByteOffset::new(0), &[2; 512]).is_err(), "it was cut off");
    drop(guest);
    assert!(daemon.read("web") == before);
}

/// Of a point that only a vault holds, what the disk has not changed since is read from the disk's own points.
#[test]
fn a_restore_reads_each_block_from_the_nearest_place_that_has_it() {
    let state = State::new();
    let (daemon, before, later) = machine(&state);
    daemon.snapshot("web");
    let instant = DeletePointQuery::from(Tier::Instant);
    daemon.client().delete_point("web@1", &instant).expect("deleted");
    // what is written after the newest point proves nothing about it
    daemon.write("web", 6 * MIB, &[3; 4096]);
    let request =
        RestoreRequest { point: "web@1".into(), to: "new".into(), verify: true, ..Default::default() };
    let restored = done(&daemon, &request).restore.expect("where it came from");
    assert!(daemon.read("new") == before && daemon.read("web@2") == later);
    assert!(restored.bytes_instant > 6 * MIB && restored.bytes_vault < 200_000, "{restored:?}");
}

/// Killed in the middle, the disk lets nobody in, and is what it was to become once it goes on.
#[test]
fn a_replacement_goes_on_after_a_kill() {
    let rounds = if std::env::var_os("BLOCKD_SOAK").is_some() { 100 } else { 8 };
    let state = State::new();
    let (mut daemon, before, later) = machine(&state);
    let mut under_way = 0;
    for round in 0..rounds {
        let (request, expected) = if round % 2 == 0 { (of("web@1"), &before) } else { (undo(), &later) };
        let job = daemon.client().restore(&request).expect("begun");
        std::thread::sleep(Duration::from_millis(round * 3 % 25));
        daemon.kill();
        daemon = state.start();
        let found = daemon.client().job(&job.id).expect("the job");
        under_way += u64::from(found.state == JobState::Failed);
        // whoever comes while it goes on is refused, never shown a half
        let whole = loop {
            match daemon.try_export("web") {
                Ok(export) => {
                    let mut bytes = vec![0; 8 * MIB as usize];
                    block::BlockSource::read_at(&export, ByteOffset::ZERO, &mut bytes).expect("read");
                    break bytes;
                }
                Err(_) => std::thread::sleep(Duration::from_millis(10)),
            }
        };
        assert!(whole == *expected, "round {round}: {}", daemon.log());
    }
    println!("{under_way} of {rounds} were under way");
}
