//! Bases that are brought nearer and released.

use crate::common::env;
use block::sync::{Mutex, lock};
use block::{
    BlockDevice, BlockSource, ByteCount, ByteOffset, ByteRange, DiskId, ExtentKind, MemoryDisk, RangeSet,
    StateId, Visit,
};
use layers::{Base, Disk, Env, Error, Hydrating, Until};
use sim::{Rng, SimMedia};
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

const BLOCK: u64 = 4096;
const MIB: u64 = 1 << 20;

/// A base that keeps account of what is read of it, and can be taken away.
struct Watched {
    inner: MemoryDisk,
    read: Mutex<RangeSet>,
    is_away: AtomicBool,
}

impl Watched {
    fn new(size: u64) -> Arc<Self> {
        let inner = MemoryDisk::new(ByteCount::new(size));
        Arc::new(Self { inner, read: Mutex::default(), is_away: AtomicBool::new(false) })
    }

    fn filled(size: u64, byte: u8) -> Arc<Self> {
        let base = Self::new(size);
        base.inner.write_at(ByteOffset::ZERO, &vec![byte; size as usize]).unwrap();
        base
    }

    fn as_base(self: &Arc<Self>) -> Base {
        Base { state: StateId::from_bytes([7; 16]), source: self.clone() }
    }

    /// The ranges read since the last call.
    fn reads(&self) -> Vec<(u64, u64)> {
        let read = std::mem::take(&mut *lock(&self.read));
        read.iter().map(|range| (range.start(), range.end())).collect()
    }

    fn check(&self) -> block::Result<()> {
        match self.is_away.load(Ordering::SeqCst) {
            true => Err(block::Error::refused(block::Kind::Unavailable, "the base", "is away")),
            false => Ok(()),
        }
    }
}

impl BlockSource for Watched {
    fn size(&self) -> ByteCount {
        self.inner.size()
    }

    fn read_at(&self, offset: ByteOffset, buf: &mut [u8]) -> block::Result<()> {
        self.check()?;
        lock(&self.read).insert(ByteRange::between(offset.get(), offset.get() + buf.len() as u64));
        self.inner.read_at(offset, buf)
    }

    fn extents(&self, range: ByteRange, visit: &mut Visit<'_>) -> block::Result<()> {
        self.check()?;
        self.inner.extents(range, visit)
    }
}

fn machine() -> (SimMedia, Env) {
    let media = SimMedia::new();
    let env = env(&media, &mut Rng::new(7));
    (media, env)
}

fn on(env: &Env, base: &Base, size: u64) -> Arc<Disk> {
    Disk::create_on(env, "d", DiskId::from_bytes([1; 16]), ByteCount::new(size), Some(base)).unwrap()
}

fn read(source: &dyn BlockSource) -> Vec<u8> {
    let mut found = vec![0xee; source.size().get() as usize];
    source.read_at(ByteOffset::ZERO, &mut found).unwrap();
    found
}

fn hydrate_all(disk: &Disk) -> u64 {
    let mut bytes = 0;
    loop {
        match disk.hydrate_step().unwrap() {
            Hydrating::Whole => return bytes,
            Hydrating::Working(read) => bytes += read.get(),
            Hydrating::Idle => {}
        }
    }
}

/// Everything reads the same before, after the release and after another open; and nobody asks the base any more.
#[test]
fn a_released_base_is_needed_by_nobody() {
    let (_media, env) = machine();
    let base = Watched::filled(4 * MIB + 700, 7);
    base.inner.zero(ByteRange::between(MIB, 2 * MIB + 5), block::Provision::Sparse).unwrap();
    let disk = on(&env, &base.as_base(), 5 * MIB);
    disk.write_at(ByteOffset::new(100), &[1; 50]).unwrap();
    let old = disk.seal().unwrap();
    disk.discard(ByteRange::between(3 * MIB, 3 * MIB + 4 * BLOCK)).unwrap();
    let held = disk.point_source(old.state).unwrap();
    let (live, point) = (read(&*disk), read(&*held));
    let full = disk.changes(None, Until::State(old.state)).unwrap();

    disk.begin_hydration().unwrap();
    disk.begin_hydration().unwrap();
    assert!(matches!(disk.release_base(), Err(Error::WrongBase { .. })), "nothing is there yet");
    hydrate_all(&disk);
    let progress = disk.hydration().unwrap();
    assert_eq!(disk.hydrated(), Some(progress.done));
    assert_eq!((progress.done, progress.total.get()), (progress.total, 4 * MIB + 700));
    assert!(progress.copied.get() < 3 * MIB + MIB, "zeros take no space");
    let later = disk.changes(Some(old.state), Until::Live).unwrap();
    assert_eq!(later.all().total().get(), 4 * BLOCK, "hydrating changes nothing");

    disk.release_base().unwrap();
    base.is_away.store(true, Ordering::SeqCst);
    assert!(!disk.stands() && disk.hydration().is_none());
    assert!(read(&*disk) == live && read(&*held) == point);
    assert!(read(&*disk.point_source(old.state).unwrap()) == point);
    let after = disk.changes(None, Until::State(old.state)).unwrap();
    // what the base has, but for its zeros
    let mut lacking = full.all();
    lacking.subtract(&after.all());
    assert!(lacking.iter().all(|range| range.start() >= MIB && range.end() <= 2 * MIB + BLOCK));
    assert_eq!(disk.changes(Some(old.state), Until::Live).unwrap(), later);
    assert!(
        disk.changes(Some(StateId::from_bytes([7; 16])), Until::Live).is_err(),
        "no increment from the base"
    );

    // the released layer folds like any other
    drop(held);
    disk.delete_point(old.state).unwrap();
    disk.fold_all().unwrap();
    assert!(read(&*disk) == live);
    disk.close().unwrap();
    drop(disk);
    for base in [None, Some(base.as_base())] {
        let disk = Disk::open_on(&env, "d", base.as_ref()).unwrap();
        assert!(read(&*disk) == live);
        disk.make_sums(&mut |_| true).unwrap();
        assert!(disk.scrub(&mut |_| true).unwrap().hurt.is_empty());
        disk.close().unwrap();
    }
}

/// What a reader missed comes first, with what follows it; then the rest from the front, each byte once.
#[test]
fn what_readers_miss_is_brought_first_and_nothing_twice() {
    let (_media, env) = machine();
    let base = Watched::filled(4 * MIB, 7);
    let disk = on(&env, &base.as_base(), 4 * MIB);
    disk.begin_hydration().unwrap();
    let mut buf = [0; 512];
    disk.read_at(ByteOffset::new(2 * MIB + 300), &mut buf).unwrap();
    assert_eq!((buf, base.reads()), ([7; 512], vec![(2 * MIB + 300, 2 * MIB + 812)]));
    assert_eq!(disk.hydrate_step().unwrap(), Hydrating::Working(ByteCount::new(MIB / 4)));
    assert_eq!(base.reads(), [(2 * MIB, 2 * MIB + MIB / 4)]);
    disk.read_at(ByteOffset::new(2 * MIB + 300), &mut buf).unwrap();
    assert_eq!((buf, base.reads()), ([7; 512], Vec::new()), "it is here now");
    disk.hydrate_step().unwrap();
    assert_eq!(base.reads(), [(0, MIB)], "the rest from the front");
    // a write of a part of a block needs the rest of it
    disk.write_at(ByteOffset::new(3 * MIB + 10), &[1; 10]).unwrap();
    assert_eq!(base.reads(), [(3 * MIB, 3 * MIB + BLOCK)]);
    hydrate_all(&disk);
    let missed_again: u64 = base.reads().iter().map(|(start, end)| end - start).sum();
    assert_eq!(missed_again, 4 * MIB - MIB - MIB / 4);
}

/// After the daemon's death or a power cut what was settled is not brought again, and what was not is.
#[test]
fn what_was_settled_is_not_brought_again() {
    for power in [false, true] {
        let (mut media, mut env) = machine();
        let base = Watched::filled(4 * MIB, 7);
        let disk = on(&env, &base.as_base(), 4 * MIB);
        disk.begin_hydration().unwrap();
        disk.hydrate_step().unwrap();
        disk.settle_hydration().unwrap();
        disk.hydrate_step().unwrap();
        drop(disk);
        media = if power { media.power_cut(&mut Rng::new(3)) } else { media.process_crash() };
        env.media = Arc::new(media.clone());
        base.reads();
        let disk = Disk::open_on(&env, "d", Some(&base.as_base())).unwrap();
        assert_eq!(disk.hydration().unwrap().done.get(), MIB);
        hydrate_all(&disk);
        assert_eq!(base.reads(), [(MIB, 4 * MIB)]);
        assert!(read(&*disk).iter().all(|&byte| byte == 7));
        disk.release_base().unwrap();
        assert_eq!(Disk::base_of(&env, "d").unwrap(), None);
    }
}

/// While the base is away what is here still reads; the rest fails, is not taken for anything else, and comes later.
#[test]
fn a_base_that_goes_away_is_missed_and_not_guessed() {
    let (_media, env) = machine();
    let base = Watched::filled(2 * MIB, 7);
    let disk = on(&env, &base.as_base(), 2 * MIB);
    disk.begin_hydration().unwrap();
    disk.hydrate_step().unwrap();
    base.is_away.store(true, Ordering::SeqCst);
    let mut buf = [0; 4096];
    disk.read_at(ByteOffset::new(BLOCK), &mut buf).unwrap();
    assert!(disk.read_at(ByteOffset::new(MIB), &mut buf).is_err());
    assert!(disk.write_at(ByteOffset::new(MIB), &[1; 10]).is_err(), "the rest of the block is not known");
    disk.write_at(ByteOffset::new(MIB), &[1; 4096]).unwrap();
    assert!(disk.hydrate_step().is_err());
    base.is_away.store(false, Ordering::SeqCst);
    hydrate_all(&disk);
    disk.release_base().unwrap();
    disk.read_at(ByteOffset::new(MIB + BLOCK), &mut buf).unwrap();
    assert_eq!(buf, [7; 4096]);
}

/// So many bytes, of which only one MiB, from the second number on, is not empty.
struct Sparse(u64, u64);

impl BlockSource for Sparse {
    fn size(&self) -> ByteCount {
        ByteCount::new(self.0)
    }

    fn read_at(&self, _: ByteOffset, buf: &mut [u8]) -> block::Result<()> {
        buf.fill(9);
        Ok(())
    }

    fn extents(&self, range: ByteRange, visit: &mut Visit<'_>) -> block::Result<()> {
        let data = ByteRange::between(self.1, self.1 + MIB);
        for (part, kind) in [
            (ByteRange::between(0, data.start()), ExtentKind::Hole),
            (data, ExtentKind::Data),
            (ByteRange::between(data.end(), self.0), ExtentKind::Hole),
        ] {
            let part = part.intersect(range);
            if !part.is_empty() && visit(block::Extent { range: part, kind }).is_break() {
                return Ok(());
            }
        }
        Ok(())
    }
}

/// A base of 4 TiB with little in it is brought in a moment, and takes no more than it has.
#[test]
fn emptiness_costs_nothing() {
    let (_media, env) = machine();
    let (size, at) = (4 << 40, 3 << 40);
    let base = Base { state: StateId::from_bytes([7; 16]), source: Arc::new(Sparse(size, at)) };
    let disk = on(&env, &base, size);
    disk.begin_hydration().unwrap();
    assert_eq!(hydrate_all(&disk), MIB);
    disk.release_base().unwrap();
    let mut kinds = Vec::new();
    disk.extents(ByteRange::whole(disk.size()), &mut |extent| {
        kinds.push((extent.range.start(), extent.kind));
        ControlFlow::Continue(())
    })
    .unwrap();
    assert_eq!(kinds, [(0, ExtentKind::Zero), (at, ExtentKind::Data), (at + MIB, ExtentKind::Zero)]);
    assert_eq!(disk.usage().unwrap().data.get(), MIB);
}

/// Threads that come upon the same emptiness count it once: hydration comes to its end whoever notes what.
#[test]
fn several_threads_agree_on_what_is_empty() {
    let (size, at) = (64 << 30, 3 * MIB + 17 * BLOCK);
    for round in 0..150 {
        let (_media, env) = machine();
        let base = Base { state: StateId::from_bytes([7; 16]), source: Arc::new(Sparse(size, at)) };
        let disk = on(&env, &base, size);
        disk.begin_hydration().unwrap();
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    let idle = std::iter::from_fn(|| match disk.hydrate_step().unwrap() {
                        Hydrating::Whole => None,
                        step => Some(u32::from(step == Hydrating::Idle)),
                    });
                    let idle = idle.scan(0, |sum, one| Some(std::mem::replace(sum, *sum + one)));
                    assert!(idle.into_iter().all(|idle| idle < 20_000), "round {round}: no end");
                });
            }
        });
        disk.release_base().unwrap();
    }
}

/// A reader that misses a block brings the window around it, if it is told to; the base is not asked for that again.
#[test]
fn readers_bring_what_they_missed() {
    let (_media, env) = machine();
    let base = Watched::filled(2 * MIB, 7);
    let disk = on(&env, &base.as_base(), 2 * MIB);
    disk.begin_hydration().unwrap();
    let ask = |at: u64| disk.read_at(ByteOffset::new(at), &mut [0; 100]).unwrap();
    ask(MIB + 5000);
    assert_eq!(disk.hydration().unwrap().done.get(), 0, "nobody was told to");
    disk.hydrate_on_read(true);
    base.reads();
    ask(5000);
    ask(MIB / 2);
    assert_eq!(disk.hydration().unwrap().done.get(), 2 * 64 * BLOCK, "the first one, and that");
    base.reads();
    (0..64).for_each(|block| ask(block * BLOCK));
    assert_eq!(base.reads(), [(MIB / 2, MIB / 2 + 64 * BLOCK)], "the window that was still wanted");
    base.is_away.store(true, Ordering::SeqCst);
    ask(MIB / 2 + 100);
    disk.hydrate_on_read(false);
    base.is_away.store(false, Ordering::SeqCst);
    hydrate_all(&disk);
    disk.release_base().unwrap();
    assert!(read(&*disk).iter().all(|&byte| byte == 7));
}

/// A full filesystem stops a hydration, not the disk; it goes on when there is room.
#[test]
fn no_room_is_waited_for() {
    let (_media, env) = machine();
    let base = Watched::filled(2 * MIB, 7);
    let disk = on(&env, &base.as_base(), 2 * MIB);
    disk.begin_hydration().unwrap();
    env.budget.allow(env.budget.taken(), MIB);
    disk.hydrate_step().unwrap();
    assert_eq!(disk.hydrate_step().expect_err("no room").kind(), block::Kind::NoSpace);
    assert!(read(&*disk).iter().all(|&byte| byte == 7));
    env.budget.allow(env.budget.taken(), 2 * MIB);
    hydrate_all(&disk);
    disk.release_base().unwrap();
}
