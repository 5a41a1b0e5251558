//! Reading ahead, of two kinds of reading alone: of a file from one end to the other, and of one file after the other as
//! they were listed.
//!
//! The kernel's own window is 128 KiB, one request of one event loop, and of a small file it is nothing at all: while that is
//! fetched nothing else is. What is wanted next is fetched meanwhile by threads of their own, side by side. Nothing else is read
//! ahead: what lies behind a piece read here or there is most often not wanted.

use super::content::Bytes;
use super::order::{Listed, Order};
use crate::Result;
use block::sync::{Condvar, Mutex, lock, wait};
use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};

/// Bytes of a file read in order before more of it is read ahead.
const SURE: u64 = 1 << 20;
/// Bytes fetched at once of such a file, and blocks of them fetched before they are asked for.
const BLOCK: u64 = 512 << 10;
const AHEAD: u64 = 4;
/// Bytes fetched of a file that is expected next.
const FRONT: u64 = 256 << 10;
/// Bytes kept, of all files together, and files.
const KEPT: u64 = 12 << 20;
const FILES: usize = 64;
/// Threads that fetch.
pub(crate) const FETCHERS: usize = 2;
/// Requests of the kernel's own read-ahead overtake one another by so much.
const SLACK: u64 = BLOCK;

/// Reads bytes from an offset on; fewer only at their end.
pub(super) type Read = dyn Fn(Bytes, u64, &mut [u8]) -> Result<usize> + Send + Sync;

/// What is read ahead of one tree.
pub(super) struct Ahead {
    read: Arc<Read>,
    files: Mutex<VecDeque<File>>,
    order: Mutex<Order>,
    fetchers: Mutex<Option<Sender<Arc<Block>>>>,
}

/// A file, and how far it was read in order. The one read or expected last is at the end.
struct File {
    number: u64,
    next: u64,
    in_order: u64,
    blocks: VecDeque<Arc<Block>>,
}

/// Bytes of a file that are fetched.
struct Block {
    bytes: Bytes,
    range: Range<u64>,
    state: Mutex<State>,
    fetched: Condvar,
}

enum State {
    Queued,
    Fetching,
    /// Fewer than the range, if the file ends in it.
    Fetched(Vec<u8>),
    /// Whoever asks reads it alone, and meets the error.
    Failed,
}

impl Ahead {
    pub(super) fn new(read: Arc<Read>) -> Self {
        let (files, order, fetchers) = Default::default();
        Self { read, files, order, fetchers }
    }

    /// Reads up to `buf.len()` bytes; fewer only at the end. The number read.
    pub(super) fn read(&self, number: u64, bytes: Bytes, offset: u64, buf: &mut [u8]) -> Result<usize> {
        let (mut buf, mut next) = (buf, Vec::new());
        {
            let mut order = lock(&self.order);
            if let Some(size) = order.size(number) {
                let left = usize::try_from(size.saturating_sub(offset)).unwrap_or(usize::MAX).min(buf.len());
                buf = &mut buf[..left];
            }
            if offset == 0 {
                next = order.read(number);
            }
        }
        next.into_iter().for_each(|file| self.fetch_front(file));
        let mut done = 0;
        for block in self.follow(number, bytes, offset, buf.len() as u64) {
            let at = offset + done as u64;
            match block.copy(at, buf.get_mut(done..).unwrap_or_default()) {
                0 => break,
                count => done += count,
            }
        }
        if done < buf.len() {
            done += (self.read)(bytes, offset + done as u64, &mut buf[done..])?;
        }
        Ok(done)
    }

    /// Has files known in the order they are listed in: (number, bytes, size) each.
    pub(super) fn expect(&self, files: impl Iterator<Item = (u64, Bytes, u64)>) {
        lock(&self.order).list(files.map(|(number, bytes, size)| Listed { number, bytes, size }));
    }

    fn fetch_front(&self, listed: Listed) {
        let mut files = lock(&self.files);
        if files.iter().all(|file| file.number != listed.number) {
            let mut file = File::new(listed.number, 0);
            self.fetch(&mut file, listed.bytes, 0..listed.size.min(FRONT));
            keep(&mut files, file);
        }
    }

    /// Notes that these bytes are read. If they go on where others ended, has the blocks behind them fetched. Those that
    /// hold some of them, in order.
    fn follow(&self, number: u64, bytes: Bytes, offset: u64, len: u64) -> Vec<Arc<Block>> {
        let mut files = lock(&self.files);
        let known = files.iter().position(|file| file.number == number);
        let mut file =
            known.and_then(|place| files.remove(place)).unwrap_or_else(|| File::new(number, offset));
        let end = offset.saturating_add(len);
        file.note(offset, end);
        while file.in_order >= SURE
            && file.end() < file.next.saturating_add(AHEAD * BLOCK)
            && !file.has_ended()
        {
            let start = file.end();
            if !self.fetch(&mut file, bytes, start..start.saturating_add(BLOCK)) {
                break;
            }
        }
        let holding = file.blocks.iter().filter(|block| block.range.start < end && block.range.end > offset);
        let holding = holding.map(Arc::clone).collect();
        keep(&mut files, file);
        holding
    }

    /// Has a block fetched; false if there is nobody to do it.
    fn fetch(&self, file: &mut File, bytes: Bytes, range: Range<u64>) -> bool {
        let (state, fetched) = (Mutex::new(State::Queued), Condvar::new());
        let block = Arc::new(Block { bytes, range, state, fetched });
        let mut fetchers = lock(&self.fetchers);
        let sender = fetchers.get_or_insert_with(|| start(&self.read));
        let sent = sender.send(Arc::clone(&block)).is_ok();
        if sent {
            file.blocks.push_back(block);
        }
        sent
    }
}

/// Keeps a file as the one used last, and forgets those used longest ago.
fn keep(files: &mut VecDeque<File>, file: File) {
    files.push_back(file);
    let mut bytes: u64 = files.iter().map(File::held).sum();
    while (bytes > KEPT || files.len() > FILES)
        && files.len() > 1
        && let Some(oldest) = files.pop_front()
    {
        bytes -= oldest.held();
    }
}

impl File {
    fn new(number: u64, offset: u64) -> Self {
        Self { number, next: offset, in_order: 0, blocks: VecDeque::new() }
    }

    fn note(&mut self, offset: u64, end: u64) {
        if offset.abs_diff(self.next) > SLACK {
            *self = Self::new(self.number, offset);
        }
        self.in_order = self.in_order.saturating_add(end - offset);
        self.next = self.next.max(end);
        while self.blocks.front().is_some_and(|block| block.range.end.saturating_add(SLACK) <= self.next) {
            self.blocks.pop_front();
        }
    }

    /// Where the next block begins.
    fn end(&self) -> u64 {
        self.blocks.back().map_or(self.next, |block| block.range.end.max(self.next))
    }

    /// Whether the last block is known to hold the end.
    fn has_ended(&self) -> bool {
        self.blocks.back().is_some_and(|block| block.is_short())
    }

    fn held(&self) -> u64 {
        self.blocks.iter().map(|block| block.range.end - block.range.start).sum()
    }
}

impl Block {
    /// Copies bytes from `at` on, once they are fetched; 0 if nobody has begun with that, so that nobody waits for other blocks.
    fn copy(&self, at: u64, buf: &mut [u8]) -> usize {
        let mut state = lock(&self.state);
        while matches!(*state, State::Fetching) {
            state = wait(&self.fetched, state);
        }
        let (State::Fetched(bytes), Some(into)) = (&*state, at.checked_sub(self.range.start)) else {
            return 0;
        };
        let bytes = usize::try_from(into).ok().and_then(|into| bytes.get(into..)).unwrap_or_default();
        let count = bytes.len().min(buf.len());
        buf[..count].copy_from_slice(&bytes[..count]);
        count
    }

    fn is_short(&self) -> bool {
        match &*lock(&self.state) {
            State::Fetched(bytes) => (bytes.len() as u64) < self.range.end - self.range.start,
            State::Failed => true,
            State::Queued | State::Fetching => false,
        }
    }

    fn fetch(&self, read: &Read) {
        *lock(&self.state) = State::Fetching;
        let mut bytes = vec![0; (self.range.end - self.range.start) as usize];
        let state = match read(self.bytes, self.range.start, &mut bytes) {
            Ok(count) => {
                bytes.truncate(count);
                State::Fetched(bytes)
            }
            Err(error) => {
                tracing::debug!("cannot read ahead: {error}");
                State::Failed
            }
        };
        *lock(&self.state) = state;
        self.fetched.notify_all();
    }
}

/// Threads that end with the sender.
fn start(read: &Arc<Read>) -> Sender<Arc<Block>> {
    let (sender, receiver) = channel();
    let receiver: Arc<Mutex<Receiver<Arc<Block>>>> = Arc::new(Mutex::new(receiver));
    for _ in 0..FETCHERS {
        let (read, receiver) = (Arc::clone(read), Arc::clone(&receiver));
        let started = std::thread::Builder::new().name("ahead".to_owned()).spawn(move || {
            loop {
                let next = lock(&receiver).recv();
                let Ok(block) = next else { return };
                // forgotten meanwhile: nobody will ask for it
                if Arc::strong_count(&block) > 1 {
                    block.fetch(&*read);
                }
            }
        });
        if let Err(error) = started {
            tracing::debug!("cannot start a thread that reads ahead: {error}");
        }
    }
    sender
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Error;
    use block::ByteRange;
    use std::time::Duration;

    const SIZE: u64 = 32 << 20;
    const STEP: u64 = 128 << 10;

    fn file(number: u64) -> Bytes {
        Bytes::Range(ByteRange::between(number, number + 1))
    }

    fn byte(number: u64, at: u64) -> u8 {
        (number * 31 + (at >> 12)) as u8
    }

    /// Files and offsets, as they are read.
    type Reads = Arc<Mutex<Vec<(u64, u64)>>>;

    /// Files of [`SIZE`] bytes, of which none can be read from `damaged` on; and what was read of them.
    fn scene(damaged: u64) -> (Reads, Ahead) {
        let read = Reads::default();
        let seen = Arc::clone(&read);
        let ahead = Ahead::new(Arc::new(move |bytes: Bytes, offset, buf: &mut [u8]| {
            let Bytes::Range(range) = bytes else { panic!("{bytes:?}") };
            let count = (buf.len() as u64).min(SIZE.saturating_sub(offset));
            if offset + count > damaged {
                return Err(Error::invalid("a file", "it is damaged"));
            }
            lock(&seen).push((range.start(), offset));
            for (byte_of, at) in buf.iter_mut().zip(offset..offset + count) {
                *byte_of = byte(range.start(), at);
            }
            Ok(count as usize)
        }));
        (read, ahead)
    }

    /// Once nothing is queued or being fetched.
    fn settle(ahead: &Ahead) {
        let busy = |block: &Arc<Block>| matches!(*lock(&block.state), State::Queued | State::Fetching);
        while lock(&ahead.files).iter().any(|file| file.blocks.iter().any(busy)) {
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    fn assert_read(ahead: &Ahead, number: u64, offset: u64, len: u64) {
        let mut buf = vec![0xee; len as usize];
        let count = ahead.read(number, file(number), offset, &mut buf).unwrap() as u64;
        assert_eq!(count, len.min(SIZE.saturating_sub(offset)), "{number} {offset}");
        assert!(
            buf.iter().zip(offset..offset + count).all(|(its, at)| *its == byte(number, at)),
            "{number} {offset}"
        );
    }

    #[test]
    fn a_file_read_in_order_is_fetched_before_it_is_asked_for() {
        let (read, ahead) = scene(u64::MAX);
        for offset in (0..SIZE + 2 * STEP).step_by(STEP as usize) {
            assert_read(&ahead, 1, offset, STEP);
            settle(&ahead);
        }
        let direct = lock(&read).iter().filter(|(_, offset)| !offset.is_multiple_of(BLOCK)).count() as u64;
        assert!(direct < SURE / STEP, "{direct} pieces were read alone");
        let held: u64 = lock(&ahead.files).iter().map(File::held).sum();
        assert!(held <= KEPT, "{held}");
    }

    #[test]
    fn what_is_read_here_and_there_is_not_read_ahead() {
        let (read, ahead) = scene(u64::MAX);
        for i in 0..300 {
            assert_read(&ahead, i % 5, (i / 5) * 4096, 4096);
            assert_read(&ahead, 9, (i * 7 % 31) << 20, STEP);
        }
        assert_eq!(lock(&read).len(), 600);
        assert!(lock(&ahead.fetchers).is_none());
    }

    #[test]
    fn files_read_as_they_were_listed_are_fetched_before() {
        let (read, ahead) = scene(u64::MAX);
        ahead.expect((1..1000).map(|number| (number, file(number), 10_000 + number)));
        for number in 1..1000 {
            let mut buf = vec![0; 16 << 10];
            let count = ahead.read(number, file(number), 0, &mut buf).unwrap();
            // the rest of the last page of a file is not asked for
            assert_eq!(count as u64, 10_000 + number);
            assert!(buf[..count].iter().zip(0..).all(|(its, at)| *its == byte(number, at)));
            settle(&ahead);
        }
        let read = std::mem::take(&mut *lock(&read));
        assert!(read.iter().all(|(_, offset)| *offset == 0));
        assert_eq!(read.len(), 999, "each once");
        assert!(lock(&ahead.files).len() <= FILES);
    }

    #[test]
    fn what_cannot_be_fetched_is_left_to_who_asks() {
        let (_, ahead) = scene(4 << 20);
        for offset in (0..4 << 20).step_by(STEP as usize) {
            assert_read(&ahead, 1, offset, STEP);
            settle(&ahead);
        }
        let error = ahead.read(1, file(1), 4 << 20, &mut [0; 4096]).unwrap_err();
        assert!(error.to_string().contains("damaged"), "{error}");
    }

    #[test]
    fn many_readers_see_the_same_bytes() {
        let (_, ahead) = scene(u64::MAX);
        std::thread::scope(|scope| {
            for reader in 0..4_u64 {
                let ahead = &ahead;
                scope.spawn(move || {
                    for offset in (0..SIZE).step_by(STEP as usize).skip(reader as usize).step_by(2) {
                        assert_read(ahead, reader / 2, offset, STEP);
                    }
                });
            }
        });
    }
}
