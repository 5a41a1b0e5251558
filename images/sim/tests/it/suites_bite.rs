//! The conformance suites are tested by breaking what they test.

use block::{
    BLOCK_SIZE, BlobStore, BlockDevice, BlockSource, ByteCount, ByteOffset, ByteRange, DirEntry, Error,
    Extent, ExtentKind, Lock, Media, MediaFile, Memory, MemoryDisk, OpenHow, Provision, Result, Session,
    Space, Visit,
};
use sim::{Effect, Fault, Op, SimBlobStore, SimMedia, conformance};
use std::ops::ControlFlow;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

/// The suite must panic.
#[track_caller]
fn bites(what: &str, suite: impl FnOnce()) {
    assert!(catch_unwind(AssertUnwindSafe(suite)).is_err(), "{what} goes unnoticed");
}

const BROKEN_DISK: [&str; 10] = [
    "zero whole blocks",
    "discard in part",
    "discard nothing",
    "forget the last byte",
    "short extents",
    "overlapping extents",
    "zeros where data is",
    "never stop",
    "extents past the end",
    "lost update",
];

/// A disk with one of these mistakes.
struct BrokenDisk {
    disk: MemoryDisk,
    bug: &'static str,
}

impl BrokenDisk {
    fn is(&self, bug: &str) -> bool {
        assert!(BROKEN_DISK.contains(&bug));
        self.bug == bug
    }
}

impl BlockSource for BrokenDisk {
    fn size(&self) -> ByteCount {
        self.disk.size()
    }

    fn read_at(&self, offset: ByteOffset, buf: &mut [u8]) -> Result<()> {
        self.disk.read_at(offset, buf)
    }

    fn extents(&self, range: ByteRange, visit: &mut Visit<'_>) -> Result<()> {
        if self.is("extents past the end") && range.end() > self.size().get() {
            return Ok(());
        }
        // refuses what passes the end, and an empty range visits nothing
        self.disk.extents(range, &mut |_| ControlFlow::Continue(()))?;
        let half = range.start() + range.count().get() / 2;
        if half == range.start() {
            return self.disk.extents(range, visit);
        }
        let kind = if self.is("zeros where data is") { ExtentKind::Zero } else { ExtentKind::Data };
        let second = half - u64::from(self.is("overlapping extents"));
        let first = visit(Extent { range: ByteRange::between(range.start(), half), kind });
        if (first.is_break() && !self.is("never stop")) || self.is("short extents") {
            return Ok(());
        }
        // the last one: nothing follows that could be stopped
        let _stop = visit(Extent { range: ByteRange::between(second, range.end()), kind });
        Ok(())
    }
}

impl BlockDevice for BrokenDisk {
    fn write_at(&self, offset: ByteOffset, buf: &[u8]) -> Result<()> {
        let len = if self.is("forget the last byte") && offset.get() + buf.len() as u64 == self.size().get() {
            buf.len().saturating_sub(1)
        } else {
            buf.len()
        };
        if self.is("lost update") && buf.len() == 512 {
            // reads the block, changes a part of it, writes it back, and others may do so at the same time
            let start = offset.get() / BLOCK_SIZE * BLOCK_SIZE;
            let mut block = vec![0; (self.size().get() - start).min(BLOCK_SIZE) as usize];
            self.disk.read_at(ByteOffset::new(start), &mut block)?;
            std::thread::yield_now();
            let within = (offset.get() - start) as usize;
            if within + 512 <= block.len() {
                block[within..within + 512].copy_from_slice(buf);
                return self.disk.write_at(ByteOffset::new(start), &block);
            }
        }
        self.disk.write_at(offset, &buf[..len])
    }

    fn zero(&self, range: ByteRange, how: Provision) -> Result<()> {
        if self.is("zero whole blocks") && range.end() <= self.size().get() {
            let end = range.end().next_multiple_of(BLOCK_SIZE).min(self.size().get());
            return self.disk.zero(ByteRange::between(range.start(), end), how);
        }
        self.disk.zero(range, how)
    }

    fn discard(&self, range: ByteRange) -> Result<()> {
        if self.is("discard in part") {
            return self.disk.zero(range, Provision::Sparse);
        }
        if self.is("discard nothing") && range.end() <= self.size().get() {
            return Ok(());
        }
        self.disk.discard(range)
    }

    fn flush(&self) -> Result<()> {
        self.disk.flush()
    }
}

#[test]
fn the_device_suite_bites() {
    for bug in BROKEN_DISK {
        bites(bug, || {
            conformance::block_device(|size| {
                Arc::new(BrokenDisk { disk: MemoryDisk::new(size), bug }) as Arc<dyn BlockDevice>
            });
        });
    }
}

#[test]
fn the_blob_suite_bites() {
    for fault in [
        Fault::new(Op::Put, Effect::Lose).after(2),
        Fault::new(Op::Put, Effect::Unheard).after(1),
        Fault::new(Op::Delete, Effect::Unheard).after(1),
        Fault::new(Op::ListBlobs, Effect::Eio).on("p/a"),
    ] {
        bites(&format!("{fault:?}"), || {
            conformance::blob_store(|| {
                let store = SimBlobStore::new();
                store.inject(fault.clone());
                Arc::new(store) as Arc<dyn BlobStore>
            });
        });
    }
}

#[test]
fn the_media_suite_bites_on_faults() {
    for fault in [
        Fault::new(Op::Write, Effect::Lose).after(5),
        Fault::new(Op::Write, Effect::Misdirect { to: 3 }).after(4),
        Fault::new(Op::Punch, Effect::Eio),
        Fault::new(Op::Rename, Effect::Unheard),
    ] {
        bites(&format!("{fault:?}"), || {
            conformance::media(|| {
                let media = SimMedia::new();
                media.inject(fault.clone());
                Arc::new(media) as Arc<dyn Media>
            });
        });
    }
}

const BROKEN_MEDIA: [&str; 6] = [
    "create existing",
    "list unsorted",
    "lock twice",
    "scratch shared",
    "volatile forgotten",
    "rename refuses",
];

/// A media with one of these mistakes.
struct BrokenMedia {
    media: SimMedia,
    bug: &'static str,
}

impl BrokenMedia {
    fn is(&self, bug: &str) -> bool {
        assert!(BROKEN_MEDIA.contains(&bug));
        self.bug == bug
    }
}

struct NoLock;

impl Lock for NoLock {}

impl Media for BrokenMedia {
    fn open(&self, path: &str, how: OpenHow) -> Result<Arc<dyn MediaFile>> {
        let how = if self.is("create existing") && how == OpenHow::Create { OpenHow::Truncate } else { how };
        self.media.open(path, how)
    }

    fn create_dir(&self, path: &str) -> Result<()> {
        self.media.create_dir(path)
    }

    fn list(&self, dir: &str) -> Result<Vec<DirEntry>> {
        let mut entries = self.media.list(dir)?;
        if self.is("list unsorted") {
            entries.reverse();
        }
        Ok(entries)
    }

    fn rename(&self, from: &str, to: &str) -> Result<()> {
        if self.is("rename refuses") && self.media.open(to, OpenHow::Read).is_ok() {
            return Err(Error::Conflict { what: to.to_owned(), why: "it exists".to_owned() });
        }
        self.media.rename(from, to)
    }

    fn remove(&self, path: &str) -> Result<()> {
        self.media.remove(path)
    }

    fn sync_dir(&self, dir: &str) -> Result<()> {
        self.media.sync_dir(dir)
    }

    fn lock(&self, path: &str) -> Result<Box<dyn Lock>> {
        let held = self.media.lock(path);
        if self.is("lock twice") && held.as_ref().is_err_and(|error| error.kind() == block::Kind::Conflict) {
            return Ok(Box::new(NoLock));
        }
        held
    }

    fn space(&self) -> Result<Space> {
        self.media.space()
    }

    fn volatile(&self, name: &str, words: usize) -> Result<Arc<dyn Memory>> {
        if self.is("volatile forgotten") {
            self.media.remove_volatile(name)?;
        }
        self.media.volatile(name, words)
    }

    fn list_volatile(&self) -> Result<Vec<String>> {
        self.media.list_volatile()
    }

    fn remove_volatile(&self, name: &str) -> Result<()> {
        self.media.remove_volatile(name)
    }

    fn scratch(&self, words: usize) -> Result<Arc<dyn Memory>> {
        if self.is("scratch shared") {
            self.media.volatile("scratch", words)
        } else {
            self.media.scratch(words)
        }
    }

    fn session(&self) -> Result<Session> {
        self.media.session()
    }
}

#[test]
fn the_media_suite_bites_on_mistakes() {
    for bug in BROKEN_MEDIA {
        bites(bug, || {
            conformance::media(|| Arc::new(BrokenMedia { media: SimMedia::new(), bug }) as Arc<dyn Media>);
        });
    }
}
