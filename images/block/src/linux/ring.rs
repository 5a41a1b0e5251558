//! Reads that the host's disk works on while the thread goes on with something else, by io_uring.

use crate::{Error, Result, Stored};
use io_uring::{IoUring, opcode, types};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

/// Buffers kept for the next reads, and the largest that is worth keeping.
const SPARE_BUFFERS: usize = 64;
const SPARE_BYTES: usize = 64 << 10;

/// Reads under way. Its descriptor becomes readable when one has finished.
pub struct ReadRing {
    ring: IoUring,
    slots: Vec<Option<Slot>>,
    free: Vec<usize>,
    spare: Vec<Vec<u8>>,
}

struct Slot {
    tag: u64,
    // keeps the file open
    stored: Stored,
    buf: Vec<u8>,
}

impl ReadRing {
    /// A ring for so many reads at a time.
    ///
    /// # Errors
    /// What the host reports: a kernel without io_uring, or one that refuses it to this process.
    pub fn new(reads: u32) -> Result<Self> {
        let built = IoUring::builder()
            .setup_coop_taskrun()
            .build(reads)
            // kernels before 5.19 know no cooperation
            .or_else(|_| IoUring::new(reads));
        let ring = built.map_err(|source| Error::host("make", "a ring for reads", None, source))?;
        let free = (0..reads as usize).collect();
        Ok(Self { ring, slots: (0..reads).map(|_| None).collect(), free, spare: Vec::new() })
    }

    /// How many reads are under way.
    pub fn under_way(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    /// Takes note of a read; it begins with the next [`submit`](Self::submit). The caller finds it again by `tag`.
    ///
    /// # Errors
    /// `Unavailable` if the ring is full or the bytes are in no file of the host.
    pub fn start(&mut self, tag: u64, stored: Stored) -> Result<()> {
        let unavailable = |why| Error::refused(crate::Kind::Unavailable, "a ring for reads", why);
        let Some(fd) = stored.file.fast_fd().map(|fd| types::Fd(fd.as_raw_fd())) else {
            return Err(unavailable("no file of the host"));
        };
        let Some(index) = self.free.pop() else { return Err(unavailable("full")) };
        let mut buf = self.spare.pop().unwrap_or_default();
        buf.resize(stored.count as usize, 0);
        let read = opcode::Read::new(fd, buf.as_mut_ptr(), stored.count as u32).offset(stored.offset);
        let entry = read.build().user_data(index as u64);
        self.slots[index] = Some(Slot { tag, stored, buf });
        // SAFETY: the buffer and the open file live in the slot until the kernel says that the read has finished:
        // nothing takes them out before, and dropping the ring waits for all of them. The heap memory of a `Vec` does
        // not move with it.
        let pushed = unsafe { self.ring.submission().push(&entry) };
        if pushed.is_err() {
            self.recycle(index);
            return Err(unavailable("full"));
        }
        Ok(())
    }

    /// Begins all reads taken note of.
    ///
    /// # Errors
    /// What the host reports.
    pub fn submit(&mut self) -> Result<()> {
        self.enter(0)
    }

    /// Waits until a read has finished.
    ///
    /// # Errors
    /// What the host reports.
    pub fn wait(&mut self) -> Result<()> {
        self.enter(1)
    }

    fn enter(&mut self, at_least: usize) -> Result<()> {
        loop {
            match self.ring.submit_and_wait(at_least) {
                Ok(_) => return Ok(()),
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(source) => return Err(Error::host("wait for", "reads", None, source)),
            }
        }
    }

    /// How many of them have not finished.
    pub fn unfinished(&mut self) -> usize {
        self.under_way().saturating_sub(self.ring.completion().len())
    }

    /// Hands reads that have finished to `each`, with their tags: at most so many, the others are there next time.
    pub fn finished(&mut self, at_most: usize, mut each: impl FnMut(u64, Result<&[u8]>)) {
        for _ in 0..at_most {
            let Some((index, result)) = self.next_finished() else { return };
            let Some(Slot { tag, stored, buf }) = &mut self.slots[index] else { continue };
            let done = whole(stored, buf, result);
            each(*tag, done.map(|()| &buf[..]));
            self.recycle(index);
        }
    }

    fn next_finished(&mut self) -> Option<(usize, i32)> {
        self.ring.completion().next().map(|entry| (entry.user_data() as usize, entry.result()))
    }

    /// Empties a slot whose read is not under way.
    fn recycle(&mut self, index: usize) {
        let slot = self.slots[index].take();
        self.free.push(index);
        if let Some(Slot { buf, .. }) = slot
            && self.spare.len() < SPARE_BUFFERS
            && buf.capacity() <= SPARE_BYTES
        {
            self.spare.push(buf);
        }
    }
}

/// Completes a read that brought less than was asked for.
fn whole(stored: &Stored, buf: &mut [u8], result: i32) -> Result<()> {
    match usize::try_from(result) {
        Ok(count) if count == buf.len() => Ok(()),
        Ok(count) => stored.file.read_at(stored.offset + count as u64, &mut buf[count..]),
        // the host asks to try again another way; a real failure shows there too
        Err(_) => stored.file.read_at(stored.offset, buf),
    }
}

impl AsFd for ReadRing {
    fn as_fd(&self) -> BorrowedFd<'_> {
        // SAFETY: the descriptor belongs to the ring, which lives as long as the borrow.
        unsafe { BorrowedFd::borrow_raw(self.ring.as_raw_fd()) }
    }
}

impl Drop for ReadRing {
    /// The kernel writes into the buffers until it is done with them.
    fn drop(&mut self) {
        while self.under_way() > 0 {
            if self.wait().is_err() {
                // never freed is better than written to after it was
                std::mem::forget(std::mem::take(&mut self.slots));
                return;
            }
            self.finished(usize::MAX, |_, _| {});
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Media, OpenHow, linux::LinuxMedia};

    fn stage() -> (tempfile::TempDir, std::sync::Arc<dyn crate::MediaFile>) {
        let dir = tempfile::tempdir().expect("a directory");
        let media = LinuxMedia::new(dir.path(), dir.path()).expect("a media");
        let file = media.open("file", OpenHow::Create).expect("a file");
        let bytes: Vec<u8> = (0..64 << 10).map(|at: u32| (at / 4096) as u8).collect();
        file.write_at(0, &bytes).expect("bytes");
        (dir, file)
    }

    #[test]
    fn every_read_finishes_once_with_its_own_bytes() {
        let (_dir, file) = stage();
        let mut ring = ReadRing::new(8).expect("a ring");
        let mut found = Vec::new();
        for round in 0..4u64 {
            for block in 0..4 {
                let tag = round * 4 + block;
                ring.start(
                    tag,
                    Stored {
                        file: file.clone(),
                        offset: tag * 4096,
                        count: 4096,
                        is_verified: true,
                        held: None,
                    },
                )
                .expect("room");
            }
            ring.submit().expect("submitted");
            while ring.under_way() > 0 {
                ring.wait().expect("one");
                ring.finished(3, |tag, bytes| {
                    assert_eq!(bytes.expect("bytes"), [tag as u8; 4096]);
                    found.push(tag);
                });
            }
        }
        found.sort_unstable();
        assert_eq!(found, (0..16).collect::<Vec<_>>());
    }

    #[test]
    fn a_read_past_the_end_fails_and_a_full_ring_refuses() {
        let (_dir, file) = stage();
        let mut ring = ReadRing::new(2).expect("a ring");
        let stored =
            |offset| Stored { file: file.clone(), offset, count: 4096, is_verified: true, held: None };
        ring.start(1, stored(62 << 10)).expect("room");
        ring.start(2, stored(0)).expect("room");
        assert_eq!(ring.start(3, stored(0)).map_err(|error| error.kind()), Err(crate::Kind::Unavailable));
        let mut failed = Vec::new();
        while ring.under_way() > 0 {
            ring.wait().expect("one");
            ring.finished(2, |tag, bytes| failed.extend(bytes.is_err().then_some(tag)));
        }
        assert_eq!(failed, [1]);
    }

    #[test]
    fn dropping_it_waits_for_what_is_under_way() {
        let (_dir, file) = stage();
        let mut ring = ReadRing::new(8).expect("a ring");
        (0..8).for_each(|tag| {
            ring.start(
                tag,
                Stored { file: file.clone(), offset: 0, count: 4096, is_verified: true, held: None },
            )
            .expect("room");
        });
        ring.submit().expect("submitted");
        drop(ring);
        assert_eq!(std::sync::Arc::strong_count(&file), 1);
    }
}
