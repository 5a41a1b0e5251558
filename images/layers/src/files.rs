//! The files of sealed layers, opened when they are read and closed again when too many are open.
//!
//! A disk may have thousands of layers, a process has few descriptors. Which file is closed is decided by a clock: a
//! hand goes round the open files and closes the first that nobody has read since it last came by. A read that is under
//! way keeps its descriptor until it is done.

use block::sync::atomic::{AtomicBool, Ordering};
use block::sync::{Arc, Mutex, Published, lock};
use block::{ByteRange, Media, MediaFile, OpenHow, Result};
use std::os::fd::BorrowedFd;
use std::sync::Weak;

/// Files of sealed layers that one disk holds open at most; with its active layer, its maps and a fold it stays below 256
/// descriptors.
pub(crate) const MAX_OPEN: usize = 224;

/// The open files of a disk's sealed layers.
pub(crate) struct OpenFiles {
    media: Arc<dyn Media>,
    limit: usize,
    clock: Mutex<Clock>,
}

#[derive(Default)]
struct Clock {
    open: Vec<Weak<Slot>>,
    hand: usize,
}

/// What the clock sees of a file.
struct Slot {
    file: Published<Option<Arc<dyn MediaFile>>>,
    was_read: AtomicBool,
}

/// A file that is opened for reading when it is read. It exists for as long as somebody may read it.
pub(crate) struct LazyFile {
    files: Arc<OpenFiles>,
    path: String,
    slot: Arc<Slot>,
}

impl OpenFiles {
    pub(crate) fn new(media: Arc<dyn Media>, limit: usize) -> Arc<Self> {
        Arc::new(Self { media, limit, clock: Mutex::default() })
    }

    /// A file that is not open yet.
    pub(crate) fn lazy(self: &Arc<Self>, path: String) -> Arc<dyn MediaFile> {
        let slot = Slot { file: Published::new(Arc::new(None)), was_read: AtomicBool::new(false) };
        Arc::new(LazyFile { files: self.clone(), path, slot: Arc::new(slot) })
    }

    /// How many are open.
    pub(crate) fn count(&self) -> usize {
        lock(&self.clock).open.iter().filter(|slot| slot.strong_count() > 0).count()
    }
}

impl Clock {
    /// Makes room for one more file and remembers it; the file closed for it is given back to be dropped.
    fn admit(&mut self, slot: &Arc<Slot>, limit: usize) -> Option<Arc<Slot>> {
        if self.open.len() < limit {
            self.open.push(Arc::downgrade(slot));
            return None;
        }
        loop {
            self.hand = (self.hand + 1) % self.open.len();
            let candidate = self.open[self.hand].upgrade();
            // one that is gone is closed already
            if candidate.as_ref().is_none_or(|slot| !slot.was_read.swap(false, Ordering::Relaxed)) {
                self.open[self.hand] = Arc::downgrade(slot);
                return candidate;
            }
        }
    }
}

impl LazyFile {
    /// Does something with the open file.
    fn with<T>(&self, act: impl FnOnce(&dyn MediaFile) -> Result<T>) -> Result<T> {
        let open = self.slot.file.load();
        if let Some(file) = &**open {
            if !self.slot.was_read.load(Ordering::Relaxed) {
                self.slot.was_read.store(true, Ordering::Relaxed);
            }
            return act(&**file);
        }
        drop(open);
        let file = self.open()?;
        act(&*file)
    }

    fn open(&self) -> Result<Arc<dyn MediaFile>> {
        let mut clock = lock(&self.files.clock);
        if let Some(file) = &**self.slot.file.load() {
            return Ok(file.clone());
        }
        let file = self.files.media.open(&self.path, OpenHow::Read)?;
        self.slot.file.store(Arc::new(Some(file.clone())));
        // only a second read says that it is worth keeping
        self.slot.was_read.store(false, Ordering::Relaxed);
        if let Some(closed) = clock.admit(&self.slot, self.files.limit) {
            closed.file.store(Arc::new(None));
        }
        Ok(file)
    }

    fn read_only<T>(&self) -> Result<T> {
        Err(block::Error::refused(block::Kind::ReadOnly, &self.path, "is a sealed layer's and only read"))
    }
}

impl MediaFile for LazyFile {
    fn opened(&self) -> Result<Option<Arc<dyn MediaFile>>> {
        let open = self.slot.file.load();
        match &**open {
            Some(file) => {
                self.slot.was_read.store(true, Ordering::Relaxed);
                Ok(Some(file.clone()))
            }
            None => {
                drop(open);
                self.open().map(Some)
            }
        }
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        self.with(|file| file.read_at(offset, buf))
    }

    fn size(&self) -> Result<u64> {
        self.with(|file| file.size())
    }

    fn data_ranges(&self, range: ByteRange) -> Result<Vec<ByteRange>> {
        self.with(|file| file.data_ranges(range))
    }

    fn copy_range(&self, range: ByteRange, to: &dyn MediaFile, to_offset: u64) -> Result<()> {
        self.with(|file| file.copy_range(range, to, to_offset))
    }

    fn write_at(&self, _offset: u64, _buf: &[u8]) -> Result<()> {
        self.read_only()
    }

    fn sync(&self) -> Result<()> {
        self.read_only()
    }

    fn set_len(&self, _len: u64) -> Result<()> {
        self.read_only()
    }

    fn allocate(&self, _range: ByteRange) -> Result<()> {
        self.read_only()
    }

    fn punch(&self, _range: ByteRange) -> Result<()> {
        self.read_only()
    }

    /// None: it would be valid only for as long as the file happens to stay open.
    fn fast_fd(&self) -> Option<BorrowedFd<'_>> {
        None
    }
}

#[cfg(all(test, not(blockd_shuttle)))]
mod tests {
    use super::*;

    #[test]
    fn few_are_open_and_all_are_readable() {
        let media: Arc<dyn Media> = Arc::new(sim::SimMedia::new());
        let files = OpenFiles::new(media.clone(), 3);
        let lazy: Vec<_> = (0..10u8)
            .map(|number| {
                let path = format!("{number}");
                media.open(&path, OpenHow::Create).unwrap().write_at(0, &[number]).unwrap();
                files.lazy(path)
            })
            .collect();
        assert_eq!(files.count(), 0, "nothing is open before it is read");
        let read = |number: usize| {
            let mut byte = [0xff];
            lazy[number].read_at(0, &mut byte).unwrap();
            assert_eq!(usize::from(byte[0]), number);
        };
        for round in 0..4 {
            (0..10).for_each(|number| read((number * 7 + round) % 10));
            assert_eq!(files.count(), 3);
        }
        assert!(lazy[0].write_at(0, &[1]).is_err());
    }

    #[test]
    fn what_is_read_all_the_time_stays_open() {
        let sim = sim::SimMedia::new();
        let media: Arc<dyn Media> = Arc::new(sim.clone());
        let files = OpenFiles::new(media.clone(), 4);
        let make = |name: String| {
            media.open(&name, OpenHow::Create).unwrap().write_at(0, &[1]).unwrap();
            files.lazy(name)
        };
        let (hot, cold) = (make("hot".into()), (0..50).map(|n| make(format!("{n}"))).collect::<Vec<_>>());
        hot.read_at(0, &mut [0]).unwrap();
        // from now on the name leads nowhere: only a descriptor that stays open reads on
        media.remove("hot").unwrap();
        for file in &cold {
            hot.read_at(0, &mut [0]).unwrap();
            file.read_at(0, &mut [0]).unwrap();
        }
        hot.read_at(0, &mut [0]).unwrap();
    }

    #[test]
    fn a_missing_file_is_an_error_and_leaves_room() {
        let media: Arc<dyn Media> = Arc::new(sim::SimMedia::new());
        let files = OpenFiles::new(media, 1);
        assert!(files.lazy("gone".into()).read_at(0, &mut [0]).is_err());
        assert_eq!(files.count(), 0);
    }
}
