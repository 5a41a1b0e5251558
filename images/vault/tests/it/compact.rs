//! Packs that are mostly dead are written anew: what that saves, what it costs a reader, and that nothing is lost.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use block::{BlobStore, BlockSource, ByteCount, ByteOffset, ByteRange};
use sim::{Effect, Fault, Op, Rng, SimBlobStore};
use vault::{ManifestId, Quiet, Vault};

use crate::world::{World, create, env, open, restore};

const BLOCK: usize = 4096;

fn clean(vault: &Vault) {
    let report = vault.check(&Quiet).expect("the check ends");
    assert!(report.is_clean(), "{:#?}\n{:#?}", report.damage, report.hurt);
}

/// Writes so many blocks anywhere.
fn churn(world: &mut World, blocks: usize, rng: &mut Rng) {
    let all = world.now.bytes.len() / BLOCK;
    for _ in 0..blocks {
        world.write_random(rng.below(all as u64) as usize * BLOCK, BLOCK);
    }
}

/// A vault whose first packs are needed in part: the disk was written over in part, and the first point deleted.
fn sparse(store: &SimBlobStore) -> World {
    let vault = create(Arc::new(store.clone()), &env());
    let mut world = World::new(2_000_000, 4);
    world.write_random(0, 2_000_000);
    world.backup(&vault).expect("a backup");
    let mut rng = Rng::new(9);
    for _ in 0..3 {
        churn(&mut world, 100, &mut rng);
        world.backup(&vault).expect("a backup");
    }
    for known in world.known.drain(..2) {
        vault.delete_point(&known.manifest).expect("deleted");
    }
    world
}

/// Counts the bytes that are read.
struct Counting {
    store: SimBlobStore,
    read: AtomicU64,
}

impl BlobStore for Counting {
    fn put(&self, name: &str, bytes: &[u8]) -> block::Result<()> {
        self.store.put(name, bytes)
    }

    fn get(&self, name: &str, range: ByteRange) -> block::Result<Vec<u8>> {
        self.read.fetch_add(range.count().get(), Ordering::Relaxed);
        self.store.get(name, range)
    }

    fn size(&self, name: &str) -> block::Result<ByteCount> {
        self.store.size(name)
    }

    fn list(
        &self,
        prefix: &str,
        visit: &mut dyn FnMut(&str, ByteCount) -> ControlFlow<()>,
    ) -> block::Result<()> {
        self.store.list(prefix, visit)
    }

    fn delete(&self, name: &str) -> block::Result<()> {
        self.store.delete(name)
    }
}

/// The bytes a restore of a point reads from the store, in an image opened for it.
fn bytes_to_restore(store: &SimBlobStore, point: &ManifestId) -> u64 {
    let counting = Arc::new(Counting { store: store.clone(), read: AtomicU64::new(0) });
    let vault = open(counting.clone(), &env()).expect("it opens");
    let image = vault.image(point).expect("an image");
    counting.read.store(0, Ordering::Relaxed);
    let mut buf = vec![0; 1 << 20];
    let size = image.size().get();
    for at in (0..size).step_by(buf.len()) {
        let part = buf.len().min((size - at) as usize);
        image.read_at(ByteOffset::new(at), &mut buf[..part]).expect("it reads");
    }
    counting.read.load(Ordering::Relaxed)
}

/// 100 daily points of a disk of which 1 % changes a day, seven of them kept, a sweep each day: the vault is at most a quarter larger than a
/// fresh one of the kept points, and a restore reads at most half more than one from a vault that has only its point. The long form has
/// a disk of 256 MiB.
#[test]
fn a_hundred_days_leave_little_behind() {
    let size = if std::env::var_os("BLOCKD_SOAK").is_some() { 256 << 20 } else { 12 << 20 };
    let store = SimBlobStore::new();
    let vault = create(Arc::new(store.clone()), &env());
    let mut world = World::new(size, 4);
    let mut rng = Rng::new(1);
    churn(&mut world, size / BLOCK * 3 / 2, &mut rng);
    let (mut states, mut rewritten) = (Vec::new(), 0);
    for _ in 0..100 {
        world.backup(&vault).expect("a backup");
        states.push((world.known.last().expect("it").clone(), world.changed.clone()));
        if world.known.len() > 7 {
            vault.delete_point(&world.known.remove(0).manifest).expect("deleted");
            states.remove(0);
        }
        rewritten += vault.sweep(&Quiet).expect("a sweep").bytes_rewritten.get();
        churn(&mut world, size / BLOCK / 100, &mut rng);
    }
    (0..2).for_each(|_| drop(vault.sweep(&Quiet).expect("a sweep")));
    clean(&vault);
    world.verify(&vault);

    let fresh_store = SimBlobStore::new();
    let fresh = create(Arc::new(fresh_store.clone()), &env());
    let mut again = World::new(size, 4);
    for (known, _) in &states {
        let old = std::mem::take(&mut again.now.bytes);
        let blocks = old.chunks(BLOCK).zip(known.bytes.chunks(BLOCK)).enumerate();
        let changed: Vec<usize> =
            blocks.filter(|(_, (old, new))| old != new).map(|(at, _)| at * BLOCK).collect();
        again.now.bytes = old;
        for at in changed {
            again.write(at, &known.bytes[at..at + BLOCK]);
        }
        again.backup(&fresh).expect("a backup");
    }
    let bytes = |vault: &Vault| vault.usage().expect("usage").bytes;
    let (kept, least) = (bytes(&vault), bytes(&fresh));
    let last = world.known.last().expect("a point");
    let alone_store = SimBlobStore::new();
    let alone = create(Arc::new(alone_store.clone()), &env());
    again.backup_on(&alone, None).expect("a backup");
    let ideal = bytes_to_restore(&alone_store, &again.known.last().expect("it").manifest);
    let reads = bytes_to_restore(&store, &last.manifest);
    println!(
        "{kept} bytes stored, {least} by a fresh vault: {:.2}; a restore reads {reads}, {ideal} from a vault of one point: {:.2}; {rewritten} bytes written anew in 100 days",
        kept as f64 / least as f64,
        reads as f64 / ideal as f64
    );
    assert!(kept as f64 <= least as f64 * 1.25, "{kept} bytes are stored, {least} by a fresh vault");
    assert!(reads as f64 <= ideal as f64 * 1.5, "a restore reads {reads} bytes, at best {ideal}");
}

/// Old places are followed by everything that reads: open images, comparisons, increments, checks; also after another move.
#[test]
fn what_was_moved_is_found_by_everything() {
    let store = SimBlobStore::new();
    let mut world = sparse(&store);
    let vault = open(Arc::new(store.clone()), &env()).expect("it opens");
    let mut rng = Rng::new(3);
    for round in 0..3 {
        let old = world.known[0].clone();
        let image = vault.image(&old.manifest).expect("an image");
        let mut bytes = vec![0; old.bytes.len()];
        image.read_at(ByteOffset::ZERO, &mut bytes[..100_000]).expect("it reads");
        let report = vault.sweep(&Quiet).expect("a sweep");
        assert!(!report.rewritten.is_empty(), "round {round}: {report:?}");
        clean(&vault);
        world.verify(&vault);
        let settled = vault.sweep(&Quiet).expect("a sweep");
        assert!(report.rewritten.iter().all(|pack| settled.deleted.contains(pack)), "{settled:?}");
        clean(&vault);
        world.verify(&vault);
        let last = world.known.last().expect("a point").clone();
        let same =
            vault.compare(&last.manifest, &source(&last.bytes), ByteRange::whole(world.now.size()), &Quiet);
        assert!(same.expect("compared").differing.is_empty());
        image.read_at(ByteOffset::ZERO, &mut bytes).expect("it reads still");
        assert!(bytes == old.bytes);
        drop(image);
        // a part of what was moved dies too
        churn(&mut world, 150, &mut rng);
        world.backup(&vault).expect("an increment on what was moved");
        vault.delete_point(&world.known.remove(0).manifest).expect("deleted");
        let opened = open(Arc::new(store.clone()), &env());
        world.verify(&opened.expect("it opens"));
    }
    for known in world.known.drain(..) {
        vault.delete_point(&known.manifest).expect("deleted");
    }
    (0..3).for_each(|_| drop(vault.sweep(&Quiet).expect("a sweep")));
    assert_eq!(store.blobs().iter().filter(|(name, _)| name.starts_with("moved/")).count(), 0);
}

fn source(bytes: &[u8]) -> crate::world::Frozen {
    let mut world = World::new(bytes.len(), 1);
    world.write(0, bytes);
    world.now
}

/// Taken back, a sweep that wrote packs anew leaves everything readable, and so does the next one.
#[test]
fn a_sweep_that_wrote_anew_can_be_taken_back() {
    let store = SimBlobStore::new();
    let mut world = sparse(&store);
    let vault = open(Arc::new(store.clone()), &env()).expect("it opens");
    let report = vault.sweep(&Quiet).expect("a sweep");
    let undone = vault.undo_sweep(&report.run.expect("a run")).expect("undone");
    assert_eq!(undone as usize, report.quarantined.len() + report.rewritten.len());
    world.backup_on(&vault, None).expect("a backup");
    clean(&vault);
    (0..3).for_each(|_| drop(vault.sweep(&Quiet).expect("a sweep")));
    clean(&vault);
    world.verify(&vault);
}

/// Cut short at any call of the store, nothing is lost, and the next sweeps finish the work.
#[test]
fn writing_anew_is_cut_short_anywhere() {
    let store = SimBlobStore::new();
    let world = sparse(&store);
    for (op, effect) in [(Op::Put, Effect::Eio), (Op::Get, Effect::Unreachable), (Op::BlobSize, Effect::Eio)]
    {
        for after in (0..400).step_by(if op == Op::Put { 1 } else { 7 }) {
            let hurt = store.fork();
            let vault = open(Arc::new(hurt.clone()), &env()).expect("it opens");
            hurt.inject(Fault::new(op, effect).after(after));
            let swept = vault.sweep(&Quiet);
            let fired = hurt.faults_fired() > 0;
            assert_eq!(swept.is_err(), fired, "{op:?} {after}: {swept:?}");
            hurt.clear_faults();
            world.verify(&vault);
            drop(vault);
            let vault = open(Arc::new(hurt.clone()), &env()).expect("it opens");
            clean(&vault);
            (0..3).for_each(|_| drop(vault.sweep(&Quiet).expect("a sweep")));
            clean(&vault);
            world.verify(&vault);
            if !fired {
                break;
            }
        }
    }
    assert!(restore(&open(Arc::new(store), &env()).expect("it opens"), &world.known[0].manifest).is_ok());
}
