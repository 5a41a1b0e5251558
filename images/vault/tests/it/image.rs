//! Images against the promises of their seam, and beside writers.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use block::{BlockSource, ByteCount, ByteOffset, ByteRange, Extent, ExtentKind, Failure, Kind, Visit};
use sim::SimBlobStore;
use vault::{Progress, Quiet, Vault};

use crate::world::{World, create, env, everything_of, open, restore};

#[test]
fn an_image_keeps_the_promises_of_a_source() {
    let vault = create(Arc::new(SimBlobStore::new()), &env());
    for (seed, size) in [0, 1, 5000, 65_536, 300_000, 2_000_000].into_iter().enumerate() {
        let mut world = World::new(size, seed as u64);
        if size > 0 {
            world.scribble();
        }
        world.backup(&vault).unwrap();
        let known = &world.known[0];
        sim::conformance::block_source(&*vault.image(&known.manifest).unwrap(), &known.bytes);
    }
}

/// A disk of which only one block in its middle was ever written.
struct Sparse {
    size: u64,
    block: u64,
    reads: AtomicU64,
}

impl BlockSource for Sparse {
    fn size(&self) -> ByteCount {
        ByteCount::new(self.size)
    }

    fn read_at(&self, offset: ByteOffset, buf: &mut [u8]) -> block::Result<()> {
        self.reads.fetch_add(buf.len() as u64, Ordering::Relaxed);
        for (at, byte) in (offset.get()..).zip(buf) {
            *byte = u8::from((self.block..self.block + 4096).contains(&at));
        }
        Ok(())
    }

    fn extents(&self, range: ByteRange, visit: &mut Visit<'_>) -> block::Result<()> {
        let data = ByteRange::between(self.block, self.block + 4096).intersect(range);
        let parts = if data.is_empty() {
            vec![(range, ExtentKind::Hole)]
        } else {
            vec![
                (ByteRange::between(range.start(), data.start()), ExtentKind::Hole),
                (data, ExtentKind::Data),
                (ByteRange::between(data.end(), range.end()), ExtentKind::Zero),
            ]
        };
        for (range, kind) in parts.into_iter().filter(|(range, _)| !range.is_empty()) {
            if visit(Extent { range, kind }).is_break() {
                break;
            }
        }
        Ok(())
    }
}

/// The largest disk costs what is on it: a full backup reads one chunk, and walking the image takes a few nodes.
#[test]
fn a_sparse_disk_of_64_tib_costs_what_is_on_it() {
    let vault = create(Arc::new(SimBlobStore::new()), &env());
    let source =
        Arc::new(Sparse { size: block::MAX_DISK_SIZE, block: (40 << 40) + 12_288, reads: AtomicU64::new(0) });
    let size = source.size();
    let report = vault.backup(&everything_of(source.clone(), &Quiet)).unwrap();
    assert_eq!((report.bytes_read.get(), report.chunks_new), (4096, 1));
    assert_eq!(source.reads.load(Ordering::Relaxed), 4096);
    assert!(vault.usage().unwrap().bytes < 10_000);
    let image = vault.image(&report.manifest).unwrap();
    let mut kinds = Vec::new();
    image
        .extents(ByteRange::whole(size), &mut |extent| {
            kinds.push((extent.kind, extent.range.count().get()));
            std::ops::ControlFlow::Continue(())
        })
        .unwrap();
    let after = size.get() - source.block - 4096;
    let (before, data) = ((ExtentKind::Hole, source.block), (ExtentKind::Data, 4096));
    assert_eq!(kinds, [before, data, (ExtentKind::Zero, after)]);
    let mut block = [0; 4096];
    image.read_at(ByteOffset::new(source.block), &mut block).unwrap();
    assert_eq!(block, [1; 4096]);
}

/// Backups of several disks and readers of older points at once.
#[test]
fn jobs_and_readers_run_side_by_side() {
    let store = SimBlobStore::new();
    let vault = Arc::new(create(Arc::new(store.clone()), &env()));
    std::thread::scope(|scope| {
        for seed in 0..4 {
            let vault = vault.clone();
            scope.spawn(move || {
                let mut world = World::new(1_000_000, seed);
                // two of them hold the same bytes at first
                world.write(0, &vec![seed as u8 / 2 + 1; 400_000]);
                for _ in 0..5 {
                    world.backup(&vault).unwrap();
                    let any = &world.known[world.chance.below(world.known.len() as u64) as usize];
                    assert!(restore(&vault, &any.manifest).unwrap() == any.bytes);
                    world.scribble();
                }
                world.verify(&vault);
            });
        }
    });
    assert_eq!(vault.points().unwrap().len(), 20);
    let again = open(Arc::new(store), &env()).unwrap();
    assert!(again.check(&Quiet).unwrap().is_clean());
}

/// Stops after some calls, and remembers what it was told.
struct Impatient {
    calls: AtomicU64,
    last: AtomicU64,
    limit: u64,
}

impl Progress for Impatient {
    fn at(&self, done: ByteCount, total: ByteCount) {
        assert!(done <= total && done.get() >= self.last.swap(done.get(), Ordering::Relaxed));
        self.calls.fetch_add(1, Ordering::Relaxed);
    }

    fn cancelled(&self) -> bool {
        self.calls.load(Ordering::Relaxed) >= self.limit
    }
}

fn impatient(vault: &Vault, world: &World, limit: u64) -> (vault::Result<vault::Report>, u64) {
    let progress = Impatient { calls: AtomicU64::new(0), last: AtomicU64::new(0), limit };
    let result = vault.backup(&everything_of(Arc::new(world.now.clone()), &progress));
    (result, progress.last.load(Ordering::Relaxed))
}

#[test]
fn a_backup_tells_how_far_it_is_and_can_be_cancelled() {
    let vault = create(Arc::new(SimBlobStore::new()), &env());
    let mut world = World::new(20 << 20, 5);
    world.write_random(0, 20 << 20);
    let (stopped, at) = impatient(&vault, &world, 3);
    assert_eq!(stopped.unwrap_err().kind(), Kind::Cancelled);
    assert!(at < 20 << 20);
    assert!(vault.points().unwrap().is_empty());
    let (done, at) = impatient(&vault, &world, u64::MAX);
    assert_eq!(at, 20 << 20);
    assert!(restore(&vault, &done.unwrap().manifest).unwrap() == world.now.bytes);
    let stop = Impatient { calls: AtomicU64::new(0), last: AtomicU64::new(0), limit: 0 };
    assert_eq!(vault.check(&stop).unwrap_err().kind(), Kind::Cancelled);
}

/// The source fails in the middle: its error comes out, no thread hangs, no point exists.
#[test]
fn a_source_that_fails_fails_the_backup() {
    struct Failing(World);
    impl BlockSource for Failing {
        fn size(&self) -> ByteCount {
            self.0.now.size()
        }
        fn read_at(&self, offset: ByteOffset, buf: &mut [u8]) -> block::Result<()> {
            match offset.get() < 5 << 20 {
                true => self.0.now.read_at(offset, buf),
                false => Err(block::Error::corrupt("layer 3", Some(offset.get()), "its checksum disagrees")),
            }
        }
        fn extents(&self, range: ByteRange, visit: &mut Visit<'_>) -> block::Result<()> {
            self.0.now.extents(range, visit)
        }
    }
    let vault = create(Arc::new(SimBlobStore::new()), &env());
    let mut world = World::new(20 << 20, 5);
    world.write_random(0, 20 << 20);
    let error = vault.backup(&everything_of(Arc::new(Failing(world)), &Quiet)).unwrap_err();
    assert_eq!(error.kind(), Kind::Corrupt);
    assert!(error.to_string().contains("layer 3"), "{error}");
    assert!(vault.points().unwrap().is_empty());
}
