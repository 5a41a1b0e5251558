//! The SIGKILL loop: the real daemon is killed under load, round after round, at random times and at random system
//! calls. Two connections write, trim, zero and flush at once, down to single sectors of one block, and every round
//! takes a recovery point under that load. After each restart:
//!
//! - every acknowledged write is there; a request that was under way is there or not, byte by byte,
//! - the last recovery point holds what was acknowledged before it was asked for and nothing issued after it returned,
//! - the files, before anybody opens them, are sound by their documents (`check`, which shares no code with the daemon),
//! - `changes` since that point names every block changed after it, and no block that nobody touched.
//!
//! The test process is the journal: it is not killed. `BLOCKD_KILL_ROUNDS` sets the rounds, `BLOCKD_SEED` repeats a run.

use crate::fixture::{Daemon, Dice, State};
use block::linux::{KernelEntropy, LinuxMedia};
use block::{BLOCK_SIZE, BlockDevice, ByteOffset, ByteRange, Entropy, Media, Provision};
use control::{ChangesQuery, DeletePointQuery, JobState};
use std::collections::BTreeSet;
use std::ops::Range;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

/// Rounds unless the environment says otherwise.
const ROUNDS: u64 = 200;

/// Every so often the daemon is killed by a system call of its own.
const TRACED_EVERY: u64 = 5;

/// Every so often a backup runs too, and what the vault has is compared.
const BACKUP_EVERY: u64 = 10;

/// The first part of the disk belongs to both connections: sectors in turn. The rest is zones, one connection each.
const SHARED: u64 = 512 << 10;
const ZONE: u64 = 64 << 10;
const SECTOR: u64 = 512;

/// Not a multiple of anything.
const SIZE: u64 = (2 << 20) + 513;

const DISK: &str = "load";

/// One request of a writer.
#[derive(Clone)]
struct Op {
    range: Range<u64>,
    // what it leaves behind
    bytes: Vec<u8>,
    done: bool,
}

/// What was asked for and acknowledged.
#[derive(Default)]
struct Journal {
    content: Vec<u8>,
    // of this round
    ops: Vec<Op>,
}

impl Journal {
    fn under_way(&self) -> impl Iterator<Item = &Op> {
        self.ops.iter().filter(|op| !op.done)
    }
}

/// A recovery point and what is known of it.
struct Sealed {
    name: String,
    content: Vec<u8>,
    // ranges of requests that were under way while it was taken
    unknown: Vec<Range<u64>>,
    // the first request issued after it returned, and the first not finished when it was asked for
    issued_after: usize,
    in_doubt: BTreeSet<u64>,
}

fn lock(journal: &Mutex<Journal>) -> MutexGuard<'_, Journal> {
    journal.lock().expect("no writer panicked")
}

fn blocks(range: &Range<u64>) -> Range<u64> {
    range.start / BLOCK_SIZE..range.end.div_ceil(BLOCK_SIZE)
}

/// Draws a request of this writer.
fn draw(dice: &mut Dice, writer: u64) -> (Range<u64>, Action) {
    if dice.below(2) == 0 {
        let sector = dice.below(SHARED / SECTOR / 2) * 2 + writer;
        return (sector * SECTOR..(sector + 1) * SECTOR, Action::Write);
    }
    let zones = (SIZE - SHARED).div_ceil(ZONE);
    let zone = dice.below((zones - writer).div_ceil(2)) * 2 + writer;
    let start = SHARED + zone * ZONE;
    let end = (start + ZONE).min(SIZE);
    let at = start + dice.below(end - start);
    let range = at..at + 1 + dice.below(end - at);
    match dice.below(8) {
        0 => (range, Action::Zero),
        1 => {
            // only whole blocks become zeros, so a trim of whole blocks is what can be foretold
            let whole = range.start.next_multiple_of(BLOCK_SIZE)..range.end / BLOCK_SIZE * BLOCK_SIZE;
            if whole.is_empty() { (range, Action::Write) } else { (whole, Action::Trim) }
        }
        _ => (range, Action::Write),
    }
}

#[derive(Clone, Copy, PartialEq)]
enum Action {
    Write,
    Zero,
    Trim,
}

/// Writes until the daemon is gone.
fn load(export: &nbd::Client, journal: &Mutex<Journal>, mut dice: Dice, writer: u64, stop: &AtomicBool) {
    while !stop.load(Ordering::Relaxed) {
        let (range, action) = draw(&mut dice, writer);
        let mut bytes = vec![0; (range.end - range.start) as usize];
        if action == Action::Write {
            dice.fill(&mut bytes);
        }
        let number = {
            let mut journal = lock(journal);
            journal.ops.push(Op { range: range.clone(), bytes: bytes.clone(), done: false });
            journal.ops.len() - 1
        };
        let whole = ByteRange::between(range.start, range.end);
        let sent = match action {
            Action::Write => export.write_at(ByteOffset::new(range.start), &bytes),
            Action::Zero => export.zero(whole, Provision::Sparse),
            Action::Trim => export.discard(whole),
        };
        if sent.is_err() {
            return;
        }
        let mut journal = lock(journal);
        journal.content[range.start as usize..range.end as usize].copy_from_slice(&bytes);
        journal.ops[number].done = true;
        drop(journal);
        if dice.below(24) == 0 && export.flush().is_err() {
            return;
        }
    }
}

/// A recovery point under load; none if the daemon was killed meanwhile.
fn seal(daemon: &Daemon, journal: &Mutex<Journal>) -> Option<Sealed> {
    let (content, asked_at, mut unknown) = {
        let journal = lock(journal);
        let unknown: Vec<Range<u64>> = journal.under_way().map(|op| op.range.clone()).collect();
        (journal.content.clone(), journal.ops.len(), unknown)
    };
    let name = daemon.client().snapshot(&[DISK.to_owned()]).ok()?.remove(0).name;
    let journal = lock(journal);
    unknown.extend(journal.ops[asked_at..].iter().map(|op| op.range.clone()));
    let in_doubt = unknown.iter().flat_map(blocks).collect();
    Some(Sealed { name, content, unknown, issued_after: journal.ops.len(), in_doubt })
}

/// Checks what is on the disk against the journal, and takes it as the truth of the next round.
fn judge_disk(daemon: &Daemon, journal: &mut Journal) {
    let found = daemon.read(DISK);
    assert_eq!(found.len() as u64, SIZE);
    for at in 0..SIZE {
        let (is, was) = (found[at as usize], journal.content[at as usize]);
        if is != was {
            let explained = journal
                .under_way()
                .any(|op| op.range.contains(&at) && op.bytes[(at - op.range.start) as usize] == is);
            assert!(explained, "byte {at} is {is:#x}, acknowledged was {was:#x}");
        }
    }
    journal.content = found;
}

/// What a kill left must be sound to somebody who knows nothing of the daemon but its documents.
fn judge_files(state: &State) {
    let media = LinuxMedia::new(state.file("disks"), state.file("disks")).expect("the disks");
    let dirs = media.list("").expect("the disks").into_iter().filter(|entry| entry.is_dir);
    for dir in dirs {
        let report = check::check_directory(&media, &dir.name, true);
        assert_eq!(report.findings, [], "disk {}", dir.name);
    }
}

fn judge_point(daemon: &Daemon, sealed: &Sealed, journal: &Journal) {
    let found = daemon.read(&sealed.name);
    let known = |at: &u64| !sealed.unknown.iter().any(|range| range.contains(at));
    for at in (0..SIZE).filter(|&at| found[at as usize] != sealed.content[at as usize]) {
        assert!(!known(&at), "byte {at} of {} is not what was acknowledged before it", sealed.name);
    }
    let query = ChangesQuery { since: Some(sealed.name.clone()), until: None };
    let changes = daemon.client().changes(DISK, &query).expect("changes");
    let named: BTreeSet<u64> = changes
        .ranges
        .iter()
        .flat_map(|range| blocks(&(range.offset..range.offset + range.length)))
        .collect();
    let after = &journal.ops[sealed.issued_after..];
    for op in after.iter().filter(|op| op.done) {
        for block in blocks(&op.range) {
            assert!(named.contains(&block), "block {block} changed after {} and is not named", sealed.name);
        }
    }
    let touched: BTreeSet<u64> = after.iter().flat_map(|op| blocks(&op.range)).collect();
    for block in named {
        let allowed = touched.contains(&block) || sealed.in_doubt.contains(&block);
        assert!(allowed, "block {block} is named as changed after {} and was not touched", sealed.name);
    }
}

/// Starts the daemon so that a system call of its own kills it, sooner or later.
fn start_traced(state: &State, dice: &mut Dice) -> Option<Daemon> {
    let calls = ["pwrite64", "fdatasync", "fsync", "rename", "fallocate", "sendmsg", "ftruncate"];
    let call = calls[dice.below(calls.len() as u64) as usize];
    let when = 1 + dice.below(if matches!(call, "pwrite64" | "sendmsg") { 300 } else { 12 });
    let mut strace = Command::new("strace");
    strace.args(["-f", "-qq", "-o", "/dev/null", "-e", &format!("trace={call}")]);
    strace.args(["-e", &format!("inject={call}:signal=KILL:when={when}"), "--"]);
    // killed before it was ready is a kill too: the next start recovers from that
    Daemon::start_under(strace, &state.path()).ok()
}

/// One round: load, a recovery point, a kill. Gives the point if it was acknowledged.
fn round(mut daemon: Daemon, journal: &Mutex<Journal>, dice: &mut Dice) -> Option<Sealed> {
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for writer in 0..2 {
            if let Ok(export) = daemon.try_export(DISK) {
                let (own, stop) = (Dice::new(dice.next()), &stop);
                scope.spawn(move || load(&export, journal, own, writer, stop));
            }
        }
        std::thread::sleep(Duration::from_millis(dice.below(15)));
        let sealed = seal(&daemon, journal);
        std::thread::sleep(Duration::from_micros(dice.below(20_000)));
        let killed_itself = daemon.has_ended();
        stop.store(killed_itself, Ordering::Relaxed);
        daemon.kill();
        sealed
    })
}

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable)
        .ok()
        .map(|text| text.parse().unwrap_or_else(|_| panic!("{variable} is no number")))
}

#[test]
fn nothing_acknowledged_is_lost_by_a_kill() {
    let usual = if std::env::var_os("BLOCKD_SOAK").is_some() { 25 * ROUNDS } else { ROUNDS };
    let rounds = number("BLOCKD_KILL_ROUNDS").unwrap_or(usual);
    let seed = number("BLOCKD_SEED").unwrap_or_else(|| {
        let mut seed = [0; 8];
        KernelEntropy.fill(&mut seed).expect("randomness");
        u64::from_le_bytes(seed)
    });
    println!("BLOCKD_SEED={seed}");
    let mut dice = Dice::new(seed);
    let state = State::new();
    let daemon = state.start();
    daemon.create(DISK, SIZE);
    daemon.kill();
    let journal = Mutex::new(Journal { content: vec![0; SIZE as usize], ops: Vec::new() });
    let (mut last, mut sealed_rounds) = (None::<Sealed>, 0);
    for number in 0..rounds {
        judge_files(&state);
        let daemon = state.start();
        let opened = daemon.client().disk(DISK).expect("the disk").opened;
        assert_eq!(opened.as_deref(), Some("live-map"), "round {number}: {}", daemon.log());
        judge_disk(&daemon, &mut lock(&journal));
        if let Some(sealed) = last.take() {
            judge_point(&daemon, &sealed, &lock(&journal));
            sealed_rounds += 1;
        }
        if number % BACKUP_EVERY == BACKUP_EVERY - 1 {
            let job = daemon.backup(DISK);
            assert_eq!(job.state, JobState::Done, "{job:?}");
            let name = job.point.expect("a point");
            assert_eq!(daemon.read(&name), lock(&journal).content);
        }
        for point in daemon.client().points(Some(DISK)).expect("points").points {
            daemon.client().delete_point(&point.name, &DeletePointQuery::default()).expect("deleted");
        }
        lock(&journal).ops.clear();
        let daemon = if number % TRACED_EVERY == 0 {
            daemon.kill();
            match start_traced(&state, &mut dice) {
                Some(daemon) => daemon,
                None => continue,
            }
        } else {
            daemon
        };
        last = round(daemon, &journal, &mut dice);
    }
    // rounds whose point was cut off prove less; most must prove it all
    assert!(sealed_rounds * 2 > rounds, "{sealed_rounds} of {rounds} rounds had an acknowledged point");
}
