//! Reads: simple ones, chunks of data and holes, and bringing a range near.
//!
//! Data takes the shortest way there is: sent from the page cache by the kernel, copied out of it, or fetched from
//! the host's disk while other requests go on. Sources without a file are asked for the bytes.

use super::{End, Refused, Step, Transmission, refused};
use crate::limits::{JOIN_FROM, MAX_PAYLOAD, MAX_PAYLOAD_ADVERTISED, READ_CHUNK, SPLICE_FROM};
use crate::outbox::Outbox;
use crate::wire::{self, Errno, ReplyStyle, Request, SimpleReply};
use block::{BLOCK_SIZE, ByteOffset, ByteRange, ExtentKind, Stored};
use std::ops::ControlFlow;

/// A read that is answered in pieces.
pub(super) struct Reading {
    request: Request,
    rest: ByteRange,
    // its one header, for all of it, was sent: what follows is data, and zeros once a piece of it failed
    whole: Option<Result<(), Refused>>,
}

/// A piece of a read: bytes that are sent, or zeros that are only named.
struct Piece {
    range: ByteRange,
    zeros: bool,
}

/// What became of a piece of data.
#[derive(PartialEq, Eq)]
pub(super) enum Put {
    /// It is in the replies.
    Done,
    /// In its place is an error, which ends the reply.
    Failed,
    /// It is not in memory yet.
    NotReady,
}

impl Transmission {
    /// Answers a read, or begins to.
    pub(super) fn read(&mut self, request: &Request, out: &mut Outbox) {
        let length = request.length;
        let whole = request.flags & wire::CMD_FLAG_DF != 0 || self.style == ReplyStyle::Simple;
        let is_simple = self.style == ReplyStyle::Simple;
        let limit = u64::from(if whole && !is_simple { MAX_PAYLOAD_ADVERTISED } else { MAX_PAYLOAD });
        if length > limit {
            // only structured replies know this number
            let errno = if is_simple { Errno::INVALID } else { Errno::OVERFLOW };
            return self.fail(request, errno, &format!("a read of {length} bytes, at most {limit}"), out);
        }
        let range = ByteRange::between(request.offset, request.offset + length);
        if range.is_empty() {
            self.succeed(request, out);
        } else if length <= BLOCK_SIZE || whole && length <= READ_CHUNK {
            self.put_data(request, range, out);
        } else {
            self.reading = Some(Reading { request: *request, rest: range, whole: None });
            if whole {
                self.begin_whole(request, range, out);
            }
        }
    }

    /// Answers the next piece of a read.
    pub(super) fn read_on(&mut self, reading: Reading, out: &mut Outbox) -> ControlFlow<Step, usize> {
        if let Some(so_far) = reading.whole {
            return self.whole_on(&reading.request, reading.rest, so_far, out);
        }
        let Reading { request, rest, .. } = reading;
        let piece = match self.piece(rest) {
            Ok(piece) => piece,
            Err(error) => {
                let (errno, why) = refused(error);
                self.fail(&request, errno, &why, out);
                return ControlFlow::Continue(0);
            }
        };
        let last = piece.range.end() == rest.end();
        let put = match piece.zeros {
            true => self.put_hole(&request, piece.range, last, out),
            false => self.put_data(&request, piece.range, out),
        };
        if put == Put::Done && !last {
            let rest = ByteRange::between(piece.range.end(), rest.end());
            self.reading = Some(Reading { request, rest, whole: None });
        }
        ControlFlow::Continue(0)
    }

    /// Begins a read that must be answered in one piece although it is sent in several: its first part is read before
    /// the header leaves, so that most failures are still told as such.
    fn begin_whole(&mut self, request: &Request, range: ByteRange, out: &mut Outbox) {
        self.reading = None;
        let begin = out.len();
        self.put_data_header(request, range, 0, out);
        let first = ByteRange::between(range.start(), range.start() + READ_CHUNK);
        match self.access.source().read_at(first.offset(), out.space(READ_CHUNK as usize)) {
            Ok(()) => {
                let rest = ByteRange::between(first.end(), range.end());
                self.reading = Some(Reading { request: *request, rest, whole: Some(Ok(())) });
            }
            Err(error) => {
                out.truncate(begin);
                let (errno, why) = refused(error);
                self.fail(request, errno, &why, out);
            }
        }
    }

    /// Appends the next part of a read in one piece, and at its end what became of it.
    fn whole_on(
        &mut self,
        request: &Request,
        rest: ByteRange,
        so_far: Result<(), Refused>,
        out: &mut Outbox,
    ) -> ControlFlow<Step, usize> {
        let part = ByteRange::between(rest.start(), rest.end().min(rest.start() + READ_CHUNK));
        let space = out.space(part.count().get() as usize);
        let source = self.access.source();
        let read = so_far.and_then(|()| source.read_at(part.offset(), space).map_err(refused));
        if let Err((_, why)) = &read {
            space.fill(0);
            if self.style == ReplyStyle::Simple {
                let why = format!("cannot read at offset {}: {why}", part.start());
                return ControlFlow::Break(Step::Close(End::Failed(why)));
            }
        }
        if part.end() < rest.end() {
            let rest = ByteRange::between(part.end(), rest.end());
            self.reading = Some(Reading { request: *request, rest, whole: Some(read) });
            return ControlFlow::Continue(0);
        }
        match read {
            Err((errno, why)) => self.fail(request, errno, &why, out),
            Ok(()) if self.style == ReplyStyle::Simple => out.count_reply(request.command),
            Ok(()) => self.succeed(request, out),
        }
        ControlFlow::Continue(0)
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

    /// Answers a piece of a read with data.
    fn put_data(&mut self, request: &Request, range: ByteRange, out: &mut Outbox) -> Put {
        let count = range.count().get();
        let Some(mut stored) = self.access.source().stored(range) else {
            return self.put_read(request, range, out);
        };
        if stored.count < count {
            return self.put_scattered(request, range, stored, out);
        }
        stored.count = count;
        let is_cached = |stored: &Stored| stored.file.is_cached(stored.range());
        if self.shortcuts.splice && stored.is_verified && count >= SPLICE_FROM && is_cached(&stored) {
            self.put_spliced(request, range, vec![stored], out);
            return Put::Done;
        }
        let is_one_chunk = count == request.length && count <= READ_CHUNK;
        let may_fetch = self.shortcuts.fetch && is_one_chunk && stored.file.fast_fd().is_some();
        let put = match (may_fetch, stored.is_verified) {
            (true, true) if self.is_cold => Put::NotReady,
            (true, true) => {
                let file = &stored.file;
                self.put_copied(request, range, out, |buf| file.read_cached(stored.offset, buf))
            }
            (true, false) if !is_cached(&stored) => Put::NotReady,
            _ => self.put_read(request, range, out),
        };
        if put == Put::NotReady {
            self.is_cold = true;
            self.fetches += 1;
            self.fetched_bytes += count;
            out.fetch(*request, stored);
        }
        put
    }

    /// Answers a piece of a read whose bytes lie in several places.
    fn put_scattered(&self, request: &Request, range: ByteRange, first: Stored, out: &mut Outbox) -> Put {
        match self.places(range, first) {
            Some(pieces) => {
                self.put_spliced(request, range, pieces, out);
                Put::Done
            }
            None => self.put_read(request, range, out),
        }
    }

    /// All places the bytes of a range lie in, of which this is the first; `None` if they cannot be sent from there. Bytes
    /// that are not in memory are waited for, as they are when the source reads them: to ask of each piece costs more.
    fn places(&self, range: ByteRange, first: Stored) -> Option<Vec<Stored>> {
        if !self.shortcuts.splice || range.count().get() < JOIN_FROM {
            return None;
        }
        let (mut pieces, mut next, mut at) = (Vec::new(), first, range.start());
        loop {
            next.count = next.count.min(range.end() - at);
            if !next.is_verified || next.count == 0 || next.file.fast_fd().is_none() {
                return None;
            }
            at += next.count;
            pieces.push(next);
            if at == range.end() {
                return Some(pieces);
            }
            next = self.access.source().stored(ByteRange::between(at, range.end()))?;
        }
    }

    /// Appends a piece of data that the source reads.
    fn put_read(&self, request: &Request, range: ByteRange, out: &mut Outbox) -> Put {
        let source = self.access.source();
        self.put_copied(request, range, out, |buf| source.read_at(range.offset(), buf).map(|()| true))
    }

    /// Appends a piece of data that `read` puts in place, or nothing if it says that the bytes are not there yet.
    pub(super) fn put_copied(
        &self,
        request: &Request,
        range: ByteRange,
        out: &mut Outbox,
        read: impl FnOnce(&mut [u8]) -> Result<bool, block::Error>,
    ) -> Put {
        let begin = out.len();
        let last = is_last(request, range);
        self.put_data_header(request, range, done(last), out);
        match read(out.space(range.count().get() as usize)) {
            Ok(true) => {
                if last {
                    out.count_reply(request.command);
                }
                Put::Done
            }
            Ok(false) => {
                out.truncate(begin);
                Put::NotReady
            }
            Err(error) => {
                // the header was not sent yet, so the chunk never existed
                out.truncate(begin);
                let (errno, why) = refused(error);
                self.fail(request, errno, &why, out);
                Put::Failed
            }
        }
    }

    fn put_data_header(&self, request: &Request, range: ByteRange, flags: u16, out: &mut Outbox) {
        if self.style == ReplyStyle::Simple {
            return out.put(&SimpleReply { errno: Errno::NONE, cookie: request.cookie }.encode());
        }
        // pieces are at most 64 MiB
        let length = 8 + range.count().get() as u32;
        self.put_chunk(request, flags, wire::REPLY_OFFSET_DATA, length, out);
        out.put(&range.start().to_be_bytes());
    }

    /// Appends a piece that the kernel sends from its cache. The end of the reply is a chunk of its own: until it
    /// leaves, a failure can still be told.
    fn put_spliced(&self, request: &Request, range: ByteRange, pieces: Vec<Stored>, out: &mut Outbox) {
        self.put_data_header(request, range, 0, out);
        out.splice(*request, pieces);
        if !is_last(request, range) {
            return;
        }
        if self.style == ReplyStyle::Simple {
            out.count_reply(request.command);
        } else {
            self.succeed(request, out);
        }
    }

    /// What follows a splice that failed after its header was sent and the bytes that are missing were filled with
    /// zeros: a chunk that says so. `None` where replies have no room for it; only closing is left then.
    pub fn spliced_badly(&self, request: &Request, error: block::Error) -> Option<Outbox> {
        if self.style == ReplyStyle::Simple {
            return None;
        }
        self.cells.count_error(wire::CMD_READ);
        let mut out = Outbox::new();
        let (errno, why) = refused(error);
        self.put_error(request, 0, errno, &why, &mut out);
        Some(out)
    }

    /// Answers a read that was fetched: with the bytes, or, if they are not verified, with what the source now finds in
    /// memory.
    pub fn complete(
        &mut self,
        request: &Request,
        is_verified: bool,
        fetched: Result<&[u8], block::Error>,
        out: &mut Outbox,
    ) {
        self.fetches -= 1;
        self.fetched_bytes -= request.length;
        let range = ByteRange::between(request.offset, request.offset + request.length);
        // a failure is told either way, so what became of it needs no look
        let _put = match fetched {
            Ok(_) if !is_verified => self.put_read(request, range, out),
            fetched => self.put_copied(request, range, out, |buf| {
                buf.copy_from_slice(fetched?);
                Ok(true)
            }),
        };
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

    /// Appends a chunk that names zeros.
    fn put_hole(&self, request: &Request, range: ByteRange, last: bool, out: &mut Outbox) -> Put {
        self.put_chunk(request, done(last), wire::REPLY_OFFSET_HOLE, 12, out);
        out.put(&range.start().to_be_bytes());
        out.put(&(range.count().get() as u32).to_be_bytes());
        if last {
            out.count_reply(request.command);
        }
        Put::Done
    }
}

fn done(last: bool) -> u16 {
    if last { wire::REPLY_FLAG_DONE } else { 0 }
}

fn is_last(request: &Request, range: ByteRange) -> bool {
    range.end() == request.offset + request.length
}
