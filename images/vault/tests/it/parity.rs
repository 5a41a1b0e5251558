//! Parity beside the blobs of one store: the promises of the seam, damage of every kind, deletions, crashes.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::Arc;

use block::linux::{KernelEntropy, LinuxMedia};
use block::{BlobStore, ByteRange, Failure, Kind};
use sim::{Cut, Effect, Fault, Op, Rng, SimBlobStore, is_power_off};
use vault::{DirectoryStore, ParityStore, Quiet, Repaired, Scheme, Vault};

use crate::world::{World, create, env, open};

fn scheme() -> Scheme {
    "4+2".parse().expect("a scheme")
}

fn shared(store: &SimBlobStore) -> Arc<dyn BlobStore> {
    Arc::new(store.clone())
}

fn made(store: &SimBlobStore) -> Arc<ParityStore> {
    Arc::new(ParityStore::create(shared(store), scheme(), Arc::new(KernelEntropy)).expect("a store"))
}

fn again(store: &SimBlobStore) -> Arc<ParityStore> {
    Arc::new(ParityStore::open(shared(store), Arc::new(KernelEntropy)).expect("it opens"))
}

fn vault_of(store: &SimBlobStore) -> Vault {
    open(again(store), &env()).expect("the vault opens")
}

fn repair(store: &ParityStore, all: bool) -> Repaired {
    let report = store.repair(all, &mut |_| ControlFlow::Continue(())).expect("it ends");
    assert!(report.complete);
    report
}

fn held(store: &SimBlobStore) -> BTreeMap<String, Vec<u8>> {
    let whole = |name: &str, len| store.get(name, ByteRange::between(0, len)).expect("a blob");
    store.blobs().into_iter().map(|(name, len)| (name.clone(), whole(&name, len))).collect()
}

fn named(store: &SimBlobStore, prefix: &str) -> Vec<String> {
    store.blobs().into_iter().map(|(name, _)| name).filter(|name| name.starts_with(prefix)).collect()
}

/// Several points, large packs and small ones.
fn filled(store: &SimBlobStore) -> World {
    let vault = create(made(store), &env());
    let mut world = World::new(3_000_000, 6);
    for _ in 0..6 {
        let noise = Rng::new(world.epoch).bytes(1_400_000);
        world.write(700_000, &noise);
        world.backup(&vault).expect("a backup");
        world.scribble();
        world.backup(&vault).expect("a backup");
    }
    world
}

fn is_right(vault: &Vault, world: &World) {
    let report = vault.check(&Quiet).expect("the check ends");
    assert!(report.is_clean(), "{:#?}\n{:#?}", report.damage, report.hurt);
    world.verify(vault);
}

#[test]
fn it_keeps_the_promises_of_a_store() {
    sim::conformance::blob_store(|| made(&SimBlobStore::new()));
    sim::conformance::blob_store(|| {
        // kept until the process ends
        let dir = tempfile::tempdir().expect("a directory").keep();
        let media = Arc::new(LinuxMedia::new(&dir, &dir).expect("a media"));
        let store = Arc::new(DirectoryStore::open(media, "store").expect("a store"));
        Arc::new(ParityStore::create(store, scheme(), Arc::new(KernelEntropy)).expect("a store"))
    });
}

#[test]
fn only_an_empty_store_becomes_one_and_it_says_so() {
    let store = SimBlobStore::new();
    assert!(!ParityStore::has_parity(&store).expect("it says"));
    assert_eq!(
        ParityStore::open(shared(&store), Arc::new(KernelEntropy)).err().map(|e| e.kind()),
        Some(Kind::NotFound)
    );
    store.put("stranger", b"x").expect("put");
    let refused =
        ParityStore::create(shared(&store), scheme(), Arc::new(KernelEntropy)).err().expect("refused");
    assert_eq!(refused.kind(), Kind::Conflict);
    store.remove("stranger");
    let parity = made(&store);
    assert!(ParityStore::has_parity(&store).expect("it says"));
    assert_eq!(parity.put("parity/x", b"").expect_err("its own").kind(), Kind::Invalid);
    store.flip_bit("parity/scheme", 33, 0);
    assert_eq!(ParityStore::has_parity(&store).expect_err("damaged").kind(), Kind::Corrupt);
}

/// A bit anywhere in the store, parity and twins included: everything reads as it was, and a repair brings back every byte. The long
/// form flips 2,000.
#[test]
fn every_flip_anywhere_heals() {
    let count = if std::env::var_os("BLOCKD_SOAK").is_some() { 2_000 } else { 60 };
    let store = SimBlobStore::new();
    let world = filled(&store);
    let (sets, twins) = (named(&store, "parity/sets/").len(), named(&store, "parity/twin/").len());
    assert!(sets >= 4 && twins > 8, "{sets} {twins}");
    let before = held(&store);
    let blobs: Vec<(&String, &Vec<u8>)> =
        before.iter().filter(|(name, _)| *name != "parity/scheme").collect();
    let total: u64 = blobs.iter().map(|(_, bytes)| bytes.len() as u64).sum();
    let mut rng = Rng::new(11);
    for flip in 0..count {
        // by bytes, and by blobs, so that small ones have their turn
        let mut at = rng.below(total);
        let mut index = blobs.iter().position(|(_, bytes)| {
            let here = at < bytes.len() as u64;
            at -= if here { 0 } else { bytes.len() as u64 };
            here
        });
        if flip % 2 == 0 {
            let chosen = rng.below(blobs.len() as u64) as usize;
            (index, at) = (Some(chosen), rng.below(blobs[chosen].1.len() as u64));
        }
        let name = blobs[index.expect("a blob")].0;
        let hurt = store.fork();
        hurt.flip_bit(name, at, (flip % 8) as u8);
        if flip % 10 == 0 {
            is_right(&vault_of(&hurt), &world);
        }
        let report = repair(&again(&hurt), true);
        assert_eq!(report.hopeless, [], "byte {at} of {name}");
        assert!(held(&hurt) == before, "byte {at} of {name} flipped, and other bytes came back");
        assert_eq!(repair(&again(&hurt), true).repaired, 0);
    }
    println!("{count} flips in {} blobs of {total} bytes, all healed", blobs.len());
}

/// Any blob lost or cut short, and any two packs of a set.
#[test]
fn lost_blobs_come_back() {
    let store = SimBlobStore::new();
    let world = filled(&store);
    let before = held(&store);
    for (number, name) in before.keys().filter(|name| *name != "parity/scheme").enumerate() {
        let hurt = store.fork();
        match number % 3 {
            0 => hurt.truncate(name, before[name].len() as u64 / 2),
            _ => hurt.remove(name),
        }
        if !name.starts_with("parity/") {
            is_right(&vault_of(&hurt), &world);
        }
        let parity = again(&hurt);
        assert_eq!(repair(&parity, number % 2 == 0).hopeless, [], "{name}");
        // a set that lost parity is made anew under another name
        let is_set = name.starts_with("parity/sets/");
        assert!(is_set || held(&hurt) == before, "{name} is not back as it was");
        assert_eq!((parity.status().loose, held(&hurt).len()), (0, before.len()));
    }
    let packs: Vec<String> = before
        .iter()
        .filter(|(n, b)| n.starts_with("packs/") && b.len() >= 1 << 20)
        .map(|(n, _)| n.clone())
        .collect();
    assert!(packs.len() > 4);
    for (a, b) in packs.iter().zip(packs.iter().skip(1)) {
        let hurt = store.fork();
        hurt.remove(a);
        hurt.truncate(b, 5000);
        is_right(&vault_of(&hurt), &world);
        assert!(held(&hurt) == before);
    }
}

#[test]
fn more_than_parity_can_give_back_is_said() {
    let store = SimBlobStore::new();
    filled(&store);
    let packs = named(&store, "packs/");
    packs.iter().for_each(|name| store.remove(name));
    let report = repair(&again(&store), true);
    assert!(report.hopeless_count >= 4, "{report:?}");
    assert!(report.hopeless.iter().any(|(_, why)| why.contains("its 2 parity")), "{report:?}");
    let vault = vault_of(&store);
    assert!(!vault.check(&Quiet).expect("ends").is_clean());
}

/// Unreadable sectors, and a store that cannot be written: what is asked for is given all the same.
#[test]
fn what_cannot_be_read_or_written_is_given_from_the_rest() {
    let store = SimBlobStore::new();
    let world = filled(&store);
    let pack = named(&store, "packs/").into_iter().max_by_key(|name| store.size(name).expect("a size").get());
    let pack = pack.expect("a pack");
    let hurt = store.fork();
    hurt.flip_bit(&pack, 70_000, 1);
    for op in [Op::Put, Op::Delete] {
        hurt.inject(Fault::new(op, Effect::Eio).forever());
    }
    let parity = again(&hurt);
    is_right(&open(parity.clone(), &env()).expect("opens"), &world);
    assert_eq!(parity.repair(true, &mut |_| ControlFlow::Continue(())).expect("ends").hopeless_count, 1);
    hurt.clear_faults();
    assert_eq!(repair(&parity, true).repaired, 1);
    assert!(held(&hurt) == held(&store));
    let hurt = store.fork();
    hurt.inject(Fault::new(Op::Get, Effect::Eio).on(&pack).forever());
    is_right(&vault_of(&hurt), &world);
}

/// Deletions and sweeps leave weak sets; what stays is protected again, and nothing that was deleted comes back.
#[test]
fn what_is_left_after_sweeps_is_protected() {
    let store = SimBlobStore::new();
    let mut world = filled(&store);
    let parity = again(&store);
    let vault = open(parity.clone(), &env()).expect("opens");
    for known in world.known.drain(..7) {
        vault.delete_point(&known.manifest).expect("deleted");
    }
    for _ in 0..3 {
        vault.sweep(&Quiet).expect("swept");
    }
    is_right(&vault, &world);
    assert_eq!(repair(&parity, false).hopeless, []);
    assert_eq!(parity.status().loose, 0);
    let gone: Vec<String> = named(&store, "parity/gone/");
    assert_eq!(gone, [] as [String; 0], "no set has a member that is deleted");
    drop((vault, parity));
    let before = held(&store);
    for name in named(&store, "packs/") {
        let hurt = store.fork();
        hurt.remove(&name);
        is_right(&vault_of(&hurt), &world);
        assert!(held(&hurt) == before);
    }
}

/// The process dies at every call of backups, deletions, sweeps and repairs of a damaged store: acknowledged points are there, and
/// after a repair any one pack may be lost.
#[test]
fn crashes_lose_nothing() {
    let start = SimBlobStore::new();
    let mut world = filled(&start);
    let gone = world.known.remove(2);
    let last = world.known.pop().expect("points");
    world.known.truncate(9);
    world.known.push(last);
    let step = if std::env::var_os("BLOCKD_SOAK").is_some() { 1 } else { 7 };
    for (crashes, calls) in (0..).step_by(step).enumerate() {
        let mut world = world.clone();
        let store = start.fork();
        let pack = named(&store, "packs/").remove(0);
        store.flip_bit(&pack, 300, 1);
        store.crash_after(calls, if calls % 2 == 0 { Cut::BeforeEffect } else { Cut::AfterEffect });
        let done = live(&store, &mut world, &gone.manifest);
        match done {
            Ok(()) => {
                assert!(crashes > 4, "{crashes}");
                return;
            }
            Err(error) => assert!(is_power_off(&error) || store.is_off(), "{error}"),
        }
        let store = store.crash();
        let parity = again(&store);
        let vault = open(parity.clone(), &env()).expect("opens");
        world.verify(&vault);
        assert_eq!(repair(&parity, true).hopeless, [], "after {calls} calls");
        let packs = named(&store, "packs/");
        store.remove(&packs[calls as usize % packs.len()]);
        is_right(&vault, &world);
    }
}

fn live(store: &SimBlobStore, world: &mut World, gone: &vault::ManifestId) -> block::Result<()> {
    let parity = Arc::new(ParityStore::open(shared(store), Arc::new(KernelEntropy))?);
    let vault = open(parity.clone(), &env()).map_err(block::Error::other)?;
    vault.delete_point(gone).map_err(block::Error::other)?;
    for _ in 0..2 {
        world.write_random(0, 1_500_000);
        // one that is not acknowledged is not known
        world.backup(&vault).map_err(block::Error::other)?;
        vault.sweep(&Quiet).map_err(block::Error::other)?;
    }
    parity.repair(true, &mut |_| ControlFlow::Continue(())).map(drop)
}

/// A full store refuses the backup whose parity does not fit, and takes it when there is room.
#[test]
fn no_room_for_parity_is_no_room() {
    let store = SimBlobStore::new();
    let vault = create(made(&store), &env());
    let mut world = World::new(3_000_000, 6);
    let noise = Rng::new(1).bytes(2_900_000);
    world.write(0, &noise);
    store.set_capacity(5_000_000);
    let refused = world.backup(&vault).expect_err("its parity does not fit");
    assert_eq!(refused.kind(), Kind::NoSpace, "{refused}");
    store.set_capacity(30_000_000);
    world.backup(&vault).expect("there is room");
    is_right(&vault, &world);
}
