//! The files of sealed layers, opened when they are read and put away again when too many are open.
//!
//! A disk may have thousands of layers, a process has few descriptors. Which file gives its descriptor up is decided by
//! a clock: a hand goes round the open files and takes the first that nobody has read since it last came by. Where the
//! host can, that file stays open without one, and small reads of what is in memory need no other; elsewhere it is
//! closed. A read that is under way keeps its descriptor until it is done.

use block::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use block::sync::{Arc, Mutex, Published, lock};
use block::{ByteRange, Media, MediaFile, OpenHow, Result, Shelved};
use std::os::fd::BorrowedFd;
use std::sync::Weak;

/// Files of sealed layers that one disk holds open at most; with its active layer, its maps and a fold it stays below 256
/// descriptors.
pub(crate) const MAX_OPEN: usize = 224;

/// Reads of so many bytes are worth a descriptor: with one they are sent without a copy.
const WORTH_OPENING: u64 = 32 << 10;

/// The open files of a disk's sealed layers.
pub(crate) struct OpenFiles {
    media: Arc<dyn Media>,
    limit: usize,
    /// How many have a descriptor.
    open: Arc<AtomicUsize>,
    clock: Mutex<Clock>,
}

#[derive(Default)]
struct Clock {
    open: Vec<Weak<Slot>>,
    hand: usize,
}

/// What the clock sees of a file.
struct Slot {
    held: Published<Held>,
    was_read: AtomicBool,
    /// Of all files: how many have a descriptor.
    open: Arc<AtomicUsize>,
}

/// How a file is held.
enum Held {
    /// Not at all.
    Closed,
    /// By a descriptor.
    Open(Arc<dyn MediaFile>),
    /// Without one.
    Shelved(Box<dyn Shelved>),
}

/// A file that is opened for reading when it is read. It exists for as long as somebody may read it.
pub(crate) struct LazyFile {
    files: Arc<OpenFiles>,
    path: String,
    slot: Arc<Slot>,
}

impl OpenFiles {
    pub(crate) fn new(media: Arc<dyn Media>, limit: usize) -> Arc<Self> {
        Arc::new(Self { media, limit, open: Arc::default(), clock: Mutex::default() })
    }

    /// A file that is not open yet.
    pub(crate) fn lazy(self: &Arc<Self>, path: String) -> Arc<dyn MediaFile> {
        let slot = Slot {
            held: Published::new(Arc::new(Held::Closed)),
            was_read: AtomicBool::new(false),
            open: self.open.clone(),
        };
        Arc::new(LazyFile { files: self.clone(), path, slot: Arc::new(slot) })
    }

    /// How many are open.
    pub(crate) fn count(&self) -> usize {
        self.open.load(Ordering::Relaxed)
    }

    /// Whether a file on the shelf may have a descriptor without taking it from another: folds leave fewer layers.
    fn have_room(&self) -> bool {
        self.count() < self.limit
    }
}

impl Clock {
    /// Makes room for one more file and remembers it; the file that gives its place up for it is given back.
    fn admit(&mut self, slot: &Arc<Slot>, limit: usize) -> Option<Arc<Slot>> {
        if self.open.len() == limit {
            // those that are gone are closed already
            self.open.retain(|slot| slot.strong_count() > 0);
        }
        if self.open.len() < limit {
            self.open.push(Arc::downgrade(slot));
            return None;
        }
        loop {
            self.hand = (self.hand + 1) % self.open.len();
            let candidate = self.open[self.hand].upgrade();
            if candidate.as_ref().is_none_or(|slot| !slot.was_read.swap(false, Ordering::Relaxed)) {
                self.open[self.hand] = Arc::downgrade(slot);
                return candidate;
            }
        }
    }
}

impl Slot {
    /// Gives the descriptor up.
    fn put_away(&self, media: &dyn Media) {
        let shelved = match &**self.held.load() {
            Held::Open(file) => media.shelve(&**file),
            Held::Closed | Held::Shelved(_) => return,
        };
        self.held.store(Arc::new(shelved.map_or(Held::Closed, Held::Shelved)));
        self.open.fetch_sub(1, Ordering::Relaxed);
    }

    fn mark_read(&self) {
        if !self.was_read.load(Ordering::Relaxed) {
            self.was_read.store(true, Ordering::Relaxed);
        }
    }
}

impl LazyFile {
    /// Does something with the open file.
    fn with<T>(&self, act: impl FnOnce(&dyn MediaFile) -> Result<T>) -> Result<T> {
        if let Held::Open(file) = &**self.slot.held.load() {
            self.slot.mark_read();
            return act(&**file);
        }
        let file = self.open()?;
        act(&*file)
    }

    fn open(&self) -> Result<Arc<dyn MediaFile>> {
        let mut clock = lock(&self.files.clock);
        if let Held::Open(file) = &**self.slot.held.load() {
            return Ok(file.clone());
        }
        let file = self.files.media.open(&self.path, OpenHow::Read)?;
        self.slot.held.store(Arc::new(Held::Open(file.clone())));
        // only a second read says that it is worth keeping
        self.slot.was_read.store(false, Ordering::Relaxed);
        self.files.open.fetch_add(1, Ordering::Relaxed);
        if let Some(other) = clock.admit(&self.slot, self.files.limit) {
            other.put_away(&*self.files.media);
        }
        Ok(file)
    }

    fn read_only<T>(&self) -> Result<T> {
        Err(block::Error::refused(block::Kind::ReadOnly, &self.path, "is a sealed layer's and only read"))
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        if let Held::Open(_) = &**self.held.load() {
            self.open.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

impl MediaFile for LazyFile {
    fn opened(&self, count: u64) -> Result<Option<Arc<dyn MediaFile>>> {
        let held = self.slot.held.load();
        match &**held {
            Held::Open(file) => {
                self.slot.mark_read();
                Ok(Some(file.clone()))
            }
            Held::Shelved(_) if count < WORTH_OPENING && !self.files.have_room() => Ok(None),
            Held::Closed | Held::Shelved(_) => {
                drop(held);
                self.open().map(Some)
            }
        }
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        let held = self.slot.held.load();
        match &**held {
            Held::Open(file) => {
                self.slot.mark_read();
                file.read_at(offset, buf)
            }
            Held::Shelved(file) if (buf.len() as u64) < WORTH_OPENING && file.read_cached(offset, buf) => {
                Ok(())
            }
            Held::Closed | Held::Shelved(_) => {
                drop(held);
                self.open()?.read_at(offset, buf)
            }
        }
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
    fn a_file_without_a_descriptor_is_read_and_gets_one_for_a_large_read() {
        let dir = tempfile::tempdir().unwrap();
        let media: Arc<dyn Media> = Arc::new(block::linux::LinuxMedia::new(dir.path(), dir.path()).unwrap());
        let files = OpenFiles::new(media.clone(), 2);
        let bytes = vec![7; WORTH_OPENING as usize];
        let lazy: Vec<_> = (0..5)
            .map(|number| {
                let path = format!("{number}");
                media.open(&path, OpenHow::Create).unwrap().write_at(0, &bytes).unwrap();
                files.lazy(path)
            })
            .collect();
        let mut block = [0; 4096];
        lazy.iter().for_each(|file| file.read_at(0, &mut block).unwrap());
        let shelved = |file: &Arc<dyn MediaFile>| file.opened(4096).unwrap().is_none();
        assert_eq!((lazy.iter().filter(|file| shelved(file)).count(), files.count()), (3, 2));
        let first = &lazy[0];
        media.remove("1").unwrap();
        lazy[1].read_at(8192, &mut block).unwrap();
        assert!(shelved(first) && block == [7; 4096], "read without being opened");
        let mut all = vec![0; bytes.len()];
        first.read_at(0, &mut all).unwrap();
        assert!(!shelved(first) && all == bytes && files.count() == 2);
        assert!(first.read_at(bytes.len() as u64, &mut block).is_err(), "past the end");
    }

    /// Folds leave fewer layers than there were: those that are left have descriptors again, and are sent without a copy.
    #[test]
    fn a_file_without_a_descriptor_gets_one_once_there_is_room() {
        let dir = tempfile::tempdir().unwrap();
        let media: Arc<dyn Media> = Arc::new(block::linux::LinuxMedia::new(dir.path(), dir.path()).unwrap());
        let files = OpenFiles::new(media.clone(), 2);
        let mut lazy: Vec<_> = (0..5)
            .map(|number| {
                let path = format!("{number}");
                media.open(&path, OpenHow::Create).unwrap().write_at(0, &[7; 4096]).unwrap();
                files.lazy(path)
            })
            .collect();
        lazy.iter().for_each(|file| file.read_at(0, &mut [0; 4096]).unwrap());
        let is_open = |file: &Arc<dyn MediaFile>| file.opened(4096).unwrap().is_some();
        let mut open = lazy.iter().map(is_open).collect::<Vec<_>>().into_iter();
        lazy.retain(|_| open.next() == Some(false));
        assert_eq!((lazy.len(), files.count()), (3, 0), "two had one, and gave it up when they went");
        for _ in 0..2 {
            assert!(is_open(&lazy[0]) && is_open(&lazy[1]) && !is_open(&lazy[2]));
        }
        assert_eq!(files.count(), 2);
    }

    #[test]
    fn a_missing_file_is_an_error_and_leaves_room() {
        let media: Arc<dyn Media> = Arc::new(sim::SimMedia::new());
        let files = OpenFiles::new(media, 1);
        assert!(files.lazy("gone".into()).read_at(0, &mut [0]).is_err());
        assert_eq!(files.count(), 0);
    }
}
