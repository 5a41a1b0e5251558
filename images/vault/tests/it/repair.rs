//! Repair of damaged packs: what heals, from where, and that what does not is said.

use std::collections::HashMap;
use std::sync::Arc;

use block::{BlobStore, BlockSource, ByteCount, ByteRange, DiskId};
use sim::{Rng, SimBlobStore};
use vault::{DiskSources, Quiet, ShownEntry, Vault, inspect_pack};

use crate::world::{Frozen, World, create, env, key, open, restore};

fn clean(vault: &Vault) {
    let report = vault.check(&Quiet).expect("the check ends");
    assert!(report.is_clean(), "{:#?}\n{:#?}", report.damage, report.hurt);
}

/// Points of a disk and what it held at each, as the host still has it.
fn filled(store: &SimBlobStore) -> (World, Vec<Frozen>) {
    let vault = create(Arc::new(store.clone()), &env());
    let mut world = World::new(3_000_000, 6);
    world.write_random(0, 3_000_000);
    let mut states = Vec::new();
    for _ in 0..4 {
        world.scribble();
        world.backup(&vault).expect("a backup");
        states.push(world.now.clone());
    }
    (world, states)
}

fn packs(store: &SimBlobStore) -> Vec<(String, Vec<u8>)> {
    let names = store.blobs().into_iter().filter(|(name, _)| name.starts_with("packs/"));
    names
        .map(|(name, size)| {
            let bytes = store.get(&name, ByteRange::whole(ByteCount::new(size))).expect("a pack");
            (name, bytes)
        })
        .collect()
}

/// Bits anywhere in packs: what is found in data heals from the disk's own states, and all points restore; what is found elsewhere
/// is named as left. The long form flips 10,000.
#[test]
fn random_flips_in_data_heal() {
    let count = if std::env::var_os("BLOCKD_SOAK").is_some() { 10_000 } else { 120 };
    let store = SimBlobStore::new();
    let (world, states) = filled(&store);
    let packs = packs(&store);
    let mut rng = Rng::new(5);
    let (mut healed, mut left, mut dead) = (0, 0, 0);
    for flip in 0..count {
        let (name, bytes) = &packs[rng.below(packs.len() as u64) as usize];
        let at = rng.below(bytes.len() as u64);
        let hurt = store.fork();
        hurt.flip_bit(name, at, (flip % 8) as u8);
        let vault = open(Arc::new(hurt.clone()), &env()).expect("it opens");
        let found = vault.check(&Quiet).expect("the check ends");
        assert_eq!(found.damaged_packs, std::slice::from_ref(name), "flip at {at}");
        let sources = |disk: DiskId| -> DiskSources {
            assert_eq!(disk, world.disk);
            Box::new(states.clone().into_iter().map(|state| Arc::new(state) as Arc<dyn BlockSource>))
        };
        let report = vault.repair(&sources, &Quiet).expect("the repair ends");
        match (&report.packs[..], &report.left[..]) {
            ([pack], []) => {
                assert_eq!(pack, name);
                assert!(
                    report.from_disks + report.from_vault > 0 || !is_in_frame(bytes, name, at),
                    "{report:?}"
                );
                healed += 1;
                clean(&vault);
                world.verify(&vault);
                (0..2).for_each(|_| drop(vault.sweep(&Quiet).expect("a sweep")));
                assert!(vault.damaged_packs().is_empty());
                clean(&vault);
                world.verify(&open(Arc::new(hurt.clone()), &env()).expect("it opens"));
            }
            ([], [one]) => {
                assert_eq!(&one.blob, name);
                assert!(
                    !is_in_frame(bytes, name, at),
                    "a flip of data at {at} of {name} did not heal: {one:?}"
                );
                left += 1;
            }
            // what is damaged nobody needs
            ([], []) => dead += 1,
            _ => panic!("{report:?}"),
        }
    }
    println!(
        "{count} flips: {healed} healed, {left} in tables, nodes and fronts are left, {dead} hurt nobody"
    );
    assert!(healed > count * 9 / 10);
}

fn is_in_frame(bytes: &[u8], name: &str, at: u64) -> bool {
    let shown = inspect_pack(bytes, Some(&key()), false).unwrap_or_else(|error| panic!("{name}: {error}"));
    let entries: Vec<ShownEntry> = shown.table.expect("the key opens it");
    let at = at as u32;
    let entry = entries.iter().rfind(|entry| entry.offset <= at && at < entry.offset + entry.stored);
    entry.is_some_and(|entry| entry.kind == "frame")
}

/// What the host has no more is healed after the next full backup stored it again, as far as the disk still holds it.
#[test]
fn what_the_next_backup_stores_again_heals_older_points() {
    let store = SimBlobStore::new();
    let vault = create(Arc::new(store.clone()), &env());
    let mut world = World::new(2_000_000, 6);
    world.write_random(0, 2_000_000);
    world.backup(&vault).expect("a backup");
    world.backup(&vault).expect("a point of the same");
    let name = packs(&store).into_iter().map(|(name, bytes)| (bytes.len(), name)).max().expect("a pack").1;
    store.flip_bit(&name, 5000, 3);
    let vault = open(Arc::new(store.clone()), &env()).expect("it opens");
    assert_eq!(vault.check(&Quiet).expect("ends").hurt.len(), 2);
    let nothing = |_| -> DiskSources { Box::new(std::iter::empty()) };
    let report = vault.repair(&nothing, &Quiet).expect("ends");
    assert_eq!((report.packs.len(), report.left.len()), (0, 1), "{report:?}");
    assert!(restore(&vault, &world.known[0].manifest).is_err(), "it is hurt still");
    world.backup_on(&vault, None).expect("a full backup");
    let report = vault.repair(&nothing, &Quiet).expect("ends");
    assert_eq!((&report.packs[..], report.left.len(), report.from_disks), (&[name][..], 0, 0), "{report:?}");
    assert!(report.from_vault > 0);
    clean(&vault);
    world.verify(&vault);
    // a repair that is not needed does nothing
    assert_eq!(vault.repair(&nothing, &Quiet).expect("ends"), vault::ChunkRepair::default());
}

/// Bytes of another content are never taken, whatever a source says.
#[test]
fn a_source_that_lies_heals_nothing() {
    let store = SimBlobStore::new();
    let (world, _) = filled(&store);
    for (name, _) in packs(&store) {
        store.flip_bit(&name, 3000, 1);
    }
    let vault = open(Arc::new(store.clone()), &env()).expect("it opens");
    let hurt = vault.check(&Quiet).expect("ends").hurt;
    assert!(!hurt.is_empty());
    let mut liar = World::new(3_000_000, 77);
    liar.write_random(0, 3_000_000);
    let asked = std::cell::RefCell::new(HashMap::new());
    let sources = |disk: DiskId| -> DiskSources {
        *asked.borrow_mut().entry(disk).or_insert(0) += 1;
        let source: Arc<dyn BlockSource> = Arc::new(liar.now.clone());
        Box::new(std::iter::once(source))
    };
    let report = vault.repair(&sources, &Quiet).expect("ends");
    assert!(report.packs.is_empty() && !report.left.is_empty(), "{report:?}");
    assert_eq!(asked.borrow().get(&world.disk), Some(&1), "a disk is asked for once");
    assert_eq!(vault.check(&Quiet).expect("ends").hurt.len(), hurt.len());
}
