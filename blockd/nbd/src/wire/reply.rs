//! Replies of the data phase: simple ones, chunks of structured and extended ones, and descriptors of extents.

use super::{
    EXTENDED_REPLY_MAGIC, Errno, Request, SIMPLE_REPLY_MAGIC, STRUCTURED_REPLY_MAGIC, be16, be32, be64,
};
use block::{Cursor, Malformed};

/// How requests and replies look on a connection: what was negotiated last and largest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum ReplyStyle {
    /// Compact requests; a reply is an error number, for a read with the data behind it.
    Simple,
    /// Compact requests; reads and block status are answered in chunks, all else may be.
    Structured,
    /// Requests with 64-bit lengths; everything is answered in chunks with 64-bit fields.
    Extended,
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

/// What precedes the payload of a chunk of an extended reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ExtendedHeader {
    /// [`super::REPLY_FLAG_DONE`] or nothing.
    pub flags: u16,
    /// Which kind of chunk.
    pub kind: u16,
    /// The request's.
    pub cookie: u64,
    /// The request's.
    pub offset: u64,
    /// Bytes of payload that follow.
    pub length: u64,
}

impl ExtendedHeader {
    /// Bytes of a header.
    pub const LEN: usize = 32;

    /// The header of a chunk that answers `request`.
    pub fn answering(request: &Request, flags: u16, kind: u16, length: u32) -> Self {
        Self { flags, kind, cookie: request.cookie, offset: request.offset, length: length.into() }
    }

    /// As bytes.
    pub fn encode(self) -> [u8; Self::LEN] {
        let mut bytes = [0; Self::LEN];
        bytes[..4].copy_from_slice(&EXTENDED_REPLY_MAGIC.to_be_bytes());
        bytes[4..6].copy_from_slice(&self.flags.to_be_bytes());
        bytes[6..8].copy_from_slice(&self.kind.to_be_bytes());
        bytes[8..16].copy_from_slice(&self.cookie.to_be_bytes());
        bytes[16..24].copy_from_slice(&self.offset.to_be_bytes());
        bytes[24..].copy_from_slice(&self.length.to_be_bytes());
        bytes
    }

    /// From bytes.
    ///
    /// # Errors
    /// [`Malformed`] without the magic number.
    pub fn decode(bytes: &[u8; Self::LEN]) -> Result<Self, Malformed> {
        let mut cursor = Cursor::new(bytes);
        if be32(&mut cursor)? != EXTENDED_REPLY_MAGIC {
            return Err(cursor.malformed("an extended chunk does not begin with its magic number"));
        }
        Ok(Self {
            flags: be16(&mut cursor)?,
            kind: be16(&mut cursor)?,
            cookie: be64(&mut cursor)?,
            offset: be64(&mut cursor)?,
            length: be64(&mut cursor)?,
        })
    }
}

/// A descriptor of an extended block status reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extent64 {
    /// Bytes.
    pub length: u64,
    /// As in [`Extent32`]; contexts of 64 bits have none here.
    pub flags: u64,
}

impl Extent64 {
    /// Bytes of a descriptor.
    pub const LEN: usize = 16;

    /// As bytes.
    pub fn encode(self) -> [u8; Self::LEN] {
        let mut bytes = [0; Self::LEN];
        bytes[..8].copy_from_slice(&self.length.to_be_bytes());
        bytes[8..].copy_from_slice(&self.flags.to_be_bytes());
        bytes
    }

    /// From bytes.
    ///
    /// # Errors
    /// [`Malformed`] if it has no length.
    pub fn decode(bytes: &[u8; Self::LEN]) -> Result<Self, Malformed> {
        let mut cursor = Cursor::new(bytes);
        let extent = Self { length: be64(&mut cursor)?, flags: be64(&mut cursor)? };
        if extent.length == 0 { Err(cursor.malformed("an extent of no bytes")) } else { Ok(extent) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replies_survive_encoding() {
        let simple = SimpleReply { errno: Errno::NO_SPACE, cookie: 7 };
        assert_eq!(SimpleReply::decode(&simple.encode()), Ok(simple));
        let chunk = ChunkHeader { flags: 1, kind: 5, cookie: u64::MAX, length: 12 };
        assert_eq!(ChunkHeader::decode(&chunk.encode()), Ok(chunk));
        let extended = ExtendedHeader { flags: 1, kind: 6, cookie: 3, offset: 1 << 50, length: 24 };
        assert_eq!(ExtendedHeader::decode(&extended.encode()), Ok(extended));
        let extent = Extent64 { length: 1 << 40, flags: 3 };
        assert_eq!(Extent64::decode(&extent.encode()), Ok(extent));
        assert!(ChunkHeader::decode(&[0; 20]).is_err());
        assert!(ExtendedHeader::decode(&[0; 32]).is_err());
        assert!(Extent32::decode(&[0; 8]).is_err());
        assert!(Extent64::decode(&[0; 16]).is_err());
    }
}
