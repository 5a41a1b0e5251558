//! A source in pieces, and several of them at a time.

use block::sync::{Mutex, lock};
use block::{BlockSource, ByteRange, ExtentKind, Result};
use std::collections::VecDeque;
use std::ops::ControlFlow;

/// Bytes of a piece: some dozens of chunks of a vault.
const PIECE: u64 = 4 << 20;
/// Extents are asked for in parts of this size, so that the list of a badly fragmented source stays small.
const WINDOW: u64 = 1 << 30;
/// Pieces under way at a time: what decodes, and what writes meanwhile.
const PARALLEL: usize = 4;

/// What is done with a piece: its kind tells whether it may hold something, and the buffer is there for its bytes.
pub type Act<'a> = dyn Fn(ByteRange, ExtentKind, &mut Vec<u8>) -> Result<()> + Sync + 'a;

/// The extents of a range of a source, cut small: ascending.
pub struct Pieces<'a> {
    source: &'a dyn BlockSource,
    rest: ByteRange,
    only_data: bool,
    found: VecDeque<(ByteRange, ExtentKind)>,
}

impl<'a> Pieces<'a> {
    /// Those that may hold something else than zeros.
    pub fn of_data(source: &'a dyn BlockSource, range: ByteRange) -> Self {
        let rest = range.intersect(ByteRange::whole(source.size()));
        Self { source, rest, only_data: true, found: VecDeque::new() }
    }

    /// All of them.
    pub fn of_all(source: &'a dyn BlockSource, range: ByteRange) -> Self {
        Self { only_data: false, ..Self::of_data(source, range) }
    }

    fn look_on(&mut self) -> Result<()> {
        let end = self.rest.end().min(self.rest.start().saturating_add(WINDOW));
        let window = ByteRange::between(self.rest.start(), end);
        let (found, only_data) = (&mut self.found, self.only_data);
        self.source.extents(window, &mut |extent| {
            let is_data = extent.kind == ExtentKind::Data;
            if is_data || !only_data {
                let mut start = extent.range.start();
                // zeros need no buffer, and go as one
                let step = if is_data { PIECE } else { u64::MAX };
                while start < extent.range.end() {
                    let end = (start / PIECE * PIECE).saturating_add(step).min(extent.range.end());
                    found.push_back((ByteRange::between(start, end), extent.kind));
                    start = end;
                }
            }
            ControlFlow::Continue(())
        })?;
        self.rest = ByteRange::between(end, self.rest.end());
        Ok(())
    }
}

impl Iterator for Pieces<'_> {
    type Item = Result<(ByteRange, ExtentKind)>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some(piece) = self.found.pop_front() {
                return Some(Ok(piece));
            }
            if self.rest.is_empty() {
                return None;
            }
            if let Err(error) = self.look_on() {
                self.rest = ByteRange::between(0, 0);
                return Some(Err(error));
            }
        }
    }
}

/// Does something with every piece and a buffer of its length, several at a time.
///
/// # Errors
/// The first failure; what is under way is ended then.
pub fn in_parallel(
    pieces: impl Iterator<Item = Result<(ByteRange, ExtentKind)>> + Send,
    act: &(dyn Fn(ByteRange, &mut [u8]) -> Result<()> + Sync),
) -> Result<()> {
    each_in_parallel(pieces, &|piece, kind, buf: &mut Vec<u8>| {
        debug_assert_eq!(kind, ExtentKind::Data);
        buf.resize(piece.count().get() as usize, 0);
        act(piece, buf)
    })
}

/// The same with the kind of the piece, and a buffer of whatever length it has.
///
/// # Errors
/// As [`in_parallel`].
pub fn each_in_parallel(
    pieces: impl Iterator<Item = Result<(ByteRange, ExtentKind)>> + Send,
    act: &Act<'_>,
) -> Result<()> {
    let pieces = Mutex::new((pieces, Ok(())));
    let work = || {
        let mut buf = Vec::new();
        loop {
            let next = {
                let mut pieces = lock(&pieces);
                if pieces.1.is_err() { None } else { pieces.0.next() }
            };
            let done = match next {
                None => return,
                Some(Ok((piece, kind))) => act(piece, kind, &mut buf),
                Some(Err(error)) => Err(error),
            };
            if let Err(error) = done {
                let mut pieces = lock(&pieces);
                // the first one says why
                if pieces.1.is_ok() {
                    pieces.1 = Err(error);
                }
                return;
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 1..PARALLEL {
            scope.spawn(work);
        }
        work();
    });
    pieces.into_inner().unwrap_or_else(|poisoned| poisoned.into_inner()).1
}

#[cfg(test)]
mod tests {
    use super::*;
    use block::{BlockDevice, ByteCount, ByteOffset, MemoryDisk, Provision, RangeSet};

    #[test]
    fn pieces_tile_the_data_and_failures_end_them() {
        let disk = MemoryDisk::new(ByteCount::new(3 * PIECE + 77));
        disk.write_at(ByteOffset::new(100), &[1; 5]).expect("written");
        disk.write_at(ByteOffset::new(PIECE - 1), &vec![2; PIECE as usize + 2]).expect("written");
        disk.zero(ByteRange::between(0, 4096), Provision::Sparse).expect("zeroed");
        let whole = ByteRange::whole(disk.size());
        let pieces: Vec<_> = Pieces::of_all(&disk, whole).collect::<Result<_>>().expect("pieces");
        let mut at = 0;
        for (piece, _) in &pieces {
            assert_eq!(piece.start(), at);
            at = piece.end();
        }
        assert_eq!(at, disk.size().get());
        let seen = Mutex::new(RangeSet::new());
        in_parallel(Pieces::of_data(&disk, whole), &|piece, buf| {
            assert!(piece.count().get() <= PIECE && buf.len() as u64 == piece.count().get());
            lock(&seen).insert(piece);
            Ok(())
        })
        .expect("done");
        assert!(lock(&seen).iter().any(|range| range.start() < PIECE && range.end() > 2 * PIECE));
        let failed = in_parallel(Pieces::of_data(&disk, whole), &|_, _| {
            Err(block::Error::refused(block::Kind::Cancelled, "a test", "ends it"))
        });
        assert_eq!(failed.expect_err("it says so").kind(), block::Kind::Cancelled);
    }
}
