//! The SIGKILL loop: the real daemon is killed under load, round after round, at random system calls of its own and at
//! random times. In every round two connections write single sectors, trim, zero and flush at once, down to sectors of one
//! block, and a recovery point is taken under that load. After each restart:
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
use std::io::{BufRead, BufReader};
use std::ops::Range;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};

/// Rounds unless the environment says otherwise.
const ROUNDS: u64 = 200;

/// Every so often the daemon is killed at a random time instead of by a system call of its own.
const UNTRACED_EVERY: u64 = 5;

/// System calls that kill, and how many of them a thread makes at most before. Points of a few rounds only.
const CALLS: [(&str, u64); 7] = [
    ("pwrite64", 60),
    ("fdatasync", 3),
    ("fsync", 4),
    ("rename", 2),
    ("fallocate", 12),
    ("sendmsg", 60),
    ("ftruncate", 3),
];

/// How long a call that kills is waited for; then the daemon is killed without.
const PATIENCE: Duration = Duration::from_millis(150);

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

/// The requests every round begins with: a write of one sector in a block that both write to, and a trim.
const FIRST: u64 = 2;

/// Draws a request of this writer, the so many-th of the round.
fn draw(dice: &mut Dice, writer: u64, number: u64) -> (Range<u64>, Action) {
    if number == 1 {
        let at = SHARED + writer * ZONE + BLOCK_SIZE * dice.below(8);
        return (at..at + BLOCK_SIZE * (1 + dice.below(8)), Action::Trim);
    }
    if number == 0 || dice.below(2) == 0 {
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

/// Writes until the daemon is gone. Says so when the first requests of the round are acknowledged.
fn load(
    export: &nbd::Client,
    journal: &Mutex<Journal>,
    mut dice: Dice,
    writer: u64,
    (begun, stop): (Sender<()>, &AtomicBool),
) {
    let mut begun = Some(begun);
    for count in 0.. {
        if count == FIRST
            && let Some(begun) = begun.take()
        {
            begun.send(()).expect("the round waits");
        }
        if stop.load(Ordering::Relaxed) {
            return;
        }
        let (range, action) = draw(&mut dice, writer, count);
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
        if let Err(error) = sent {
            assert!(count >= FIRST, "nobody killed the daemon yet: {error}");
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

/// Lets a system call of the running daemon kill it, sooner or later. It is armed when this returns.
fn arm(daemon: &Daemon, dice: &mut Dice) -> Child {
    let (call, most) = CALLS[dice.below(CALLS.len() as u64) as usize];
    kill_at(daemon, call, 1 + dice.below(most))
}

/// Lets the so many-th call of this name in a thread of the running daemon kill it. It is armed when this returns.
pub fn kill_at(daemon: &Daemon, call: &str, when: u64) -> Child {
    let mut strace = Command::new("strace");
    strace.args(["-f", "-o", "/dev/null", "-e", &format!("trace={call}")]);
    strace.args(["-e", &format!("inject={call}:signal=KILL:when={when}"), "-p", &daemon.pid().to_string()]);
    let mut strace = strace.stderr(Stdio::piped()).spawn().expect("strace");
    let mut said = String::new();
    BufReader::new(strace.stderr.as_mut().expect("its output")).read_line(&mut said).expect("a line");
    assert!(said.contains("attached"), "strace: {said}");
    strace
}

/// How a round ended.
struct Ended {
    // the last point that was acknowledged
    sealed: Option<Sealed>,
    by_a_call: bool,
}

/// One round: load, recovery points, a kill. Where a call kills, a point is asked for after that is armed; before it too, most
/// of the time, so that what follows a point is killed as well as what makes one.
fn round(mut daemon: Daemon, journal: &Mutex<Journal>, dice: &mut Dice, is_traced: bool) -> Ended {
    let (stop, (begin, begun)) = (AtomicBool::new(false), channel());
    std::thread::scope(|scope| {
        for writer in 0..2 {
            let (export, own, said) = (daemon.export(DISK), Dice::new(dice.next()), (begin.clone(), &stop));
            scope.spawn(move || load(&export, journal, own, writer, said));
        }
        drop(begin);
        (0..2).for_each(|_| begun.recv().expect("both write"));
        std::thread::sleep(Duration::from_micros(dice.below(5_000)));
        let mut sealed = None;
        if !is_traced || dice.below(3) > 0 {
            sealed = Some(seal(&daemon, journal).expect("nobody killed the daemon yet"));
        }
        let mut strace = is_traced.then(|| arm(&daemon, dice));
        let armed = Instant::now();
        std::thread::sleep(Duration::from_micros(dice.below(5_000)));
        if is_traced {
            sealed = seal(&daemon, journal).or(sealed);
        }
        let left = if is_traced { PATIENCE } else { Duration::from_micros(dice.below(10_000)) };
        while !daemon.has_ended() && armed.elapsed() < left {
            std::thread::sleep(Duration::from_millis(1));
        }
        let by_a_call = daemon.has_ended();
        assert!(is_traced || !by_a_call, "it died by itself: {}", daemon.log());
        stop.store(true, Ordering::Relaxed);
        daemon.kill();
        strace.as_mut().map(|strace| strace.wait().expect("its end"));
        Ended { sealed, by_a_call }
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
    let (mut last, mut sealed_rounds, mut by_a_call) = (None::<Sealed>, 0, 0);
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
        let ended = round(daemon, &journal, &mut dice, number % UNTRACED_EVERY != 0);
        last = ended.sealed;
        by_a_call += u64::from(ended.by_a_call);
    }
    println!("{rounds} rounds: {by_a_call} killed by a call under load, {sealed_rounds} points acknowledged");
    // rounds whose point was cut off, or that no call ended, prove less; most must prove it all
    assert!(sealed_rounds * 2 > rounds, "{sealed_rounds} of {rounds} rounds had an acknowledged point");
    assert!(by_a_call * 2 > rounds, "{by_a_call} of {rounds} rounds were ended by a system call under load");
}
