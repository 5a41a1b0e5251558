//! The worked example of the literature: ten tracking-sized blocks, a full backup, and two incrementals.

use crate::world::{World, create, directory, env, restore};
use block::BLOCK_SIZE;

const BLOCK: usize = BLOCK_SIZE as usize;

fn changed(world: &World) -> Vec<u64> {
    let blocks = world.changed.iter().flat_map(|r| r.start() / BLOCK_SIZE..r.end() / BLOCK_SIZE);
    blocks.map(|block| block + 1).collect()
}

fn rewrite(world: &mut World, blocks: &[usize]) {
    for block in blocks {
        world.write_random((block - 1) * BLOCK, BLOCK);
    }
}

#[test]
fn ten_blocks_four_then_one() {
    for deleted in 0..3 {
        let (_dir, store) = directory();
        let vault = create(store, &env());
        let mut world = World::new(10 * BLOCK, 5);
        rewrite(&mut world, &(1..=10).collect::<Vec<_>>());
        let full = world.backup(&vault).unwrap();
        assert_eq!(full.bytes_changed.get(), 10 * BLOCK_SIZE);

        rewrite(&mut world, &[2, 3, 4, 9]);
        assert_eq!(changed(&world), [2, 3, 4, 9]);
        let second = world.backup(&vault).unwrap();
        assert_eq!(second.bytes_changed.get(), 4 * BLOCK_SIZE);

        rewrite(&mut world, &[5]);
        assert_eq!(changed(&world), [5]);
        let third = world.backup(&vault).unwrap();
        assert_eq!(third.bytes_changed.get(), BLOCK_SIZE);
        world.verify(&vault);

        vault.delete_point(&world.known.remove(deleted).manifest).unwrap();
        assert_eq!(vault.points().unwrap().len(), 2);
        for known in world.known.iter().rev() {
            assert!(restore(&vault, &known.manifest).unwrap() == known.bytes);
        }
    }
}
