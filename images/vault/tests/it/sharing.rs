//! What points share, and archives, where they share nothing.

use std::sync::Arc;

use block::{ByteCount, Entropy};
use vault::{Options, Quiet, Vault};

use crate::world::{Anything, World, create, directory, env, key, open, open_directory, restore};

/// Writes what does not compress.
fn fill(world: &mut World, start: usize, len: usize) {
    let mut bytes = vec![0; len];
    world.chance.fill(&mut bytes).unwrap();
    world.write(start, &bytes);
}

#[test]
fn in_an_archive_no_point_relies_on_another() {
    let (dir, store) = directory();
    let env = env();
    drop(create(store.clone(), &env));
    let options = || Options { self_contained: true, gate: Arc::new(Anything), ..Options::default() };
    let vault = Vault::open_with(store, key(), &env, options()).unwrap();
    let mut world = World::new(4 << 20, 7);
    fill(&mut world, 0, 4 << 20);
    // within a point equal chunks are stored once
    let begin = world.now.bytes[..1 << 20].to_vec();
    world.write(1 << 20, &begin);
    let content = world.now.bytes.clone();
    let first = world.backup_on(&vault, None).unwrap();
    assert_eq!((first.chunks_new, first.chunks_reused), (768, 256));
    let second = world.backup_on(&vault, None).unwrap();
    assert_eq!((second.chunks_new, second.chunks_reused), (768, 256), "nothing of the first");
    let base = world.backup_on(&vault, Some(first.manifest)).expect_err("a base");
    assert!(base.to_string().contains("holds all that it needs"), "{base}");
    let share = vault.share_of(&second.manifest, &Quiet).unwrap();
    assert!(share.needed == share.alone && share.needed.get() > 3 << 20, "{share:?}");
    // so the second needs no pack that was there before it
    vault.delete_point(&first.manifest).unwrap();
    let swept = vault.sweep(&Quiet).unwrap();
    assert!(!swept.quarantined.is_empty(), "{swept:?}");
    vault.sweep(&Quiet).unwrap();
    assert_eq!(vault.usage().unwrap().points, 1);
    drop(vault);
    // and any reader restores it
    let vault = open(open_directory(&dir), &env).unwrap();
    assert!(restore(&vault, &second.manifest).unwrap() == content);
    assert!(vault.check(&Quiet).unwrap().is_clean());
}

#[test]
fn what_a_point_needs_alone_is_what_its_deletion_frees() {
    let (_dir, store) = directory();
    let vault = create(store, &env());
    let mut world = World::new(8 << 20, 3);
    fill(&mut world, 0, 8 << 20);
    let first = world.backup(&vault).unwrap().manifest;
    fill(&mut world, 0, 2 << 20);
    let second = world.backup(&vault).unwrap().manifest;
    let (old, new) = (vault.share_of(&first, &Quiet).unwrap(), vault.share_of(&second, &Quiet).unwrap());
    let close = |bytes: ByteCount, mib: u64| bytes.get().abs_diff(mib << 20) < 64 << 10;
    assert!(close(old.needed, 8) && close(old.alone, 2), "{old:?}");
    assert!(close(new.needed, 8) && close(new.alone, 2), "{new:?}");
}
