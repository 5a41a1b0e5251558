//! A check beside backups and deletions: it finds nothing wrong, whatever comes and goes while it looks.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use block::ByteCount;
use sim::SimBlobStore;
use vault::{Progress, Quiet, Vault};

use crate::world::{World, create, directory, env};

fn clean(vault: &Vault, progress: &dyn Progress) -> vault::CheckReport {
    let report = vault.check(progress).expect("the check ends");
    assert!(report.is_clean(), "{:#?}\n{:#?}", report.damage, report.hurt);
    report
}

/// Deletes all points but the newest few, of which the last is the next base.
fn delete_old(world: &mut World, vault: &Vault, keep: usize) {
    let old = world.known.len().saturating_sub(keep);
    for known in world.known.drain(..old) {
        vault.delete_point(&known.manifest).expect("deleted");
    }
}

/// Whenever it is asked whether to stop, a backup is made, and every other time old points are deleted.
struct Busy<'a> {
    vault: &'a Vault,
    world: Mutex<World>,
    asked: AtomicU64,
    // only the question of this number; every one, if none
    only: Option<u64>,
}

impl Progress for Busy<'_> {
    fn at(&self, _done: ByteCount, _total: ByteCount) {}

    fn cancelled(&self) -> bool {
        let number = self.asked.fetch_add(1, Ordering::Relaxed);
        if self.only.is_none_or(|only| only == number) {
            let mut world = self.world.lock().unwrap();
            world.scribble();
            world.backup(self.vault).expect("a backup");
            if number % 2 == 1 {
                delete_old(&mut world, self.vault, 1);
            }
        }
        false
    }
}

fn history(vault: &Vault, seed: u64) -> World {
    let mut world = World::new(600_000, seed);
    for _ in 0..3 {
        world.scribble();
        world.backup(vault).expect("a backup");
    }
    world
}

#[test]
fn a_backup_at_any_one_moment_of_a_check_is_no_damage() {
    for moment in 0.. {
        let vault = create(Arc::new(SimBlobStore::new()), &env());
        let world = Mutex::new(history(&vault, moment));
        let busy = Busy { vault: &vault, world, asked: AtomicU64::new(0), only: Some(moment) };
        clean(&vault, &busy);
        if busy.asked.into_inner() <= moment {
            assert!(moment > 10, "the check asks in every stage, not only {moment} times");
            return;
        }
    }
}

#[test]
fn backups_and_deletions_at_every_moment_of_a_check_are_no_damage() {
    for seed in 0..5 {
        let vault = create(Arc::new(SimBlobStore::new()), &env());
        let world = Mutex::new(history(&vault, seed));
        let busy = Busy { vault: &vault, world, asked: AtomicU64::new(0), only: None };
        clean(&vault, &busy);
        vault.reach(&busy).expect("every point can be followed");
        let world = busy.world.into_inner().unwrap();
        world.verify(&vault);
        assert_eq!(clean(&vault, &Quiet).points, world.known.len() as u64);
    }
}

#[test]
fn checks_and_backups_in_threads_of_their_own_do_not_disturb_each_other() {
    let (_dir, store) = directory();
    let vault = create(store, &env());
    let mut world = history(&vault, 1);
    let done = AtomicBool::new(false);
    std::thread::scope(|threads| {
        let checks = threads.spawn(|| {
            let mut checks = 0;
            while !done.load(Ordering::Relaxed) || checks < 2 {
                clean(&vault, &Quiet);
                checks += 1;
            }
        });
        for _ in 0..40 {
            world.scribble();
            world.backup(&vault).expect("a backup");
            delete_old(&mut world, &vault, 3);
        }
        done.store(true, Ordering::Relaxed);
        checks.join().expect("every check was clean");
    });
    world.verify(&vault);
}
