//! What a write costs, seen by what the host is asked for.

use crate::common::env;
use block::{BlockDevice, BlockSource, ByteCount, ByteOffset, DiskId};
use layers::{Disk, Env};
use sim::{Effect, Fault, Op, Rng, SimMedia};

const BLOCK: u64 = 4096;

/// The first write to a block after a recovery point takes the room of that block and nothing is read for it, if it
/// covers the whole block: it works on a host that cannot read. A write of a part must read, and then fails.
#[test]
fn the_first_whole_write_after_a_point_copies_nothing() {
    let media = SimMedia::new();
    let env = env(&media, &mut Rng::new(1));
    let disk = Disk::create(&env, "d", DiskId::from_bytes([1; 16]), ByteCount::new(256 * BLOCK)).unwrap();
    disk.write_at(ByteOffset::ZERO, &vec![1; 256 * BLOCK as usize]).unwrap();
    disk.seal().unwrap();
    // takes the room of the map page, once for all the blocks below
    disk.write_at(ByteOffset::ZERO, &[2; BLOCK as usize]).unwrap();
    media.inject(Fault::new(Op::Read, Effect::Eio).on(".layer").forever());
    let before = media.used();
    for (number, count) in [(5, 1), (9, 1), (20, 7), (255, 1)] {
        let bytes = vec![3; (count * BLOCK) as usize];
        disk.write_at(ByteOffset::new(number * BLOCK), &bytes).unwrap();
    }
    assert_eq!(media.used() - before, 10 * BLOCK);
    assert_eq!(media.faults_fired(), 0, "something was read");
    assert!(disk.write_at(ByteOffset::new(100 * BLOCK), &[4; 512]).is_err(), "a part needs the rest");
    assert!(disk.read_at(ByteOffset::new(101 * BLOCK), &mut [0]).is_err());
}

/// Maps and index are largest when something in each of their pages was written, and again after a point.
#[test]
fn maps_and_index_stay_within_their_share_whatever_is_written() {
    const SIZE: u64 = 16 << 30;
    const SHARE: u64 = (1 << 40) / SIZE;
    /// Blocks of a page of a map.
    const PAGE: u64 = 16384 * BLOCK;
    // headers, and the top levels, which a page of the host is the smallest part of
    const SLACK: u64 = 64 << 10;
    let dirs = [(); 2].map(|()| tempfile::tempdir_in("/dev/shm").unwrap());
    let env = Env::linux(dirs[0].path(), dirs[1].path()).unwrap();
    let env = Env { journal_room: ByteCount::new(4096), ..env };
    let disk = Disk::create(&env, "d", DiskId::from_bytes([1; 16]), ByteCount::new(SIZE)).unwrap();
    for epoch in 0..3 {
        for page in 0..SIZE / PAGE {
            let at = ByteOffset::new(page * PAGE + epoch * BLOCK);
            disk.write_at(at, &[1; BLOCK as usize]).unwrap();
        }
        let usage = disk.usage().unwrap();
        assert!(usage.maps.get() > (64 << 20) / SHARE, "every page of the live map: {usage:?}");
        // each older map is a file of a few bytes a page
        assert!(usage.maps.get() <= (64 << 20) / SHARE + epoch * SLACK + SLACK, "{usage:?}");
        assert!(usage.index.get() <= (512 << 20) / SHARE + SLACK, "{usage:?}");
        if epoch > 0 {
            assert!(usage.index.get() > (512 << 20) / SHARE, "every page of the index: {usage:?}");
        }
        disk.seal().unwrap();
    }
}
