//! A disk in memory: the simplest honest implementation of the block seams, for tests, examples and baselines.

use crate::sync::{Mutex, lock};
use crate::{
    BLOCK_SIZE, BlockDevice, BlockSource, ByteCount, ByteOffset, ByteRange, ExtentKind, Provision, Result,
    Visit, check_range, visit_last,
};

/// A disk in memory. Nothing of it survives the process; a flush only returns.
pub struct MemoryDisk {
    bytes: Mutex<Vec<u8>>,
    size: ByteCount,
}

impl MemoryDisk {
    /// A disk of zeros.
    ///
    /// # Panics
    /// If the size does not fit this machine's memory addresses.
    pub fn new(size: ByteCount) -> Self {
        let len = size.as_usize().expect("a memory disk fits the address space");
        Self { bytes: Mutex::new(vec![0; len]), size }
    }

    fn edit(&self, range: ByteRange, edit: impl FnOnce(&mut [u8])) -> Result<()> {
        check_range(range.offset(), range.count().get(), self.size)?;
        edit(&mut lock(&self.bytes)[range.start() as usize..range.end() as usize]);
        Ok(())
    }
}

impl BlockSource for MemoryDisk {
    fn size(&self) -> ByteCount {
        self.size
    }

    fn read_at(&self, offset: ByteOffset, buf: &mut [u8]) -> Result<()> {
        check_range(offset, buf.len() as u64, self.size)?;
        let start = offset.get() as usize;
        buf.copy_from_slice(&lock(&self.bytes)[start..start + buf.len()]);
        Ok(())
    }

    fn extents(&self, range: ByteRange, visit: &mut Visit<'_>) -> Result<()> {
        check_range(range.offset(), range.count().get(), self.size)?;
        visit_last(range, ExtentKind::Data, visit);
        Ok(())
    }
}

impl BlockDevice for MemoryDisk {
    fn write_at(&self, offset: ByteOffset, buf: &[u8]) -> Result<()> {
        check_range(offset, buf.len() as u64, self.size)?;
        let start = offset.get();
        self.edit(ByteRange::between(start, start + buf.len() as u64), |bytes| bytes.copy_from_slice(buf))
    }

    fn zero(&self, range: ByteRange, _provision: Provision) -> Result<()> {
        self.edit(range, |bytes| bytes.fill(0))
    }

    fn discard(&self, range: ByteRange) -> Result<()> {
        check_range(range.offset(), range.count().get(), self.size)?;
        // whole blocks only; the end of the disk ends its last block
        let end =
            if range.end() == self.size.get() { range.end() } else { range.end() / BLOCK_SIZE * BLOCK_SIZE };
        self.edit(ByteRange::between(range.start().next_multiple_of(BLOCK_SIZE).min(end), end), |b| b.fill(0))
    }

    fn flush(&self) -> Result<()> {
        Ok(())
    }
}
