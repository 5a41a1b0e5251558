//! The end of packs and index blobs: where the trailer is. Specified in `docs/pack.md`.

use block::{Cursor, Malformed};

/// Bytes of a footer.
pub(crate) const FOOTER_LEN: usize = 24;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Footer {
    pub(crate) trailer_at: u64,
    pub(crate) trailer_len: u32,
    pub(crate) count: u32,
    pub(crate) body_crc: u32,
}

impl Footer {
    /// The part the trailer's seal covers.
    pub(crate) fn bound(&self) -> [u8; 16] {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&self.trailer_at.to_le_bytes());
        bytes[8..12].copy_from_slice(&self.trailer_len.to_le_bytes());
        bytes[12..].copy_from_slice(&self.count.to_le_bytes());
        bytes
    }

    pub(crate) fn encode(&self) -> [u8; FOOTER_LEN] {
        let mut bytes = [0; FOOTER_LEN];
        bytes[..16].copy_from_slice(&self.bound());
        bytes[16..20].copy_from_slice(&self.body_crc.to_le_bytes());
        let crc = crc32fast::hash(&bytes[..20]);
        bytes[20..].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    /// Reads a footer and checks that it belongs to a blob of `blob_len` bytes.
    pub(crate) fn decode(bytes: &[u8], blob_len: u64) -> Result<Self, Malformed> {
        let mut cursor = Cursor::new(bytes);
        let footer = Self {
            trailer_at: cursor.u64()?,
            trailer_len: cursor.u32()?,
            count: cursor.u32()?,
            body_crc: cursor.u32()?,
        };
        if cursor.u32()? != crc32fast::hash(&bytes[..20]) {
            return Err(cursor.malformed("its checksum disagrees"));
        }
        cursor.end()?;
        let end = footer.trailer_at.checked_add(u64::from(footer.trailer_len) + FOOTER_LEN as u64);
        if end != Some(blob_len) {
            return Err(cursor.malformed(format!("it belongs to a blob of another length than {blob_len}")));
        }
        Ok(footer)
    }
}
