//! Messages of the data phase: requests, simple replies and the chunks of structured ones.

use super::{Errno, REQUEST_MAGIC, SIMPLE_REPLY_MAGIC, STRUCTURED_REPLY_MAGIC, be16, be32, be64};
use block::{Cursor, Malformed};

/// A request, without its payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Request {
    /// Command flags.
    pub flags: u16,
    /// Which command.
    pub command: u16,
    /// Chosen by the client, returned in every reply.
    pub cookie: u64,
    /// First byte.
    pub offset: u64,
    /// Number of bytes.
    pub length: u32,
}

impl Request {
    /// Bytes of a request.
    pub const LEN: usize = 28;

    /// As bytes.
    pub fn encode(&self) -> [u8; Self::LEN] {
        let mut bytes = [0; Self::LEN];
        bytes[..4].copy_from_slice(&REQUEST_MAGIC.to_be_bytes());
        bytes[4..6].copy_from_slice(&self.flags.to_be_bytes());
        bytes[6..8].copy_from_slice(&self.command.to_be_bytes());
        bytes[8..16].copy_from_slice(&self.cookie.to_be_bytes());
        bytes[16..24].copy_from_slice(&self.offset.to_be_bytes());
        bytes[24..].copy_from_slice(&self.length.to_be_bytes());
        bytes
    }

    /// From bytes.
    ///
    /// # Errors
    /// [`Malformed`] without the magic number: the stream is out of step.
    pub fn decode(bytes: &[u8; Self::LEN]) -> Result<Self, Malformed> {
        let mut cursor = Cursor::new(bytes);
        if be32(&mut cursor)? != REQUEST_MAGIC {
            return Err(cursor.malformed("a request does not begin with its magic number"));
        }
        Ok(Self {
            flags: be16(&mut cursor)?,
            command: be16(&mut cursor)?,
            cookie: be64(&mut cursor)?,
            offset: be64(&mut cursor)?,
            length: be32(&mut cursor)?,
        })
    }

    /// Bytes of payload that follow it on the wire.
    pub fn payload(&self) -> u32 {
        if self.command == super::CMD_WRITE { self.length } else { 0 }
    }
}

/// A simple reply, without the data a read has after it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SimpleReply {
    /// What went wrong, if anything.
    pub errno: Errno,
    /// The request's.
    pub cookie: u64,
}

impl SimpleReply {
    /// Bytes of a simple reply.
    pub const LEN: usize = 16;

    /// As bytes.
    pub fn encode(self) -> [u8; Self::LEN] {
        let mut bytes = [0; Self::LEN];
        bytes[..4].copy_from_slice(&SIMPLE_REPLY_MAGIC.to_be_bytes());
        bytes[4..8].copy_from_slice(&self.errno.0.to_be_bytes());
        bytes[8..].copy_from_slice(&self.cookie.to_be_bytes());
        bytes
    }

    /// From bytes.
    ///
    /// # Errors
    /// [`Malformed`] without the magic number.
    pub fn decode(bytes: &[u8; Self::LEN]) -> Result<Self, Malformed> {
        let mut cursor = Cursor::new(bytes);
        if be32(&mut cursor)? != SIMPLE_REPLY_MAGIC {
            return Err(cursor.malformed("a reply does not begin with its magic number"));
        }
        Ok(Self { errno: Errno(be32(&mut cursor)?), cookie: be64(&mut cursor)? })
    }
}

/// What precedes the payload of a chunk of a structured reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChunkHeader {
    /// [`super::REPLY_FLAG_DONE`] or nothing.
    pub flags: u16,
    /// Which kind of chunk.
    pub kind: u16,
    /// The request's.
    pub cookie: u64,
    /// Bytes of payload that follow.
    pub length: u32,
}

impl ChunkHeader {
    /// Bytes of a header.
    pub const LEN: usize = 20;

    /// As bytes.
    pub fn encode(self) -> [u8; Self::LEN] {
        let mut bytes = [0; Self::LEN];
        bytes[..4].copy_from_slice(&STRUCTURED_REPLY_MAGIC.to_be_bytes());
        bytes[4..6].copy_from_slice(&self.flags.to_be_bytes());
        bytes[6..8].copy_from_slice(&self.kind.to_be_bytes());
        bytes[8..16].copy_from_slice(&self.cookie.to_be_bytes());
        bytes[16..].copy_from_slice(&self.length.to_be_bytes());
        bytes
    }

    /// From bytes.
    ///
    /// # Errors
    /// [`Malformed`] without the magic number.
    pub fn decode(bytes: &[u8; Self::LEN]) -> Result<Self, Malformed> {
        let mut cursor = Cursor::new(bytes);
        if be32(&mut cursor)? != STRUCTURED_REPLY_MAGIC {
            return Err(cursor.malformed("a chunk does not begin with its magic number"));
        }
        Ok(Self {
            flags: be16(&mut cursor)?,
            kind: be16(&mut cursor)?,
            cookie: be64(&mut cursor)?,
            length: be32(&mut cursor)?,
        })
    }
}

/// A descriptor of a block status reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extent32 {
    /// Bytes.
    pub length: u32,
    /// [`super::STATE_HOLE`] and [`super::STATE_ZERO`].
    pub flags: u32,
}

impl Extent32 {
    /// Bytes of a descriptor.
    pub const LEN: usize = 8;

    /// As bytes.
    pub fn encode(self) -> [u8; Self::LEN] {
        let mut bytes = [0; Self::LEN];
        bytes[..4].copy_from_slice(&self.length.to_be_bytes());
        bytes[4..].copy_from_slice(&self.flags.to_be_bytes());
        bytes
    }

    /// From bytes.
    ///
    /// # Errors
    /// [`Malformed`] if it has no length.
    pub fn decode(bytes: &[u8; Self::LEN]) -> Result<Self, Malformed> {
        let mut cursor = Cursor::new(bytes);
        let extent = Self { length: be32(&mut cursor)?, flags: be32(&mut cursor)? };
        if extent.length == 0 { Err(cursor.malformed("an extent of no bytes")) } else { Ok(extent) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The bytes of a real request of qemu-io: `write -f 4k 512`.
    #[test]
    fn a_request_looks_as_the_protocol_draws_it() {
        let request =
            Request { flags: 1, command: 1, cookie: 0x0102_0304_0506_0708, offset: 4096, length: 512 };
        let bytes = [
            0x25, 0x60, 0x95, 0x13, 0, 1, 0, 1, 1, 2, 3, 4, 5, 6, 7, 8, 0, 0, 0, 0, 0, 0, 0x10, 0, 0, 0, 2, 0,
        ];
        assert_eq!(request.encode(), bytes);
        assert_eq!(Request::decode(&bytes), Ok(request));
        assert_eq!(request.payload(), 512);
    }

    #[test]
    fn replies_survive_encoding() {
        let simple = SimpleReply { errno: Errno::NO_SPACE, cookie: 7 };
        assert_eq!(SimpleReply::decode(&simple.encode()), Ok(simple));
        let chunk = ChunkHeader { flags: 1, kind: 5, cookie: u64::MAX, length: 12 };
        assert_eq!(ChunkHeader::decode(&chunk.encode()), Ok(chunk));
        assert!(ChunkHeader::decode(&[0; 20]).is_err());
        assert!(Extent32::decode(&[0; 8]).is_err());
    }
}
