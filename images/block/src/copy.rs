//! Walking and copying over the block seams: what is not zero goes over, and nothing else does.

use crate::ahead::{each_piece, each_piece_at_once};
use crate::{BLOCK_SIZE, BlockDevice, BlockSource, ByteCount, ByteOffset, ByteRange, MediaFile, Result};
use std::sync::atomic::{AtomicU64, Ordering};

/// How far a walk has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Walked {
    /// Bytes of the source behind the walk, read or skipped.
    pub done: u64,
    /// Bytes of the source.
    pub total: u64,
    /// Bytes that were read.
    pub read: u64,
}

/// Hears how far a walk has come, at least once for every few MiB read; an error ends the walk.
pub type Pace<'a> = dyn FnMut(Walked) -> Result<()> + 'a;

/// Visits every run of bytes that holds something else than zeros: ascending, without overlap, at most a few MiB
/// each, beginning and ending where a block of [`BLOCK_SIZE`] or a data extent does. Holes and zeros are not read but for short ones
/// between data; data extents are, some ahead of the visitor and by several threads, and blocks of zeros are left out.
///
/// # Errors
/// What the source, the visitor or the pace reports.
pub fn each_run(
    from: &dyn BlockSource,
    visit: &mut dyn FnMut(ByteOffset, &[u8]) -> Result<()>,
    pace: &mut Pace<'_>,
) -> Result<()> {
    let total = from.size().get();
    let mut read = 0;
    each_piece(from, &mut |piece, bytes| {
        runs_of(piece.offset(), bytes, visit)?;
        read += piece.count().get();
        pace(Walked { done: piece.end(), total, read })
    })?;
    pace(Walked { done: total, total, read })
}

/// Copies a source to a device that reads as zeros and is at least as large. Gives the bytes written. Nothing is
/// promised to be durable before the device is flushed.
///
/// # Errors
/// As [`each_run`], and what the device reports.
pub fn copy(from: &dyn BlockSource, to: &dyn BlockDevice, pace: &mut Pace<'_>) -> Result<ByteCount> {
    let mut written = 0;
    let mut visit = |at, run: &[u8]| {
        written += run.len() as u64;
        to.write_at(at, run)
    };
    each_run(from, &mut visit, pace)?;
    Ok(ByteCount::new(written))
}

/// Copies a source to an empty file, which becomes as long as the source and sparse; several pieces at a time, past the host's memory
/// where it can. Gives the bytes written.
/// Nothing is promised to be durable before the file is synced.
///
/// # Errors
/// As [`each_run`], and what the file reports.
pub fn copy_to_file(from: &dyn BlockSource, to: &dyn MediaFile, pace: &mut Pace<'_>) -> Result<ByteCount> {
    let total = from.size().get();
    to.set_len(total)?;
    let written = AtomicU64::new(0);
    let write = |piece: ByteRange, bytes: &[u8]| {
        runs_of(piece.offset(), bytes, &mut |at, run| {
            written.fetch_add(run.len() as u64, Ordering::Relaxed);
            to.write_past(at.get(), run)
        })
    };
    let (mut read, mut done) = (0, 0);
    each_piece_at_once(from, &write, &mut |piece| {
        read += piece.count().get();
        done = piece.end().max(done);
        pace(Walked { done, total, read })
    })?;
    pace(Walked { done: total, total, read })?;
    Ok(ByteCount::new(written.into_inner()))
}

/// Visits the runs of `bytes`, which lie at `at`, that hold something else than zeros, beginning and ending where a
/// block does.
///
/// # Errors
/// What the visitor reports.
pub fn runs_of(
    at: ByteOffset,
    bytes: &[u8],
    visit: &mut dyn FnMut(ByteOffset, &[u8]) -> Result<()>,
) -> Result<()> {
    let at = at.get();
    let block_end = |start: usize| {
        let within = (at + start as u64) % BLOCK_SIZE;
        bytes.len().min(start + (BLOCK_SIZE - within) as usize)
    };
    let is_zero = |start: usize| bytes[start..block_end(start)].iter().all(|&byte| byte == 0);
    let mut start = 0;
    while start < bytes.len() {
        let (zero, mut end) = (is_zero(start), block_end(start));
        while end < bytes.len() && is_zero(end) == zero {
            end = block_end(end);
        }
        if !zero {
            visit(ByteOffset::new(at + start as u64), &bytes[start..end])?;
        }
        start = end;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::linux::LinuxMedia;
    use crate::{Error, Kind, Media, MemoryDisk, OpenHow};

    /// Every third block from an odd place on, and a last byte alone.
    fn striped() -> MemoryDisk {
        let size = 10 * BLOCK_SIZE + 100;
        let disk = MemoryDisk::new(ByteCount::new(size));
        for block in [0, 3, 4, 7] {
            disk.write_at(ByteOffset::new(block * BLOCK_SIZE + 77), &[7; 20]).expect("written");
        }
        disk.write_at(ByteOffset::new(size - 1), &[1]).expect("written");
        disk
    }

    fn read(disk: &MemoryDisk) -> Vec<u8> {
        let mut bytes = vec![0; disk.size().get() as usize];
        disk.read_at(ByteOffset::ZERO, &mut bytes).expect("read");
        bytes
    }

    #[test]
    fn only_what_is_not_zero_goes_over_and_all_of_it() {
        let (from, to) = (striped(), MemoryDisk::new(ByteCount::new(11 * BLOCK_SIZE)));
        let mut seen = Vec::new();
        let pace = &mut |walked: Walked| {
            seen.push(walked);
            Ok(())
        };
        assert_eq!(copy(&from, &to, pace).expect("copied").get(), 4 * BLOCK_SIZE + 100);
        assert_eq!(read(&to)[..from.size().get() as usize], read(&from));
        let total = from.size().get();
        assert_eq!(seen.last(), Some(&Walked { done: total, total, read: total }));
    }

    #[test]
    fn runs_begin_and_end_with_blocks_wherever_an_extent_begins() {
        let bytes = read(&striped());
        let mut runs = Vec::new();
        let mut visit = |at: ByteOffset, run: &[u8]| {
            runs.push((at.get(), run.len() as u64));
            Ok(())
        };
        runs_of(ByteOffset::new(50), &bytes[50..], &mut visit).expect("walked");
        let block = BLOCK_SIZE;
        assert_eq!(runs, [(50, block - 50), (3 * block, 2 * block), (7 * block, block), (10 * block, 100)]);
    }

    #[test]
    fn whoever_hears_of_the_pace_can_end_it() {
        let to = MemoryDisk::new(ByteCount::new(11 * BLOCK_SIZE));
        let stop = &mut |_| Err(Error::refused(Kind::Cancelled, "copy", "was cancelled"));
        assert_eq!(copy(&striped(), &to, stop).map_err(|error| error.kind()), Err(Kind::Cancelled));
        let dir = tempfile::tempdir().expect("a directory");
        let media = LinuxMedia::new(dir.path(), dir.path()).expect("a media");
        let file = media.open("file", OpenHow::Create).expect("a file");
        let stopped = copy_to_file(&striped(), &*file, stop);
        assert_eq!(stopped.map_err(|error| error.kind()), Err(Kind::Cancelled));
    }

    /// Pieces with data and without, more than threads.
    #[test]
    fn a_file_gets_all_that_is_not_zero() {
        let from = MemoryDisk::new(ByteCount::new((90 << 20) + 77));
        for mib in [0, 1, 7, 8, 30, 31, 32, 33, 34, 89] {
            from.write_at(ByteOffset::new((mib << 20) + 100 * mib), &vec![mib as u8 + 1; 900_000])
                .expect("written");
        }
        let dir = tempfile::tempdir().expect("a directory");
        let media = LinuxMedia::new(dir.path(), dir.path()).expect("a media");
        let file = media.open("file", OpenHow::Create).expect("a file");
        let mut last = None;
        let pace = &mut |walked: Walked| {
            last = Some(walked);
            Ok(())
        };
        let written = copy_to_file(&from, &*file, pace).expect("copied").get();
        assert!((9_000_000..9_100_000).contains(&written), "{written}");
        let mut back = vec![0; file.size().expect("a size") as usize];
        file.read_at(0, &mut back).expect("read");
        assert!(back == read(&from));
        let total = from.size().get();
        assert!(last.is_some_and(|last| (last.done, last.total) == (total, total) && last.read >= written));
    }
}
