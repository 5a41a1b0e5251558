//! Block status: the extents of an export.

use super::{Refused, Transmission, refused};
use crate::handshake::Context;
use crate::limits::MAX_STATUS_EXTENTS;
use crate::outbox::Outbox;
use crate::wire::{self, Errno, Extent32, Extent64, ReplyStyle, Request};
use block::{ByteRange, ExtentKind};
use std::ops::ControlFlow;

/// Descriptors on their way out. Lengths are 64-bit until a descriptor is written.
struct Descriptors<'a> {
    out: &'a mut Outbox,
    style: ReplyStyle,
    open: Option<(u64, u32)>,
    written: u32,
    limit: u32,
}

impl Descriptors<'_> {
    /// Adds an extent; breaks when there is no room for more.
    fn add(&mut self, length: u64, flags: u32) -> ControlFlow<()> {
        match &mut self.open {
            Some((open, of)) if *of == flags => *open += length,
            _ => {
                self.close()?;
                self.open = Some((length, flags));
            }
        }
        ControlFlow::Continue(())
    }

    /// Writes the open descriptor; breaks if it was the last one that may be.
    fn close(&mut self) -> ControlFlow<()> {
        let Some((length, flags)) = self.open.take() else { return ControlFlow::Continue(()) };
        if self.style == ReplyStyle::Extended {
            self.out.put(&Extent64 { length, flags: flags.into() }.encode());
        } else {
            // the one place where a length becomes 32 bits wide; what is cut off, the client asks for again
            let clamped = u32::try_from(length).unwrap_or(!0xfff);
            self.out.put(&Extent32 { length: clamped, flags }.encode());
            if u64::from(clamped) < length {
                self.limit = self.written + 1;
            }
        }
        self.written += 1;
        if self.written < self.limit { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    }
}

impl Transmission {
    /// Answers a block status request.
    pub(super) fn status(&self, request: &Request, payload: &[u8], out: &mut Outbox) -> Result<(), Refused> {
        let (length, wanted) = self.asked(request, payload)?;
        let range = ByteRange::between(request.offset, request.offset + length);
        if range.is_empty() {
            self.succeed(request, out);
            return Ok(());
        }
        let begin = out.len();
        for (index, context) in wanted.iter().enumerate() {
            let flags = if index + 1 == wanted.len() { wire::REPLY_FLAG_DONE } else { 0 };
            if let Err(error) = self.put_context(context, request, range, flags, out) {
                out.truncate(begin);
                return Err(refused(error));
            }
        }
        out.count_reply(request.command);
        Ok(())
    }

    /// The bytes and the contexts a block status request is about: its payload names them, if it has one.
    fn asked(&self, request: &Request, payload: &[u8]) -> Result<(u64, Vec<&Context>), Refused> {
        if request.flags & wire::CMD_FLAG_PAYLOAD_LEN == 0 {
            return Ok((request.length, self.contexts.iter().collect()));
        }
        let invalid = |why: String| (Errno::INVALID, why);
        let odd = || invalid(format!("a payload of {} bytes is no list of contexts", payload.len()));
        let (length, ids) = payload.split_first_chunk().ok_or_else(odd)?;
        let (ids, rest) = ids.as_chunks();
        if !rest.is_empty() || ids.is_empty() || ids.len() > self.contexts.len() {
            return Err(odd());
        }
        let mut wanted: Vec<&Context> = Vec::new();
        for id in ids {
            let id = u32::from_be_bytes(*id);
            let context = self.contexts.iter().find(|context| context.id() == id);
            let context = context.ok_or_else(|| invalid(format!("no context {id} was selected")))?;
            if wanted.contains(&context) {
                return Err(invalid(format!("context {id} twice")));
            }
            wanted.push(context);
        }
        let length = u64::from_be_bytes(*length);
        self.check_end(request.command, request.offset, length)?;
        Ok((length, wanted))
    }

    fn put_context(
        &self,
        context: &Context,
        request: &Request,
        range: ByteRange,
        flags: u16,
        out: &mut Outbox,
    ) -> Result<(), block::Error> {
        let header_at = out.len();
        let head = self.chunk_header_len();
        let extended = self.style == ReplyStyle::Extended;
        out.space(head);
        out.put(&context.id().to_be_bytes());
        // extended replies say how many descriptors follow
        let count_at = out.len();
        out.put(if extended { &[0; 4] } else { &[] });
        let limit = if request.flags & wire::CMD_FLAG_REQ_ONE != 0 { 1 } else { MAX_STATUS_EXTENTS };
        let mut descriptors = Descriptors { out, style: self.style, open: None, written: 0, limit };
        match context {
            Context::Allocation => self.access.source().extents(range, &mut |extent| {
                descriptors.add(extent.range.count().get(), allocation_flags(extent.kind))
            })?,
            Context::Offered { status, .. } => {
                status.status(range, &mut |length, flags| descriptors.add(length, flags))?
            }
        }
        // the last descriptor, whether or not another could follow
        let _room = descriptors.close();
        let written = descriptors.written;
        if written == 0 {
            return Err(block::Error::corrupt("the map of the export", Some(range.start()), "no extent"));
        }
        let length = (out.len() - header_at - head) as u32;
        let kind = if extended { wire::REPLY_BLOCK_STATUS_EXT } else { wire::REPLY_BLOCK_STATUS };
        if extended {
            out.patch(count_at, &written.to_be_bytes());
        }
        self.patch_chunk(header_at, request, flags, kind, length, out);
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

    fn descriptors(out: &mut Outbox, style: ReplyStyle, limit: u32, extents: &[(u64, u32)]) {
        let mut descriptors = Descriptors { out, style, open: None, written: 0, limit };
        let full = extents.iter().any(|&(length, flags)| descriptors.add(length, flags).is_break());
        assert!(!full || descriptors.open.is_none());
        let _room = descriptors.close();
    }

    fn encoded(extents: &[(u64, u32)], limit: u32) -> Vec<(u32, u32)> {
        let mut out = Outbox::new();
        descriptors(&mut out, ReplyStyle::Structured, limit, extents);
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

    #[test]
    fn extended_descriptors_keep_64_bits() {
        let mut out = Outbox::new();
        descriptors(&mut out, ReplyStyle::Extended, 9, &[(1 << 33, 3), (1 << 34, 3), (5, 0)]);
        let found = out.filled().chunks(16).map(|bytes| {
            let extent = Extent64::decode(bytes.try_into().expect("sixteen bytes")).expect("a length");
            (extent.length, extent.flags)
        });
        assert_eq!(found.collect::<Vec<_>>(), [(3 << 33, 3), (5, 0)]);
    }
}
