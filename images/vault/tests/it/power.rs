//! Power cuts and failing calls under a vault on a directory store: what is listed restores to the byte, what was
//! acknowledged is listed, nothing is damaged, and the next backup succeeds.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use block::{Failure, Kind};
use sim::{Cut, Effect, Fault, Op, Rng, SeededEntropy, SimClock, SimMedia, for_seeds};
use vault::{DirectoryStore, Env, Error, Vault};

use crate::planted::allow;
use crate::world::{World, create, key, open, restore};

/// Two chunks and a bit: every kind of object is written, and little else.
const SIZE: usize = 150_000;

fn env(seed: u64) -> Env {
    Env { clock: Arc::new(SimClock::default()), entropy: Arc::new(SeededEntropy::new(seed)) }
}

fn store(media: &SimMedia) -> Result<Arc<DirectoryStore>, Error> {
    let opened = DirectoryStore::open(Arc::new(media.clone()), "store");
    opened.map(Arc::new).map_err(|source| Error::Store { op: "open", blob: String::new(), source })
}

/// What must hold after a crash.
#[derive(Default)]
struct Promises {
    created: bool,
    // content of every state that was ever handed to a backup
    states: BTreeMap<block::StateId, Vec<u8>>,
    acknowledged: BTreeSet<vault::ManifestId>,
    // deleting these was asked for; whether it happened is open
    maybe_gone: BTreeSet<vault::ManifestId>,
}

/// A vault and a disk living together until something fails for good.
struct Life {
    media: SimMedia,
    env: Env,
    world: World,
    vault: Option<Vault>,
    promises: Promises,
}

impl Life {
    fn new(media: SimMedia, seed: u64) -> Self {
        let promises = Promises::default();
        Self { media, env: env(seed), world: World::new(SIZE, seed), vault: None, promises }
    }

    /// The open vault, made or opened if need be.
    fn vault(&mut self) -> Result<&Vault, Error> {
        if self.vault.is_none() {
            let found = open(store(&self.media)?, &self.env);
            let vault = match found {
                Err(Error::NoVault) if !self.promises.created => {
                    drop(Vault::create(store(&self.media)?, key(), &self.env)?);
                    open(store(&self.media)?, &self.env)?
                }
                found => found?,
            };
            self.promises.created = true;
            self.vault = Some(vault);
        }
        Ok(self.vault.as_ref().expect("it was just made"))
    }

    fn backup(&mut self, full: bool) -> Result<(), Error> {
        self.vault()?;
        let vault = self.vault.as_ref().expect("it was just made");
        let base = self.world.known.last().map(|known| known.manifest).filter(|_| !full);
        let state = self.world.next_state();
        self.promises.states.insert(state, self.world.now.bytes.clone());
        let report = self.world.backup_state(vault, base, state)?;
        self.world.changed = block::RangeSet::new();
        self.promises.acknowledged.insert(report.manifest);
        Ok(())
    }

    fn delete_oldest(&mut self) -> Result<(), Error> {
        self.vault()?;
        let oldest = self.world.known[0].manifest;
        self.promises.acknowledged.remove(&oldest);
        self.promises.maybe_gone.insert(oldest);
        self.vault.as_ref().expect("it was just made").delete_point(&oldest)?;
        self.world.known.remove(0);
        Ok(())
    }

    fn step(&mut self, step: u64) -> Result<(), Error> {
        match step {
            0 => self.vault().map(|_| ()),
            4 => self.delete_oldest(),
            _ => {
                self.world.scribble();
                self.backup(step == 3)
            }
        }
    }

    fn verify(&mut self) {
        let vault = match self.vault() {
            Ok(vault) => vault,
            Err(error) => panic!("the vault does not open: {error}"),
        };
        let survey = vault.survey().expect("a vault lists its points");
        assert!(survey.damaged.is_empty(), "damage: {:?}", survey.damaged);
        let report = vault.check(&vault::Quiet).expect("a vault can be checked");
        assert!(report.is_clean(), "damage: {report:?}");
        let vault = self.vault.as_ref().expect("it was just opened");
        for point in &survey.points {
            let back = restore(vault, &point.manifest);
            let back = back.unwrap_or_else(|error| panic!("{} does not restore: {error}", point.manifest));
            assert!(back == self.promises.states[&point.state], "{} restores otherwise", point.manifest);
        }
        for manifest in &self.promises.acknowledged {
            let listed = survey.points.iter().any(|point| point.manifest == *manifest);
            assert!(listed, "{manifest} was acknowledged and is not listed");
        }
    }
}

const STEPS: u64 = 6;

/// After the crash: everything promised holds, and the vault goes on.
fn survives(life: &Life, media: SimMedia, seed: u64) {
    let mut after = Life::new(media, seed ^ 0x5eed);
    after.world = life.world.clone();
    after.promises.created = life.promises.created;
    after.promises.states = life.promises.states.clone();
    after.promises.acknowledged = life.promises.acknowledged.clone();
    after.verify();
    let vault = after.vault.as_ref().expect("it was just verified");
    let listed = vault.points().expect("a vault lists its points");
    after.world.known.retain(|known| listed.iter().any(|point| point.manifest == known.manifest));
    after.world.scribble();
    if let Err(error) = after.backup(after.world.known.is_empty()) {
        panic!("the next backup fails: {error}");
    }
    after.verify();
}

/// The power goes off at every mutating call of a history, before or after its effect, and any part of what was
/// pending is lost.
#[test]
fn every_power_cut_leaves_a_vault_that_keeps_its_word() {
    allow(|| {
        let mut cuts = 0;
        for calls in 0.. {
            let mut life = Life::new(SimMedia::new(), 11);
            life.media.crash_after(calls, if calls % 2 == 0 { Cut::BeforeEffect } else { Cut::AfterEffect });
            let died = (0..STEPS).any(|step| life.step(step).is_err());
            assert_eq!(died, life.media.is_off(), "nothing but the cut fails");
            for_seeds(0..3, |rng| {
                survives(&life, life.media.power_cut(rng), rng.next_u64());
                cuts += 1;
            });
            if !died {
                break;
            }
        }
        assert!(cuts > 300, "only {cuts} cuts");
    });
}

/// The process ends at any call; the next one finds everything that was visible.
#[test]
fn a_killed_process_loses_nothing_acknowledged() {
    for_seeds(0..30, |rng: &mut Rng| {
        let mut life = Life::new(SimMedia::new(), 12);
        life.media.crash_after(rng.below(170), Cut::AfterEffect);
        for step in 0..STEPS {
            if life.step(step).is_err() {
                break;
            }
        }
        survives(&life, life.media.process_crash(), rng.next_u64());
    });
}

/// One call fails, answers wrongly or is lost; the vault is used on in the same process, then the power goes off.
#[test]
fn one_failing_call_never_becomes_a_broken_promise() {
    let ops = [Op::Create, Op::CreateDir, Op::Write, Op::Sync, Op::Rename, Op::SyncDir, Op::Remove];
    let mut fired = 0;
    for_seeds(0..150, |rng: &mut Rng| {
        let op = *rng.pick(&ops);
        let effect = match (op, rng.below(5)) {
            (Op::Write, 0) => Effect::Lose,
            (Op::Write, 1) => Effect::Misdirect { to: 64 },
            (_, 2) => Effect::Enospc,
            (_, 3) => Effect::Unheard,
            _ => Effect::Eio,
        };
        let mut life = Life::new(SimMedia::new(), 13);
        life.media.inject(Fault::new(op, effect).after(rng.below(30)));
        for step in 0..STEPS {
            let end = match step {
                // nothing to delete where nothing could be stored
                4 if life.world.known.len() < 2 => Ok(()),
                _ => life.step(step),
            };
            if end.is_err_and(|error| error.kind() == Kind::Poisoned || life.vault.is_none()) {
                life.vault = None;
            }
        }
        fired += life.media.faults_fired();
        life.media.clear_faults();
        survives(&life, life.media.power_cut(rng), rng.next_u64());
    });
    assert!(fired > 60, "only {fired} faults happened");
}

/// A full disk: the backup says so, and what was there stays.
#[test]
fn a_full_disk_fails_the_backup_and_nothing_else() {
    let mut life = Life::new(SimMedia::new(), 14);
    for step in 0..3 {
        life.step(step).unwrap();
    }
    life.media.set_capacity(life.media.used() + 8192);
    life.world.write_random(0, SIZE);
    assert_eq!(life.backup(false).unwrap_err().kind(), Kind::NoSpace);
    life.verify();
    life.media.set_capacity(1 << 30);
    life.backup(false).unwrap();
    life.verify();
    // `create` is for a store that holds nothing
    let held = create_again(&life.media);
    assert_eq!(held.kind(), Kind::Conflict);
}

fn create_again(media: &SimMedia) -> Error {
    match store(media) {
        Err(error) => error,
        Ok(store) => {
            drop(create(store, &env(1)));
            unreachable!("the lock is held by the open vault")
        }
    }
}
