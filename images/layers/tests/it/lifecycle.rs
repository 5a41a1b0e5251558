//! Making, opening, sealing, listing and deleting, on the simulated machine without faults.

use crate::common::env;
use block::{
    BlockDevice, BlockSource, ByteCount, ByteOffset, ByteRange, DiskId, Kind, MAX_DISK_SIZE, Provision,
};
use layers::{Disk, Numbering, Opened, Until, seal_group};
use sim::{Rng, SimMedia};
use std::sync::Arc;

fn machine() -> (SimMedia, Rng) {
    (SimMedia::new(), Rng::new(1))
}

fn disk(media: &SimMedia, name: &str, size: u64) -> Arc<Disk> {
    let mut rng = Rng::new(name.bytes().fold(size, |seed, byte| seed * 31 + u64::from(byte)));
    let id = DiskId::from_bytes(rng.bytes(16).try_into().unwrap());
    Disk::create(&env(media, &mut rng), name, id, ByteCount::new(size)).unwrap()
}

fn fill(disk: &Disk, block: u64, count: u64, byte: u8) {
    disk.write_at(ByteOffset::new(block * 4096), &vec![byte; count as usize * 4096]).unwrap();
}

fn read(source: &dyn BlockSource, block: u64) -> u8 {
    let mut byte = [0];
    source.read_at(ByteOffset::new(block * 4096 + 77), &mut byte).unwrap();
    byte[0]
}

#[test]
fn passes_the_conformance_suite() {
    let mut number = 0;
    let number = std::cell::RefCell::new(&mut number);
    let media = SimMedia::new();
    sim::conformance::block_device(|size| {
        **number.borrow_mut() += 1;
        disk(&media, &format!("d{}", number.borrow()), size.get())
    });
}

#[test]
fn sizes_have_limits() {
    let (media, mut rng) = machine();
    let env = env(&media, &mut rng);
    for bad in [0, MAX_DISK_SIZE + 1, u64::MAX] {
        let made = Disk::create(&env, "d", DiskId::from_bytes([1; 16]), ByteCount::new(bad));
        assert_eq!(made.err().map(|error| error.kind()), Some(Kind::Invalid), "{bad}");
    }
}

/// The worked example of the literature: ten blocks A1 to A10.
#[test]
fn increments_name_exactly_what_changed() {
    let media = SimMedia::new();
    let disk = disk(&media, "d", 10 * 4096);
    (0..10).for_each(|block| fill(&disk, block, 1, block as u8 + 1));
    let full = disk.seal().unwrap();
    [1, 2, 3, 8].into_iter().for_each(|block| fill(&disk, block, 1, 0xaa));
    let second = disk.seal().unwrap();
    fill(&disk, 4, 1, 0xbb);
    let third = disk.seal().unwrap();
    let named = |since, until| {
        let changes = disk.changes(since, Until::State(until)).unwrap();
        changes
            .data
            .iter()
            .flat_map(|range| range.start() / 4096 + 1..range.end() / 4096 + 1)
            .collect::<Vec<_>>()
    };
    assert_eq!(named(None, full.state), (1..=10).collect::<Vec<_>>());
    assert_eq!(named(Some(full.state), second.state), [2, 3, 4, 9]);
    assert_eq!(named(Some(second.state), third.state), [5]);
    let expect = |state, block, byte| assert_eq!(read(&*disk.point_source(state).unwrap(), block), byte);
    disk.delete_point(second.state).unwrap();
    expect(full.state, 1, 2);
    expect(third.state, 1, 0xaa);
    expect(third.state, 4, 0xbb);
    assert_eq!(named(Some(second.state), third.state), [5], "the boundary is still known");
    disk.delete_point(full.state).unwrap();
    expect(third.state, 0, 1);
    disk.delete_point(third.state).unwrap();
    assert_eq!(read(&*disk, 4), 0xbb);
    assert!(disk.points().is_empty());
    disk.fold_all().unwrap();
    assert!(disk.usage().unwrap().layers <= 2);
}

#[test]
fn an_open_source_outlives_its_point() {
    let media = SimMedia::new();
    let disk = disk(&media, "d", 64 * 4096);
    fill(&disk, 0, 64, 1);
    let first = disk.seal().unwrap();
    fill(&disk, 8, 8, 2);
    let second = disk.seal().unwrap();
    let (old, newer) = (disk.point_source(first.state).unwrap(), disk.point_source(second.state).unwrap());
    disk.delete_point(first.state).unwrap();
    disk.delete_point(second.state).unwrap();
    disk.fold_all().unwrap();
    fill(&disk, 0, 64, 3);
    disk.seal().unwrap();
    disk.fold_all().unwrap();
    assert_eq!([read(&*old, 9), read(&*newer, 9), read(&*newer, 0), read(&*disk, 9)], [1, 2, 1, 3]);
    assert_eq!(disk.point_source(first.state).err().map(|error| error.kind()), Some(Kind::NotFound));
}

/// Something stands on a state: deleting its point, and every point around it, changes nothing of what it reads, also
/// after a restart, until the pin is taken back.
#[test]
fn a_pinned_state_outlives_its_point_and_a_restart() {
    let (media, mut rng) = machine();
    let disk = disk(&media, "d", 64 * 4096);
    let states = [1, 2, 3, 4].map(|byte| {
        fill(&disk, u64::from(byte), 8, byte);
        disk.seal().unwrap().state
    });
    disk.pin(states[1]).unwrap();
    disk.pin(states[1]).unwrap();
    assert_eq!(disk.pinned(), [states[1]]);
    states.iter().for_each(|&state| disk.delete_point(state).unwrap());
    assert_eq!(disk.points(), []);
    disk.fold_all().unwrap();
    let check = |disk: &Arc<Disk>| {
        let source = disk.point_source(states[1]).unwrap();
        assert_eq!([0, 1, 2, 9, 10].map(|block| read(&*source, block)), [0, 1, 2, 2, 0]);
        assert_eq!([1, 2, 3, 4, 11].map(|block| read(&**disk, block)), [1, 2, 3, 4, 4]);
        let refused = disk.point_source(states[2]).err().map(|error| error.kind());
        assert_eq!(refused, Some(Kind::NotFound), "a deleted state nobody pinned");
    };
    check(&disk);
    drop(disk);
    let media = media.process_crash();
    let disk = Disk::open(&env(&media, &mut rng), "d").unwrap();
    assert_eq!(disk.pinned(), [states[1]]);
    check(&disk);
    disk.unpin(states[1]).unwrap();
    assert_eq!(disk.pinned(), []);
    let gone = [disk.pin(states[0]), disk.pin(states[1]), disk.point_source(states[1]).map(drop)];
    assert!(gone.iter().all(|done| done.as_ref().err().map(layers::Error::kind) == Some(Kind::NotFound)));
    assert_eq!([1, 2, 3, 4, 11].map(|block| read(&*disk, block)), [1, 2, 3, 4, 4]);
}

#[test]
fn states_that_are_no_ancestors_are_refused() {
    let media = SimMedia::new();
    let (one, other) = (disk(&media, "a", 8192), disk(&media, "b", 8192));
    let (first, second) = (one.seal().unwrap(), one.seal().unwrap());
    let foreign = other.seal().unwrap();
    let refused = |since, until| one.changes(since, until).err().map(|error| error.kind());
    assert_eq!(refused(Some(foreign.state), Until::Live), Some(Kind::Conflict));
    assert_eq!(refused(Some(second.state), Until::State(first.state)), Some(Kind::Conflict));
    assert_eq!(refused(Some(first.state), Until::State(second.state)), None);
}

#[test]
fn a_group_is_sealed_at_one_instant_or_not_at_all() {
    let media = SimMedia::new();
    let disks = [disk(&media, "a", 8192), disk(&media, "bb", 8192), disk(&media, "ccc", 8192)];
    let points = seal_group(&[&disks[2], &disks[0], &disks[1]], Numbering::Own).unwrap();
    assert_eq!(points[0].state, disks[2].points()[0].state);
    assert!(points.iter().all(|point| point.group.len() == 3 && point.group == points[0].group));
    let twice = seal_group(&[&disks[0], &disks[0]], Numbering::Own);
    assert_eq!(twice.err().map(|error| error.kind()), Some(Kind::Invalid));
    // a member that can no longer promise anything fails the group, and nobody has a point of it
    media.inject(sim::Fault::new(sim::Op::Sync, sim::Effect::Eio).on("bb/"));
    assert!(seal_group(&[&disks[0], &disks[1], &disks[2]], Numbering::Own).is_err());
    assert_eq!(disks[0].points().len(), 1);
    assert_eq!(disks[2].points().len(), 1);
}

#[test]
fn the_disks_of_a_machine_count_together() {
    let media = SimMedia::new();
    let disks = [disk(&media, "a", 8192), disk(&media, "bb", 8192)];
    disks[0].seal().unwrap();
    disks[0].seal().unwrap();
    let epochs = |numbering| {
        let points = seal_group(&[&disks[0], &disks[1]], numbering).unwrap();
        assert_eq!(points[0].time, points[1].time, "one instant");
        [points[0].epoch.get(), points[1].epoch.get()]
    };
    assert_eq!(epochs(Numbering::Own), [3, 1]);
    assert_eq!(epochs(Numbering::Common), [4, 4]);
    assert_eq!(epochs(Numbering::Common), [5, 5]);
    fill(&disks[1], 0, 1, 7);
    let since = disks[1].points()[0].state;
    assert_eq!(disks[1].changes(Some(since), Until::Live).unwrap().all().total().get(), 4096);
}

/// The machine stops at every call of a group seal: afterwards the group's point is on all members or on none.
#[test]
fn a_group_cut_short_is_on_all_members_or_on_none() {
    let mut outcomes = std::collections::BTreeSet::new();
    let mut taken_back = 0;
    for cut in 0..120 {
        for power in [false, true] {
            let (media, mut rng) = (SimMedia::new(), Rng::new(cut));
            let disks = [disk(&media, "a", 8192), disk(&media, "bb", 8192)];
            disks.iter().for_each(|disk| fill(disk, 0, 1, 7));
            media.crash_after(cut, sim::Cut::BeforeEffect);
            let done = seal_group(&[&disks[0], &disks[1]], Numbering::Own).is_ok();
            drop(disks);
            let media = if power { media.power_cut(&mut rng) } else { media.process_crash() };
            let disks = ["a", "bb"].map(|dir| Disk::open(&env(&media, &mut rng), dir).unwrap());
            for (index, state) in layers::incomplete_groups(&[&disks[0], &disks[1]]) {
                taken_back += 1;
                disks[index].delete_point(state).unwrap();
            }
            let points = disks.each_ref().map(|disk| disk.points().len());
            assert_eq!(points[0], points[1], "cut {cut}, power {power}");
            assert!(!done || points[0] == 1, "an acknowledged group is gone, cut {cut}, power {power}");
            outcomes.insert(points[0]);
        }
    }
    assert_eq!(outcomes.into_iter().collect::<Vec<_>>(), [0, 1]);
    assert!(taken_back > 0, "no cut came between the members");
}

#[test]
fn closing_ends_writes_and_opens_clean() {
    let (media, mut rng) = machine();
    let first = disk(&media, "d", 1 << 20);
    assert_eq!(first.opened(), Opened::Created);
    fill(&first, 3, 1, 9);
    let again = Disk::open(&env(&media, &mut rng), "d");
    assert_eq!(again.err().map(|error| error.kind()), Some(Kind::Conflict), "it is open here");
    first.close().unwrap();
    let late = first.write_at(ByteOffset::ZERO, &[1]);
    assert_eq!(late.err().map(|error| error.kind()), Some(Kind::Unavailable));
    drop(first);
    let second = Disk::open(&env(&media, &mut rng), "d").unwrap();
    assert_eq!((second.opened(), read(&*second, 3)), (Opened::Clean, 9));
    drop(second);
    Disk::destroy(&env(&media, &mut rng), "d").unwrap();
    assert!(media.files().is_empty(), "{:?}", media.files());
    let gone = Disk::open(&env(&media, &mut rng), "d");
    assert_eq!(gone.err().map(|error| error.kind()), Some(Kind::NotFound));
}

#[test]
fn a_16_tib_disk_is_sealed_trimmed_and_asked_at_once() {
    // the simulated memory is whole, so the map of such a disk lives on the host's
    let (dir, volatile) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let env = layers::Env::linux(dir.path(), volatile.path()).unwrap();
    let size = 16 << 40;
    let disk = Disk::create(&env, "d", DiskId::from_bytes([7; 16]), ByteCount::new(size)).unwrap();
    fill(&disk, 0, 1, 1);
    fill(&disk, size / 4096 - 1, 1, 2);
    let point = disk.seal().unwrap();
    disk.discard(ByteRange::between(0, size)).unwrap();
    disk.flush().unwrap();
    fill(&disk, 1 << 30, 1, 3);
    let changes = disk.changes(Some(point.state), Until::Live).unwrap();
    assert_eq!((changes.data.total().get(), changes.zero.total().get()), (4096, size - 4096));
    assert_eq!([read(&*disk, 0), read(&*disk, 1 << 30)], [0, 3]);
    assert_eq!(read(&*disk.point_source(point.state).unwrap(), size / 4096 - 1), 2);
    drop(disk);
    let disk = Disk::open(&env, "d").unwrap();
    assert_eq!((disk.opened(), read(&*disk, 1 << 30)), (Opened::LiveMap, 3));
    disk.zero(ByteRange::between(1, size - 1), Provision::Sparse).unwrap();
    disk.close().unwrap();
    assert!(env.media.list_volatile().unwrap().is_empty());
}
