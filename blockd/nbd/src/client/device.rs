//! The client as a block source and device.

use super::Client;
use super::session::{Command, Session};
use crate::error::Error;
use crate::limits::MAX_PAYLOAD_ADVERTISED;
use crate::wire::{self, Extent32};
use block::{
    BLOCK_SIZE, BlockDevice, BlockSource, ByteCount, ByteOffset, ByteRange, Extent, ExtentKind, Provision,
    Result, Visit, check_range,
};

/// Asked about or zeroed with one request. Servers accept up to 4 GiB; this keeps a round trip short.
const STRIDE: u64 = 1 << 30;

impl Client {
    /// The largest payload of one request, a multiple of the smallest block.
    fn payload_limit(&self) -> usize {
        let limit = self.terms.sizes.maximum.min(MAX_PAYLOAD_ADVERTISED);
        (limit - limit % self.terms.sizes.minimum) as usize
    }

    fn run<T>(
        &self,
        request: impl FnMut(&mut Session) -> std::result::Result<T, super::session::Fault>,
    ) -> Result<T> {
        self.pool.run(request).map_err(block::Error::other)
    }

    fn check_writable(&self) -> Result<()> {
        if self.read_only() {
            return Err(block::Error::other(Error::ReadOnly { at: self.uri.to_string() }));
        }
        Ok(())
    }

    fn lacks(&self, what: &'static str) -> block::Error {
        block::Error::other(Error::Lacks { at: self.uri.to_string(), what })
    }

    /// Whether the server takes requests at this offset and of this length.
    fn is_aligned(&self, offset: u64, count: u64) -> bool {
        (offset | count).is_multiple_of(u64::from(self.terms.sizes.minimum))
    }

    /// A read that the server's smallest block does not allow, through whole blocks.
    fn read_unaligned(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        let unit = u64::from(self.terms.sizes.minimum);
        let end = offset + buf.len() as u64;
        let mut block = vec![0; unit as usize];
        let mut at = offset;
        while at < end {
            let start = at / unit * unit;
            // the tail of an export whose size is not a multiple is out of reach; the server says so
            self.run(|session| session.read(start, &mut block))?;
            let until = end.min(start + unit);
            let part = &block[(at - start) as usize..(until - start) as usize];
            buf[(at - offset) as usize..(until - offset) as usize].copy_from_slice(part);
            at = until;
        }
        Ok(())
    }

    fn command_over(&self, range: ByteRange, number: u16, flags: u16) -> Result<()> {
        let mut at = range.start();
        while at < range.end() {
            let length = (range.end() - at).min(STRIDE) as u32;
            let command = Command { number, flags, offset: at, length };
            self.run(|session| session.command(command, &[]))?;
            at += u64::from(length);
        }
        Ok(())
    }

    /// Zeros, sent as bytes to a server that has no shorter way.
    fn write_zeros(&self, range: ByteRange) -> Result<()> {
        let zeros = vec![0; (1 << 20).min(range.count().get()) as usize];
        let mut at = range.start();
        while at < range.end() {
            let count = (range.end() - at).min(zeros.len() as u64);
            self.write_at(ByteOffset::new(at), &zeros[..count as usize])?;
            at += count;
        }
        Ok(())
    }
}

impl Client {
    /// What the server says of a range in the context that was asked for: ascending, without gaps, with the flags that context has.
    ///
    /// # Errors
    /// What a request reports.
    pub fn flagged(&self, range: ByteRange, visit: &mut dyn FnMut(ByteRange, u32)) -> Result<()> {
        check_range(range.offset(), range.count().get(), self.size())?;
        let (mut at, mut extents) = (range.start(), Vec::new());
        while at < range.end() {
            let length = (range.end() - at).min(STRIDE) as u32;
            self.run(|session| {
                extents.clear();
                session.status(at, length, &mut extents)
            })?;
            for extent in &extents {
                let end = at.saturating_add(u64::from(extent.length)).min(range.end());
                visit(ByteRange::between(at, end), extent.flags);
                at = end;
            }
        }
        Ok(())
    }
}

impl BlockSource for Client {
    fn size(&self) -> ByteCount {
        ByteCount::new(self.terms.facts.size)
    }

    fn read_at(&self, offset: ByteOffset, buf: &mut [u8]) -> Result<()> {
        check_range(offset, buf.len() as u64, self.size())?;
        if !self.is_aligned(offset.get(), buf.len() as u64) {
            return self.read_unaligned(offset.get(), buf);
        }
        let mut at = offset.get();
        for part in buf.chunks_mut(self.payload_limit()) {
            self.run(|session| session.read(at, part))?;
            at += part.len() as u64;
        }
        Ok(())
    }

    fn extents(&self, range: ByteRange, visit: &mut Visit<'_>) -> Result<()> {
        check_range(range.offset(), range.count().get(), self.size())?;
        if !self.knows_extents() {
            block::visit_last(range, ExtentKind::Data, visit);
            return Ok(());
        }
        let unit = u64::from(self.terms.sizes.minimum);
        // a server may refuse to look at half a block
        let mut at = range.start() / unit * unit;
        let mut extents = Vec::new();
        while at < range.end() {
            let length = (range.end().next_multiple_of(unit).min(self.size().get()) - at).min(STRIDE) as u32;
            extents.clear();
            self.run(|session| {
                extents.clear();
                session.status(at, length, &mut extents)
            })?;
            for &extent in &extents {
                let end = at.saturating_add(u64::from(extent.length));
                let part = ByteRange::between(at, end).intersect(range);
                at = end;
                if !part.is_empty() && visit(Extent { range: part, kind: kind(extent) }).is_break() {
                    return Ok(());
                }
            }
        }
        Ok(())
    }
}

/// What `base:allocation` means. A hole that is not said to be zero holds anything and must be read.
fn kind(extent: Extent32) -> ExtentKind {
    match (extent.flags & wire::STATE_ZERO != 0, extent.flags & wire::STATE_HOLE != 0) {
        (true, true) => ExtentKind::Hole,
        (true, false) => ExtentKind::Zero,
        (false, _) => ExtentKind::Data,
    }
}

impl BlockDevice for Client {
    fn write_at(&self, offset: ByteOffset, buf: &[u8]) -> Result<()> {
        check_range(offset, buf.len() as u64, self.size())?;
        self.check_writable()?;
        if !self.is_aligned(offset.get(), buf.len() as u64) {
            return Err(self.lacks("writes of parts of its blocks"));
        }
        let mut at = offset.get();
        for part in buf.chunks(self.payload_limit()) {
            let command =
                Command { number: wire::CMD_WRITE, flags: 0, offset: at, length: part.len() as u32 };
            self.run(|session| session.command(command, part))?;
            at += part.len() as u64;
        }
        Ok(())
    }

    fn zero(&self, range: ByteRange, provision: Provision) -> Result<()> {
        check_range(range.offset(), range.count().get(), self.size())?;
        self.check_writable()?;
        if !self.terms.has(wire::SEND_WRITE_ZEROES) || !self.is_aligned(range.start(), range.count().get()) {
            return self.write_zeros(range);
        }
        let flags = match provision {
            Provision::Sparse => 0,
            Provision::Allocated => wire::CMD_FLAG_NO_HOLE,
        };
        self.command_over(range, wire::CMD_WRITE_ZEROES, flags)
    }

    /// Zeros the whole blocks inside. NBD's own trim leaves their content undefined, this leaves zeros, and servers
    /// give the space back for either.
    fn discard(&self, range: ByteRange) -> Result<()> {
        check_range(range.offset(), range.count().get(), self.size())?;
        self.check_writable()?;
        let end = if range.end() == self.size().get() {
            range.end()
        } else {
            range.end() / BLOCK_SIZE * BLOCK_SIZE
        };
        let inside = ByteRange::between(range.start().next_multiple_of(BLOCK_SIZE), end);
        if inside.is_empty() { Ok(()) } else { self.zero(inside, Provision::Sparse) }
    }

    fn flush(&self) -> Result<()> {
        if self.read_only() {
            return Ok(());
        }
        if !self.terms.has(wire::SEND_FLUSH) {
            return Err(self.lacks("a flush"));
        }
        let command = Command { number: wire::CMD_FLUSH, flags: 0, offset: 0, length: 0 };
        self.run(|session| session.command(command, &[]))
    }
}
