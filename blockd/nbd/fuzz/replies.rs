//! What a strict client makes of the replies to its requests.

use super::serve::Served;
use nbd::handshake::Context;
use nbd::wire::*;
use std::collections::HashMap;

/// A request that is not answered to the end yet.
struct Open<'a> {
    request: &'a Request,
    fill: u8,
    covered: u64,
    errno: Errno,
}

/// Reads the replies in the order in which they came.
pub struct Checker<'a> {
    served: &'a Served,
    rest: &'a [u8],
    style: ReplyStyle,
    open: HashMap<u64, Open<'a>>,
    /// The disk as what was answered until now left it.
    model: Vec<u8>,
}

/// The front of a chunk, whatever the style.
struct Chunk<'a> {
    flags: u16,
    kind: u16,
    cookie: u64,
    payload: &'a [u8],
}

impl<'a> Checker<'a> {
    /// One for the replies to these requests, each with the byte that it writes, to a disk that began as `model`.
    pub fn new(served: &'a Served, style: ReplyStyle, requests: &'a [(Request, u8)], model: Vec<u8>) -> Self {
        let open = |(request, fill): &'a (Request, u8)| {
            let open = Open { request, fill: *fill, covered: 0, errno: Errno::NONE };
            (request.cookie, open)
        };
        Self { served, rest: &served.bytes, style, open: requests.iter().map(open).collect(), model }
    }

    /// Checks all replies; the disk as it must be afterwards.
    pub fn check(mut self) -> Vec<u8> {
        let mut last = 0;
        while !self.rest.is_empty() {
            let is_simple = self.rest.starts_with(&SIMPLE_REPLY_MAGIC.to_be_bytes());
            let Some(open) = (if is_simple { Some(self.simple()) } else { self.chunk() }) else { continue };
            let cookie = open.request.cookie;
            if !self.served.waited.contains(&cookie) {
                assert!(cookie > last, "request {cookie} is answered after {last}");
                last = cookie;
            }
            self.apply(&open);
        }
        assert!(self.open.is_empty(), "requests {:?} are not answered", self.open.keys());
        self.model
    }

    /// Does to the model what a reply says was done.
    fn apply(&mut self, open: &Open<'_>) {
        if open.errno != Errno::NONE {
            return;
        }
        let start = open.request.offset as usize;
        let end = start + open.request.length as usize;
        match open.request.command {
            CMD_WRITE => self.model[start..end].fill(open.fill),
            CMD_WRITE_ZEROES => self.model[start..end].fill(0),
            CMD_TRIM => {
                let end = if end == self.model.len() { end } else { end / 4096 * 4096 };
                let start = start.next_multiple_of(4096).min(end);
                self.model[start..end].fill(0);
            }
            _ => {}
        }
    }

    fn take(&mut self, count: usize) -> &'a [u8] {
        let (taken, rest) = self.rest.split_at_checked(count).expect("a reply is cut short");
        self.rest = rest;
        taken
    }

    fn close(&mut self, cookie: u64) -> Open<'a> {
        self.open
            .remove(&cookie)
            .unwrap_or_else(|| panic!("a reply to {cookie}, which does not wait for one"))
    }

    /// What a range must hold: what was found on another way, or what is there now.
    fn is_right(&self, cookie: u64, offset: u64, bytes: &[u8]) -> bool {
        match self.served.taken.get(&(cookie, offset)) {
            Some(taken) => taken == bytes,
            None => (offset..).zip(bytes).all(|(at, byte)| self.may_hold(cookie, at, *byte)),
        }
    }

    /// Whether a read may find this byte there. One that waited may be answered in the middle of a long write behind it,
    /// which is placed in pieces: it sees what was there or what is being written.
    fn may_hold(&self, cookie: u64, at: u64, byte: u8) -> bool {
        let writes = |open: &Open<'_>| {
            let Request { command, offset, length, .. } = *open.request;
            command == CMD_WRITE && open.fill == byte && (offset..offset.saturating_add(length)).contains(&at)
        };
        self.model[at as usize] == byte
            || self.served.waited.contains(&cookie) && self.open.values().any(writes)
    }

    fn simple(&mut self) -> Open<'a> {
        assert!(self.style < ReplyStyle::Extended, "a simple reply among extended ones");
        let bytes = self.take(SimpleReply::LEN).try_into().expect("sixteen bytes");
        let reply = SimpleReply::decode(bytes).expect("a simple reply");
        let open = self.close(reply.cookie);
        let Request { command, offset, length, cookie, .. } = *open.request;
        if command == CMD_READ {
            assert!(self.style == ReplyStyle::Simple, "a simple reply to a read");
            if reply.errno == Errno::NONE {
                self.simple_data(cookie, offset, length);
            }
        }
        Open { errno: reply.errno, ..open }
    }

    /// The data of a simple reply, each part of which may have come another way.
    fn simple_data(&mut self, cookie: u64, mut offset: u64, length: u64) {
        let mut bytes = self.take(length as usize);
        while !bytes.is_empty() {
            let part = self.served.taken.get(&(cookie, offset)).map_or(bytes.len(), Vec::len);
            let (part, rest) = bytes.split_at(part);
            assert!(self.is_right(cookie, offset, part), "wrong data at {offset}");
            (offset, bytes) = (offset + part.len() as u64, rest);
        }
    }

    fn header(&mut self) -> Chunk<'a> {
        let (flags, kind, cookie, length) = if self.style == ReplyStyle::Extended {
            let bytes = self.take(ExtendedHeader::LEN).try_into().expect("32 bytes");
            let header = ExtendedHeader::decode(bytes).expect("an extended chunk");
            let asked = self.open.get(&header.cookie).map(|open| open.request.offset);
            assert_eq!(Some(header.offset), asked, "of another request");
            (header.flags, header.kind, header.cookie, header.length)
        } else {
            let bytes = self.take(ChunkHeader::LEN).try_into().expect("twenty bytes");
            let header = ChunkHeader::decode(bytes).expect("a chunk");
            (header.flags, header.kind, header.cookie, header.length.into())
        };
        Chunk { flags, kind, cookie, payload: self.take(length as usize) }
    }

    /// Takes a chunk; what it answered if it was the last of its reply.
    fn chunk(&mut self) -> Option<Open<'a>> {
        assert!(self.style > ReplyStyle::Simple, "chunks nobody asked for");
        let Chunk { flags, kind, cookie, payload } = self.header();
        let mut open = self.close(cookie);
        let length = open.request.length;
        match kind {
            REPLY_OFFSET_DATA => {
                let (offset, data) = payload.split_first_chunk().expect("an offset");
                let offset = u64::from_be_bytes(*offset);
                assert_eq!(offset, open.request.offset + open.covered, "pieces in order");
                assert!(self.is_right(cookie, offset, data), "wrong data at {offset}");
                open.covered += data.len() as u64;
            }
            REPLY_OFFSET_HOLE => {
                let offset = u64::from_be_bytes(payload[..8].try_into().expect("an offset"));
                let count = u32::from_be_bytes(payload[8..].try_into().expect("a length"));
                assert_eq!(offset, open.request.offset + open.covered, "pieces in order");
                let mut hole = offset..offset + u64::from(count);
                let is_right = hole.all(|at| self.may_hold(cookie, at, 0));
                assert!(count > 0 && is_right, "a hole over data at {offset}");
                open.covered += u64::from(count);
            }
            REPLY_BLOCK_STATUS | REPLY_BLOCK_STATUS_EXT => {
                let total = self.extents(kind, payload);
                assert!(total > 0 && total <= length);
                open.covered = length;
            }
            REPLY_NONE => assert!(payload.is_empty() && flags == REPLY_FLAG_DONE),
            REPLY_ERROR => {
                open.errno = Errno(u32::from_be_bytes(payload[..4].try_into().expect("four bytes")));
            }
            other => panic!("a chunk of type {other}"),
        }
        if flags & REPLY_FLAG_DONE == 0 {
            self.open.insert(cookie, open);
            return None;
        }
        let has_content = matches!(open.request.command, CMD_READ | CMD_BLOCK_STATUS);
        assert!(open.errno != Errno::NONE || !has_content || open.covered == length, "a reply with gaps");
        Some(open)
    }

    /// The bytes that the extents in a chunk cover.
    fn extents(&self, kind: u16, payload: &[u8]) -> u64 {
        assert_eq!(payload[..4], Context::Allocation.id().to_be_bytes());
        assert_eq!(kind == REPLY_BLOCK_STATUS_EXT, self.style == ReplyStyle::Extended);
        if kind == REPLY_BLOCK_STATUS {
            let extents = payload[4..].chunks(8);
            return extents
                .map(|b| Extent32::decode(b.try_into().expect("8")).expect("one").length as u64)
                .sum();
        }
        let count = u32::from_be_bytes(payload[4..8].try_into().expect("four bytes"));
        let extents = payload[8..].chunks(16);
        assert_eq!(extents.len(), count as usize);
        extents.map(|b| Extent64::decode(b.try_into().expect("16")).expect("one").length).sum()
    }
}
