//! Recovery points of several disks: one instant across all of them.

use block::{BlockDevice, BlockSource, ByteCount, ByteOffset, DiskId};
use layers::{Disk, Env, seal_group};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

const DISKS: usize = 3;
const WRITERS: u64 = 2;

fn number(source: &dyn BlockSource, writer: u64) -> u64 {
    let mut bytes = [0; 8];
    source.read_at(ByteOffset::new(writer * 4096), &mut bytes).unwrap();
    u64::from_le_bytes(bytes)
}

/// Each writer writes the same number to one disk after the other, each only once the last was acknowledged. In a point
/// of all disks no disk is ahead of the one before it, or behind by more than the one number that was under way; every
/// number acknowledged before the request is in, none that was begun after the answer.
#[test]
fn a_point_of_a_group_is_one_instant() {
    let (dir, volatile) = (tempfile::tempdir().unwrap(), tempfile::tempdir_in("/dev/shm").unwrap());
    let env = Env::linux(dir.path(), volatile.path()).unwrap();
    let disks: Vec<Arc<Disk>> = (0..DISKS as u8)
        .map(|disk| {
            let id = DiskId::from_bytes([disk + 1; 16]);
            Disk::create(&env, &format!("d{disk}"), id, ByteCount::new(1 << 20)).unwrap()
        })
        .collect();
    let group: Vec<&Disk> = disks.iter().map(|disk| &**disk).collect();
    let is_over = AtomicBool::new(false);
    // the newest number begun, and the newest acknowledged by every disk
    let (begun, done) = ([const { AtomicU64::new(0) }; 2], [const { AtomicU64::new(0) }; 2]);
    std::thread::scope(|scope| {
        for writer in 0..WRITERS {
            let (disks, begun, done) = (&disks, &begun[writer as usize], &done[writer as usize]);
            let is_over = &is_over;
            scope.spawn(move || {
                for value in 1.. {
                    if is_over.load(Ordering::SeqCst) {
                        break;
                    }
                    begun.store(value, Ordering::SeqCst);
                    for disk in disks {
                        disk.write_at(ByteOffset::new(writer * 4096), &value.to_le_bytes()).unwrap();
                    }
                    done.store(value, Ordering::SeqCst);
                }
            });
        }
        for _ in 0..40 {
            let before = done.each_ref().map(|done| done.load(Ordering::SeqCst));
            let points = seal_group(&group, layers::Numbering::Own).unwrap();
            let after = begun.each_ref().map(|begun| begun.load(Ordering::SeqCst));
            for writer in 0..WRITERS as usize {
                let seen: Vec<u64> = disks
                    .iter()
                    .zip(&points)
                    .map(|(disk, point)| number(&*disk.point_source(point.state).unwrap(), writer as u64))
                    .collect();
                assert!(seen.is_sorted_by(|a, b| a >= b), "a later write is in, an earlier is not: {seen:?}");
                assert!(seen[0] - seen[DISKS - 1] <= 1, "not one instant: {seen:?}");
                assert!(seen[DISKS - 1] >= before[writer], "an acknowledged write is missing: {seen:?}");
                assert!(seen[0] <= after[writer], "a write issued after the answer is in: {seen:?}");
            }
            for (disk, point) in disks.iter().zip(&points) {
                disk.delete_point(point.state).unwrap();
                disk.fold_all().unwrap();
            }
        }
        is_over.store(true, Ordering::SeqCst);
    });
}
