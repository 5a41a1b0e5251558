//! Random histories of a disk against a plain model.

use crate::world::{World, create, directory, env, open, open_directory, restore};
use block::{ByteOffset, Failure, Kind};
use vault::{Compression, Error, Options, Vault, VaultKey};

/// Sizes that meet every edge: empty, below a block, off the chunk, one leaf, two leaves.
const SIZES: [usize; 7] = [0, 512, 4096, 65_536, 200_000, 3_000_000, 20_000_000];

#[test]
fn every_point_of_a_random_history_restores() {
    for (seed, size) in SIZES.into_iter().enumerate() {
        let (dir, store) = directory();
        let env = env();
        let mut vault = create(store, &env);
        let mut world = World::new(size, seed as u64);
        for step in 0..5 {
            world.scribble();
            world.backup(&vault).unwrap();
            if step == 2 {
                drop(vault);
                vault = open(open_directory(&dir), &env).unwrap();
            }
        }
        world.verify(&vault);
        let report = vault.check(&vault::Quiet).unwrap();
        assert!(report.is_clean(), "size {size}: {report:?}");
    }
}

#[test]
fn a_disk_may_grow_and_shrink_between_points() {
    let (_dir, store) = directory();
    let env = env();
    let vault = create(store, &env);
    let mut world = World::new(300_000, 7);
    let leaf = 4096 * 4096;
    for size in [
        300_000,
        300_001,
        65_536,
        400_000,
        leaf,
        leaf + 1,
        leaf + 70_000,
        leaf,
        3 * leaf,
        leaf - 1,
        65_536,
        0,
        5000,
    ] {
        world.resize(size);
        if size > 0 && world.chance.below(2) == 0 {
            world.scribble();
        }
        world.backup(&vault).unwrap();
    }
    world.verify(&vault);
    assert!(vault.check(&vault::Quiet).unwrap().is_clean());
}

#[test]
fn what_is_known_already_is_not_stored_again() {
    let (_dir, store) = directory();
    let env = env();
    let vault = create(store, &env);
    let mut world = World::new(10 << 20, 1);
    world.write_random(0, 10 << 20);
    let first = world.backup_on(&vault, None).unwrap();
    assert_eq!((first.chunks_new, first.chunks_reused), (2560, 0));
    let again = world.backup_on(&vault, None).unwrap();
    assert_eq!((again.chunks_new, again.chunks_reused), (0, 2560));
    // a tree of its own, with a run for each frame
    assert!(again.bytes_stored.get() < 4096, "{again:?}");
    // nothing changed: nothing is read
    world.changed = block::RangeSet::new();
    let none = world.backup(&vault).unwrap();
    assert_eq!((none.bytes_changed.get(), none.bytes_read.get(), none.chunks_reused), (0, 0, 0));
    world.verify(&vault);
}

#[test]
fn zeros_and_holes_cost_nothing() {
    let (_dir, store) = directory();
    let vault = create(store, &env());
    let mut world = World::new(100 << 20, 2);
    let empty = world.backup(&vault).unwrap();
    assert_eq!((empty.bytes_read.get(), empty.chunks_new), (0, 0));
    world.zero(0, 50 << 20);
    let zeros = world.backup(&vault).unwrap();
    assert_eq!((zeros.bytes_read.get(), zeros.chunks_new), (0, 0));
    assert!(vault.usage().unwrap().bytes < 10_000);
    world.verify(&vault);
}

#[test]
fn a_wrong_key_is_called_a_wrong_key() {
    let (_dir, store) = directory();
    let env = env();
    let id = create(store.clone(), &env).id();
    assert_eq!(Vault::describe(&*store).unwrap(), id);
    let error = Vault::open(store.clone(), VaultKey::from_bytes([1; 32]), &env).err().unwrap();
    assert!(matches!(error, Error::WrongKey { vault } if vault == id), "{error}");
    assert!(
        matches!(Vault::create(store, crate::world::key(), &env).err().unwrap(), Error::Exists(found) if found == id)
    );
}

#[test]
fn requests_that_make_no_sense_are_refused_by_name() {
    let (_dir, store) = directory();
    let env = env();
    let vault = create(store.clone(), &env);
    let mut world = World::new(100_000, 3);
    let report = world.backup(&vault).unwrap();
    let stranger = "00".repeat(16).parse().unwrap();
    assert_eq!(world.backup_on(&vault, Some(stranger)).err().unwrap().kind(), Kind::NotFound);
    assert_eq!(vault.image(&stranger).err().unwrap().kind(), Kind::NotFound);
    let mut other = World::new(100_000, 4);
    assert_eq!(other.backup_on(&vault, Some(report.manifest)).err().unwrap().kind(), Kind::Invalid);
    let image = vault.image(&report.manifest).unwrap();
    assert_eq!(image.read_at(ByteOffset::new(99_999), &mut [0; 2]).unwrap_err().kind(), Kind::OutOfRange);
    // without a policy nothing is deleted
    drop(vault);
    let strict = Vault::open(store, crate::world::key(), &env).unwrap();
    assert!(matches!(strict.delete_point(&report.manifest), Err(Error::Refused { .. })));
    assert_eq!(restore(&strict, &report.manifest).unwrap(), world.known[0].bytes);
}

/// Vaults written with either compression, or both, restore with either.
#[test]
fn the_compression_of_today_reads_that_of_yesterday() {
    let (dir, store) = directory();
    let env = env();
    drop(create(store, &env));
    let mut world = World::new(1_000_000, 6);
    for compression in [Compression::Lz4, Compression::Zstd(1), Compression::Zstd(9)] {
        let options = Options { compression, ..Options::default() };
        let vault = Vault::open_with(open_directory(&dir), crate::world::key(), &env, options).unwrap();
        world.scribble();
        world.write(0, &vec![compression.eq(&Compression::Lz4) as u8 + 1; 70_000]);
        world.backup(&vault).unwrap();
        world.verify(&vault);
    }
}
