//! Disks that stand on something.

use crate::common::env;
use block::{
    BlockDevice, BlockSource, ByteCount, ByteOffset, ByteRange, DiskId, ExtentKind, MemoryDisk, Provision,
    RangeSet, StateId,
};
use layers::{Base, Disk, Env, Error, Until};
use sim::{Rng, SimMedia};
use std::ops::ControlFlow;
use std::sync::Arc;

const BLOCK: u64 = 4096;

fn machine() -> (SimMedia, Env) {
    let media = SimMedia::new();
    let env = env(&media, &mut Rng::new(7));
    (media, env)
}

/// A base of so many bytes, all of them this one.
fn base(size: u64, byte: u8) -> Base {
    let source = MemoryDisk::new(ByteCount::new(size));
    source.write_at(ByteOffset::ZERO, &vec![byte; size as usize]).unwrap();
    Base { state: StateId::from_bytes([byte; 16]), source: Arc::new(source) }
}

fn on(env: &Env, base: &Base, size: u64) -> Arc<Disk> {
    Disk::create_on(env, "d", DiskId::from_bytes([1; 16]), ByteCount::new(size), Some(base)).unwrap()
}

fn bytes(source: &dyn BlockSource, start: u64, end: u64) -> Vec<u8> {
    let mut found = vec![0xee; (end - start) as usize];
    source.read_at(ByteOffset::new(start), &mut found).unwrap();
    found
}

fn is_all(source: &dyn BlockSource, start: u64, end: u64, byte: u8) -> bool {
    bytes(source, start, end).iter().all(|found| *found == byte)
}

fn set(ranges: &[(u64, u64)]) -> RangeSet {
    ranges.iter().map(|&(start, end)| ByteRange::between(start, end)).collect()
}

#[test]
fn the_base_shows_through_until_it_is_written_trimmed_or_ends() {
    let (_media, env) = machine();
    let disk = on(&env, &base(5 * BLOCK + 100, 7), 8 * BLOCK);
    assert!(is_all(&*disk, 0, 5 * BLOCK + 100, 7) && is_all(&*disk, 5 * BLOCK + 100, 8 * BLOCK, 0));
    disk.write_at(ByteOffset::new(BLOCK + 10), &[1; 20]).unwrap();
    disk.discard(ByteRange::between(2 * BLOCK, 3 * BLOCK)).unwrap();
    disk.zero(ByteRange::between(5 * BLOCK, 5 * BLOCK + 50), Provision::Sparse).unwrap();
    let point = disk.seal().unwrap();
    disk.write_at(ByteOffset::ZERO, &[3; 4096]).unwrap();
    for (source, first) in
        [(disk.clone() as Arc<dyn BlockSource>, 3), (disk.point_source(point.state).unwrap(), 7)]
    {
        assert!(is_all(&*source, 0, BLOCK, first));
        assert!(is_all(&*source, BLOCK, BLOCK + 10, 7) && is_all(&*source, BLOCK + 10, BLOCK + 30, 1));
        assert!(is_all(&*source, BLOCK + 30, 2 * BLOCK, 7) && is_all(&*source, 2 * BLOCK, 3 * BLOCK, 0));
        assert!(is_all(&*source, 5 * BLOCK, 5 * BLOCK + 50, 0));
        assert!(is_all(&*source, 5 * BLOCK + 50, 5 * BLOCK + 100, 7));
        assert!(is_all(&*source, 5 * BLOCK + 100, 8 * BLOCK, 0));
    }
    let mut kinds = Vec::new();
    let visit = &mut |extent: block::Extent| {
        kinds.push((extent.range.start() / BLOCK, extent.kind));
        ControlFlow::Continue(())
    };
    disk.extents(ByteRange::whole(disk.size()), visit).unwrap();
    let data = ExtentKind::Data;
    assert_eq!(kinds, [(0, data), (2, ExtentKind::Zero), (3, data), (6, ExtentKind::Hole)]);
}

#[test]
fn a_visitor_that_stops_within_the_base_is_asked_no_more() {
    let (_media, env) = machine();
    let disk = on(&env, &base(4 * BLOCK, 7), 8 * BLOCK);
    disk.discard(ByteRange::between(BLOCK, 2 * BLOCK)).unwrap();
    for stop in 1..=4 {
        let mut asked = 0;
        let visit = &mut |_: block::Extent| {
            asked += 1;
            if asked == stop { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        };
        disk.extents(ByteRange::whole(disk.size()), visit).unwrap();
        assert_eq!(asked, stop);
    }
}

#[test]
fn all_that_was_ever_written_includes_the_base_and_no_increment_does() {
    let (_media, env) = machine();
    let disk = on(&env, &base(4 * BLOCK, 7), 8 * BLOCK);
    disk.write_at(ByteOffset::new(6 * BLOCK), &[1; 10]).unwrap();
    disk.discard(ByteRange::between(BLOCK, 2 * BLOCK)).unwrap();
    let point = disk.seal().unwrap();
    disk.write_at(ByteOffset::new(BLOCK), &[1; 10]).unwrap();
    let full = disk.changes(None, Until::State(point.state)).unwrap();
    assert_eq!(full.data, set(&[(0, BLOCK), (2 * BLOCK, 4 * BLOCK), (6 * BLOCK, 7 * BLOCK)]));
    assert_eq!(full.zero, set(&[(BLOCK, 2 * BLOCK)]));
    let later = disk.changes(Some(point.state), Until::Live).unwrap();
    assert_eq!((later.data, later.zero), (set(&[(BLOCK, 2 * BLOCK)]), RangeSet::new()));
    disk.resize(ByteCount::new(3 * BLOCK - 7)).unwrap();
    let full = disk.changes(None, Until::Live).unwrap();
    assert_eq!(full.all(), set(&[(0, 3 * BLOCK - 7)]));
}

#[test]
fn what_a_shrink_cut_off_does_not_come_back() {
    for (small, large) in [(2 * BLOCK, 6 * BLOCK), (2 * BLOCK - 5, 9 * BLOCK + 3), (1, 5 * BLOCK), (513, 600)]
    {
        let (media, env) = machine();
        let ground = base(5 * BLOCK + 100, 7);
        let disk = on(&env, &ground, 6 * BLOCK);
        let whole = disk.seal().unwrap();
        disk.resize(ByteCount::new(small)).unwrap();
        disk.resize(ByteCount::new(large)).unwrap();
        assert!(is_all(&*disk, 0, small, 7) && is_all(&*disk, small, large, 0), "{small} to {large}");
        disk.delete_point(whole.state).unwrap();
        disk.fold_all().unwrap();
        assert!(is_all(&*disk, 0, small, 7) && is_all(&*disk, small, large, 0), "folded");
        drop(disk);
        let again = env_of(&media.process_crash());
        let disk = Disk::open_on(&again, "d", Some(&ground)).unwrap();
        assert!(is_all(&*disk, 0, small, 7) && is_all(&*disk, small, large, 0), "opened again");
    }
}

fn env_of(media: &SimMedia) -> Env {
    env(media, &mut Rng::new(8))
}

#[test]
fn a_disk_is_opened_on_what_it_was_made_on_or_not_at_all() {
    let (media, env) = machine();
    let disk = on(&env, &base(4 * BLOCK, 7), 8 * BLOCK);
    disk.close().unwrap();
    drop(disk);
    let refused = |base: Option<&Base>| match Disk::open_on(&env_of(&media), "d", base) {
        Err(Error::WrongBase { why, .. }) => why,
        Err(other) => panic!("{other}"),
        Ok(_) => panic!("opened"),
    };
    assert!(refused(None).contains("none is given"));
    assert!(refused(Some(&base(4 * BLOCK, 8))).contains("not on"));
    assert!(
        refused(Some(&Base { state: StateId::from_bytes([7; 16]), ..base(4 * BLOCK - 1, 7) }))
            .contains("had")
    );
    // longer is the same content with something behind it
    let longer = base(9 * BLOCK, 7);
    let disk = Disk::open_on(&env_of(&media), "d", Some(&longer)).unwrap();
    assert!(is_all(&*disk, 0, 4 * BLOCK, 7) && is_all(&*disk, 4 * BLOCK, 8 * BLOCK, 0));
    disk.close().unwrap();
    drop(disk);
    let plain =
        Disk::create(&env_of(&media), "p", DiskId::from_bytes([2; 16]), ByteCount::new(BLOCK)).unwrap();
    plain.close().unwrap();
    drop(plain);
    let error = Disk::open_on(&env_of(&media), "p", Some(&longer)).err().map(|error| error.to_string());
    assert!(error.is_some_and(|error| error.contains("stands on nothing")));
}

#[test]
fn no_increment_spans_a_base_that_changed() {
    let (media, env) = machine();
    let disk = on(&env, &base(4 * BLOCK, 7), 8 * BLOCK);
    disk.write_at(ByteOffset::new(6 * BLOCK), &[1; 10]).unwrap();
    let before = disk.seal().unwrap();
    disk.begin_history_anew().unwrap();
    let after = disk.seal().unwrap();
    disk.write_at(ByteOffset::ZERO, &[1; 10]).unwrap();
    drop(disk);
    let media = media.process_crash();
    assert!(check::check_directory(&media, "d", true).findings.is_empty());
    let disk = Disk::open_on(&env_of(&media), "d", Some(&base(4 * BLOCK, 7))).unwrap();
    for until in [Until::State(after.state), Until::Live] {
        let error = disk.changes(Some(before.state), until).unwrap_err();
        assert!(matches!(error, Error::NotAnAncestor { .. }), "{error}");
    }
    assert_eq!(disk.changes(Some(after.state), Until::Live).unwrap().all(), set(&[(0, BLOCK)]));
    let all = disk.changes(None, Until::Live).unwrap().all();
    assert_eq!(all, set(&[(0, 4 * BLOCK), (6 * BLOCK, 7 * BLOCK)]));
}

/// Two disks on one point, and one on a point of the first: what happens around the points changes none of them.
#[test]
fn children_of_a_point_survive_its_deletion_and_that_of_its_neighbours() {
    let (_media, env) = machine();
    let size = ByteCount::new(300 * BLOCK);
    let parent = Disk::create(&env, "parent", DiskId::from_bytes([1; 16]), size).unwrap();
    let mut points = Vec::new();
    for byte in 1..=5 {
        let at = u64::from(byte) * 20 * BLOCK;
        parent.write_at(ByteOffset::new(at), &vec![byte; 40 * BLOCK as usize]).unwrap();
        points.push((parent.seal().unwrap(), bytes(&*parent, 0, size.get())));
    }
    let (middle, content) = &points[2];
    parent.pin(middle.state).unwrap();
    let stand = Base { state: middle.state, source: parent.point_source(middle.state).unwrap() };
    let make = |dir: &str, id: u8, base: &Base| {
        Disk::create_on(&env, dir, DiskId::from_bytes([id; 16]), size, Some(base)).unwrap()
    };
    let (left, right) = (make("left", 2, &stand), make("right", 3, &stand));
    left.write_at(ByteOffset::new(60 * BLOCK), &[0x11; 4096]).unwrap();
    let of_left = left.seal().unwrap();
    let third = Base { state: of_left.state, source: left.point_source(of_left.state).unwrap() };
    let third = make("third", 4, &third);
    for (point, _) in &points {
        parent.delete_point(point.state).unwrap();
    }
    parent.fold_all().unwrap();
    parent.write_at(ByteOffset::ZERO, &vec![0xff; size.get() as usize]).unwrap();
    assert_eq!(parent.pinned(), [middle.state]);
    let mut changed = content.clone();
    changed[60 * BLOCK as usize..61 * BLOCK as usize].fill(0x11);
    for (disk, content) in [(&right, content), (&left, &changed), (&third, &changed)] {
        assert_eq!(bytes(&**disk, 0, size.get()), *content);
    }
    let depth = |disk: &Disk, block: u64| {
        let mut found = 0;
        disk.depths(ByteRange::between(block * BLOCK, (block + 1) * BLOCK), &mut |_, depth| {
            found = depth;
            ControlFlow::Break(())
        })
        .unwrap();
        found
    };
    assert_eq!((depth(&left, 60), depth(&left, 70), depth(&right, 70)), (2, 3, 2));
}
