//! The end of a pack: where its table is. Specified in `docs/pack.md`.

use block::{Cursor, Malformed};

use crate::front::FRONT_LEN;
use crate::pack::{MAX_PACK_CHUNKS, MAX_PACK_ENTRIES, RECORD_LEN};
use crate::seal::TAG_LEN;

/// Bytes of a footer.
pub(crate) const FOOTER_LEN: usize = 24;
/// Bytes of a fingerprint.
const PRINT_LEN: u64 = 16;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Footer {
    pub(crate) table_at: u64,
    pub(crate) entries: u32,
    pub(crate) chunks: u32,
    pub(crate) body_crc: u32,
}

impl Footer {
    /// The part the seals of table and fingerprints cover.
    pub(crate) fn bound(&self) -> [u8; 16] {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&self.table_at.to_le_bytes());
        bytes[8..12].copy_from_slice(&self.entries.to_le_bytes());
        bytes[12..].copy_from_slice(&self.chunks.to_le_bytes());
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

    /// Reads a footer and checks that it belongs to a pack of `pack_len` bytes.
    pub(crate) fn decode(bytes: &[u8], pack_len: u64) -> Result<Self, Malformed> {
        let mut cursor = Cursor::new(bytes);
        let footer = Self {
            table_at: cursor.u64()?,
            entries: cursor.u32()?,
            chunks: cursor.u32()?,
            body_crc: cursor.u32()?,
        };
        if cursor.u32()? != crc32fast::hash(&bytes[..20]) {
            return Err(cursor.malformed("its checksum disagrees"));
        }
        cursor.end()?;
        let (entries, chunks) = (footer.entries as usize, footer.chunks as usize);
        if !(1..=MAX_PACK_ENTRIES).contains(&entries) || chunks > MAX_PACK_CHUNKS {
            return Err(cursor.malformed(format!("no pack has {entries} entries and {chunks} chunks")));
        }
        if footer.table_at < FRONT_LEN as u64 || footer.end() != Some(pack_len) {
            return Err(cursor.malformed(format!("it belongs to a pack of another length than {pack_len}")));
        }
        Ok(footer)
    }

    /// Sealed bytes of the table.
    pub(crate) fn table_len(&self) -> u64 {
        u64::from(self.entries) * RECORD_LEN as u64 + TAG_LEN as u64
    }

    /// Sealed bytes of the fingerprints.
    pub(crate) fn prints_len(&self) -> u64 {
        u64::from(self.chunks) * PRINT_LEN + TAG_LEN as u64
    }

    fn end(&self) -> Option<u64> {
        self.table_at.checked_add(self.table_len() + self.prints_len() + FOOTER_LEN as u64)
    }
}
