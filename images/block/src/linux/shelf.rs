//! Files held open without a descriptor: in the tables of a few rings of io_uring, by which they are read.
//!
//! A process has few descriptors, and a host that may have hundreds of files open for each disk runs out of them.
//! Opening a file anew for a read of one block costs more than the read does; a read by a ring costs a little more than
//! one by a descriptor.

use crate::Shelved;
use io_uring::{IoUring, opcode, types};
use rustix::process::{Resource, getrlimit};
use std::os::fd::{AsRawFd, BorrowedFd};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};

/// Files at most, so that the tables stay small: 128 KiB each. The kernel allows no more than the process may have
/// descriptors.
const MAX_FILES: u32 = 16 << 10;
/// Rings at most: each takes a descriptor, and a file is entered in all of them.
const MAX_RINGS: usize = 8;

/// A place for each file in the tables of all rings.
pub(super) struct Shelf {
    // none where the ring failed
    rings: Vec<Mutex<Option<IoUring>>>,
    // spreads readers over the rings
    turn: AtomicUsize,
    free: Mutex<Vec<u32>>,
}

/// A file on the shelf.
struct OnShelf {
    shelf: Arc<Shelf>,
    place: u32,
}

fn held<T>(lock: &Mutex<T>) -> MutexGuard<'_, T> {
    lock.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shelf {
    /// An empty one; `None` where the host has no such rings, or allows them not.
    pub(super) fn make() -> Option<Arc<Self>> {
        let descriptors = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
        let files = u32::try_from(descriptors).unwrap_or(u32::MAX).min(MAX_FILES);
        let count = std::thread::available_parallelism().map_or(1, usize::from).min(MAX_RINGS);
        let ring = |_| {
            let ring = IoUring::new(1)?;
            ring.submitter().register_files_sparse(files)?;
            Ok(Mutex::new(Some(ring)))
        };
        // without rings, whoever would put a file here closes it and opens it anew
        let rings: std::io::Result<Vec<_>> = (0..count).map(ring).collect();
        let rings = rings.ok()?;
        // the lowest first
        let free = Mutex::new((0..files).rev().collect());
        Some(Arc::new(Self { rings, turn: AtomicUsize::new(0), free }))
    }

    /// Takes a file in; `None` where there is no place for it. The descriptor is not needed any more.
    pub(super) fn put(self: &Arc<Self>, file: BorrowedFd<'_>) -> Option<Box<dyn Shelved>> {
        let place = held(&self.free).pop()?;
        // gives the place back where a ring refuses the file, or reads of it always wait
        let taken = OnShelf { shelf: self.clone(), place };
        let is_of_use = self.enter_everywhere(place, file.as_raw_fd())
            && taken.read(0, &mut [0]).is_some_and(|result| result != -libc::EOPNOTSUPP);
        is_of_use.then(|| Box::new(taken) as Box<dyn Shelved>)
    }

    fn enter_everywhere(&self, place: u32, fd: i32) -> bool {
        self.rings.iter().fold(true, |so_far, ring| {
            let ring = held(ring);
            let entered = ring.as_ref().map(|ring| ring.submitter().register_files_update(place, &[fd]));
            so_far & entered.is_none_or(|entered| entered.is_ok())
        })
    }

    /// Does something with a ring that nobody uses, or waits for one.
    fn with_ring<T>(&self, act: impl FnOnce(&mut Option<IoUring>) -> T) -> T {
        let first = self.turn.load(Ordering::Relaxed);
        for step in 0..self.rings.len() {
            let index = (first + step) % self.rings.len();
            match self.rings[index].try_lock() {
                Ok(mut ring) => return act(&mut ring),
                Err(TryLockError::Poisoned(ring)) => return act(&mut ring.into_inner()),
                Err(TryLockError::WouldBlock) => self.turn.store(index + 1, Ordering::Relaxed),
            }
        }
        act(&mut held(&self.rings[first % self.rings.len()]))
    }
}

impl OnShelf {
    /// What the kernel says of a read that must not wait; `None` if there is no ring.
    fn read(&self, offset: u64, buf: &mut [u8]) -> Option<i32> {
        self.shelf.with_ring(|place| {
            let result = read_now(place.as_mut()?, self.place, offset, buf);
            if result.is_none() {
                *place = None;
            }
            result
        })
    }
}

impl Shelved for OnShelf {
    fn read_cached(&self, offset: u64, buf: &mut [u8]) -> bool {
        self.read(offset, buf).is_some_and(|result| usize::try_from(result) == Ok(buf.len()))
    }
}

impl Drop for OnShelf {
    fn drop(&mut self) {
        // a table that does not let go of it holds it until the place is taken again
        self.shelf.enter_everywhere(self.place, -1);
        held(&self.shelf.free).push(self.place);
    }
}

/// Reads what is in the host's memory: how many bytes, or a negative error number. `None` if the ring is of no use any more
/// and must be dropped.
fn read_now(ring: &mut IoUring, place: u32, offset: u64, buf: &mut [u8]) -> Option<i32> {
    let count = u32::try_from(buf.len()).ok()?;
    let read = opcode::Read::new(types::Fixed(place), buf.as_mut_ptr(), count)
        .offset(offset)
        .rw_flags(libc::RWF_NOWAIT);
    // SAFETY: the buffer is borrowed until this function returns, which is once the kernel said that the read has
    // finished, or the kernel did not take it, and then the caller drops the ring without asking it to.
    unsafe { ring.submission().push(&read.build()) }.ok()?;
    loop {
        let entered = ring.submit_and_wait(1);
        if let Some(done) = ring.completion().next() {
            return Some(done.result());
        }
        if entered.is_err() && !ring.submission().is_empty() {
            return None;
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::linux::LinuxMedia;
    use crate::{Media, OpenHow};

    fn descriptors() -> usize {
        std::fs::read_dir("/proc/self/fd").expect("the process's descriptors").count()
    }

    #[test]
    fn what_is_on_the_shelf_is_read_without_a_descriptor() {
        let dir = tempfile::tempdir().expect("a directory");
        let media = LinuxMedia::new(dir.path(), dir.path()).expect("a media");
        let bytes: Vec<u8> = (0..64 << 10).map(|at: u32| (at / 4096) as u8 + 1).collect();
        let shelve = |number: usize| {
            let name = format!("{number}");
            let file = media.open(&name, OpenHow::Create).expect("a file");
            file.write_at(0, &bytes[number % 16 * 4096..]).expect("bytes");
            media.shelve(&*file).expect("a host with rings")
        };
        let first = shelve(0);
        let before = descriptors();
        let shelved: Vec<_> = (1..400).map(shelve).collect();
        // other tests open and close files meanwhile
        assert!(descriptors() < before + 200, "{} after {before}", descriptors());
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for (number, file) in shelved.iter().enumerate() {
                        let mut block = [0; 4096];
                        assert!(file.read_cached(0, &mut block), "it was just written");
                        assert_eq!(block, [(number + 1) as u8 % 16 + 1; 4096]);
                    }
                });
            }
        });
        let mut all = vec![0; 64 << 10];
        assert!(first.read_cached(0, &mut all) && all == bytes);
        assert!(!first.read_cached(60 << 10, &mut all[..8192]), "it ends before");
    }

    #[test]
    fn a_place_is_taken_again() {
        let dir = tempfile::tempdir().expect("a directory");
        let media = LinuxMedia::new(dir.path(), dir.path()).expect("a media");
        for byte in 1..=3 {
            let file = media.open("file", OpenHow::Truncate).expect("a file");
            file.write_at(0, &[byte; 512]).expect("bytes");
            let shelved = media.shelve(&*file).expect("a place");
            media.remove("file").expect("removed");
            drop(file);
            let mut found = [0; 512];
            assert!(shelved.read_cached(0, &mut found) && found == [byte; 512], "held without a name too");
        }
    }
}
