//! Damage: every flipped byte of a small vault is found and named, no damage gives other bytes than were written, and
//! nothing is built on what is damaged.

use std::sync::{Arc, Mutex};

use block::{BlobStore, ByteRange, Failure, Kind, RangeSet};
use sim::{SeededEntropy, SimBlobStore, SimClock};
use vault::{Env, Error, Options, Quiet, Scrub, Vault};

use crate::planted::allow;
use crate::world::{World, create, key, open, restore};

fn env() -> Env {
    env_of(1)
}

/// Each process that opens a vault draws other names.
fn env_of(seed: u64) -> Env {
    Env { clock: Arc::new(SimClock::default()), entropy: Arc::new(SeededEntropy::new(seed)) }
}

/// A small vault with two points of a disk of three chunks, one stored raw, one compressed, one short.
fn small() -> (SimBlobStore, World) {
    let store = SimBlobStore::new();
    let vault = create(Arc::new(store.clone()), &env());
    let mut world = World::new(140_000, 3);
    for chunk in 0..3 {
        // a little that does not compress and a lot that does: the packs stay small enough for every byte's turn
        let noise = blake3_like(chunk);
        world.write(chunk * 65_536, &noise);
    }
    world.write(100, &[7; 3000]);
    world.backup(&vault).unwrap();
    world.write(70_000, &[9; 100]);
    world.backup(&vault).unwrap();
    (store, world)
}

fn blake3_like(seed: usize) -> Vec<u8> {
    sim::Rng::new(seed as u64).bytes(700)
}

fn whole(store: &SimBlobStore, name: &str) -> Vec<u8> {
    store.get(name, ByteRange::whole(store.size(name).unwrap())).unwrap()
}

fn names(store: &SimBlobStore, prefix: &str) -> Vec<String> {
    store.blobs().into_iter().map(|(name, _)| name).filter(|name| name.starts_with(prefix)).collect()
}

/// Opens, lists, restores and checks a vault that may be damaged. Gives the messages of all errors; bytes that come
/// back must be the right ones.
fn use_damaged(store: &SimBlobStore, world: &World) -> Vec<String> {
    let vault = match open(Arc::new(store.clone()), &env()) {
        Ok(vault) => vault,
        Err(error) => {
            assert!(matches!(error.kind(), Kind::Corrupt | Kind::Unsupported | Kind::NotFound), "{error}");
            return vec![error.to_string()];
        }
    };
    let mut errors: Vec<String> = Vec::new();
    let survey = vault.survey().unwrap();
    errors.extend(survey.damaged.iter().map(|damage| format!("{damage:?}")));
    for known in &world.known {
        match restore(&vault, &known.manifest) {
            Ok(bytes) => assert!(bytes == known.bytes, "{} restores otherwise", known.manifest),
            Err(error) => errors.push(error.to_string()),
        }
    }
    let report = vault.check(&Quiet).unwrap();
    errors.extend(report.damage.iter().map(|damage| format!("{damage:?}")));
    assert_eq!(report.is_clean(), report.damage.is_empty() && report.hurt.is_empty());
    errors
}

#[test]
fn a_check_misses_the_blob_without_which_the_vault_does_not_open_again() {
    let (store, _) = small();
    let vault = open(Arc::new(store.clone()), &env()).unwrap();
    let found = |vault: &Vault| {
        let report = vault.check(&Quiet).unwrap();
        assert_eq!(report.damage.len(), 1, "{:?}", report.damage);
        report.damage[0].clone()
    };
    store.flip_bit("vault", 60, 1);
    assert_eq!(found(&vault).blob, "vault");
    store.remove("vault");
    let missing = found(&vault);
    assert_eq!(missing.blob, "vault");
    assert!(missing.why.contains("missing"), "{missing:?}");
}

#[test]
fn every_flipped_byte_is_found_and_its_blob_named() {
    allow(|| {
        let (store, world) = small();
        assert!(use_damaged(&store, &world).is_empty());
        let mut flips = 0;
        for (name, len) in store.blobs() {
            for at in 0..len {
                let hurt = store.fork();
                hurt.flip_bit(&name, at, (at % 8) as u8);
                let errors = use_damaged(&hurt, &world);
                assert!(!errors.is_empty(), "byte {at} of {name} flipped and nobody noticed");
                assert!(errors.iter().any(|error| error.contains(&name)), "byte {at} of {name}: {errors:?}");
                flips += 1;
            }
        }
        assert!(flips > 3000, "only {flips} flips");
    });
}

/// A scrub that is cut off goes on behind the last pack it read, and names in the end what it found before and after.
#[test]
fn a_scrub_goes_on_where_it_was_cut_off() {
    let store = SimBlobStore::new();
    let vault = create(Arc::new(store.clone()), &env());
    let mut world = World::new(300_000, 5);
    for _ in 0..6 {
        world.write_random(0, 300_000);
        world.backup_on(&vault, None).unwrap();
    }
    let packs = names(&store, "packs/");
    assert_eq!(packs.len(), 6);
    for pack in [&packs[1], &packs[4]] {
        store.flip_bit(pack, 300, 0);
    }
    let passed = Mutex::new(Vec::new());
    struct StopAt<'a>(&'a Mutex<Vec<String>>, usize);
    impl vault::Progress for StopAt<'_> {
        fn at(&self, _done: block::ByteCount, _total: block::ByteCount) {}
        fn cancelled(&self) -> bool {
            self.0.lock().unwrap().len() >= self.1
        }
    }
    let note = |pack: &str| passed.lock().unwrap().push(pack.to_owned());
    let scrub =
        |after: Option<String>| Scrub { after, bytes_per_second: None, coming: &|_| Ok(0), passed: &note };
    let cut = vault.scrub(&scrub(None), &StopAt(&passed, 3)).unwrap_err();
    assert!(matches!(cut, Error::Cancelled), "{cut}");
    assert_eq!(*passed.lock().unwrap(), packs[..3]);
    let after = passed.lock().unwrap().last().cloned();
    let report = vault.scrub(&scrub(after), &Quiet).unwrap();
    assert_eq!(*passed.lock().unwrap(), packs);
    assert_eq!((report.packs, &report.damaged_packs), (4, &vec![packs[1].clone(), packs[4].clone()]));
    let whole = |known: &crate::world::Known| restore(&vault, &known.manifest).is_ok();
    let mut hurt: Vec<_> =
        world.known.iter().filter(|known| !whole(known)).map(|known| known.manifest).collect();
    let mut named: Vec<_> = report.hurt.iter().map(|hurt| hurt.manifest).collect();
    hurt.sort();
    named.sort();
    assert!(hurt.len() == 2 && hurt == named, "{hurt:?} {named:?}");
}

#[test]
fn a_scrub_keeps_its_pace() {
    let (_dir, store) = crate::world::directory();
    let env = Env { clock: Arc::new(block::linux::SystemClock), entropy: Arc::new(SeededEntropy::new(3)) };
    let vault = create(store, &env);
    let mut world = World::new(1 << 20, 5);
    world.write(0, &sim::Rng::new(7).bytes(1 << 20));
    world.backup(&vault).unwrap();
    let began = block::Clock::monotonic_ns(&block::linux::SystemClock);
    let pace = std::num::NonZeroU64::new(2 << 20);
    let scrub = Scrub { after: None, bytes_per_second: pace, coming: &|_| Ok(0), passed: &|_| {} };
    let report = vault.scrub(&scrub, &Quiet).unwrap();
    let took = block::Clock::monotonic_ns(&block::linux::SystemClock) - began;
    assert!(report.is_clean() && report.bytes_read.get() > 1 << 20);
    assert!((500_000_000..5_000_000_000).contains(&took), "1 MiB at 2 MiB/s took {took} ns");
}

/// Bits anywhere in packs of a disk with much data; the long form flips 10,000.
#[test]
fn random_flips_in_data_are_found_and_named() {
    let store = SimBlobStore::new();
    let mut world = World::new(1 << 20, 5);
    (0..8).for_each(|_| world.scribble());
    let vault = create(Arc::new(store.clone()), &env());
    world.backup(&vault).unwrap();
    world.scribble();
    world.backup(&vault).unwrap();
    drop(vault);
    let packs = names(&store, "packs/");
    let mut rng = sim::Rng::new(11);
    let count = if std::env::var_os("BLOCKD_SOAK").is_some() { 10_000 } else { 200 };
    for round in 0..count {
        let hurt = store.fork();
        let pack = &packs[rng.below(packs.len() as u64) as usize];
        let at = rng.below(store.size(pack).unwrap().get());
        hurt.flip_bit(pack, at, rng.below(8) as u8);
        let vault = open(Arc::new(hurt), &env_of(2)).unwrap();
        let report = vault.check(&Quiet).unwrap();
        let is_named = report.damage.iter().any(|damage| damage.blob == *pack);
        assert!(is_named, "round {round}: byte {at} of {pack} flipped and not named: {:?}", report.damage);
        assert_eq!(&report.damaged_packs, std::slice::from_ref(pack), "round {round}");
    }
}

#[test]
fn every_cut_and_every_missing_blob_is_found_and_named() {
    let (store, world) = small();
    for (name, len) in store.blobs() {
        let gone = store.fork();
        gone.remove(&name);
        let errors = use_damaged(&gone, &world);
        let index_or_point = name.starts_with("index/") || name.starts_with("points/");
        // an index is rebuilt from the packs; a point that is not there is not there
        assert!(index_or_point || !errors.is_empty(), "{name} is gone and nobody noticed");
        for len in (0..len).step_by(7).chain([len - 1]) {
            let cut = store.fork();
            cut.truncate(&name, len);
            let errors = use_damaged(&cut, &world);
            assert!(errors.iter().any(|error| error.contains(&name)), "{name} cut to {len}: {errors:?}");
        }
    }
}

/// Two valid objects in each other's place, within a vault and between vaults.
#[test]
fn swapped_objects_are_refused() {
    allow(|| {
        let (store, world) = small();
        let (other, _) = small_of_another_vault();
        for prefix in ["points/", "packs/", "index/"] {
            let both = names(&store, prefix);
            let foreign = whole(&other, &names(&other, prefix)[0]);
            for bytes in [whole(&store, &both[1]), foreign] {
                let swapped = store.fork();
                swapped.remove(&both[0]);
                swapped.put(&both[0], &renamed(&bytes, &whole(&store, &both[0]))).unwrap();
                let errors = use_damaged(&swapped, &world);
                let named = errors.iter().any(|error| error.contains(&both[0]));
                assert!(named, "{} has another's content: {errors:?}", both[0]);
            }
        }
    });
}

/// The bytes with the front of another blob, as a forger would do it: everything readable without the key fits.
fn renamed(bytes: &[u8], target: &[u8]) -> Vec<u8> {
    let mut forged = bytes.to_vec();
    // vault, appliance and blob id are the target's, the salt stays, so that the key could fit
    forged[32..72].copy_from_slice(&target[32..72]);
    let crc = crc32fast::hash(&forged[..104]);
    forged[104..108].copy_from_slice(&crc.to_le_bytes());
    forged
}

fn small_of_another_vault() -> (SimBlobStore, World) {
    let store = SimBlobStore::new();
    let vault = create(Arc::new(store.clone()), &env_of(2));
    let mut world = World::new(140_000, 3);
    world.write_random(0, 140_000);
    world.backup(&vault).unwrap();
    (store, world)
}

/// A pack is lost, cut or rotten; the next backup of the same content must not rely on it.
#[test]
fn a_backup_never_deduplicates_against_damage() {
    allow(|| {
        for damage in 0..4 {
            let store = SimBlobStore::new();
            let vault = create(Arc::new(store.clone()), &env());
            let mut world = World::new(600_000, 8);
            world.write_random(0, 600_000);
            world.backup(&vault).unwrap();
            let pack = names(&store, "packs/")[0].clone();
            let len = store.size(&pack).unwrap().get();
            match damage {
                0 => store.remove(&pack),
                1 => store.truncate(&pack, len / 2),
                2 => store.flip_bit(&pack, len - 100, 0),
                _ => store.flip_bit(&pack, 200, 0),
            }
            for round in 0..2 {
                // both the vault that saw it whole and one opened since
                let vault = open(Arc::new(store.clone()), &env_of(10 + round)).unwrap();
                let report = world.backup_on(&vault, None).unwrap();
                let last = world.known.last().unwrap();
                let back = restore(&vault, &last.manifest);
                assert!(
                    back.is_ok_and(|bytes| bytes == last.bytes),
                    "damage {damage}: relied on a damaged pack"
                );
                assert!(round > 0 || report.chunks_new > 0, "damage {damage}: {report:?}");
            }
        }
    });
}

/// A frame in the middle of a pack whose head is sound rots: after a check or a read met it, the next backup stores its chunks anew,
/// and those that follow rely on the new place, also after the vault was opened again.
#[test]
fn what_a_check_or_a_read_found_damaged_is_stored_anew() {
    allow(|| {
        for by_check in [true, false] {
            let store = SimBlobStore::new();
            let mut world = World::new(4 << 20, 8);
            world.write(0, &sim::Rng::new(7).bytes(4 << 20));
            world.backup(&create(Arc::new(store.clone()), &env())).unwrap();
            let packs = names(&store, "packs/");
            packs.iter().for_each(|pack| store.flip_bit(pack, store.size(pack).unwrap().get() / 2, 0));
            let vault = open(Arc::new(store.clone()), &env_of(10)).unwrap();
            let old = world.known[0].manifest;
            match by_check {
                true => assert_eq!(vault.check(&Quiet).unwrap().damaged_packs, packs),
                false => assert_eq!(restore(&vault, &old).unwrap_err().kind(), Kind::Corrupt),
            }
            assert_eq!(vault.damaged_packs(), packs);
            let healed = world.backup_on(&vault, None).unwrap();
            assert_eq!((healed.chunks_new, healed.chunks_reused), (1024, 0), "relied on what is damaged");
            assert!(restore(&vault, &healed.manifest).unwrap() == world.now.bytes);
            let found = vault.check(&Quiet).unwrap();
            let hurt: Vec<_> = found.hurt.iter().map(|hurt| hurt.manifest).collect();
            assert_eq!(hurt, [old]);

            let known = vault.damaged_packs();
            drop(vault);
            for seed in 0..8 {
                let damaged_packs = known.clone();
                let options = Options { damaged_packs, ..Options::default() };
                let vault =
                    Vault::open_with(Arc::new(store.fork()), key(), &env_of(20 + seed), options).unwrap();
                let again = world.backup_on(&vault, None).unwrap();
                assert_eq!((again.chunks_new, again.chunks_reused), (0, 1024), "seed {seed}");
                assert!(restore(&vault, &again.manifest).unwrap() == world.now.bytes);
                world.known.pop();
            }
        }
    });
}

/// A pack that was put back, or repaired from a copy, is relied on again once a check has read it.
#[test]
fn a_pack_found_right_again_is_relied_on_again() {
    let (store, mut world) = small();
    let vault = open(Arc::new(store.clone()), &env_of(3)).unwrap();
    let pack = names(&store, "packs/").into_iter().max_by_key(|name| store.size(name).unwrap()).unwrap();
    store.flip_bit(&pack, 300, 0);
    assert_eq!(vault.check(&Quiet).unwrap().damaged_packs, std::slice::from_ref(&pack));
    store.flip_bit(&pack, 300, 0);
    assert!(vault.check(&Quiet).unwrap().is_clean());
    assert!(vault.damaged_packs().is_empty());
    assert_eq!(world.backup_on(&vault, None).unwrap().chunks_new, 0);
}

#[test]
fn an_incremental_on_a_damaged_base_says_so() {
    let (store, mut world) = small();
    let pack = names(&store, "packs/").into_iter().max_by_key(|name| store.size(name).unwrap()).unwrap();
    store.remove(&pack);
    let vault = open(Arc::new(store), &env()).unwrap();
    world.write(0, &[1; 10]);
    match world.backup(&vault) {
        // its node was in the other pack
        Ok(_) => assert!(!vault.check(&Quiet).unwrap().is_clean()),
        Err(error) => assert!(matches!(error, Error::Missing { .. }), "{error}"),
    }
    // a full one needs nothing of it
    world.changed = RangeSet::new();
    world.backup_on(&vault, None).unwrap();
    let last = world.known.last().unwrap();
    assert!(restore(&vault, &last.manifest).unwrap() == last.bytes);
}

#[test]
fn an_index_lost_or_damaged_costs_nothing_but_time() {
    let (store, world) = small();
    let indexes = names(&store, "index/");
    store.remove(&indexes[0]);
    store.flip_bit(&indexes[1], 200, 3);
    let vault = open(Arc::new(store.clone()), &env()).unwrap();
    world.verify(&vault);
    let survey = vault.survey().unwrap();
    assert!(survey.damaged.len() == 1 && survey.damaged[0].blob == indexes[1], "{survey:?}");
    assert_eq!(vault.rebuild_index().unwrap(), 2);
    assert_eq!(vault.rebuild_index().unwrap(), 0);
    drop(vault);
    // what was rebuilt serves without the packs' trailers being read
    store.remove(&indexes[1]);
    let vault = open(Arc::new(store), &env()).unwrap();
    world.verify(&vault);
    assert!(vault.check(&Quiet).unwrap().is_clean());
}

#[test]
fn a_damaged_point_is_named_and_may_be_deleted() {
    let (store, world) = small();
    let hurt = names(&store, "points/")[0].clone();
    store.flip_bit(&hurt, 150, 1);
    let vault = open(Arc::new(store), &env()).unwrap();
    let survey = vault.survey().unwrap();
    assert_eq!((survey.points.len(), survey.damaged.len()), (1, 1));
    assert_eq!(survey.damaged[0].blob, hurt);
    let report = vault.check(&Quiet).unwrap();
    assert_eq!(report.hurt.len(), 1);
    let hurt = report.hurt[0].manifest;
    assert!(world.known.iter().any(|known| known.manifest == hurt));
    assert_eq!(vault.image(&hurt).err().unwrap().kind(), Kind::Corrupt);
    vault.delete_point(&hurt).unwrap();
    assert!(vault.survey().unwrap().damaged.is_empty());
}

/// The store loses, fails or is away in the middle of a backup: an error, no point, and a later attempt succeeds.
#[test]
fn a_store_that_fails_fails_the_backup_and_nothing_else() {
    use sim::{Effect, Fault, Op};
    for (op, effect) in [
        (Op::Put, Effect::Eio),
        (Op::Put, Effect::Lose),
        (Op::Put, Effect::Enospc),
        (Op::Put, Effect::Unreachable),
        (Op::Get, Effect::Unreachable),
    ] {
        for after in 0..3 {
            let (store, mut world) = small();
            let vault = open(Arc::new(store.clone()), &env_of(3)).unwrap();
            world.write_random(0, 140_000);
            store.inject(Fault::new(op, effect).after(after));
            let error = world.backup(&vault).unwrap_err();
            assert_eq!(store.faults_fired(), 1, "{op:?} {effect:?}: {error}");
            assert_eq!(vault.points().unwrap().len(), 2);
            world.backup(&vault).unwrap();
            world.verify(&vault);
            assert!(vault.check(&Quiet).unwrap().is_clean());
        }
    }
}

#[test]
fn a_store_that_is_no_vault_or_half_of_one_is_refused_by_name() {
    let store = SimBlobStore::new();
    assert!(matches!(open(Arc::new(store.clone()), &env()), Err(Error::NoVault)));
    assert!(matches!(Vault::describe(&store), Err(Error::NoVault)));
    store.put("packs/x", b"something").unwrap();
    let refused = Vault::create(Arc::new(store.clone()), crate::world::key(), &env()).err().unwrap();
    assert!(refused.to_string().contains("packs/x"), "{refused}");
    store.put("vault", &[0; 168]).unwrap();
    assert_eq!(open(Arc::new(store), &env()).err().unwrap().kind(), Kind::Corrupt);
}

/// A blob of a later version is refused as such, by name, and called neither damaged nor missing.
#[test]
fn later_versions_are_refused_by_name() {
    let (store, world) = small();
    for (name, _) in store.blobs() {
        let later = store.fork();
        let mut bytes = whole(&store, &name);
        bytes[12] = 2;
        let crc = crc32fast::hash(&bytes[..28]);
        bytes[28..32].copy_from_slice(&crc.to_le_bytes());
        later.remove(&name);
        later.put(&name, &bytes).unwrap();
        let errors = match open(Arc::new(later.clone()), &env()) {
            Ok(_) => use_damaged(&later, &world),
            Err(error) => {
                assert_eq!(error.kind(), Kind::Unsupported, "{error}");
                vec![error.to_string()]
            }
        };
        let told = errors.iter().any(|error| error.contains(&name) && error.contains("has version 2"));
        assert!(told, "{name}: {errors:?}");
    }
}

/// Two packs with the same content, neither in any index: both are indexed, and the points rely each on its own.
#[test]
fn equal_packs_without_an_index_are_both_indexed_again() {
    let store = SimBlobStore::new();
    let env = env();
    let (one, two) = (create(Arc::new(store.clone()), &env), open(Arc::new(store.clone()), &env).unwrap());
    let mut world = World::new(300_000, 8);
    world.write_random(0, 300_000);
    world.backup_on(&one, None).unwrap();
    world.backup_on(&two, None).unwrap();
    drop((one, two));
    names(&store, "index/").iter().for_each(|name| store.remove(name));
    let vault = open(Arc::new(store.clone()), &env).unwrap();
    world.verify(&vault);
    assert_eq!(vault.rebuild_index().unwrap(), 2);
    assert_eq!(names(&store, "index/").len(), 1);
    drop(vault);
    for pack in names(&store, "packs/") {
        let hurt = store.fork();
        hurt.remove(&pack);
        let vault = open(Arc::new(hurt), &env).unwrap();
        let whole = world.known.iter().filter(|known| restore(&vault, &known.manifest).is_ok()).count();
        assert_eq!(whole, 1);
        assert!(world.backup_on(&vault, None).unwrap().chunks_new <= 74);
        world.known.pop();
    }
}
