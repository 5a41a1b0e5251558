//! One open file.

use crate::{ByteRange, Error, MediaFile, Result};
use rustix::fs::{FallocateFlags, SeekFrom, copy_file_range, fallocate, fdatasync, seek};
use rustix::io::{Errno, ReadWriteFlags, preadv2};
use std::fs::File;
use std::io::IoSliceMut;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{FileExt, FileTypeExt};
use std::sync::OnceLock;

/// An open file of the host.
pub(super) struct LinuxFile {
    pub(super) file: File,
    pub(super) path: String,
    /// The same file for writes past memory, once there was one; none where that cannot be.
    pub(super) direct: OnceLock<Option<File>>,
}

impl LinuxFile {
    fn failed(&self, op: &'static str, offset: Option<u64>, source: impl Into<std::io::Error>) -> Error {
        Error::host(op, &self.path, offset, source.into())
    }

    /// The first data at or after `offset`, as (start, end); `None` if only holes follow.
    fn next_data(&self, offset: u64) -> Result<Option<(u64, u64)>> {
        let failed = |errno: Errno| self.failed("find data in", Some(offset), errno);
        let start = match seek(&self.file, SeekFrom::Data(offset)) {
            Ok(start) => start,
            Err(Errno::NXIO) => return Ok(None),
            // a block device knows no holes
            Err(Errno::INVAL) => return Ok(Some((offset, u64::MAX))),
            Err(errno) => return Err(failed(errno)),
        };
        let end = seek(&self.file, SeekFrom::Hole(start)).map_err(failed)?;
        Ok(Some((start, end)))
    }
}

impl MediaFile for LinuxFile {
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        self.file.read_exact_at(buf, offset).map_err(|source| match source.kind() {
            std::io::ErrorKind::UnexpectedEof => {
                let size = self.file.metadata().map_or(0, |meta| meta.len());
                Error::OutOfRange { offset, count: buf.len() as u64, size }
            }
            _ => self.failed("read", Some(offset), source),
        })
    }

    fn read_cached(&self, offset: u64, buf: &mut [u8]) -> Result<bool> {
        let whole = buf.len();
        let read = preadv2(&self.file, &mut [IoSliceMut::new(buf)], offset, ReadWriteFlags::NOWAIT);
        match read {
            Ok(count) => Ok(count == whole),
            Err(Errno::AGAIN | Errno::INTR) => Ok(false),
            // a filesystem that cannot say: tmpfs of old kernels, FUSE
            Err(Errno::OPNOTSUPP) => self.read_at(offset, buf).map(|()| true),
            Err(errno) => Err(self.failed("read", Some(offset), errno)),
        }
    }

    fn is_cached(&self, range: ByteRange) -> bool {
        super::cachestat::is_cached(self.file.as_fd(), range)
    }

    fn write_at(&self, offset: u64, buf: &[u8]) -> Result<()> {
        self.file.write_all_at(buf, offset).map_err(|source| self.failed("write", Some(offset), source))
    }

    fn write_past(&self, offset: u64, buf: &[u8]) -> Result<()> {
        let direct = self.direct.get_or_init(|| super::direct::reopen(&self.file));
        let front = direct.as_ref().map_or(Ok(0), |direct| super::direct::write_front(direct, offset, buf));
        let front = front.map_err(|source| self.failed("write", Some(offset), source))?;
        self.write_at(offset + front as u64, &buf[front..])
    }

    fn sync(&self) -> Result<()> {
        fdatasync(&self.file).map_err(|errno| self.failed("sync", None, errno))
    }

    fn size(&self) -> Result<u64> {
        let meta = self.file.metadata().map_err(|source| self.failed("look at", None, source))?;
        if meta.file_type().is_block_device() {
            return seek(&self.file, SeekFrom::End(0)).map_err(|errno| self.failed("measure", None, errno));
        }
        Ok(meta.len())
    }

    fn set_len(&self, len: u64) -> Result<()> {
        self.file.set_len(len).map_err(|source| self.failed("resize", Some(len), source))
    }

    fn allocate(&self, range: ByteRange) -> Result<()> {
        if range.is_empty() {
            return Ok(());
        }
        fallocate(&self.file, FallocateFlags::empty(), range.start(), range.count().get())
            .map_err(|errno| self.failed("allocate space in", Some(range.start()), errno))
    }

    fn punch(&self, range: ByteRange) -> Result<()> {
        if range.is_empty() {
            return Ok(());
        }
        let how = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        fallocate(&self.file, how, range.start(), range.count().get())
            .map_err(|errno| self.failed("punch a hole into", Some(range.start()), errno))
    }

    fn copy_range(&self, range: ByteRange, to: &dyn MediaFile, to_offset: u64) -> Result<()> {
        let Some(target) = to.fast_fd() else {
            return crate::media::copy_bytes(self, range, to, to_offset);
        };
        let (mut from, mut into, mut left) = (range.start(), to_offset, range.count().get());
        while left > 0 {
            let step = usize::try_from(left).unwrap_or(usize::MAX);
            let copied = copy_file_range(&self.file, Some(&mut from), target, Some(&mut into), step)
                .map_err(|errno| self.failed("copy from", Some(range.start()), errno))?;
            if copied == 0 {
                let size = self.size()?;
                return Err(Error::OutOfRange { offset: range.start(), count: range.count().get(), size });
            }
            left -= copied as u64;
        }
        Ok(())
    }

    fn data_ranges(&self, range: ByteRange) -> Result<Vec<ByteRange>> {
        let mut found = Vec::new();
        let mut at = range.start();
        while at < range.end() {
            let Some((start, end)) = self.next_data(at)? else { break };
            if start >= range.end() {
                break;
            }
            found.push(ByteRange::between(start, end.min(range.end())));
            at = end;
        }
        Ok(found)
    }

    fn fast_fd(&self) -> Option<BorrowedFd<'_>> {
        Some(self.file.as_fd())
    }
}
