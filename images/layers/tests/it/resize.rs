//! Growing and shrinking: every edge from both sides, every step cut short.

use crate::common::env;
use block::{BlockDevice, BlockSource, ByteCount, ByteOffset, ByteRange, DiskId, Kind};
use layers::{Disk, Env, Until};
use sim::{Cut, Effect, Fault, Op, Rng, SimMedia};
use std::sync::Arc;

const BLOCK: u64 = 4096;

/// A host whose files are sparse and whose syncs cost nothing.
fn in_memory() -> ([tempfile::TempDir; 2], Env) {
    let dirs = [(); 2].map(|()| tempfile::tempdir_in("/dev/shm").unwrap());
    let env = Env::linux(dirs[0].path(), dirs[1].path()).unwrap();
    (dirs, Env { journal_room: ByteCount::new(4096), ..env })
}

fn resize(disk: &Disk, size: u64) {
    disk.resize(ByteCount::new(size)).unwrap_or_else(|error| panic!("to {size}: {error}"));
    assert_eq!(disk.size().get(), size);
}

fn bytes(source: &dyn BlockSource, start: u64, end: u64) -> Vec<u8> {
    let mut found = vec![0xee; (end - start) as usize];
    source.read_at(ByteOffset::new(start), &mut found).unwrap();
    found
}

fn all(source: &dyn BlockSource) -> Vec<u8> {
    bytes(source, 0, source.size().get())
}

/// The last bytes of a disk, marked.
fn mark_end(disk: &Disk, byte: u8) -> u64 {
    let end = disk.size().get();
    let start = end.saturating_sub(16);
    disk.write_at(ByteOffset::new(start), &vec![byte; (end - start) as usize]).unwrap();
    start
}

/// Goes from one size to the other and back: marks stay where both sizes have them, and nothing else appears.
fn there_and_back(disk: &Arc<Disk>, small: u64, large: u64) {
    let first = disk.seal().unwrap();
    let low = mark_end(disk, 0x51);
    resize(disk, large);
    let around = |from: u64| bytes(&**disk, from, (from + 3 * BLOCK).min(large));
    assert!(bytes(&**disk, low, small).iter().all(|&byte| byte == 0x51), "{small} to {large}: lost");
    assert!(around(small).iter().all(|&byte| byte == 0), "{small} to {large}: old data");
    let high = mark_end(disk, 0x1a);
    let second = disk.seal().unwrap();
    resize(disk, small);
    let past = disk.read_at(ByteOffset::new(small), &mut [0]).unwrap_err();
    assert_eq!(past.kind(), Kind::OutOfRange);
    let kept = high.min(small);
    assert!(bytes(&**disk, low.min(kept), kept).iter().all(|&byte| byte == 0x51), "{large} to {small}: lost");
    let third = disk.seal().unwrap();
    resize(disk, large);
    let gone = bytes(&**disk, high.max(small), large);
    assert!(
        gone.iter().chain(&around(small)).all(|&byte| byte == 0),
        "{large} to {small} and back: old data"
    );
    // every point keeps its own size and content
    let sizes = [&first, &second, &third].map(|point| disk.point_source(point.state).unwrap().size().get());
    assert_eq!(sizes, [small, large, small]);
    let held = disk.point_source(second.state).unwrap();
    assert!(bytes(&*held, high, large).iter().all(|&byte| byte == 0x1a));
    // the mark that went away counts as changed since the point that has it
    let changed = disk.changes(Some(second.state), Until::Live).unwrap().all();
    let mark = ByteRange::between(high.max(small), large);
    assert!(changed.iter().any(|range| range.intersect(mark) == mark), "{large}: a lost mark is no change");
    let changed = disk.changes(Some(first.state), Until::State(third.state)).unwrap().all();
    assert!(changed.iter().all(|range| range.end() <= small), "past the end of the later state");
    resize(disk, small);
    for point in [first, second, third] {
        disk.delete_point(point.state).unwrap();
        disk.fold_all().unwrap();
    }
}

#[test]
fn every_power_of_two_is_passed_both_ways() {
    let (_dirs, env) = in_memory();
    let disk = Disk::create(&env, "d", DiskId::from_bytes([7; 16]), ByteCount::new(512)).unwrap();
    for power in 12..=45 {
        for (less, more) in [(1, 0), (0, 1), (BLOCK - 1, BLOCK + 1)] {
            let (small, large) = ((1u64 << power) - less, (1 << power) + more);
            if small > 0 {
                resize(&disk, small);
                there_and_back(&disk, small, large);
            }
        }
    }
    let largest = 1 << 46;
    resize(&disk, largest);
    assert_eq!(disk.resize(ByteCount::new(largest + 1)).unwrap_err().kind(), Kind::Invalid);
    assert_eq!(disk.resize(ByteCount::ZERO).unwrap_err().kind(), Kind::Invalid);
}

#[test]
fn every_edge_of_a_map_page_is_passed_both_ways() {
    const PAGE: u64 = 16384 * BLOCK;
    let (_dirs, env) = in_memory();
    let disk = Disk::create(&env, "d", DiskId::from_bytes([7; 16]), ByteCount::new(PAGE)).unwrap();
    let around = |edge: u64| [edge - BLOCK, edge - 1, edge, edge + 1, edge + BLOCK];
    for pages in [1, 2, 3] {
        for small in around(pages * PAGE) {
            for large in around((pages + 1) * PAGE).into_iter().chain(around(pages * PAGE)) {
                if small < large {
                    resize(&disk, small);
                    there_and_back(&disk, small, large);
                }
            }
        }
    }
}

/// A disk of `from` bytes: a point, and writes over it, at the end too.
fn scene(rng: &mut Rng, from: u64) -> (SimMedia, Arc<Disk>, Vec<u8>) {
    let media = SimMedia::new();
    let id = DiskId::from_bytes([1; 16]);
    let disk = Disk::create(&env(&media, rng), "d", id, ByteCount::new(from)).unwrap();
    disk.write_at(ByteOffset::ZERO, &vec![0x11; from as usize]).unwrap();
    disk.seal().unwrap();
    disk.write_at(ByteOffset::new(from / 2), &vec![0x22; (from - from / 2) as usize]).unwrap();
    disk.flush().unwrap();
    let content = all(&*disk);
    (media, disk, content)
}

#[test]
fn a_resize_cut_short_did_or_did_not_happen() {
    let sizes =
        [(10 * BLOCK, 4 * BLOCK + 100), (9 * BLOCK + 1, 9 * BLOCK + 4000), (9 * BLOCK + 4000, 9 * BLOCK + 1)];
    for (from, to) in sizes {
        let mut outcomes = std::collections::BTreeSet::new();
        for cut in 0..70 {
            for power in [false, true] {
                let mut rng = Rng::new(cut);
                let (media, disk, old) = scene(&mut rng, from);
                media.crash_after(cut, if cut % 2 == 0 { Cut::BeforeEffect } else { Cut::AfterEffect });
                let done = disk.resize(ByteCount::new(to)).is_ok();
                drop(disk);
                let media = if power { media.power_cut(&mut rng) } else { media.process_crash() };
                let disk = Disk::open(&env(&media, &mut rng), "d").unwrap();
                let size = disk.size().get();
                assert!(size == to || size == from && !done, "{from} to {to}, cut {cut}: {size} bytes");
                outcomes.insert(size == to);
                let mut expected = old.clone();
                expected.truncate(size as usize);
                expected.resize(size as usize, 0);
                assert!(all(&*disk) == expected, "{from} to {to}, cut {cut}, power {power}: content");
                // grown again, what was cut off must not be there
                resize(&disk, 20 * BLOCK);
                expected.resize(20 * BLOCK as usize, 0);
                assert!(all(&*disk) == expected, "{from} to {to}, cut {cut}, power {power}: old data");
            }
        }
        assert_eq!(outcomes.len(), 2, "{from} to {to}: both outcomes are seen");
    }
}

#[test]
fn a_full_filesystem_leaves_the_old_size_and_heals() {
    let mut failed = 0;
    for (from, to) in [(10 * BLOCK, 4 * BLOCK + 100), (9 * BLOCK + 1, 30 * BLOCK)] {
        let places = [
            (Op::Allocate, ""),
            (Op::Create, ""),
            (Op::Reserve, ""),
            (Op::Write, ".map"),
            (Op::Write, ".layer"),
            (Op::Write, "chain.new"),
        ];
        for ((op, part), nth) in places.into_iter().flat_map(|place| (0..8).map(move |nth| (place, nth))) {
            let mut rng = Rng::new(nth);
            let (media, disk, old) = scene(&mut rng, from);
            media.inject(Fault::new(op, Effect::Enospc).on(part).after(nth));
            if let Err(error) = disk.resize(ByteCount::new(to)) {
                failed += 1;
                assert_eq!(error.kind(), Kind::NoSpace, "{op:?} {nth}: {error}");
                assert!(all(&*disk) == old, "{op:?} {nth}: content after a refused resize");
                disk.write_at(ByteOffset::ZERO, &[0x77]).unwrap();
                disk.flush().unwrap();
                resize(&disk, to);
            }
            assert_eq!(disk.size().get(), to);
            let kept = from.min(to) as usize;
            assert!(bytes(&*disk, 1, kept as u64) == old[1..kept]);
        }
    }
    assert!(failed > 20, "{failed} resizes met the full filesystem");
}

/// Writers and flushers while the size goes up and down: what lies below the smallest size is always what was written.
#[test]
fn writers_go_on_while_the_size_changes() {
    let (dir, volatile) = (tempfile::tempdir().unwrap(), tempfile::tempdir_in("/dev/shm").unwrap());
    let env = Env::linux(dir.path(), volatile.path()).unwrap();
    let disk = Disk::create(&env, "d", DiskId::from_bytes([9; 16]), ByteCount::new(1 << 20)).unwrap();
    let stop = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        for thread in 0..2u64 {
            let (disk, stop) = (&disk, &stop);
            scope.spawn(move || {
                let mut round = 0u64;
                while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                    round += 1;
                    let at = ByteOffset::new((round % 64) * 8192 + thread * 512);
                    disk.write_at(at, &[round as u8; 512]).unwrap();
                    let mut found = [0; 512];
                    disk.read_at(at, &mut found).unwrap();
                    assert_eq!(found, [round as u8; 512], "thread {thread}, round {round}");
                    if round.is_multiple_of(40) {
                        disk.flush().unwrap();
                    }
                }
            });
        }
        for round in 0..60u64 {
            resize(&disk, (1 << 20) - 1000 * (round % 7) + 5000 * (round % 3));
        }
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
    });
}
