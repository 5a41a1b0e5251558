//! Many recovery points: what listing them costs, and what it leaves alone.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use block::{BlobStore, ByteCount, ByteRange};
use sim::SimBlobStore;

use crate::world::{World, create, env, open};

/// Counts what is read of packs, and how often the store is asked.
struct Counting {
    store: SimBlobStore,
    of_packs: AtomicU64,
    gets: AtomicU64,
}

impl BlobStore for Counting {
    fn put(&self, name: &str, bytes: &[u8]) -> block::Result<()> {
        self.store.put(name, bytes)
    }

    fn get(&self, name: &str, range: ByteRange) -> block::Result<Vec<u8>> {
        self.gets.fetch_add(1, Ordering::Relaxed);
        self.of_packs.fetch_add(u64::from(name.starts_with("packs/")), Ordering::Relaxed);
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
        assert!(!prefix.is_empty() && !prefix.starts_with("packs"), "packs are not listed");
        self.store.list(prefix, visit)
    }

    fn delete(&self, name: &str) -> block::Result<()> {
        self.store.delete(name)
    }
}

/// Opening a vault and listing its points reads one blob for each point and index and nothing of any pack. The long form has
/// 10,000 points.
#[test]
fn listing_points_reads_no_chunk() {
    let count = if std::env::var_os("BLOCKD_SOAK").is_some() { 10_000 } else { 300 };
    let store = SimBlobStore::new();
    let vault = create(Arc::new(store.clone()), &env());
    let mut world = World::new(1 << 20, 5);
    for _ in 0..count {
        world.write_random(8192, 4096);
        world.backup(&vault).expect("a backup");
        world.known.drain(..world.known.len() - 1);
    }
    drop(vault);
    let counting = Arc::new(Counting { store, of_packs: AtomicU64::new(0), gets: AtomicU64::new(0) });
    let vault = open(counting.clone(), &env()).expect("it opens");
    assert_eq!(vault.points().expect("points").len(), count);
    assert_eq!(counting.of_packs.load(Ordering::Relaxed), 0);
    // an index and a point for each, and the blob `vault`
    assert_eq!(counting.gets.load(Ordering::Relaxed), 2 * count as u64 + 1);
    assert_eq!(vault.points().expect("points").len(), count);
    assert_eq!(
        counting.gets.load(Ordering::Relaxed),
        2 * count as u64 + 1,
        "the second time nothing is read"
    );
}
