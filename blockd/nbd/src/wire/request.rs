//! A request of the data phase, in both forms it has on the wire.

use super::{
    CMD_FLAG_PAYLOAD_LEN, CMD_WRITE, EXTENDED_REQUEST_MAGIC, REQUEST_MAGIC, ReplyStyle, be16, be32, be64,
};
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
    /// Number of bytes it is about; of an extended request with [`CMD_FLAG_PAYLOAD_LEN`] the bytes that follow it.
    pub length: u64,
}

impl Request {
    /// Bytes of a compact request.
    pub const LEN: usize = 28;
    /// Bytes of an extended request.
    pub const EXTENDED_LEN: usize = 32;

    /// Bytes of a request on a connection of this style.
    pub const fn len(style: ReplyStyle) -> usize {
        if matches!(style, ReplyStyle::Extended) { Self::EXTENDED_LEN } else { Self::LEN }
    }

    /// As compact bytes; the length must fit 32 bits.
    pub fn encode(&self) -> [u8; Self::LEN] {
        debug_assert!(u32::try_from(self.length).is_ok(), "{} bytes in a compact request", self.length);
        let mut bytes = [0; Self::LEN];
        bytes[..4].copy_from_slice(&REQUEST_MAGIC.to_be_bytes());
        self.encode_middle(&mut bytes);
        bytes[24..].copy_from_slice(&(self.length as u32).to_be_bytes());
        bytes
    }

    /// As extended bytes.
    pub fn encode_extended(&self) -> [u8; Self::EXTENDED_LEN] {
        let mut bytes = [0; Self::EXTENDED_LEN];
        bytes[..4].copy_from_slice(&EXTENDED_REQUEST_MAGIC.to_be_bytes());
        self.encode_middle(&mut bytes);
        bytes[24..].copy_from_slice(&self.length.to_be_bytes());
        bytes
    }

    fn encode_middle(&self, bytes: &mut [u8]) {
        bytes[4..6].copy_from_slice(&self.flags.to_be_bytes());
        bytes[6..8].copy_from_slice(&self.command.to_be_bytes());
        bytes[8..16].copy_from_slice(&self.cookie.to_be_bytes());
        bytes[16..24].copy_from_slice(&self.offset.to_be_bytes());
    }

    /// From compact bytes.
    ///
    /// # Errors
    /// [`Malformed`] without the magic number: the stream is out of step.
    pub fn decode(bytes: &[u8; Self::LEN]) -> Result<Self, Malformed> {
        let mut cursor = Cursor::new(bytes);
        let middle = Self::decode_middle(&mut cursor, REQUEST_MAGIC)?;
        Ok(Self { length: be32(&mut cursor)?.into(), ..middle })
    }

    /// From extended bytes.
    ///
    /// # Errors
    /// [`Malformed`] without the magic number: the stream is out of step.
    pub fn decode_extended(bytes: &[u8; Self::EXTENDED_LEN]) -> Result<Self, Malformed> {
        let mut cursor = Cursor::new(bytes);
        let middle = Self::decode_middle(&mut cursor, EXTENDED_REQUEST_MAGIC)?;
        Ok(Self { length: be64(&mut cursor)?, ..middle })
    }

    fn decode_middle(cursor: &mut Cursor<'_>, magic: u32) -> Result<Self, Malformed> {
        if be32(cursor)? != magic {
            return Err(cursor.malformed("a request does not begin with its magic number"));
        }
        Ok(Self {
            flags: be16(cursor)?,
            command: be16(cursor)?,
            cookie: be64(cursor)?,
            offset: be64(cursor)?,
            length: 0,
        })
    }

    /// Bytes of payload that follow it on the wire. An extended write has them whether or not it says so: the text makes
    /// it say so, but qemu (10.0) does not, and its own server takes it all the same.
    pub fn payload(&self, style: ReplyStyle) -> u64 {
        let says = style == ReplyStyle::Extended && self.flags & CMD_FLAG_PAYLOAD_LEN != 0;
        if says || self.command == CMD_WRITE { self.length } else { 0 }
    }
}

/// What a request is about, for people.
pub fn in_words(command: u16, offset: u64, length: u64) -> String {
    let word = match command {
        super::CMD_READ => "read",
        CMD_WRITE => "write",
        super::CMD_FLUSH => return "flush".into(),
        super::CMD_TRIM => "trim",
        super::CMD_CACHE => "cache",
        super::CMD_WRITE_ZEROES => "write of zeroes",
        super::CMD_BLOCK_STATUS => "block status",
        _ => "unknown command",
    };
    format!("{word} of {length} bytes at offset {offset}")
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
        assert_eq!(request.payload(ReplyStyle::Simple), 512);
        assert_eq!(request.payload(ReplyStyle::Extended), 512);
    }

    #[test]
    fn an_extended_request_has_64_bits_of_length() {
        let request = Request { flags: 0x21, command: 6, cookie: 7, offset: 1 << 40, length: 1 << 33 };
        let bytes = request.encode_extended();
        assert_eq!(bytes[..8], [0x21, 0xe4, 0x1c, 0x71, 0, 0x21, 0, 6]);
        assert_eq!(bytes[24..], (1u64 << 33).to_be_bytes());
        assert_eq!(Request::decode_extended(&bytes), Ok(request));
        assert_eq!(request.payload(ReplyStyle::Extended), 1 << 33);
        assert!(Request::decode_extended(&[0; 32]).is_err());
    }
}
