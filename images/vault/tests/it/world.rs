//! What the tests share: a disk as a plain vector with recovery points as copies of it, and a vault beside it.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use block::linux::{KernelEntropy, LinuxMedia};
use block::{
    BLOCK_SIZE, BlobStore, BlockSource, ByteCount, ByteOffset, ByteRange, Clock, Delta, DiskId, Entropy,
    Epoch, Extent, ExtentKind, RangeSet, StateId, Time, Visit, check_range,
};
use vault::{
    Backup, DeleteGate, Deletion, DirectoryStore, Env, ManifestId, Options, Progress, Quiet, Refusal, Report,
    Vault, VaultKey,
};

/// A full backup of a source that no world keeps.
pub fn everything_of(source: Arc<dyn BlockSource>, progress: &dyn Progress) -> Backup<'_> {
    let size = source.size();
    Backup {
        item: "web-root",
        disk: DiskId::from_bytes([1; 16]),
        state: StateId::from_bytes([9; 16]),
        base: None,
        epoch: Epoch::new(1),
        time: Time::default(),
        size,
        delta: Delta { source, changed: RangeSet::whole(size) },
        progress,
    }
}

/// A clock that only counts.
#[derive(Default)]
pub struct Ticks(AtomicU64);

impl Clock for Ticks {
    fn now(&self) -> Time {
        Time { unix_ms: self.0.fetch_add(1, Ordering::Relaxed) }
    }

    fn monotonic_ns(&self) -> u64 {
        self.0.fetch_add(1, Ordering::Relaxed)
    }
}

/// Small, fast, seeded. Never for keys of anything but tests.
pub struct Seeded(Mutex<u64>);

impl Clone for Seeded {
    fn clone(&self) -> Self {
        Self(Mutex::new(*self.0.lock().unwrap()))
    }
}

impl Seeded {
    pub fn new(seed: u64) -> Self {
        Self(Mutex::new(seed.wrapping_mul(2).wrapping_add(1)))
    }

    pub fn next(&self) -> u64 {
        let mut state = self.0.lock().unwrap();
        // splitmix64
        *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = *state;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    /// A number below `end`.
    pub fn below(&self, end: u64) -> u64 {
        self.next() % end.max(1)
    }
}

impl Entropy for Seeded {
    fn fill(&self, buf: &mut [u8]) -> block::Result<()> {
        for part in buf.chunks_mut(8) {
            part.copy_from_slice(&self.next().to_le_bytes()[..part.len()]);
        }
        Ok(())
    }
}

pub fn env() -> Env {
    Env { clock: Arc::new(Ticks::default()), entropy: Arc::new(KernelEntropy) }
}

pub fn key() -> VaultKey {
    VaultKey::from_bytes([0x4b; 32])
}

/// A directory store in a fresh temporary directory.
pub fn directory() -> (tempfile::TempDir, Arc<DirectoryStore>) {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let store = open_directory(&dir);
    (dir, store)
}

pub fn open_directory(dir: &tempfile::TempDir) -> Arc<DirectoryStore> {
    let media = Arc::new(LinuxMedia::new(dir.path(), dir.path()).expect("a media"));
    Arc::new(DirectoryStore::open(media, "store").expect("a store"))
}

/// Lets everything go.
pub struct Anything;

impl DeleteGate for Anything {
    fn may_delete(&self, _what: &Deletion) -> Result<(), Refusal> {
        Ok(())
    }
}

pub fn open(store: Arc<dyn BlobStore>, env: &Env) -> vault::Result<Vault> {
    let options = Options { gate: Arc::new(Anything), ..Options::default() };
    Vault::open_with(store, key(), env, options)
}

pub fn create(store: Arc<dyn BlobStore>, env: &Env) -> Vault {
    drop(Vault::create(store.clone(), key(), env).expect("a vault"));
    open(store, env).expect("the vault opens")
}

/// A disk in one state. Zero blocks that were never written are holes.
#[derive(Clone)]
pub struct Frozen {
    pub bytes: Vec<u8>,
    written: RangeSet,
}

impl BlockSource for Frozen {
    fn size(&self) -> ByteCount {
        ByteCount::new(self.bytes.len() as u64)
    }

    fn read_at(&self, offset: ByteOffset, buf: &mut [u8]) -> block::Result<()> {
        check_range(offset, buf.len() as u64, self.size())?;
        let start = offset.get() as usize;
        buf.copy_from_slice(&self.bytes[start..start + buf.len()]);
        Ok(())
    }

    fn extents(&self, range: ByteRange, visit: &mut Visit<'_>) -> block::Result<()> {
        check_range(range.offset(), range.count().get(), self.size())?;
        let mut at = range.start();
        while at < range.end() {
            let end = (at / BLOCK_SIZE * BLOCK_SIZE + BLOCK_SIZE).min(range.end());
            let bytes = &self.bytes[at as usize..end as usize];
            let kind =
                match (bytes.iter().any(|b| *b != 0), self.written.touches(ByteRange::between(at, end))) {
                    (true, _) => ExtentKind::Data,
                    (false, true) => ExtentKind::Zero,
                    (false, false) => ExtentKind::Hole,
                };
            if visit(Extent { range: ByteRange::between(at, end), kind }).is_break() {
                break;
            }
            at = end;
        }
        Ok(())
    }
}

/// A point as the model knows it.
#[derive(Clone)]
pub struct Known {
    pub manifest: ManifestId,
    pub bytes: Vec<u8>,
}

/// A disk that is written, and its exact content at each backup.
#[derive(Clone)]
pub struct World {
    pub disk: DiskId,
    pub now: Frozen,
    pub changed: RangeSet,
    pub epoch: u64,
    pub known: Vec<Known>,
    pub chance: Seeded,
}

impl World {
    pub fn new(size: usize, seed: u64) -> Self {
        let chance = Seeded::new(seed);
        Self {
            disk: DiskId::random(&chance).unwrap(),
            now: Frozen { bytes: vec![0; size], written: RangeSet::new() },
            changed: RangeSet::whole(ByteCount::new(size as u64)),
            epoch: 0,
            known: Vec::new(),
            chance,
        }
    }

    fn mark(&mut self, start: usize, end: usize) {
        let blocks = start as u64 / BLOCK_SIZE * BLOCK_SIZE..(end as u64).next_multiple_of(BLOCK_SIZE);
        let range = ByteRange::between(blocks.start, blocks.end.min(self.now.bytes.len() as u64));
        self.changed.insert(range);
        self.now.written.insert(range);
    }

    pub fn write(&mut self, start: usize, bytes: &[u8]) {
        self.now.bytes[start..start + bytes.len()].copy_from_slice(bytes);
        self.mark(start, start + bytes.len());
    }

    pub fn write_random(&mut self, start: usize, len: usize) {
        let mut bytes = vec![0; len];
        self.chance.fill(&mut bytes).unwrap();
        if self.chance.below(2) == 0 {
            // what compresses
            bytes.iter_mut().for_each(|byte| *byte &= 3);
        }
        self.write(start, &bytes);
    }

    pub fn zero(&mut self, start: usize, len: usize) {
        self.now.bytes[start..start + len].fill(0);
        self.mark(start, start + len);
    }

    pub fn resize(&mut self, size: usize) {
        self.now.bytes.resize(size, 0);
        let whole = ByteRange::between(0, size as u64);
        self.changed = self.changed.clip(whole);
        self.now.written = self.now.written.clip(whole);
    }

    /// Some writes, copies and zeroings anywhere.
    pub fn scribble(&mut self) {
        let size = self.now.bytes.len() as u64;
        for _ in 0..1 + self.chance.below(4) {
            let start = self.chance.below(size) as usize;
            let len = (1 + self.chance.below(150_000)).min(size - start as u64) as usize;
            match self.chance.below(5) {
                0 => self.zero(start, len),
                1 => {
                    let from = self.chance.below(size - len as u64 + 1) as usize;
                    let bytes = self.now.bytes[from..from + len].to_vec();
                    self.write(start, &bytes);
                }
                _ => self.write_random(start, len),
            }
        }
    }

    /// Backs the disk up, as a change of the last known point if it is still there.
    pub fn backup(&mut self, vault: &Vault) -> vault::Result<Report> {
        let base = self.known.last().map(|known| known.manifest);
        let report = self.backup_on(vault, base)?;
        self.changed = RangeSet::new();
        Ok(report)
    }

    pub fn next_state(&self) -> StateId {
        StateId::random(&self.chance).unwrap()
    }

    pub fn backup_on(&mut self, vault: &Vault, base: Option<ManifestId>) -> vault::Result<Report> {
        let state = self.next_state();
        self.backup_state(vault, base, state)
    }

    pub fn backup_state(
        &mut self,
        vault: &Vault,
        base: Option<ManifestId>,
        state: StateId,
    ) -> vault::Result<Report> {
        self.epoch += 1;
        let size = ByteCount::new(self.now.bytes.len() as u64);
        let changed = if base.is_some() { self.changed.clone() } else { RangeSet::whole(size) };
        let report = vault.backup(&Backup {
            item: "web-root",
            disk: self.disk,
            state,
            base,
            epoch: Epoch::new(self.epoch),
            time: Time { unix_ms: self.epoch * 1000 },
            size,
            delta: Delta { source: Arc::new(self.now.clone()), changed },
            progress: &Quiet,
        })?;
        self.known.push(Known { manifest: report.manifest, bytes: self.now.bytes.clone() });
        Ok(report)
    }

    /// Every known point lists and restores to the byte.
    pub fn verify(&self, vault: &Vault) {
        let listed = vault.points().expect("points list");
        for known in &self.known {
            assert!(
                listed.iter().any(|point| point.manifest == known.manifest),
                "{} is not listed",
                known.manifest
            );
            assert_eq!(restore(vault, &known.manifest).expect("the point restores").len(), known.bytes.len());
            assert!(
                restore(vault, &known.manifest).unwrap() == known.bytes,
                "{} restores otherwise",
                known.manifest
            );
        }
    }
}

/// All bytes of a point, where its extents say data; zeros elsewhere.
pub fn restore(vault: &Vault, point: &ManifestId) -> block::Result<Vec<u8>> {
    let image = vault.image(point)?;
    let size = image.size();
    let mut bytes = vec![0; size.get() as usize];
    let mut data = Vec::new();
    let mut end = 0;
    image.extents(ByteRange::whole(size), &mut |extent| {
        assert_eq!(extent.range.start(), end, "extents tile the disk");
        end = extent.range.end();
        data.extend((extent.kind == ExtentKind::Data).then_some(extent.range));
        std::ops::ControlFlow::Continue(())
    })?;
    assert_eq!(end, size.get());
    for range in data {
        image.read_at(range.offset(), &mut bytes[range.start() as usize..range.end() as usize])?;
    }
    Ok(bytes)
}
