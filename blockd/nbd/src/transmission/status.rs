//! Block status: the extents of an export.

use super::{Transmission, refused};
use crate::buffer::Outbox;
use crate::handshake::Context;
use crate::limits::MAX_STATUS_EXTENTS;
use crate::wire::{self, ChunkHeader, Extent32, Request};
use block::{ByteRange, ExtentKind};
use std::ops::ControlFlow;

/// Descriptors on their way out. Lengths are 64-bit until a descriptor is written.
struct Descriptors<'a> {
    out: &'a mut Outbox,
    open: Option<(u64, u32)>,
    written: usize,
    limit: usize,
}

impl Descriptors<'_> {
    /// Adds an extent; says whether there is room for more.
    fn add(&mut self, length: u64, flags: u32) -> bool {
        match &mut self.open {
            Some((open, of)) if *of == flags => *open += length,
            Some(_) => {
                if !self.close() {
                    return false;
                }
                self.open = Some((length, flags));
            }
            None => self.open = Some((length, flags)),
        }
        true
    }

    /// Writes the open descriptor; says whether another may follow it.
    fn close(&mut self) -> bool {
        if let Some((length, flags)) = self.open.take() {
            // the one place where a length becomes 32 bits wide; what is cut off, the client asks for again
            let clamped = u32::try_from(length).unwrap_or(!0xfff);
            self.out.put(&Extent32 { length: clamped, flags }.encode());
            self.written += 1;
            if u64::from(clamped) < length {
                self.limit = self.written;
            }
        }
        self.written < self.limit
    }
}

impl Transmission {
    /// Answers a block status request of at least one byte.
    pub(super) fn status(&self, request: &Request, out: &mut Outbox) {
        let cookie = request.cookie;
        let range = ByteRange::between(request.offset, request.offset + u64::from(request.length));
        let limit = if request.flags & wire::CMD_FLAG_REQ_ONE != 0 { 1 } else { MAX_STATUS_EXTENTS };
        let begin = out.len();
        for (index, context) in self.contexts.iter().enumerate() {
            let last = index + 1 == self.contexts.len();
            if let Err(error) = self.put_context(*context, cookie, range, limit, last, out) {
                out.truncate(begin);
                let (errno, why) = refused(error);
                return self.fail(cookie, request.command, errno, &why, out);
            }
        }
        out.count_reply();
    }

    fn put_context(
        &self,
        context: Context,
        cookie: u64,
        range: ByteRange,
        limit: usize,
        last: bool,
        out: &mut Outbox,
    ) -> Result<(), block::Error> {
        let header_at = out.len();
        out.space(ChunkHeader::LEN);
        out.put(&context.id().to_be_bytes());
        let mut descriptors = Descriptors { out, open: None, written: 0, limit };
        match context {
            Context::Allocation => self.access.source().extents(range, &mut |extent| {
                let more = descriptors.add(extent.range.count().get(), allocation_flags(extent.kind));
                if more { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
            })?,
        }
        descriptors.close();
        if descriptors.written == 0 {
            return Err(block::Error::corrupt("the map of the export", Some(range.start()), "no extent"));
        }
        let length = (out.len() - header_at - ChunkHeader::LEN) as u32;
        let flags = if last { wire::REPLY_FLAG_DONE } else { 0 };
        let header = ChunkHeader { flags, kind: wire::REPLY_BLOCK_STATUS, cookie, length };
        out.patch(header_at, &header.encode());
        Ok(())
    }
}

/// How `base:allocation` calls an extent. The three kinds stay distinct, so that a client can tell them apart.
fn allocation_flags(kind: ExtentKind) -> u32 {
    match kind {
        ExtentKind::Data => 0,
        ExtentKind::Zero => wire::STATE_ZERO,
        ExtentKind::Hole => wire::STATE_HOLE | wire::STATE_ZERO,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn encoded(extents: &[(u64, u32)], limit: usize) -> Vec<(u32, u32)> {
        let mut out = Outbox::new();
        let mut descriptors = Descriptors { out: &mut out, open: None, written: 0, limit };
        extents.iter().all(|&(length, flags)| descriptors.add(length, flags));
        descriptors.close();
        let pairs = out.filled().chunks(8).map(|bytes| {
            let extent = Extent32::decode(bytes.try_into().expect("eight bytes")).expect("a length");
            (extent.length, extent.flags)
        });
        pairs.collect()
    }

    #[test]
    fn neighbours_melt_and_the_limit_holds() {
        assert_eq!(encoded(&[(1, 0), (2, 0), (3, 3), (4, 3), (5, 0)], 9), [(3, 0), (7, 3), (5, 0)]);
        assert_eq!(encoded(&[(1, 0), (2, 0), (3, 3), (4, 0)], 1), [(3, 0)]);
        assert_eq!(encoded(&[(1, 0), (2, 3), (4, 0)], 2), [(1, 0), (2, 3)]);
    }

    /// Servers and clients have crashed at this edge.
    #[test]
    fn lengths_past_32_bits_are_clamped_once_and_end_the_list() {
        assert_eq!(encoded(&[(1 << 33, 3), (5, 0)], 9), [(0xffff_f000, 3)]);
        assert_eq!(encoded(&[(0xffff_ffff, 3), (5, 0)], 9), [(0xffff_ffff, 3), (5, 0)]);
        assert_eq!(encoded(&[(0xffff_ffff, 3), (1, 3), (5, 0)], 9), [(0xffff_f000, 3)]);
    }
}
