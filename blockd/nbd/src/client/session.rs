//! One connection in its data phase, one request at a time.

use super::Patience;
use super::handshake::{self, Terms};
use super::stream::Stream;
use crate::error::Error;
use crate::limits::{MAX_PAYLOAD, MAX_TEXT_LEN};
use crate::uri::Uri;
use crate::wire::{self, ChunkHeader, Errno, Extent32, REPLY_IS_ERROR, Request, SimpleReply};
use block::{ByteRange, RangeSet};

/// Pieces of a read reply that are believed; more than honest servers send for the largest read.
const MAX_PIECES: usize = 1 << 16;

/// Descriptors in a block status reply that are believed: the protocol's own limit.
const MAX_EXTENTS: usize = 1 << 20;

/// Why a request did not succeed.
pub(super) enum Fault {
    /// The server says so; the connection goes on.
    Failed(Error),
    /// The connection cannot be used any more.
    Broken(Error),
}

impl From<Error> for Fault {
    fn from(error: Error) -> Self {
        Self::Broken(error)
    }
}

pub(super) struct Session {
    stream: Stream,
    terms: Terms,
    cookie: u64,
    broken: bool,
}

/// A command and the range it is about.
#[derive(Clone, Copy)]
pub(super) struct Command {
    pub(super) number: u16,
    pub(super) flags: u16,
    pub(super) offset: u64,
    pub(super) length: u32,
}

/// The front of a message from the server.
enum Message {
    Simple(Errno),
    Chunk(ChunkHeader),
}

impl Session {
    /// Connects and chooses the export, with a metadata context.
    pub(super) fn open(uri: &Uri, patience: &Patience, context: &str) -> Result<Self, Error> {
        let mut stream = Stream::dial(uri, patience)?;
        let terms = handshake::choose(&mut stream, &uri.export, context)?;
        stream.set_patience(patience.request)?;
        Ok(Self { stream, terms, cookie: 0, broken: false })
    }

    /// Closes without a good-bye, for which a server that does not listen might make us wait.
    pub(super) fn abandon(mut self) {
        self.broken = true;
    }

    pub(super) fn terms(&self) -> &Terms {
        &self.terms
    }

    /// Executes a command whose answer is success or failure.
    pub(super) fn command(&mut self, command: Command, payload: &[u8]) -> Result<(), Fault> {
        self.send(command, payload)?;
        let mut failure = None;
        loop {
            let chunk = match self.message()? {
                Message::Simple(errno) => return self.verdict(command, simple_failure(errno)),
                Message::Chunk(chunk) => chunk,
            };
            match chunk.kind {
                kind if kind & REPLY_IS_ERROR != 0 => failure = Some(self.error_chunk(chunk)?),
                _ => self.end_chunk(chunk)?,
            }
            if chunk.flags & wire::REPLY_FLAG_DONE != 0 {
                return self.verdict(command, failure);
            }
        }
    }

    /// Reads `out.len()` bytes, which must not pass the largest payload.
    pub(super) fn read(&mut self, offset: u64, out: &mut [u8]) -> Result<(), Fault> {
        let length = u32::try_from(out.len()).unwrap_or(u32::MAX);
        let command = Command { number: wire::CMD_READ, flags: 0, offset, length };
        self.stream.expect(out.len());
        self.send(command, &[])?;
        let mut failure = None;
        let mut pieces = RangeSet::new();
        loop {
            let chunk = match self.message()? {
                Message::Simple(_) if self.terms.structured => {
                    return Err(self.stream.protocol("a simple reply to a read").into());
                }
                Message::Simple(Errno::NONE) => return Ok(self.stream.exact(out)?),
                Message::Simple(errno) => return self.verdict(command, simple_failure(errno)),
                Message::Chunk(chunk) => chunk,
            };
            match chunk.kind {
                wire::REPLY_OFFSET_DATA | wire::REPLY_OFFSET_HOLE => {
                    self.content(chunk, offset, out, &mut pieces)?;
                }
                kind if kind & REPLY_IS_ERROR != 0 => failure = Some(self.error_chunk(chunk)?),
                _ => self.end_chunk(chunk)?,
            }
            if chunk.flags & wire::REPLY_FLAG_DONE != 0 {
                self.verdict(command, failure)?;
                let whole = pieces.total().get() == out.len() as u64;
                return if whole { Ok(()) } else { Err(self.stream.protocol("a read with gaps").into()) };
            }
        }
    }

    /// Asks for what the chosen context says of a range, appends what the server says to `extents`: at least one byte of it,
    /// perhaps less than all, perhaps more.
    pub(super) fn status(
        &mut self,
        offset: u64,
        length: u32,
        extents: &mut Vec<Extent32>,
    ) -> Result<(), Fault> {
        let command = Command { number: wire::CMD_BLOCK_STATUS, flags: 0, offset, length };
        self.stream.expect(0);
        self.send(command, &[])?;
        let mut failure = None;
        loop {
            let chunk = match self.message()? {
                Message::Simple(Errno::NONE) => return Err(self.stream.protocol("no block status").into()),
                Message::Simple(errno) => return self.verdict(command, simple_failure(errno)),
                Message::Chunk(chunk) => chunk,
            };
            match chunk.kind {
                wire::REPLY_BLOCK_STATUS => self.extents(chunk, extents)?,
                kind if kind & REPLY_IS_ERROR != 0 => failure = Some(self.error_chunk(chunk)?),
                _ => self.end_chunk(chunk)?,
            }
            if chunk.flags & wire::REPLY_FLAG_DONE != 0 {
                self.verdict(command, failure)?;
                let some = !extents.is_empty();
                return if some { Ok(()) } else { Err(self.stream.protocol("an empty block status").into()) };
            }
        }
    }

    fn send(&mut self, command: Command, payload: &[u8]) -> Result<(), Error> {
        self.cookie = self.cookie.wrapping_add(1);
        let Command { number, flags, offset, length } = command;
        let length = length.into();
        let request = Request { flags, command: number, cookie: self.cookie, offset, length };
        self.stream.begin();
        self.stream.send(&request.encode(), payload)
    }

    /// The front of the next message, which must be about the request in flight.
    fn message(&mut self) -> Result<Message, Error> {
        let start: [u8; SimpleReply::LEN] = self.stream.array()?;
        let (message, cookie) = if start.starts_with(&wire::STRUCTURED_REPLY_MAGIC.to_be_bytes()) {
            let mut bytes = [0; ChunkHeader::LEN];
            bytes[..start.len()].copy_from_slice(&start);
            self.stream.exact(&mut bytes[start.len()..])?;
            let chunk = ChunkHeader::decode(&bytes).map_err(|why| self.stream.protocol(why.why))?;
            if !self.terms.structured {
                return Err(self.stream.protocol("a structured reply nobody asked for"));
            }
            (Message::Chunk(chunk), chunk.cookie)
        } else {
            let reply = SimpleReply::decode(&start).map_err(|why| self.stream.protocol(why.why))?;
            (Message::Simple(reply.errno), reply.cookie)
        };
        if cookie != self.cookie {
            return Err(self.stream.protocol("a reply to a request nobody made"));
        }
        Ok(message)
    }

    /// A chunk of a read, put where it belongs.
    fn content(
        &mut self,
        chunk: ChunkHeader,
        start: u64,
        out: &mut [u8],
        pieces: &mut RangeSet,
    ) -> Result<(), Error> {
        let hole = chunk.kind == wire::REPLY_OFFSET_HOLE;
        let fits = if hole { chunk.length == 12 } else { (9..=MAX_PAYLOAD + 8).contains(&chunk.length) };
        if !fits {
            return Err(self.stream.protocol(format!("a chunk of {} bytes", chunk.length)));
        }
        let offset = u64::from_be_bytes(self.stream.array()?);
        let count = if hole { u32::from_be_bytes(self.stream.array()?) } else { chunk.length - 8 };
        let end = offset.saturating_add(u64::from(count));
        let range = ByteRange::between(offset, end);
        let inside = offset >= start && end <= start + out.len() as u64 && count > 0;
        if !inside || pieces.touches(range) || pieces.iter().len() > MAX_PIECES {
            return Err(self
                .stream
                .protocol(format!("a chunk of {count} bytes at offset {offset} that does not fit")));
        }
        pieces.insert(range);
        let part = &mut out[(offset - start) as usize..(end - start) as usize];
        if hole {
            part.fill(0);
            return Ok(());
        }
        self.stream.exact(part)
    }

    fn extents(&mut self, chunk: ChunkHeader, extents: &mut Vec<Extent32>) -> Result<(), Error> {
        let count = (chunk.length as usize).saturating_sub(4) / Extent32::LEN;
        if chunk.length as usize != 4 + count * Extent32::LEN || !(1..=MAX_EXTENTS).contains(&count) {
            return Err(self.stream.protocol(format!("a block status of {} bytes", chunk.length)));
        }
        let context = u32::from_be_bytes(self.stream.array()?);
        if Some(context) != self.terms.context || !extents.is_empty() {
            return Err(self.stream.protocol("a block status nobody asked for"));
        }
        for _ in 0..count {
            let extent = Extent32::decode(&self.stream.array()?);
            extents.push(extent.map_err(|why| self.stream.protocol(why.why))?);
        }
        Ok(())
    }

    /// A chunk that only ends a reply.
    fn end_chunk(&self, chunk: ChunkHeader) -> Result<(), Error> {
        let done = chunk.flags & wire::REPLY_FLAG_DONE != 0;
        if chunk.kind == wire::REPLY_NONE && chunk.length == 0 && done {
            return Ok(());
        }
        Err(self.stream.protocol(format!("an unexpected chunk of type {}", chunk.kind)))
    }

    /// The number and the text of a chunk that says the request failed.
    fn error_chunk(&mut self, chunk: ChunkHeader) -> Result<(Errno, String), Error> {
        if !(6..=MAX_TEXT_LEN as u32 + 64).contains(&chunk.length) {
            return Err(self.stream.protocol(format!("an error of {} bytes", chunk.length)));
        }
        let errno = Errno(u32::from_be_bytes(self.stream.array()?));
        let length = u32::from(u16::from_be_bytes(self.stream.array()?));
        let Some(rest) = (chunk.length - 6).checked_sub(length) else {
            return Err(self.stream.protocol("an error with half a text"));
        };
        let mut text = vec![0; length as usize];
        self.stream.exact(&mut text)?;
        self.stream.skip(rest as usize)?;
        let text = String::from_utf8_lossy(&text);
        let text: String = text.chars().filter(|c| !c.is_control()).collect();
        Ok((errno, if text.is_empty() { errno.to_string() } else { text }))
    }

    /// Success, or what the server says went wrong.
    fn verdict(&self, command: Command, failure: Option<(Errno, String)>) -> Result<(), Fault> {
        let Some((errno, why)) = failure else { return Ok(()) };
        let op = match command.number {
            wire::CMD_READ => "read",
            wire::CMD_WRITE => "write",
            wire::CMD_FLUSH => "flush",
            wire::CMD_WRITE_ZEROES => "zero",
            _ => "describe",
        };
        let (offset, count) = (command.offset, u64::from(command.length));
        // our own server begins with the same again
        let same = format!("{}: ", wire::in_words(command.number, offset, count));
        let why = why.strip_prefix(&same).map(str::to_owned).unwrap_or(why);
        Err(Fault::Failed(Error::Failed { at: self.stream.at().to_owned(), op, offset, count, errno, why }))
    }
}

fn simple_failure(errno: Errno) -> Option<(Errno, String)> {
    (errno != Errno::NONE).then(|| (errno, errno.to_string()))
}

impl Drop for Session {
    /// Says good-bye, so that the server need not wonder. If that fails, closing says the same.
    fn drop(&mut self) {
        if self.broken {
            return;
        }
        let bye = Command { number: wire::CMD_DISC, flags: 0, offset: 0, length: 0 };
        if let Err(error) = self.send(bye, &[]) {
            tracing::trace!(%error, "no good-bye");
        }
    }
}
