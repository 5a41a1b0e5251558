//! Reads: simple ones, chunks of data and holes, and bringing a range near.

use super::{Refused, Transmission, refused};
use crate::buffer::Outbox;
use crate::limits::{MAX_PAYLOAD, MAX_PAYLOAD_ADVERTISED, READ_CHUNK};
use crate::wire::{self, ChunkHeader, Errno, Request, SimpleReply};
use block::{BLOCK_SIZE, ByteOffset, ByteRange, ExtentKind};
use std::ops::ControlFlow;

/// A read that is answered in pieces.
pub(super) struct Reading {
    cookie: u64,
    rest: ByteRange,
}

/// A piece of a read: bytes that are sent, or zeros that are only named.
struct Piece {
    range: ByteRange,
    zeros: bool,
}

impl Transmission {
    /// Answers a read, or begins to.
    pub(super) fn read(&mut self, request: &Request, out: &mut Outbox) {
        let Request { cookie, command, offset, length, .. } = *request;
        let whole = request.flags & wire::CMD_FLAG_DF != 0;
        let limit = if whole { MAX_PAYLOAD_ADVERTISED } else { MAX_PAYLOAD };
        if length > limit {
            // only structured replies know this number
            let errno = if self.structured { Errno::OVERFLOW } else { Errno::INVALID };
            return self.fail(
                cookie,
                command,
                errno,
                &format!("a read of {length} bytes, at most {limit}"),
                out,
            );
        }
        let range = ByteRange::between(offset, offset + u64::from(length));
        if range.is_empty() {
            self.succeed(cookie, command, out);
        } else if !self.structured {
            self.read_simple(cookie, range, out);
        } else if whole || u64::from(length) <= BLOCK_SIZE {
            self.put_data(cookie, range, true, out);
        } else {
            self.reading = self.read_on(Reading { cookie, rest: range }, out);
        }
    }

    fn read_simple(&self, cookie: u64, range: ByteRange, out: &mut Outbox) {
        let begin = out.len();
        out.put(&SimpleReply { errno: Errno::NONE, cookie }.encode());
        let space = out.space(range.count().get() as usize);
        match self.access.source().read_at(range.offset(), space) {
            Ok(()) => out.count_reply(),
            Err(error) => {
                out.truncate(begin);
                let (errno, why) = refused(error);
                self.fail(cookie, wire::CMD_READ, errno, &why, out);
            }
        }
    }

    /// Answers the next piece of a read; what is left of it is returned.
    pub(super) fn read_on(&self, reading: Reading, out: &mut Outbox) -> Option<Reading> {
        let Reading { cookie, rest } = reading;
        let piece = match self.piece(rest) {
            Ok(piece) => piece,
            Err(error) => {
                let (errno, why) = refused(error);
                self.fail(cookie, wire::CMD_READ, errno, &why, out);
                return None;
            }
        };
        let last = piece.range.end() == rest.end();
        if piece.zeros {
            put_hole(cookie, piece.range, last, out);
        } else if !self.put_data(cookie, piece.range, last, out) {
            return None;
        }
        (!last).then(|| Reading { cookie, rest: ByteRange::between(piece.range.end(), rest.end()) })
    }

    /// The longest piece at the front of `rest` that is all data (up to a chunk) or all zeros.
    fn piece(&self, rest: ByteRange) -> Result<Piece, block::Error> {
        let mut piece = Piece { range: ByteRange::between(rest.start(), rest.start()), zeros: false };
        self.access.source().extents(rest, &mut |extent| {
            let zeros = extent.kind != ExtentKind::Data;
            if piece.range.is_empty() {
                piece.zeros = zeros;
            }
            if zeros != piece.zeros {
                return ControlFlow::Break(());
            }
            piece.range = ByteRange::between(rest.start(), extent.range.end());
            let enough = !zeros && piece.range.count().get() >= READ_CHUNK;
            if enough { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        })?;
        let limit = if piece.zeros { u64::MAX } else { READ_CHUNK };
        let end = piece.range.end().min(rest.start().saturating_add(limit));
        // a chunk that ends at the end of a block lets the next one begin at one
        let end = if end < rest.end() && end - rest.start() > BLOCK_SIZE {
            end / BLOCK_SIZE * BLOCK_SIZE
        } else {
            end
        };
        if end <= rest.start() || end > rest.end() {
            return Err(block::Error::corrupt(
                "the map of the export",
                Some(rest.start()),
                "extents do not tile",
            ));
        }
        piece.range = ByteRange::between(rest.start(), end);
        Ok(piece)
    }

    /// Appends a chunk of data; on failure an error, which ends the reply. Says whether it succeeded.
    fn put_data(&self, cookie: u64, range: ByteRange, last: bool, out: &mut Outbox) -> bool {
        let begin = out.len();
        let length = range.count().get() as u32;
        let (flags, kind) = (done(last), wire::REPLY_OFFSET_DATA);
        out.put(&ChunkHeader { flags, kind, cookie, length: 8 + length }.encode());
        out.put(&range.start().to_be_bytes());
        match self.access.source().read_at(range.offset(), out.space(length as usize)) {
            Ok(()) if last => out.count_reply(),
            Ok(()) => {}
            Err(error) => {
                // the header was not sent yet, so the chunk never existed
                out.truncate(begin);
                let (errno, why) = refused(error);
                self.fail(cookie, wire::CMD_READ, errno, &why, out);
                return false;
            }
        }
        true
    }

    /// Reads a range and forgets it, which brings it nearer.
    pub(super) fn cache(&self, range: ByteRange, out: &mut Outbox) -> Result<(), Refused> {
        if range.count().get() > u64::from(MAX_PAYLOAD_ADVERTISED) {
            let why = format!("{} bytes, at most {MAX_PAYLOAD_ADVERTISED} at a time", range.count());
            return Err((Errno::OVERFLOW, why));
        }
        let begin = out.len();
        let mut at = range.start();
        while at < range.end() {
            let count = (range.end() - at).min(READ_CHUNK);
            let read = self.access.source().read_at(ByteOffset::new(at), out.space(count as usize));
            out.truncate(begin);
            read.map_err(refused)?;
            at += count;
        }
        Ok(())
    }
}

fn done(last: bool) -> u16 {
    if last { wire::REPLY_FLAG_DONE } else { 0 }
}

/// Appends a chunk that names zeros.
fn put_hole(cookie: u64, range: ByteRange, last: bool, out: &mut Outbox) {
    let (flags, kind) = (done(last), wire::REPLY_OFFSET_HOLE);
    out.put(&ChunkHeader { flags, kind, cookie, length: 12 }.encode());
    out.put(&range.start().to_be_bytes());
    out.put(&(range.count().get() as u32).to_be_bytes());
    if last {
        out.count_reply();
    }
}
