//! Sweeps: what is deleted, what never is, and every mixture with backups, deletions, undoing and ends of the process.

use std::ops::ControlFlow;
use std::sync::{Arc, Mutex, Weak};

use block::{BlobStore, ByteCount, ByteRange, Failure, Kind};
use sim::{Effect, Fault, Op, Rng, SimBlobStore};
use vault::{Error, ManifestId, Quiet, Vault};

use crate::planted::allow;
use crate::world::{World, create, env, open, restore};

fn clean(vault: &Vault) {
    let report = vault.check(&Quiet).expect("the check ends");
    assert!(report.is_clean(), "{:#?}\n{:#?}", report.damage, report.hurt);
}

fn backups(vault: &Vault, count: usize) -> World {
    let mut world = World::new(600_000, 4);
    for _ in 0..count {
        world.write_random(0, 200_000);
        world.backup(vault).expect("a backup");
    }
    world
}

#[test]
fn what_nothing_reaches_goes_through_quarantine_and_can_come_back() {
    let vault = create(Arc::new(SimBlobStore::new()), &env());
    let mut world = backups(&vault, 4);
    assert_eq!(vault.sweep(&Quiet).unwrap(), vault::SweepReport::default(), "everything is reached");
    let before = vault.usage().unwrap();
    for known in world.known.drain(..3) {
        vault.delete_point(&known.manifest).unwrap();
    }
    let first = vault.sweep(&Quiet).unwrap();
    assert_eq!((first.quarantined.len(), first.deleted.len()), (3, 0), "{first:?}");
    assert_eq!(vault.usage().unwrap().packs, before.packs, "nothing is gone yet");
    let run = first.run.unwrap();
    assert_eq!(
        vault.sweeps().unwrap().iter().map(|run| (run.run, run.packs)).collect::<Vec<_>>(),
        [(run, 3)]
    );
    assert_eq!(vault.undo_sweep(&run).unwrap(), 3);
    assert!(vault.sweeps().unwrap().is_empty());
    assert_eq!(vault.undo_sweep(&run).unwrap_err().kind(), Kind::NotFound);
    let again = vault.sweep(&Quiet).unwrap();
    assert_eq!(again.quarantined, first.quarantined);
    let last = vault.sweep(&Quiet).unwrap();
    assert_eq!((&last.deleted, last.run), (&first.quarantined, None));
    let after = vault.usage().unwrap();
    assert_eq!(before.pack_bytes - after.pack_bytes, last.deleted_bytes.get());
    clean(&vault);
    world.verify(&vault);
    world.backup_on(&vault, None).unwrap();
    world.verify(&vault);
}

#[test]
fn without_a_policy_nothing_is_swept() {
    let store = SimBlobStore::new();
    let vault = create(Arc::new(store.clone()), &env());
    let world = backups(&vault, 2);
    vault.delete_point(&world.known[0].manifest).unwrap();
    drop(vault);
    let strict = Vault::open(Arc::new(store.clone()), crate::world::key(), &env()).unwrap();
    let refused = strict.sweep(&Quiet).unwrap_err();
    assert!(matches!(refused, Error::Refused { .. }), "{refused}");
    assert!(strict.sweeps().unwrap().is_empty());
    drop(strict);
    // nor what is in quarantine already
    let vault = open(Arc::new(store.clone()), &env()).unwrap();
    assert!(vault.sweep(&Quiet).unwrap().run.is_some());
    drop(vault);
    let strict = Vault::open(Arc::new(store), crate::world::key(), &env()).unwrap();
    assert!(matches!(strict.sweep(&Quiet), Err(Error::Refused { .. })));
    assert_eq!(strict.sweeps().unwrap().len(), 1);
}

#[test]
fn a_point_that_cannot_be_followed_ends_the_sweep() {
    let store = SimBlobStore::new();
    let vault = create(Arc::new(store.clone()), &env());
    let world = backups(&vault, 3);
    vault.delete_point(&world.known[0].manifest).unwrap();
    let point =
        store.blobs().into_iter().map(|(name, _)| name).find(|name| name.starts_with("points/")).unwrap();
    store.flip_bit(&point, 150, 1);
    let vault = open(Arc::new(store.clone()), &env()).unwrap();
    assert_eq!(vault.sweep(&Quiet).unwrap_err().kind(), Kind::Corrupt);
    assert!(vault.sweeps().unwrap().is_empty());
}

/// An image that is read, and the base of a running backup, stay whole though their point is deleted and swept.
#[test]
fn what_is_read_or_built_upon_stays() {
    let vault = create(Arc::new(SimBlobStore::new()), &env());
    let world = backups(&vault, 2);
    let image = vault.image(&world.known[0].manifest).unwrap();
    vault.delete_point(&world.known[0].manifest).unwrap();
    assert!((0..3).all(|_| vault.sweep(&Quiet).unwrap().run.is_none()));
    let mut bytes = vec![0; world.known[0].bytes.len()];
    image.read_at(block::ByteOffset::ZERO, &mut bytes).unwrap();
    assert!(bytes == world.known[0].bytes);
    drop(image);
    assert!(vault.sweep(&Quiet).unwrap().run.is_some());
}

type Hook = Box<dyn FnMut() + Send>;

/// A store in whose every call something else may happen first.
struct Stormy {
    store: SimBlobStore,
    hook: Mutex<Option<Hook>>,
}

impl Stormy {
    fn gust(&self) {
        let taken = self.hook.lock().unwrap().take();
        if let Some(mut hook) = taken {
            hook();
            *self.hook.lock().unwrap() = Some(hook);
        }
    }
}

impl BlobStore for Stormy {
    fn put(&self, name: &str, bytes: &[u8]) -> block::Result<()> {
        self.gust();
        self.store.put(name, bytes)
    }

    fn get(&self, name: &str, range: ByteRange) -> block::Result<Vec<u8>> {
        self.gust();
        self.store.get(name, range)
    }

    fn size(&self, name: &str) -> block::Result<ByteCount> {
        self.gust();
        self.store.size(name)
    }

    fn list(
        &self,
        prefix: &str,
        visit: &mut dyn FnMut(&str, ByteCount) -> ControlFlow<()>,
    ) -> block::Result<()> {
        self.gust();
        self.store.list(prefix, visit)
    }

    fn delete(&self, name: &str) -> block::Result<()> {
        self.gust();
        self.store.delete(name)
    }
}

/// Two disks with much in common, and what a storm does to their points.
struct Sky {
    vault: Weak<Vault>,
    worlds: [World; 2],
    rng: Rng,
    // a sweep is under way: another waits for it
    is_sweeping: bool,
    gusts: u64,
    // packs written anew
    rewritten: u64,
}

impl Sky {
    /// One thing that happens in the middle of another.
    fn gust(&mut self) {
        let Some(vault) = self.vault.upgrade() else { return };
        if !self.rng.chance(1, 6) {
            return;
        }
        self.gusts += 1;
        match self.rng.below(6) {
            0 | 1 if !self.is_sweeping => {
                self.rewritten += vault.sweep(&Quiet).expect("a sweep").rewritten.len() as u64;
            }
            2 if !self.is_sweeping => {
                if let Some(run) = vault.sweeps().expect("runs").last() {
                    vault.undo_sweep(&run.run).expect("undone");
                }
            }
            3 | 4 => self.delete(&vault),
            _ => self.second(&vault),
        }
    }

    fn delete(&mut self, vault: &Vault) {
        let world = &mut self.worlds[self.rng.below(2) as usize];
        if !world.known.is_empty() {
            let at = self.rng.below(world.known.len() as u64) as usize;
            vault.delete_point(&world.known.remove(at).manifest).expect("deleted");
        }
    }

    /// A backup of the second disk, which has a part of what the first has or had.
    fn second(&mut self, vault: &Vault) {
        let [first, second] = &mut self.worlds;
        let part = first.now.bytes[..40_000].to_vec();
        second.write(self.rng.below(40_000) as usize / 4096 * 4096, &part);
        second.backup_on(vault, None).expect("a backup");
    }
}

/// One history: backups and sweeps, in whose calls of the store other backups, sweeps, deletions and undoing happen.
fn storm(seed: u64) -> [u64; 2] {
    let store = Arc::new(Stormy { store: SimBlobStore::new(), hook: Mutex::new(None) });
    drop(create(Arc::new(store.store.clone()), &env()));
    let vault = Arc::new(open(store.clone(), &env()).expect("it opens"));
    let worlds = [World::new(90_000, seed), World::new(90_000, seed + 1)];
    let rng = Rng::new(seed);
    let sky = Sky { vault: Arc::downgrade(&vault), worlds, rng, is_sweeping: false, gusts: 0, rewritten: 0 };
    let sky = Arc::new(Mutex::new(sky));
    let mut outer = World::new(90_000, seed);
    for step in 0..8 {
        let inside = sky.clone();
        let gust = move || inside.lock().unwrap().gust();
        let begin = |is_sweeping: bool| {
            sky.lock().unwrap().is_sweeping = is_sweeping;
            *store.hook.lock().unwrap() = Some(Box::new(gust) as Hook);
        };
        let known: Option<ManifestId> = outer.known.last().map(|known| known.manifest);
        if step % 3 == 2 {
            begin(true);
            let swept = vault.sweep(&Quiet);
            store.hook.lock().unwrap().take();
            sky.lock().unwrap().rewritten += swept.expect("a sweep").rewritten.len() as u64;
        } else {
            outer.scribble();
            outer.changed = block::RangeSet::whole(ByteCount::new(90_000));
            sky.lock().unwrap().worlds[0].now = outer.now.clone();
            begin(false);
            let base = known.filter(|_| step % 2 == 1);
            let done = outer.backup_on(&vault, base);
            store.hook.lock().unwrap().take();
            if let Err(Error::NoPoint(gone)) = &done {
                assert_eq!(Some(*gone), base, "the base was deleted before it was held");
                continue;
            }
            done.expect("a backup");
            // its point is one of those the storm may delete later on
            let made = outer.known.last().expect("it").clone();
            assert!(
                restore(&vault, &made.manifest).is_ok_and(|bytes| bytes == made.bytes),
                "seed {seed}: a point just made"
            );
            sky.lock().unwrap().worlds[0].known.push(made);
        }
        let still =
            sky.lock().unwrap().worlds[0].known.iter().map(|known| known.manifest).collect::<Vec<_>>();
        outer.known.retain(|known| still.contains(&known.manifest));
        for world in &sky.lock().unwrap().worlds {
            for known in &world.known {
                let back = restore(&vault, &known.manifest);
                assert!(
                    back.is_ok_and(|bytes| bytes == known.bytes),
                    "seed {seed}, step {step}: swept what a point needs"
                );
            }
        }
    }
    clean(&vault);
    let sky = sky.lock().unwrap();
    [sky.gusts, sky.rewritten]
}

/// The long form runs forty times as many.
#[test]
fn no_mixture_of_sweeps_and_backups_loses_what_a_point_needs() {
    allow(|| {
        let count = if std::env::var_os("BLOCKD_SOAK").is_some() { 20_000 } else { 500 };
        let (mut gusts, mut rewritten) = (0, 0);
        for [some, packs] in (0..count).map(storm) {
            gusts += some;
            rewritten += packs;
        }
        assert!(gusts > count * 10, "only {gusts} things happened in the middle of others");
        assert!(rewritten > count / 2, "only {rewritten} packs were written anew");
    });
}

/// A sweep cut short at every call of the store: nothing is lost, and the next ones finish the work.
#[test]
fn a_sweep_cut_short_anywhere_is_finished_by_the_next() {
    let store = SimBlobStore::new();
    let vault = create(Arc::new(store.clone()), &env());
    let mut world = backups(&vault, 4);
    for known in world.known.drain(..3) {
        vault.delete_point(&known.manifest).unwrap();
    }
    vault.sweep(&Quiet).unwrap();
    world.write_random(0, 200_000);
    world.backup(&vault).unwrap();
    vault.delete_point(&world.known.remove(0).manifest).unwrap();
    drop(vault);
    for (op, effect) in [(Op::Put, Effect::Eio), (Op::Get, Effect::Unreachable), (Op::Delete, Effect::Eio)] {
        for after in 0..20 {
            let hurt = store.fork();
            let vault = open(Arc::new(hurt.clone()), &env()).unwrap();
            hurt.inject(Fault::new(op, effect).after(after));
            let swept = vault.sweep(&Quiet);
            let fired = hurt.faults_fired() > 0;
            assert_eq!(swept.is_err(), fired, "{op:?} {after}: {swept:?}");
            hurt.clear_faults();
            world.verify(&vault);
            drop(vault);
            let vault = open(Arc::new(hurt.clone()), &env()).unwrap();
            world.verify(&vault);
            clean(&vault);
            (0..3).for_each(|_| drop(vault.sweep(&Quiet).unwrap()));
            clean(&vault);
            assert!(vault.sweeps().unwrap().is_empty());
            world.verify(&vault);
            assert_eq!(vault.reach(&Quiet).unwrap().unreferenced.get() / 100_000, 0, "what is dead is gone");
            if !fired {
                break;
            }
        }
    }
}
