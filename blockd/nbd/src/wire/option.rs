//! Messages of the handshake: the greeting, options and the replies to them.

use super::{
    FLAG_FIXED_NEWSTYLE, FLAG_NO_ZEROES, IHAVEOPT, INFO_BLOCK_SIZE, INFO_EXPORT, NBDMAGIC,
    OPTION_REPLY_MAGIC, REP_ACK, REP_ERROR, REP_INFO, REP_META_CONTEXT, REP_SERVER, be16, be32, be64,
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
    /// No such export.
    Unknown = 6,
    /// The server is stopping.
    Shutdown = 7,
    /// Too long.
    TooBig = 9,
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

/// The answer to the choice of an export.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ExportFacts {
    /// Bytes of the export.
    pub size: u64,
    /// Transmission flags.
    pub flags: u16,
}

impl ExportFacts {
    /// Bytes of the record.
    pub const LEN: usize = 10;

    /// As bytes.
    pub fn encode(self) -> [u8; Self::LEN] {
        let mut bytes = [0; Self::LEN];
        bytes[..8].copy_from_slice(&self.size.to_be_bytes());
        bytes[8..].copy_from_slice(&self.flags.to_be_bytes());
        bytes
    }

    /// From bytes.
    ///
    /// # Errors
    /// [`Malformed`] if there are not exactly so many.
    pub fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        let mut cursor = Cursor::new(bytes);
        let facts = Self { size: be64(&mut cursor)?, flags: be16(&mut cursor)? };
        cursor.end().map(|()| facts)
    }
}

/// The sizes of requests a server serves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BlockSizes {
    /// Every offset and length is a multiple of this.
    pub minimum: u32,
    /// Multiples of this cost least.
    pub preferred: u32,
    /// The largest payload.
    pub maximum: u32,
}

impl BlockSizes {
    /// What holds when a server does not say.
    pub const DEFAULT: Self = Self { minimum: 1, preferred: 4096, maximum: 32 << 20 };

    /// From bytes.
    ///
    /// # Errors
    /// [`Malformed`] if there are not exactly twelve, or the sizes contradict the protocol.
    pub fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        let mut cursor = Cursor::new(bytes);
        let sizes =
            Self { minimum: be32(&mut cursor)?, preferred: be32(&mut cursor)?, maximum: be32(&mut cursor)? };
        cursor.end()?;
        let sane = sizes.minimum.is_power_of_two()
            && sizes.minimum <= 65536
            && sizes.preferred.is_power_of_two()
            && sizes.preferred >= sizes.minimum
            && sizes.maximum >= sizes.preferred;
        if sane { Ok(sizes) } else { Err(cursor.malformed("block sizes that cannot be")) }
    }
}

/// Appends size and flags of an export as a reply.
pub fn put_info_export(out: &mut Vec<u8>, option: u32, facts: ExportFacts) {
    OptionReply::put(out, option, REP_INFO, &[&INFO_EXPORT.to_be_bytes(), &facts.encode()]);
}

/// Appends a name or description as a reply.
pub fn put_info_text(out: &mut Vec<u8>, option: u32, info: u16, text: &str) {
    OptionReply::put(out, option, REP_INFO, &[&info.to_be_bytes(), clip(text).as_bytes()]);
}

/// Appends the sizes of requests as a reply.
pub fn put_info_block_size(out: &mut Vec<u8>, option: u32, sizes: BlockSizes) {
    let parts: [&[u8]; 4] = [
        &INFO_BLOCK_SIZE.to_be_bytes(),
        &sizes.minimum.to_be_bytes(),
        &sizes.preferred.to_be_bytes(),
        &sizes.maximum.to_be_bytes(),
    ];
    OptionReply::put(out, option, REP_INFO, &parts);
}

/// Appends an entry of the list of exports as a reply.
pub fn put_server(out: &mut Vec<u8>, option: u32, name: &str, description: &str) {
    let name = clip(name);
    let length = (name.len() as u32).to_be_bytes();
    OptionReply::put(out, option, REP_SERVER, &[&length, name.as_bytes(), clip(description).as_bytes()]);
}

/// Appends a metadata context as a reply.
pub fn put_meta_context(out: &mut Vec<u8>, option: u32, id: u32, name: &str) {
    OptionReply::put(out, option, REP_META_CONTEXT, &[&id.to_be_bytes(), name.as_bytes()]);
}

/// A text with its length (u32) before it, at most [`MAX_TEXT_LEN`] bytes.
fn text<'a>(cursor: &mut Cursor<'a>) -> Result<&'a str, Malformed> {
    let length = be32(cursor)? as usize;
    if length > MAX_TEXT_LEN {
        return Err(cursor.malformed(format!("a text of {length} bytes, at most {MAX_TEXT_LEN} are valid")));
    }
    let bytes = cursor.bytes(length)?;
    std::str::from_utf8(bytes).map_err(|_| cursor.malformed("a text is not UTF-8"))
}

/// The data of [`super::OPT_INFO`] and [`super::OPT_GO`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GoRequest<'a> {
    /// The export.
    pub name: &'a str,
    /// Whether its name is asked for.
    pub wants_name: bool,
    /// Whether its description is asked for.
    pub wants_description: bool,
    /// Whether its block sizes are asked for.
    pub wants_block_size: bool,
}

impl<'a> GoRequest<'a> {
    /// From the data of the option. Facts nobody knows of are left out.
    ///
    /// # Errors
    /// [`Malformed`] if lengths do not fit, or the name is too long or not UTF-8.
    pub fn decode(data: &'a [u8]) -> Result<Self, Malformed> {
        let mut cursor = Cursor::new(data);
        let name = text(&mut cursor)?;
        let mut go = Self { name, wants_name: false, wants_description: false, wants_block_size: false };
        for _ in 0..be16(&mut cursor)? {
            match be16(&mut cursor)? {
                super::INFO_NAME => go.wants_name = true,
                super::INFO_DESCRIPTION => go.wants_description = true,
                INFO_BLOCK_SIZE => go.wants_block_size = true,
                _ => {}
            }
        }
        cursor.end().map(|()| go)
    }

    /// Appends the whole option.
    pub fn put(&self, out: &mut Vec<u8>, option: u32) {
        let wants = [
            (self.wants_name, super::INFO_NAME),
            (self.wants_description, super::INFO_DESCRIPTION),
            (self.wants_block_size, INFO_BLOCK_SIZE),
        ];
        let mut data = (self.name.len() as u32).to_be_bytes().to_vec();
        data.extend_from_slice(self.name.as_bytes());
        let count = wants.iter().filter(|(wanted, _)| *wanted).count() as u16;
        data.extend_from_slice(&count.to_be_bytes());
        for (_, info) in wants.iter().filter(|(wanted, _)| *wanted) {
            data.extend_from_slice(&info.to_be_bytes());
        }
        out.extend_from_slice(&OptionHeader { option, length: data.len() as u32 }.encode());
        out.extend_from_slice(&data);
    }
}

/// The data of [`super::OPT_LIST_META_CONTEXT`] and [`super::OPT_SET_META_CONTEXT`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MetaRequest<'a> {
    /// The export.
    pub name: &'a str,
    /// What is asked for; nothing means everything to LIST and nothing to SET.
    pub queries: Vec<&'a str>,
}

impl<'a> MetaRequest<'a> {
    /// From the data of the option.
    ///
    /// # Errors
    /// [`Malformed`] if lengths do not fit, or a text is too long or not UTF-8.
    pub fn decode(data: &'a [u8]) -> Result<Self, Malformed> {
        let mut cursor = Cursor::new(data);
        let name = text(&mut cursor)?;
        let count = be32(&mut cursor)? as usize;
        // each query takes its length at least, so a count the data cannot hold allocates nothing
        if count > cursor.remaining() / 4 {
            return Err(cursor.malformed(format!("{count} queries do not fit here")));
        }
        let queries = (0..count).map(|_| text(&mut cursor)).collect::<Result<_, _>>()?;
        cursor.end().map(|()| Self { name, queries })
    }

    /// Appends the whole option.
    pub fn put(&self, out: &mut Vec<u8>, option: u32) {
        let mut data = Vec::new();
        let put_text = |data: &mut Vec<u8>, text: &str| {
            data.extend_from_slice(&(text.len() as u32).to_be_bytes());
            data.extend_from_slice(text.as_bytes());
        };
        put_text(&mut data, self.name);
        data.extend_from_slice(&(self.queries.len() as u32).to_be_bytes());
        self.queries.iter().for_each(|query| put_text(&mut data, query));
        out.extend_from_slice(&OptionHeader { option, length: data.len() as u32 }.encode());
        out.extend_from_slice(&data);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::{OPT_GO, OPT_SET_META_CONTEXT};

    #[test]
    fn options_survive_encoding() {
        let go =
            GoRequest { name: "web@3", wants_name: true, wants_description: false, wants_block_size: true };
        let mut bytes = Vec::new();
        go.put(&mut bytes, OPT_GO);
        assert_eq!(GoRequest::decode(&bytes[OptionHeader::LEN..]), Ok(go));

        let meta = MetaRequest { name: "", queries: vec!["base:", "x-y:z"] };
        let mut bytes = Vec::new();
        meta.put(&mut bytes, OPT_SET_META_CONTEXT);
        assert_eq!(MetaRequest::decode(&bytes[OptionHeader::LEN..]), Ok(meta));
    }

    #[test]
    fn counts_and_lengths_that_lie_are_malformed() {
        let huge = [0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff];
        assert!(MetaRequest::decode(&huge).is_err());
        assert!(GoRequest::decode(&[0, 0, 0x10, 1, 0, 0]).is_err());
        assert!(GoRequest::decode(&[0, 0, 0, 1, 0xff, 0, 0]).is_err());
        assert!(GoRequest::decode(&[0, 0, 0, 0, 0, 0, 9]).is_err(), "bytes left over");
    }

    #[test]
    fn long_texts_are_cut_between_characters() {
        let text = "é".repeat(3000);
        assert_eq!(clip(&text).len(), 4096);
        assert_eq!(clip(&format!("a{text}")).len(), 4095);
    }
}
