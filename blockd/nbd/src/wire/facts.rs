//! What a server tells of an export: the data of replies to options.

use super::option::clip;
use super::{
    INFO_BLOCK_SIZE, INFO_EXPORT, OptionReply, REP_INFO, REP_META_CONTEXT, REP_SERVER, be16, be32, be64,
};
use block::{Cursor, Malformed};

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
