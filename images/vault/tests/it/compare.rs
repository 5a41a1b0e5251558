//! Comparing a source with a point: what differs is found to the chunk, and nothing of the packs' data is read.

use block::{ByteCount, ByteRange, RangeSet};
use sim::SimBlobStore;
use std::sync::Arc;
use vault::{Compared, Quiet, Vault};

use crate::world::{World, create, env};

fn compared(vault: &Vault, world: &World, range: ByteRange) -> Compared {
    let point = world.known.last().expect("a point").manifest;
    vault.compare(&point, &world.now, range, &Quiet).expect("compared")
}

#[test]
fn what_differs_is_found_to_the_chunk() {
    let vault = create(Arc::new(SimBlobStore::new()), &env());
    let size = 5_000_000 + 77;
    let mut world = World::new(size, 3);
    (0..12).for_each(|_| world.scribble());
    world.write(3_000_000 / 4096 * 4096, &[7; 9000]);
    world.backup(&vault).unwrap();
    let whole = ByteRange::whole(ByteCount::new(size as u64));
    assert_eq!(
        compared(&vault, &world, whole),
        Compared { bytes: whole.count(), differing: RangeSet::new() }
    );
    for _ in 0..40 {
        let before = world.now.bytes.clone();
        world.scribble();
        let mut expected = RangeSet::new();
        for (at, (old, new)) in before.chunks(4096).zip(world.now.bytes.chunks(4096)).enumerate() {
            if old != new {
                let start = at as u64 * 4096;
                expected.insert(ByteRange::between(start, start + new.len() as u64));
            }
        }
        assert_eq!(compared(&vault, &world, whole).differing, expected);
        let part = ByteRange::between(1_000_001, 3_000_001);
        let wide = ByteRange::between(1_000_001 / 4096 * 4096, 3_000_001u64.next_multiple_of(4096));
        let found = compared(&vault, &world, part);
        assert_eq!((found.differing, found.bytes), (expected.clip(wide), wide.count()));
        world.backup_on(&vault, None).unwrap();
    }
}

#[test]
fn a_source_of_another_size_is_refused() {
    let vault = create(Arc::new(SimBlobStore::new()), &env());
    let mut world = World::new(100_000, 3);
    world.backup(&vault).unwrap();
    world.resize(200_000);
    let point = world.known[0].manifest;
    let refused = vault.compare(&point, &world.now, ByteRange::between(0, 4096), &Quiet).unwrap_err();
    assert!(refused.to_string().contains("200000 bytes"), "{refused}");
}
