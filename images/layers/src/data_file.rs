//! A layer's bytes: one file laid out like the disk, or several where one would be longer than the host's filesystem
//! allows (ext4 ends a file one block before 16 TiB).

use crate::active::Place;
use crate::files::OpenFiles;
use crate::names::{Numbered, must_exist};
use block::sync::Arc;
use block::{BLOCK_SIZE, ByteRange, Error, MediaFile, OpenHow, Result};
use std::os::fd::BorrowedFd;

/// Bytes of a layer in one file: 8 TiB. Only disks larger than that have layers of several files.
const SEGMENT_BYTES: u64 = 8 << 40;

/// The files of a layer of this many blocks, in order, each with its length.
pub(crate) fn segments(number: u64, blocks: u64) -> impl Iterator<Item = (Numbered, u64)> {
    let data_len = blocks * BLOCK_SIZE;
    let count = data_len.div_ceil(SEGMENT_BYTES).max(1);
    (0..count).map(move |segment| {
        let len = (data_len - segment * SEGMENT_BYTES).min(SEGMENT_BYTES);
        (Numbered::Data(number, segment as u8), len)
    })
}

/// The file of a layer that holds this byte of the disk.
pub(crate) fn at(number: u64, offset: u64) -> Numbered {
    Numbered::Data(number, (offset / SEGMENT_BYTES) as u8)
}

/// Makes the empty files of a layer for a disk of the place's size.
pub(crate) fn create(place: &Place<'_>, number: u64) -> Result<Arc<dyn MediaFile>> {
    let make = |(name, len): (Numbered, u64)| {
        let file = place.media.open(&place.path(name), OpenHow::Truncate)?;
        file.set_len(len)?;
        file.sync()?;
        Ok(file)
    };
    Ok(joined(segments(number, place.blocks()).map(make).collect::<Result<_>>()?))
}

/// Opens the files of a layer of this many blocks and checks that none of it is missing.
pub(crate) fn open(place: &Place<'_>, number: u64, blocks: u64, how: OpenHow) -> Result<Arc<dyn MediaFile>> {
    let take = |(name, expected): (Numbered, u64)| {
        let path = place.path(name);
        let file = must_exist(&path, place.media.open(&path, how))?;
        match file.size()? {
            len if len == expected => Ok(file),
            len => Err(Error::corrupt(path, None, format!("{len} bytes long, should be {expected}"))),
        }
    };
    Ok(joined(segments(number, blocks).map(take).collect::<Result<_>>()?))
}

/// The files of a layer of this many blocks, each to be opened when it is read.
pub(crate) fn lazy(
    place: &Place<'_>,
    files: &Arc<OpenFiles>,
    number: u64,
    blocks: u64,
) -> Arc<dyn MediaFile> {
    joined(segments(number, blocks).map(|(name, _)| files.lazy(place.path(name))).collect())
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
