//! Interleavings of the real state machine, explored by shuttle's scheduler: every lock and atomic of the block path
//! is a point where it may switch threads. Built only with `RUSTFLAGS="--cfg blockd_shuttle"`; `cargo xtask test` does.
//!
//! Each scene runs healthy first and must pass; then with each bug it is there for, which must be caught.
#![cfg(blockd_shuttle)]

use block::sync::atomic::{AtomicBool, Ordering};
use block::{BlockDevice, BlockSource, ByteCount, ByteOffset, ByteRange, DiskId, Provision, StateId, Time};
use layers::{Disk, Env, Hydrating, Numbering, seal_group};
use shuttle::thread;
use sim::{Rng, SeededEntropy, SimClock, SimMedia};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

const BLOCK: u64 = 4096;
/// Enough that the first blocks and the last share no word of the map.
const BLOCKS: u64 = 36;
/// What every block holds in the layer below.
const OLD: u8 = 0x11;

struct Scene {
    name: &'static str,
    run: fn(),
    bugs: &'static [&'static str],
}

const SCENES: [Scene; 11] = [
    Scene {
        name: "resize against a writer, then a power cut",
        run: resize_against_writer,
        bugs: &["resize-without-waiting-for-writers"],
    },
    Scene {
        name: "two sub-block writers and a seal",
        run: halves,
        bugs: &["copy-up-without-lock", "copy-up-from-a-layer-with-writers"],
    },
    Scene {
        name: "zero against a sub-block write",
        run: zero_against_write,
        bugs: &["zero-without-the-lock"],
    },
    Scene {
        name: "flush against writers, then a power cut",
        run: flush_against_writers,
        bugs: &["entries-taken-after-the-sync", "checkpoint-from-the-live-map"],
    },
    Scene {
        name: "seal against a writer",
        run: seal_against_writer,
        bugs: &["seal-without-waiting-for-writers"],
    },
    Scene {
        name: "readers against a fold",
        run: reader_against_fold,
        bugs: &["fold-without-waiting-for-readers"],
    },
    Scene {
        name: "a group seal against a writer",
        run: group_against_writer,
        bugs: &["group-sealed-one-by-one"],
    },
    Scene { name: "a writer and a seal against a fold", run: writer_and_seal_against_fold, bugs: &[] },
    Scene {
        name: "all made zero against the first write",
        run: fill_against_write,
        bugs: &["page-filled-while-spelled-out"],
    },
    Scene {
        name: "a guest and a seal against hydration and release",
        run: guest_against_hydration,
        bugs: &["hydrated-before-its-data", "released-before-readers-left"],
    },
    Scene {
        name: "two hydrations that meet, a release and a fold",
        run: hydrations_and_fold,
        bugs: &["released-before-hydrators-left"],
    },
];

#[test]
fn scenes_pass_and_planted_races_are_caught() {
    let soak = std::env::var_os("BLOCKD_SOAK").is_some();
    let iterations = if soak { 20_000 } else { 400 };
    let mut missed = Vec::new();
    for scene in &SCENES {
        shuttle::check_random(scene.run, iterations);
        shuttle::check_pct(scene.run, iterations, 3);
        println!("{}: {iterations} interleavings pass", scene.name);
        for bug in scene.bugs {
            match block::planted::with(bug, || hunt(scene.run)) {
                Some(why) => println!("  {bug}: {why}"),
                None => missed.push(*bug),
            }
        }
    }
    assert!(missed.is_empty(), "not caught: {missed:?}");
}

/// What a scene found wrong. A panic of anything else, in product or harness, leaves it empty and counts for nothing.
static WRONG: std::sync::Mutex<Option<String>> = std::sync::Mutex::new(None);

/// Ends a scene that found something wrong.
fn wrong(why: String) -> ! {
    *WRONG.lock().unwrap_or_else(|poisoned| poisoned.into_inner()) = Some(why.clone());
    panic!("{why}");
}

macro_rules! must {
    ($right:expr, $($why:tt)+) => {
        if !$right {
            wrong(format!($($why)+));
        }
    };
}

/// What a scene finds wrong in some interleaving. Most of these races need one thread held back for long: a scheduler by
/// priorities finds them, at a depth of so many changes of priority, where a fair one hardly ever does.
fn hunt(scene: fn()) -> Option<String> {
    let found = |explore: &dyn Fn()| {
        *WRONG.lock().unwrap_or_else(|poisoned| poisoned.into_inner()) = None;
        catch_unwind(AssertUnwindSafe(explore)).err()?;
        WRONG.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).take()
    };
    let by_priorities = |depth: &usize| {
        found(&|| {
            shuttle::check_pct(scene, 2_500, *depth);
        })
    };
    [1, 2, 3, 4].iter().find_map(by_priorities).or_else(|| {
        found(&|| {
            shuttle::check_random(scene, 2_500);
        })
    })
}

fn env(media: &SimMedia) -> Env {
    Env {
        media: Arc::new(media.clone()),
        clock: Arc::new(SimClock::new(Time { unix_ms: 1 })),
        entropy: Arc::new(SeededEntropy::new(7)),
        // one record of two entries: every flush of more makes a checkpoint
        journal_room: ByteCount::new(64),
        fold_batch: ByteCount::new(2 * BLOCK),
        budget: layers::Budget::default(),
    }
}

/// A disk of [`BLOCKS`] blocks of [`OLD`], sealed once.
fn machine() -> (SimMedia, Arc<Disk>) {
    let media = SimMedia::new();
    let disk =
        Disk::create(&env(&media), "d", DiskId::from_bytes([1; 16]), ByteCount::new(BLOCKS * BLOCK)).unwrap();
    disk.write_at(ByteOffset::ZERO, &vec![OLD; (BLOCKS * BLOCK) as usize]).unwrap();
    disk.seal().unwrap();
    (media, disk)
}

fn block(source: &dyn BlockSource, number: u64) -> Vec<u8> {
    let mut bytes = vec![0; BLOCK as usize];
    source.read_at(ByteOffset::new(number * BLOCK), &mut bytes).unwrap();
    bytes
}

fn is_all(bytes: &[u8], byte: u8) -> bool {
    bytes.iter().all(|&found| found == byte)
}

/// The first write to a page of the map, and all of that page made zero: nothing of the layer below may come back.
fn fill_against_write() {
    let (_media, disk) = machine();
    let writer = {
        let disk = disk.clone();
        thread::spawn(move || disk.write_at(ByteOffset::new(BLOCK), &[2; BLOCK as usize]).unwrap())
    };
    disk.zero(ByteRange::between(0, BLOCKS * BLOCK), Provision::Sparse).unwrap();
    writer.join().unwrap();
    must!(is_all(&block(&*disk, 5), 0), "a zeroed block reads as before");
    let written = block(&*disk, 1);
    must!(is_all(&written, 0) || is_all(&written, 2), "neither zero nor written");
}

/// A base of [`OLD`] that reads otherwise once nobody may read it any more.
struct Spoilt {
    is_spoilt: AtomicBool,
    /// Whether the next piece of a hydration is held back too, and not only what a guest reads.
    is_slow: AtomicBool,
}

impl BlockSource for Spoilt {
    fn size(&self) -> ByteCount {
        ByteCount::new(BLOCKS * BLOCK)
    }

    fn read_at(&self, _: ByteOffset, buf: &mut [u8]) -> block::Result<()> {
        buf.fill(OLD);
        if buf.len() as u64 == BLOCK || self.is_slow.swap(false, Ordering::SeqCst) {
            // whoever began before the release is still waited for, for however long: a scheduler by priorities now
            // goes on with all others first
            thread::yield_now();
        }
        if self.is_spoilt.load(Ordering::SeqCst) {
            buf.fill(0xee);
        }
        Ok(())
    }

    fn extents(&self, range: ByteRange, visit: &mut block::Visit<'_>) -> block::Result<()> {
        block::visit_last(range, block::ExtentKind::Data, visit);
        Ok(())
    }
}

fn machine_on_base(is_slow: bool) -> (Arc<Spoilt>, Arc<Disk>) {
    let base = Arc::new(Spoilt { is_spoilt: AtomicBool::new(false), is_slow: AtomicBool::new(is_slow) });
    let on = layers::Base { state: StateId::from_bytes([9; 16]), source: base.clone() };
    let (id, size) = (DiskId::from_bytes([1; 16]), ByteCount::new(BLOCKS * BLOCK));
    let disk = Disk::create_on(&env(&SimMedia::new()), "d", id, size, Some(&on)).unwrap();
    (base, disk)
}

fn hydrate_all(disk: &Disk) {
    loop {
        match disk.hydrate_step().unwrap() {
            Hydrating::Whole => return,
            Hydrating::Idle => thread::yield_now(),
            Hydrating::Working(_) => {}
        }
    }
}

/// A guest writes a part of a block and reads others, and a point is made, while the base is brought and released.
fn guest_against_hydration() {
    let (base, disk) = machine_on_base(false);
    let writer = {
        let disk = disk.clone();
        thread::spawn(move || disk.write_at(ByteOffset::new(2 * BLOCK), &[2; 512]).unwrap())
    };
    let reader = {
        let disk = disk.clone();
        thread::spawn(move || {
            for number in [1, 3] {
                must!(is_all(&block(&*disk, number), OLD), "what the base never held");
            }
        })
    };
    let sealer = {
        let disk = disk.clone();
        thread::spawn(move || disk.seal().unwrap())
    };
    // the others are reading by now, perhaps for long
    disk.begin_hydration().unwrap();
    hydrate_all(&disk);
    disk.release_base().unwrap();
    base.is_spoilt.store(true, Ordering::SeqCst);
    writer.join().unwrap();
    reader.join().unwrap();
    let point = sealer.join().unwrap();
    let found = block(&*disk, 2);
    must!(is_all(&found[..512], 2) && is_all(&found[512..], OLD), "a write or the rest of its block is lost");
    let source = disk.point_source(point.state).unwrap();
    must!(is_all(&block(&*source, 5), OLD) && is_all(&block(&*disk, BLOCKS - 1), OLD), "the base is lost");
}

/// Two threads bring the same blocks while the base is released and its layer folded with what was written meanwhile.
fn hydrations_and_fold() {
    let (_base, disk) = machine_on_base(true);
    disk.begin_hydration().unwrap();
    // missed: one thread follows the reader, the other goes from the front
    block(&*disk, 1);
    disk.write_at(ByteOffset::ZERO, &[5; BLOCK as usize]).unwrap();
    disk.seal().unwrap();
    let other = {
        let disk = disk.clone();
        thread::spawn(move || disk.hydrate_step().unwrap())
    };
    hydrate_all(&disk);
    disk.release_base().unwrap();
    disk.fold_all().unwrap();
    other.join().unwrap();
    must!(is_all(&block(&*disk, 0), 5), "a hydration wrote over what was folded");
    must!((1..4).all(|number| is_all(&block(&*disk, number), OLD)), "the base is lost");
}

/// Two threads write one half each of the same block while a third seals: both halves must be there.
fn halves() {
    let (_media, disk) = machine();
    let write = |at: u64, byte: u8| {
        let disk = disk.clone();
        thread::spawn(move || disk.write_at(ByteOffset::new(at), &[byte; 2048]).unwrap())
    };
    let (one, two) = (write(0, 2), write(2048, 3));
    let sealer = {
        let disk = disk.clone();
        thread::spawn(move || disk.seal().unwrap())
    };
    one.join().unwrap();
    two.join().unwrap();
    sealer.join().unwrap();
    let found = block(&*disk, 0);
    must!(is_all(&found[..2048], 2) && is_all(&found[2048..], 3), "a half is lost");
}

/// A zeroed block and a write of a part of it: nothing of the layer below may come back.
fn zero_against_write() {
    let (_media, disk) = machine();
    let writer = {
        let disk = disk.clone();
        thread::spawn(move || disk.write_at(ByteOffset::new(BLOCK), &[2; 512]).unwrap())
    };
    disk.zero(ByteRange::between(BLOCK, 2 * BLOCK), Provision::Sparse).unwrap();
    writer.join().unwrap();
    let found = block(&*disk, 1);
    must!(is_all(&found[512..], 0), "zeroed bytes read as before");
    must!(is_all(&found[..512], 0) || is_all(&found[..512], 2), "neither zero nor written");
}

/// One thread writes and flushes, another only writes. After a power cut the flushed block is there, and the other is
/// old or new, never the garbage of a hole.
fn flush_against_writers() {
    let (media, disk) = machine();
    let other = {
        let disk = disk.clone();
        thread::spawn(move || {
            disk.write_at(ByteOffset::new(33 * BLOCK), &[3; BLOCK as usize]).unwrap();
            disk.write_at(ByteOffset::new(35 * BLOCK), &[4; BLOCK as usize]).unwrap();
        })
    };
    disk.write_at(ByteOffset::ZERO, &[2; BLOCK as usize]).unwrap();
    disk.flush().unwrap();
    // every flush has something to commit, and finds the journal full
    for _ in 0..4 {
        disk.write_at(ByteOffset::new(2 * BLOCK), &[7; BLOCK as usize]).unwrap();
        disk.flush().unwrap();
        disk.zero(ByteRange::between(2 * BLOCK, 3 * BLOCK), Provision::Sparse).unwrap();
        disk.flush().unwrap();
    }
    other.join().unwrap();
    drop(disk);
    for seed in 0..2 {
        let media = media.power_cut(&mut Rng::new(seed));
        let disk = Disk::open(&env(&media), "d").unwrap();
        must!(is_all(&block(&*disk, 0), 2), "a flushed write is lost");
        must!(is_all(&block(&*disk, 2), 0), "a flushed zero is lost");
        for (number, new) in [(33, 3), (35, 4)] {
            for word in block(&*disk, number).chunks(8) {
                must!(is_all(word, OLD) || is_all(word, new), "block {number} is garbage: {word:?}");
            }
        }
    }
}

/// A recovery point does not change after it exists, whoever was writing while it was made.
fn seal_against_writer() {
    let (media, disk) = machine();
    // whole in the active layer: the next write to it changes no state and takes no lock
    disk.write_at(ByteOffset::ZERO, &[6; BLOCK as usize]).unwrap();
    let writer = {
        let disk = disk.clone();
        thread::spawn(move || {
            disk.write_at(ByteOffset::ZERO, &[2; BLOCK as usize]).unwrap();
            disk.write_at(ByteOffset::new(BLOCK), &[3; 512]).unwrap();
        })
    };
    let point = disk.seal().unwrap();
    let source = disk.point_source(point.state).unwrap();
    let at_once: Vec<_> = (0..4).map(|number| block(&*source, number)).collect();
    writer.join().unwrap();
    let later: Vec<_> = (0..4).map(|number| block(&*source, number)).collect();
    must!(at_once == later, "the point changed after it was made");
    must!(
        is_all(&block(&*disk, 0), 2) && is_all(&block(&*disk, 1)[..512], 3),
        "an acknowledged write is lost"
    );
    drop((source, disk));
    let media = media.power_cut(&mut Rng::new(1));
    let disk = Disk::open(&env(&media), "d").unwrap();
    let source = disk.point_source(point.state).unwrap();
    must!(
        (0..4).all(|number| block(&*source, number) == later[number as usize]),
        "a power cut changed the point"
    );
}

/// A writer flushes and goes on while the disk shrinks and grows: nothing acknowledged is lost, nothing cut off is back.
fn resize_against_writer() {
    let (media, disk) = machine();
    disk.write_at(ByteOffset::ZERO, &[6; BLOCK as usize]).unwrap();
    let writer = {
        let disk = disk.clone();
        thread::spawn(move || {
            disk.write_at(ByteOffset::ZERO, &[2; BLOCK as usize]).unwrap();
            disk.write_at(ByteOffset::new(BLOCK), &[3; 512]).unwrap();
            disk.flush().unwrap();
        })
    };
    disk.resize(ByteCount::new(10 * BLOCK)).unwrap();
    disk.resize(ByteCount::new(12 * BLOCK)).unwrap();
    writer.join().unwrap();
    drop(disk);
    let media = media.power_cut(&mut Rng::new(1));
    let disk = Disk::open(&env(&media), "d").unwrap();
    must!(is_all(&block(&*disk, 0), 2) && is_all(&block(&*disk, 1)[..512], 3), "a flushed write is lost");
    must!(is_all(&block(&*disk, 9), OLD) && is_all(&block(&*disk, 10), 0), "what was cut off is back");
}

/// A writer writes to one disk and, once that is acknowledged, to another: a point of both never has only the second.
fn group_against_writer() {
    let media = SimMedia::new();
    let env = env(&media);
    // sealed in the order of their ids, as they are written: between two seals both writes fit
    let [first, second] = [1, 2].map(|id| {
        Disk::create(&env, &format!("{id}"), DiskId::from_bytes([id; 16]), ByteCount::new(BLOCK)).unwrap()
    });
    let writer = {
        let disks = [first.clone(), second.clone()];
        thread::spawn(move || {
            disks.iter().for_each(|disk| disk.write_at(ByteOffset::ZERO, &[2; BLOCK as usize]).unwrap());
        })
    };
    let points = seal_group(&[&first, &second], Numbering::Own).unwrap();
    writer.join().unwrap();
    let is_in = |disk: &Arc<Disk>, state| is_all(&block(&*disk.point_source(state).unwrap(), 0), 2);
    let (first_in, second_in) = (is_in(&first, points[0].state), is_in(&second, points[1].state));
    must!(first_in || !second_in, "only the later write is in");
}

/// A disk with two points: of [`OLD`] everywhere, and of 5 in the second half.
fn two_layers() -> (SimMedia, Arc<Disk>) {
    let (media, disk) = machine();
    disk.write_at(ByteOffset::new(BLOCKS / 2 * BLOCK), &vec![5; (BLOCKS / 2 * BLOCK) as usize]).unwrap();
    disk.seal().unwrap();
    (media, disk)
}

/// Folding layers under readers, of the live disk and of an open source, changes nothing they see.
fn reader_against_fold() {
    let (_media, disk) = two_layers();
    let [oldest, newer] = [disk.points()[0].state, disk.points()[1].state];
    let source = disk.point_source(newer).unwrap();
    let readers: [Arc<dyn BlockSource>; 2] = [disk.clone(), source];
    let readers = readers.map(|reader| {
        thread::spawn(move || {
            for _ in 0..2 {
                let is_right = is_all(&block(&*reader, 1), OLD) && is_all(&block(&*reader, BLOCKS - 1), 5);
                must!(is_right, "a fold changed what is read");
            }
        })
    });
    disk.delete_point(oldest).unwrap();
    disk.fold_all().unwrap();
    readers.into_iter().for_each(|reader| reader.join().unwrap());
    must!(is_all(&block(&*disk.point_source(newer).unwrap(), 0), OLD), "a fold changed a point");
}

/// While two layers are folded, a part of a block is written, which brings the rest of it up from below, and a point is
/// made: both stand, also after a power cut.
fn writer_and_seal_against_fold() {
    let (media, disk) = two_layers();
    let oldest = disk.points()[0].state;
    let folder = {
        let disk = disk.clone();
        thread::spawn(move || {
            disk.delete_point(oldest).unwrap();
            disk.fold_all().unwrap();
        })
    };
    let writer = {
        let disk = disk.clone();
        thread::spawn(move || disk.write_at(ByteOffset::new(2 * BLOCK), &[2; 512]).unwrap())
    };
    let point = disk.seal().unwrap();
    folder.join().unwrap();
    writer.join().unwrap();
    let is_right = |source: &dyn BlockSource, written: Option<bool>| {
        let found = block(source, 2);
        let is_written = is_all(&found[..512], 2);
        must!(is_written || is_all(&found[..512], OLD), "what was never written");
        must!(is_all(&found[512..], OLD), "the rest of the block is lost");
        must!(written.is_none_or(|written| written == is_written), "a point changed, or a write is lost");
        must!(is_all(&block(source, 3), OLD) && is_all(&block(source, BLOCKS - 2), 5), "a fold lost blocks");
        is_written
    };
    is_right(&*disk, Some(true));
    let in_point = is_right(&*disk.point_source(point.state).unwrap(), None);
    disk.flush().unwrap();
    drop(disk);
    let disk = Disk::open(&env(&media.power_cut(&mut Rng::new(1))), "d").unwrap();
    is_right(&*disk, Some(true));
    is_right(&*disk.point_source(point.state).unwrap(), Some(in_point));
}
