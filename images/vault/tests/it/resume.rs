//! Backups that were killed: what arrived is not sent again.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use block::linux::LinuxMedia;
use block::{ByteCount, DiskId, Epoch, RangeSet, StateId, Time};
use sim::SimBlobStore;
use vault::{Backup, Env, Options, PACK_TARGET, Progress, Quiet, Report, Vault};

use crate::world::{Anything, World, create, env, key};

const SIZE: usize = 120 << 20;

/// Ends a backup as the end of the process does: nothing of it is done any more.
struct KilledAt(u64);

impl Progress for KilledAt {
    fn at(&self, done: ByteCount, _total: ByteCount) {
        assert!(done.get() < self.0, "killed");
    }
}

struct Host {
    store: SimBlobStore,
    cache: tempfile::TempDir,
    env: Env,
}

impl Host {
    fn new() -> Self {
        let (store, env) = (SimBlobStore::new(), env());
        drop(create(Arc::new(store.clone()), &env));
        Self { store, cache: tempfile::tempdir().expect("a directory"), env }
    }

    fn open(&self) -> Vault {
        let media = LinuxMedia::new(self.cache.path(), self.cache.path()).expect("a media");
        let options =
            Options { cache: Some(Arc::new(media)), gate: Arc::new(Anything), ..Options::default() };
        Vault::open_with(Arc::new(self.store.clone()), key(), &self.env, options).expect("it opens")
    }

    fn packs(&self) -> u64 {
        self.store.blobs().iter().filter(|(name, _)| name.starts_with("packs/")).map(|(_, len)| len).sum()
    }
}

fn backup(vault: &Vault, world: &World, progress: &dyn Progress) -> Report {
    let size = ByteCount::new(SIZE as u64);
    let request = Backup {
        item: "web",
        disk: DiskId::from_bytes([1; 16]),
        state: StateId::from_bytes([2; 16]),
        base: None,
        epoch: Epoch::new(1),
        time: Time { unix_ms: 1 },
        size,
        delta: block::Delta { source: Arc::new(world.now.clone()), changed: RangeSet::whole(size) },
        progress,
    };
    vault.backup(&request).expect("a backup")
}

fn disk() -> World {
    let mut world = World::new(SIZE, 7);
    world.write(0, &sim::Rng::new(3).bytes(SIZE));
    world
}

#[test]
fn an_attempt_after_a_kill_sends_only_what_had_not_arrived() {
    let (host, world) = (Host::new(), disk());
    let killed = catch_unwind(AssertUnwindSafe(|| backup(&host.open(), &world, &KilledAt(100 << 20))));
    assert!(killed.is_err());
    let arrived = host.packs();
    assert!(arrived > 3 * PACK_TARGET as u64, "{arrived} bytes arrived");
    let index = host.store.blobs().iter().any(|(name, _)| name.starts_with("index/"));
    assert!(!index, "no index names them");
    let vault = host.open();
    let report = backup(&vault, &world, &Quiet);
    let sent = host.packs() - arrived;
    // trees, and frames that begin elsewhere
    assert!(sent < SIZE as u64 - arrived + (2 << 20), "{sent} bytes sent, {arrived} had arrived");
    assert!(vault.check(&Quiet).expect("it ends").is_clean());
    let back = crate::world::restore(&vault, &report.manifest).expect("it restores");
    assert!(back == world.now.bytes);
}

/// What a sweep took out of use meanwhile is not relied on.
#[test]
fn what_was_swept_since_is_sent_again() {
    let (host, world) = (Host::new(), disk());
    assert!(catch_unwind(AssertUnwindSafe(|| backup(&host.open(), &world, &KilledAt(100 << 20)))).is_err());
    let arrived = host.packs();
    let vault = host.open();
    assert!(vault.sweep(&Quiet).expect("a sweep").quarantined_bytes.get() == arrived);
    let report = backup(&vault, &world, &Quiet);
    assert!(host.packs() - arrived > SIZE as u64, "all of it is sent");
    assert_eq!(vault.sweep(&Quiet).expect("a sweep").deleted_bytes.get(), arrived);
    assert!(crate::world::restore(&vault, &report.manifest).expect("it restores") == world.now.bytes);
}
