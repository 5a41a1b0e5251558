//! Folds on filesystems that can share blocks between files, and on those that cannot.

use block::{BlockDevice, ByteCount, ByteOffset, DiskId};
use layers::{Disk, Env, Folding};
use sim::filesystem::{Filesystem, volatile};

const MIB: u64 = 1 << 20;
const LAYER: u64 = 48 * MIB;
const BATCH: u64 = 32 * MIB;

/// The most that a fold of two layers takes of the host beyond what they took.
fn taken_by_a_fold_on(kind: &'static str) -> u64 {
    let (filesystem, volatile) = (Filesystem::make(kind), volatile());
    filesystem.mount();
    let env = Env::linux(&filesystem.root(), volatile.path()).unwrap();
    let env = Env { fold_batch: ByteCount::new(BATCH), ..env };
    let disk = Disk::create(&env, "d", DiskId::from_bytes([1; 16]), ByteCount::new(2 * LAYER)).unwrap();
    let points = [1, 2].map(|number| {
        for at in (0..LAYER).step_by(MIB as usize) {
            let at = ByteOffset::new(at * 2 + (number - 1) * MIB);
            disk.write_at(at, &vec![number as u8; MIB as usize]).unwrap();
        }
        disk.seal().unwrap().state
    });
    disk.delete_point(points[0]).unwrap();
    let available = || env.media.space().unwrap().available;
    let (before, mut least) = (available(), u64::MAX);
    while disk.fold_step().unwrap() == Folding::Working {
        least = least.min(available());
    }
    let mut all = vec![0; 2 * LAYER as usize];
    disk.point_source(points[1]).unwrap().read_at(ByteOffset::ZERO, &mut all).unwrap();
    for (place, found) in all.chunks(MIB as usize).enumerate() {
        assert!(found.iter().all(|&byte| byte == place as u8 % 2 + 1), "MiB {place}");
    }
    drop(disk);
    filesystem.unmount();
    before.saturating_sub(least)
}

#[test]
fn a_fold_shares_blocks_where_the_host_can() {
    let [shared, copied] = ["xfs", "ext4"].map(taken_by_a_fold_on);
    assert!(shared < BATCH / 4, "{shared} bytes on XFS");
    assert!(copied > BATCH / 2, "{copied} bytes on ext4, which cannot");
    assert!(copied < BATCH + 16 * MIB, "{copied} bytes: no more than a batch twice");
}
