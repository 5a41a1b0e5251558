//! Replies that carry no data.

use super::Transmission;
use crate::buffer::Outbox;
use crate::limits::MAX_TEXT_LEN;
use crate::wire::{self, ChunkHeader, Errno, SimpleReply};

impl Transmission {
    /// Appends a success without data. A read must be answered by a chunk once replies are structured; everything
    /// else by the shorter simple reply.
    pub(super) fn succeed(&self, cookie: u64, command: u16, out: &mut Outbox) {
        let needs_chunk = matches!(command, wire::CMD_READ | wire::CMD_BLOCK_STATUS);
        if self.structured && needs_chunk {
            let (flags, kind) = (wire::REPLY_FLAG_DONE, wire::REPLY_NONE);
            out.put(&ChunkHeader { flags, kind, cookie, length: 0 }.encode());
        } else {
            out.put(&SimpleReply { errno: Errno::NONE, cookie }.encode());
        }
        out.count_reply();
    }

    /// Appends a failure; structured replies carry the reason.
    pub(super) fn fail(&self, cookie: u64, command: u16, errno: Errno, why: &str, out: &mut Outbox) {
        self.cells.count_error(command);
        if self.structured {
            let why = &why[..why.floor_char_boundary(MAX_TEXT_LEN)];
            let (flags, kind) = (wire::REPLY_FLAG_DONE, wire::REPLY_ERROR);
            out.put(&ChunkHeader { flags, kind, cookie, length: 6 + why.len() as u32 }.encode());
            out.put(&errno.0.to_be_bytes());
            out.put(&(why.len() as u16).to_be_bytes());
            out.put(why.as_bytes());
        } else {
            out.put(&SimpleReply { errno, cookie }.encode());
        }
        out.count_reply();
    }
}
