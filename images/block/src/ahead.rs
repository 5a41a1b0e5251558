//! Reading a source ahead: several threads read, the caller sees the pieces in their order.

use crate::{BLOCK_SIZE, BlockSource, ByteOffset, ByteRange, ExtentKind, Result};
use std::collections::{BTreeMap, VecDeque};
use std::ops::ControlFlow;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Mutex, MutexGuard};
use std::thread;

/// Bytes of a piece: some dozens of chunks of a vault, small beside a process's memory.
const PIECE: u64 = 4 << 20;
/// Extents are asked for in parts of this size, so that the list of a badly fragmented source stays small.
const WINDOW: u64 = 1 << 30;
/// Data this near to other data is read with what lies between: a request of its own costs more.
const GAP: u64 = 256 << 10;
/// Threads that read. More than the cores of small hosts: while one waits for the source another copies.
const READERS: usize = 3;
/// Threads that read and act: while one waits for a medium to take a piece, others decode theirs.
const AT_ONCE: usize = 4;
/// Pieces read and not yet taken, those under way included.
const AHEAD: usize = 6;

/// What may hold something else than zeros, cut small, ascending. Neighbours that are near each other are one.
struct Plan<'a> {
    source: &'a dyn BlockSource,
    at: u64,
    total: u64,
    found: VecDeque<ByteRange>,
    // of the piece that is handed out next
    number: u64,
    ended: bool,
}

impl<'a> Plan<'a> {
    fn of(source: &'a dyn BlockSource) -> Mutex<Self> {
        let (total, found) = (source.size().get(), VecDeque::new());
        Mutex::new(Self { source, at: 0, total, found, number: 0, ended: false })
    }

    /// Nothing more is handed out.
    fn end(&mut self) {
        self.ended = true;
        self.found.clear();
    }

    fn next(&mut self) -> Option<Result<(u64, ByteRange)>> {
        while self.found.is_empty() {
            if self.ended || self.at == self.total {
                return None;
            }
            let window = ByteRange::between(self.at, self.total.min(self.at.saturating_add(WINDOW)));
            self.at = window.end();
            if let Err(error) = self.look(window) {
                self.ended = true;
                return Some(Err(error));
            }
        }
        let piece = self.found.pop_front()?;
        self.number += 1;
        Some(Ok((self.number - 1, piece)))
    }

    fn look(&mut self, window: ByteRange) -> Result<()> {
        let mut data: Vec<ByteRange> = Vec::new();
        self.source.extents(window, &mut |extent| {
            if extent.kind == ExtentKind::Data {
                match data.last_mut() {
                    Some(last) if extent.range.start() - last.end() <= GAP => {
                        *last = ByteRange::between(last.start(), extent.range.end());
                    }
                    _ => data.push(extent.range),
                }
            }
            ControlFlow::Continue(())
        })?;
        if data.is_empty() {
            // so that the caller hears of it
            self.found.push_back(ByteRange::between(window.end(), window.end()));
        }
        for range in data {
            let mut at = range.start();
            while at < range.end() {
                let end = range.end().min((at / PIECE + 1) * PIECE);
                self.found.push_back(ByteRange::between(at, end));
                at = end;
            }
        }
        Ok(())
    }
}

/// A piece as it comes from a reader, with its number.
type Read = Result<(u64, ByteRange, Vec<u8>)>;

/// Calls `visit` with everything in a source that may hold something else than zeros: pieces of a few MiB, ascending and apart,
/// with their bytes, and an empty piece behind a stretch without data. They are read by several threads, some pieces ahead.
///
/// # Errors
/// The first failure of the source or of the visitor, after which nothing more is visited.
pub(crate) fn each_piece(
    source: &dyn BlockSource,
    visit: &mut dyn FnMut(ByteRange, &[u8]) -> Result<()>,
) -> Result<()> {
    let plan = Plan::of(source);
    let ((give, buffers), (done, pieces)) = (channel::<Vec<u8>>(), channel::<Read>());
    let buffers = Mutex::new(buffers);
    (0..AHEAD).for_each(|_| drop(give.send(Vec::new())));
    thread::scope(|scope| {
        for _ in 0..READERS {
            let (plan, buffers, done) = (&plan, &buffers, done.clone());
            scope.spawn(move || read(source, plan, buffers, &done));
        }
        drop(done);
        // dropped at the end, which ends readers that wait for a buffer
        in_order(pieces, give, visit)
    })
}

/// What is done with a piece by the thread that read it.
pub(crate) type Act<'a> = dyn Fn(ByteRange, &[u8]) -> Result<()> + Sync + 'a;

/// The same pieces in whatever order: each is acted on by the thread that read it, so that reading some goes on beside acting on others.
/// `told` hears of each that is done.
///
/// # Errors
/// The first failure of the source, of `act` or of `told`, after which no piece is begun.
pub(crate) fn each_piece_at_once(
    source: &dyn BlockSource,
    act: &Act<'_>,
    told: &mut dyn FnMut(ByteRange) -> Result<()>,
) -> Result<()> {
    let plan = Plan::of(source);
    let (done, pieces) = channel::<Result<ByteRange>>();
    thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            let (plan, done) = (&plan, done.clone());
            scope.spawn(move || act_on(source, plan, act, &done));
        }
        drop(done);
        let mut ended = Ok(());
        for piece in pieces {
            let heard = piece.and_then(&mut *told);
            if heard.is_err() {
                held(&plan).end();
                ended = ended.and(heard);
            }
        }
        ended
    })
}

fn act_on(source: &dyn BlockSource, plan: &Mutex<Plan<'_>>, act: &Act<'_>, done: &Sender<Result<ByteRange>>) {
    let mut room = Vec::new();
    loop {
        let next = held(plan).next();
        let piece = match next {
            None => return,
            Some(Err(error)) => Err(error),
            Some(Ok((_, piece))) => {
                // blocks that lie as blocks do can be written from where they are
                room.resize(room.len().max((piece.count().get() + BLOCK_SIZE) as usize), 0);
                let start = room.as_ptr().align_offset(BLOCK_SIZE as usize).min(BLOCK_SIZE as usize);
                let buf = &mut room[start..start + piece.count().get() as usize];
                let read = source.read_at(ByteOffset::new(piece.start()), buf);
                read.and_then(|()| act(piece, buf)).map(|()| piece)
            }
        };
        if piece.is_err() {
            held(plan).end();
        }
        if done.send(piece).is_err() {
            return;
        }
    }
}

/// Reads pieces until there are none, each into a buffer it waits for first: so the oldest piece under way always has one.
fn read(
    source: &dyn BlockSource,
    plan: &Mutex<Plan<'_>>,
    buffers: &Mutex<Receiver<Vec<u8>>>,
    done: &Sender<Read>,
) {
    loop {
        let Ok(mut buf) = held(buffers).recv() else { return };
        let next = held(plan).next();
        let read = match next {
            None => return,
            Some(Err(error)) => Err(error),
            Some(Ok((number, piece))) => {
                buf.resize(piece.count().get() as usize, 0);
                source.read_at(ByteOffset::new(piece.start()), &mut buf).map(|()| (number, piece, buf))
            }
        };
        if read.is_err() {
            held(plan).ended = true;
        }
        if done.send(read).is_err() {
            return;
        }
    }
}

fn held<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

fn in_order(
    pieces: Receiver<Read>,
    give: Sender<Vec<u8>>,
    visit: &mut dyn FnMut(ByteRange, &[u8]) -> Result<()>,
) -> Result<()> {
    let mut early = BTreeMap::new();
    let mut next = 0;
    for piece in pieces {
        let (number, range, bytes) = piece?;
        early.insert(number, (range, bytes));
        while let Some((range, bytes)) = early.remove(&next) {
            visit(range, &bytes)?;
            next += 1;
            // nobody waits for it if all pieces were handed out
            give.send(bytes).ok();
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{BlockDevice, ByteCount, Error, Kind, MemoryDisk, Visit};

    /// A disk that is slow at random places and refuses to read one.
    struct Uneven {
        disk: MemoryDisk,
        bad: Option<u64>,
    }

    impl BlockSource for Uneven {
        fn size(&self) -> ByteCount {
            self.disk.size()
        }

        fn read_at(&self, offset: ByteOffset, buf: &mut [u8]) -> Result<()> {
            thread::sleep(std::time::Duration::from_millis(offset.get() / PIECE * 7 % 5));
            match self.bad == Some(offset.get()) {
                true => Err(Error::corrupt("a test", Some(offset.get()), "is bad")),
                false => self.disk.read_at(offset, buf),
            }
        }

        fn extents(&self, range: ByteRange, visit: &mut Visit<'_>) -> Result<()> {
            self.disk.extents(range, visit)
        }
    }

    fn uneven(bad: Option<u64>) -> Uneven {
        let disk = MemoryDisk::new(ByteCount::new(20 * PIECE + 77));
        for piece in [0, 1, 2, 3, 5, 8, 9, 12, 13, 14, 15, 16, 20] {
            disk.write_at(ByteOffset::new(piece * PIECE + piece), &[piece as u8 + 1; 50]).expect("written");
        }
        Uneven { disk, bad }
    }

    #[test]
    fn pieces_come_in_order_with_all_that_is_not_zero() {
        let source = uneven(None);
        let mut back = vec![0; source.size().get() as usize];
        let mut end = 0;
        each_piece(&source, &mut |piece, bytes| {
            assert!(piece.start() >= end && bytes.len() as u64 == piece.count().get());
            end = piece.end();
            back[piece.start() as usize..end as usize].copy_from_slice(bytes);
            Ok(())
        })
        .expect("all of it");
        let mut whole = vec![1; back.len()];
        source.disk.read_at(ByteOffset::ZERO, &mut whole).expect("read");
        assert!(back == whole);
    }

    #[test]
    fn the_first_failure_ends_it_whoever_meets_it() {
        let met = |bad: Option<u64>, stop_at: u64| {
            let mut visited = 0;
            let error = each_piece(&uneven(bad), &mut |piece, _| {
                visited += 1;
                match piece.end() > stop_at {
                    true => Err(Error::refused(Kind::Cancelled, "a test", "ends it")),
                    false => Ok(()),
                }
            });
            (error.expect_err("it fails").kind(), visited)
        };
        assert_eq!(met(None, 0), (Kind::Cancelled, 1));
        let (kind, visited) = met(Some(8 * PIECE), u64::MAX);
        assert!(kind == Kind::Corrupt && visited <= 8, "{visited}");
    }
}
