//! Replies that carry no data, and the headers of those that do.

use super::Transmission;
use crate::limits::MAX_TEXT_LEN;
use crate::outbox::Outbox;
use crate::wire::{self, ChunkHeader, Errno, ExtendedHeader, ReplyStyle, Request, SimpleReply};

impl Transmission {
    /// Appends the header of a chunk with `length` bytes of payload.
    pub(super) fn put_chunk(&self, request: &Request, flags: u16, kind: u16, length: u32, out: &mut Outbox) {
        if self.style == ReplyStyle::Extended {
            out.put(&ExtendedHeader::answering(request, flags, kind, length).encode());
        } else {
            out.put(&ChunkHeader { flags, kind, cookie: request.cookie, length }.encode());
        }
    }

    /// Overwrites a header that was left open until its length was known.
    pub(super) fn patch_chunk(
        &self,
        at: usize,
        request: &Request,
        flags: u16,
        kind: u16,
        length: u32,
        out: &mut Outbox,
    ) {
        if self.style == ReplyStyle::Extended {
            out.patch(at, &ExtendedHeader::answering(request, flags, kind, length).encode());
        } else {
            out.patch(at, &ChunkHeader { flags, kind, cookie: request.cookie, length }.encode());
        }
    }

    /// Bytes of the header of a chunk.
    pub(super) fn chunk_header_len(&self) -> usize {
        if self.style == ReplyStyle::Extended { ExtendedHeader::LEN } else { ChunkHeader::LEN }
    }

    /// Appends a success without data. Where the client leaves a choice it is the shorter simple reply.
    pub(super) fn succeed(&self, request: &Request, out: &mut Outbox) {
        let needs_chunk = match self.style {
            ReplyStyle::Simple => false,
            ReplyStyle::Structured => matches!(request.command, wire::CMD_READ | wire::CMD_BLOCK_STATUS),
            ReplyStyle::Extended => true,
        };
        if needs_chunk {
            self.put_chunk(request, wire::REPLY_FLAG_DONE, wire::REPLY_NONE, 0, out);
        } else {
            out.put(&SimpleReply { errno: Errno::NONE, cookie: request.cookie }.encode());
        }
        out.count_reply(request.command);
    }

    /// Appends a failure; chunks carry the reason.
    pub(super) fn fail(&self, request: &Request, errno: Errno, why: &str, out: &mut Outbox) {
        self.cells.count_error(request.command);
        let why = &format!("{}: {why}", wire::in_words(request.command, request.offset, request.length));
        if self.style == ReplyStyle::Simple {
            out.put(&SimpleReply { errno, cookie: request.cookie }.encode());
        } else {
            self.put_error(request, wire::REPLY_FLAG_DONE, errno, why, out);
        }
        out.count_reply(request.command);
    }

    /// Appends a chunk that says what failed.
    pub(super) fn put_error(&self, request: &Request, flags: u16, errno: Errno, why: &str, out: &mut Outbox) {
        let why = &why[..why.floor_char_boundary(MAX_TEXT_LEN)];
        self.put_chunk(request, flags, wire::REPLY_ERROR, 6 + why.len() as u32, out);
        out.put(&errno.0.to_be_bytes());
        out.put(&(why.len() as u16).to_be_bytes());
        out.put(why.as_bytes());
    }
}
