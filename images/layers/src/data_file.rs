//! A layer's bytes: one file laid out like the disk, or several where one would be longer than the host's filesystem
//! allows (ext4 ends a file one block before 16 TiB).

use crate::active::Place;
use crate::names::Numbered;
use block::sync::Arc;
use block::{ByteRange, Error, MediaFile, OpenHow, Result};
use std::os::fd::BorrowedFd;

/// Bytes of a layer in one file: 8 TiB. Only disks larger than that have layers of several files.
const SEGMENT_BYTES: u64 = 8 << 40;

/// The files of a layer for a disk of this many bytes, in order, each with its length.
pub(crate) fn segments(number: u64, data_len: u64) -> impl Iterator<Item = (Numbered, u64)> {
    let count = data_len.div_ceil(SEGMENT_BYTES).max(1);
    (0..count).map(move |segment| {
        let len = (data_len - segment * SEGMENT_BYTES).min(SEGMENT_BYTES);
        (Numbered::Data(number, segment as u8), len)
    })
}

/// Makes a layer's empty files.
pub(crate) fn create(place: &Place<'_>, number: u64) -> Result<Arc<dyn MediaFile>> {
    let make = |(name, len): (Numbered, u64)| {
        let file = place.media.open(&place.path(name), OpenHow::Truncate)?;
        file.set_len(len)?;
        file.sync()?;
        Ok(file)
    };
    Ok(joined(segments(number, place.data_len()).map(make).collect::<Result<_>>()?))
}

/// Opens a layer's files and checks that none of it is missing.
pub(crate) fn open(place: &Place<'_>, number: u64, how: OpenHow) -> Result<Arc<dyn MediaFile>> {
    let take = |(name, expected): (Numbered, u64)| {
        let path = place.path(name);
        let file = place.media.open(&path, how)?;
        match file.size()? {
            len if len == expected => Ok(file),
            len => Err(Error::corrupt(path, None, format!("{len} bytes long, should be {expected}"))),
        }
    };
    Ok(joined(segments(number, place.data_len()).map(take).collect::<Result<_>>()?))
}

fn joined(mut files: Vec<Arc<dyn MediaFile>>) -> Arc<dyn MediaFile> {
    if files.len() == 1 { files.remove(0) } else { Arc::new(Segmented { files }) }
}

/// Several files as one.
struct Segmented {
    files: Vec<Arc<dyn MediaFile>>,
}

impl Segmented {
    /// Calls `act(file, offset in it, offset in the range, count)` for each file the range touches.
    fn each(
        &self,
        range: ByteRange,
        mut act: impl FnMut(&dyn MediaFile, u64, usize, usize) -> Result<()>,
    ) -> Result<()> {
        let mut at = range.start();
        while at < range.end() {
            let segment = at / SEGMENT_BYTES;
            let until = range.end().min((segment + 1) * SEGMENT_BYTES);
            let past_end = || Error::OutOfRange {
                offset: at,
                count: until - at,
                size: self.files.len() as u64 * SEGMENT_BYTES,
            };
            let file = self.files.get(segment as usize).ok_or_else(past_end)?;
            act(&**file, at % SEGMENT_BYTES, (at - range.start()) as usize, (until - at) as usize)?;
            at = until;
        }
        Ok(())
    }
}

fn range(offset: u64, count: usize) -> ByteRange {
    ByteRange::between(offset, offset + count as u64)
}

impl MediaFile for Segmented {
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        self.each(range(offset, buf.len()), |file, at, from, count| {
            file.read_at(at, &mut buf[from..from + count])
        })
    }

    fn write_at(&self, offset: u64, buf: &[u8]) -> Result<()> {
        self.each(range(offset, buf.len()), |file, at, from, count| {
            file.write_at(at, &buf[from..from + count])
        })
    }

    fn sync(&self) -> Result<()> {
        self.files.iter().try_for_each(|file| file.sync())
    }

    fn size(&self) -> Result<u64> {
        self.files.iter().map(|file| file.size()).sum()
    }

    fn set_len(&self, _len: u64) -> Result<()> {
        Err(Error::refused(block::Kind::Unsupported, "a layer of several files", "keeps its length"))
    }

    fn allocate(&self, bytes: ByteRange) -> Result<()> {
        self.each(bytes, |file, at, _, count| file.allocate(range(at, count)))
    }

    fn punch(&self, bytes: ByteRange) -> Result<()> {
        self.each(bytes, |file, at, _, count| file.punch(range(at, count)))
    }

    fn copy_range(&self, bytes: ByteRange, to: &dyn MediaFile, to_offset: u64) -> Result<()> {
        const STEP: u64 = 1 << 20;
        let mut buf = vec![0; STEP.min(bytes.count().get()) as usize];
        let mut at = bytes.start();
        while at < bytes.end() {
            let piece = &mut buf[..STEP.min(bytes.end() - at) as usize];
            self.read_at(at, piece)?;
            to.write_at(to_offset + (at - bytes.start()), piece)?;
            at += piece.len() as u64;
        }
        Ok(())
    }

    fn data_ranges(&self, bytes: ByteRange) -> Result<Vec<ByteRange>> {
        let mut found = Vec::new();
        self.each(bytes, |file, at, from, count| {
            let base = bytes.start() + from as u64 - at;
            for range in file.data_ranges(range(at, count))? {
                found.push(ByteRange::between(base + range.start(), base + range.end()));
            }
            Ok(())
        })?;
        Ok(found)
    }

    fn fast_fd(&self) -> Option<BorrowedFd<'_>> {
        None
    }
}
