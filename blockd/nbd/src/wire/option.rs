//! The frame of the handshake: the greeting, and the headers of options and of replies to them.

use super::{
    FLAG_FIXED_NEWSTYLE, FLAG_NO_ZEROES, IHAVEOPT, NBDMAGIC, OPTION_REPLY_MAGIC, REP_ACK, REP_ERROR, be16,
    be32, be64,
};
use crate::limits::MAX_TEXT_LEN;
use block::{Cursor, Malformed};

/// Bytes in a greeting.
pub const GREETING_LEN: usize = 18;

/// The first words of a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Greeting {
    /// Handshake flags.
    pub flags: u16,
}

impl Greeting {
    /// The greeting of our server.
    pub const OURS: Self = Self { flags: FLAG_FIXED_NEWSTYLE | FLAG_NO_ZEROES };

    /// As bytes.
    pub fn encode(self) -> [u8; GREETING_LEN] {
        let mut bytes = [0; GREETING_LEN];
        bytes[..8].copy_from_slice(&NBDMAGIC.to_be_bytes());
        bytes[8..16].copy_from_slice(&IHAVEOPT.to_be_bytes());
        bytes[16..].copy_from_slice(&self.flags.to_be_bytes());
        bytes
    }

    /// From bytes.
    ///
    /// # Errors
    /// [`Malformed`] if it is not a newstyle greeting.
    pub fn decode(bytes: &[u8; GREETING_LEN]) -> Result<Self, Malformed> {
        let mut cursor = Cursor::new(bytes);
        if be64(&mut cursor)? != NBDMAGIC {
            return Err(cursor.malformed("this is no NBD server"));
        }
        if be64(&mut cursor)? != IHAVEOPT {
            return Err(cursor.malformed("the server speaks the old style only"));
        }
        Ok(Self { flags: be16(&mut cursor)? })
    }
}

/// What precedes the data of an option.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OptionHeader {
    /// Which option.
    pub option: u32,
    /// Bytes of data that follow.
    pub length: u32,
}

impl OptionHeader {
    /// Bytes in a header.
    pub const LEN: usize = 16;

    /// As bytes.
    pub fn encode(self) -> [u8; Self::LEN] {
        let mut bytes = [0; Self::LEN];
        bytes[..8].copy_from_slice(&IHAVEOPT.to_be_bytes());
        bytes[8..12].copy_from_slice(&self.option.to_be_bytes());
        bytes[12..].copy_from_slice(&self.length.to_be_bytes());
        bytes
    }

    /// From bytes.
    ///
    /// # Errors
    /// [`Malformed`] without the magic number.
    pub fn decode(bytes: &[u8; Self::LEN]) -> Result<Self, Malformed> {
        let mut cursor = Cursor::new(bytes);
        if be64(&mut cursor)? != IHAVEOPT {
            return Err(cursor.malformed("an option does not begin with its magic number"));
        }
        Ok(Self { option: be32(&mut cursor)?, length: be32(&mut cursor)? })
    }
}

/// What precedes the data of a reply to an option.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OptionReplyHeader {
    /// The option answered.
    pub option: u32,
    /// Kind of reply; [`REP_ERROR`] is set in refusals.
    pub reply: u32,
    /// Bytes of data that follow.
    pub length: u32,
}

impl OptionReplyHeader {
    /// Bytes in a header.
    pub const LEN: usize = 20;

    /// As bytes.
    pub fn encode(self) -> [u8; Self::LEN] {
        let mut bytes = [0; Self::LEN];
        bytes[..8].copy_from_slice(&OPTION_REPLY_MAGIC.to_be_bytes());
        bytes[8..12].copy_from_slice(&self.option.to_be_bytes());
        bytes[12..16].copy_from_slice(&self.reply.to_be_bytes());
        bytes[16..].copy_from_slice(&self.length.to_be_bytes());
        bytes
    }

    /// From bytes.
    ///
    /// # Errors
    /// [`Malformed`] without the magic number.
    pub fn decode(bytes: &[u8; Self::LEN]) -> Result<Self, Malformed> {
        let mut cursor = Cursor::new(bytes);
        if be64(&mut cursor)? != OPTION_REPLY_MAGIC {
            return Err(cursor.malformed("the reply to an option does not begin with its magic number"));
        }
        Ok(Self { option: be32(&mut cursor)?, reply: be32(&mut cursor)?, length: be32(&mut cursor)? })
    }
}

/// Why an option is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// Not an option of this server.
    Unsupported = 1,
    /// Not for this client.
    Policy = 2,
    /// It makes no sense.
    Invalid = 3,
    /// Not without TLS.
    TlsRequired = 5,
    /// No such export.
    Unknown = 6,
    /// The server is stopping.
    Shutdown = 7,
    /// Too long.
    TooBig = 9,
    /// Extended headers were negotiated, which leaves no room for what was asked.
    ExtendedHeaders = 10,
}

impl Refusal {
    /// The type of the reply.
    pub fn reply(self) -> u32 {
        REP_ERROR + self as u32
    }
}

/// One reply to an option, built in place at the end of a buffer.
pub struct OptionReply;

impl OptionReply {
    /// Appends a reply of `parts`, one after the other.
    pub fn put(out: &mut Vec<u8>, option: u32, reply: u32, parts: &[&[u8]]) {
        let length: usize = parts.iter().map(|part| part.len()).sum();
        // every part is a text or a record of ours, far below 4 GiB
        let length = u32::try_from(length).unwrap_or(u32::MAX);
        out.extend_from_slice(&OptionReplyHeader { option, reply, length }.encode());
        parts.iter().for_each(|part| out.extend_from_slice(part));
    }

    /// Appends the reply that ends a success.
    pub fn ack(out: &mut Vec<u8>, option: u32) {
        Self::put(out, option, REP_ACK, &[]);
    }

    /// Appends a refusal with a reason for people.
    pub fn refuse(out: &mut Vec<u8>, option: u32, refusal: Refusal, why: &str) {
        Self::put(out, option, refusal.reply(), &[clip(why).as_bytes()]);
    }
}

/// The front of a text that the protocol's limit on texts leaves.
pub(super) fn clip(text: &str) -> &str {
    let mut end = text.len().min(MAX_TEXT_LEN);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_texts_are_cut_between_characters() {
        let text = "é".repeat(3000);
        assert_eq!(clip(&text).len(), 4096);
        assert_eq!(clip(&format!("a{text}")).len(), 4095);
    }
}
