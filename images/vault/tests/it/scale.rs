//! Many recovery points: what listing them costs, and what it leaves alone.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use block::{
    BlobStore, BlockSource, ByteCount, ByteOffset, ByteRange, Delta, DiskId, Epoch, Extent, ExtentKind,
    RangeSet, StateId, Time, Visit,
};
use sim::SimBlobStore;
use vault::{Backup, Quiet};

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

/// A disk of 1 TiB of which only the MiB in its middle is not empty.
struct Sparse;

const TIB: u64 = 1 << 40;
const MIB: u64 = 1 << 20;

impl BlockSource for Sparse {
    fn size(&self) -> ByteCount {
        ByteCount::new(TIB)
    }

    fn read_at(&self, offset: ByteOffset, buf: &mut [u8]) -> block::Result<()> {
        (offset.get()..).zip(buf).for_each(|(at, byte)| *byte = (at * 31 / 4096) as u8 ^ at as u8);
        Ok(())
    }

    fn extents(&self, range: ByteRange, visit: &mut Visit<'_>) -> block::Result<()> {
        let cuts = [
            (0, TIB / 2, ExtentKind::Hole),
            (TIB / 2, TIB / 2 + MIB, ExtentKind::Data),
            (TIB / 2 + MIB, TIB, ExtentKind::Hole),
        ];
        for (start, end, kind) in cuts {
            let range = range.intersect(ByteRange::between(start, end));
            if !range.is_empty() && visit(Extent { range, kind }).is_break() {
                break;
            }
        }
        Ok(())
    }
}

/// What a store that is far away is asked until a point of a large disk is open, and until its first block is read: each is a round
/// trip, one after the other. The documentation of runs states these numbers.
#[test]
fn a_point_of_a_large_disk_opens_in_few_round_trips() {
    let store = SimBlobStore::new();
    let vault = create(Arc::new(store.clone()), &env());
    let changed = RangeSet::whole(ByteCount::new(TIB));
    let report = vault
        .backup(&Backup {
            item: "big",
            disk: DiskId::from_bytes([1; 16]),
            state: StateId::from_bytes([2; 16]),
            base: None,
            epoch: Epoch::new(1),
            time: Time { unix_ms: 1 },
            size: ByteCount::new(TIB),
            delta: Delta { source: Arc::new(Sparse), changed },
            progress: &Quiet,
        })
        .expect("a backup");
    drop(vault);
    let counting = Arc::new(Counting { store, of_packs: AtomicU64::new(0), gets: AtomicU64::new(0) });
    let vault = open(counting.clone(), &env()).expect("it opens");
    let asked = || counting.gets.swap(0, Ordering::Relaxed);
    vault.points().expect("points");
    asked();
    let image = vault.image(&report.manifest).expect("an image");
    let to_open = asked();
    let read = |at: u64| {
        let (mut found, mut expected) = ([0; 4096], [0; 4096]);
        image.read_at(ByteOffset::new(at), &mut found).expect("read");
        Sparse.read_at(ByteOffset::new(at), &mut expected).expect("made");
        assert!(found == expected);
    };
    read(TIB / 2 + 4096);
    let first = asked();
    read(TIB / 2 + MIB - 4096);
    let next = asked();
    println!("{to_open} to open it, {first} for the first block, {next} for one of another frame");
    assert!(to_open <= 1 && first <= 8 && next <= 1, "{to_open}, {first}, {next}");
}
