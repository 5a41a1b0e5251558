//! Folding: what it takes of the host while it goes on, and that a full host does not stop it.

use block::{BlockDevice, BlockSource, ByteCount, ByteOffset, DiskId, StateId, Time};
use layers::{Disk, Env, Folding};
use sim::{Rng, SeededEntropy, SimClock, SimMedia};
use std::sync::Arc;

const BLOCK: u64 = 4096;
const BLOCKS: u64 = 2_000;
const BATCH: u64 = 64 * BLOCK;

fn env(media: &SimMedia) -> Env {
    Env {
        media: Arc::new(media.clone()),
        clock: Arc::new(SimClock::new(Time { unix_ms: 1 })),
        entropy: Arc::new(SeededEntropy::new(3)),
        journal_room: ByteCount::new(4096),
        fold_batch: ByteCount::new(BATCH),
        budget: layers::Budget::default(),
    }
}

/// A disk with four points: each epoch wrote every block whose number it divides, and trimmed one block. Since then what
/// the last one wrote was written again.
fn machine() -> (SimMedia, Arc<Disk>, Vec<StateId>) {
    let media = SimMedia::new();
    let disk =
        Disk::create(&env(&media), "d", DiskId::from_bytes([1; 16]), ByteCount::new(BLOCKS * BLOCK)).unwrap();
    let states = (1..=4u64).map(|epoch| {
        for block in (0..BLOCKS).filter(|block| block.is_multiple_of(epoch)) {
            disk.write_at(ByteOffset::new(block * BLOCK), &[epoch as u8; BLOCK as usize]).unwrap();
        }
        disk.discard(block::ByteRange::between(epoch * BLOCK, (epoch + 1) * BLOCK)).unwrap();
        disk.seal().unwrap().state
    });
    let states = states.collect();
    for block in (0..BLOCKS).step_by(4) {
        disk.write_at(ByteOffset::new(block * BLOCK), &[LIVE; BLOCK as usize]).unwrap();
    }
    (media, disk, states)
}

/// What the live disk reads where it was written since the last point.
const LIVE: u8 = 9;

/// What a block reads after so many epochs.
fn expected(epochs: u64, block: u64) -> u8 {
    let touched = |&epoch: &u64| block.is_multiple_of(epoch) || block == epoch;
    (1..=epochs).rev().find(touched).map_or(0, |epoch| if block == epoch { 0 } else { epoch as u8 })
}

/// A point after so many epochs, or the live disk.
#[track_caller]
fn check(source: &dyn BlockSource, epochs: Option<u64>) {
    let mut bytes = vec![0; (BLOCKS * BLOCK) as usize];
    source.read_at(ByteOffset::ZERO, &mut bytes).unwrap();
    for (block, found) in bytes.chunks(BLOCK as usize).enumerate() {
        let is_live = epochs.is_none() && block.is_multiple_of(4);
        let byte = if is_live { LIVE } else { expected(epochs.unwrap_or(4), block as u64) };
        assert!(found.iter().all(|&found| found == byte), "block {block} after {epochs:?} epochs");
    }
}

#[test]
fn at_most_a_batch_is_stored_twice() {
    for gone in [vec![0], vec![1], vec![2], vec![3], vec![0, 1, 2], vec![0, 1, 2, 3], vec![1, 3]] {
        let (media, disk, states) = machine();
        // readers of every state that stays are held open
        let kept: Vec<usize> = (0..4).filter(|place| !gone.contains(place)).collect();
        let held: Vec<_> = kept.iter().map(|&place| disk.point_source(states[place]).unwrap()).collect();
        let before = media.used();
        let mut most = 0;
        for &place in &gone {
            disk.delete_point(states[place]).unwrap();
            most = most.max(media.used());
        }
        while disk.fold_step().unwrap() == Folding::Working {
            most = most.max(media.used());
        }
        // chains, maps, the files of one active layer
        let metadata = 256 << 10;
        assert!(most <= before + BATCH + metadata, "{gone:?}: {} bytes more", most - before);
        assert!(media.used() < before, "{gone:?}: nothing was given back");
        held.iter().zip(&kept).for_each(|(source, &place)| check(&**source, Some(place as u64 + 1)));
        check(&*disk, None);
        assert_eq!(disk.fold_progress(), layers::FoldProgress::default());
    }
}

/// Not a byte is free. Points are deleted all the same, their space comes back, and the guest writes on.
#[test]
fn points_are_deleted_on_a_full_filesystem() {
    for place in 0..4 {
        let (media, disk, states) = machine();
        let full = media.used();
        media.set_capacity(full);
        let write = || disk.write_at(ByteOffset::new(BLOCK), &[expected(4, 1); BLOCK as usize]);
        assert!(write().is_err(), "there is no room to write");
        disk.delete_point(states[place]).unwrap();
        disk.fold_all().unwrap_or_else(|error| panic!("point {place}: {error}"));
        assert!(media.used() < full, "point {place}: nothing was given back");
        check(&*disk, None);
        write().unwrap();
        disk.flush().unwrap();
        for (other, &state) in states.iter().enumerate().filter(|(other, _)| *other != place) {
            check(&*disk.point_source(state).unwrap(), Some(other as u64 + 1));
        }
        drop(disk);
        media.set_capacity(64 << 30);
        let disk = Disk::open(&env(&media.power_cut(&mut Rng::new(1))), "d").unwrap();
        assert_eq!(disk.points().len(), 3);
    }
}
