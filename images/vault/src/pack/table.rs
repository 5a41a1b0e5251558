//! The list of what is in a pack. Specified in `docs/pack.md`.

use block::{Cursor, Malformed};

use crate::chunk::{CHUNK_SIZE, Encoding, Kind, MAX_RAW};
use crate::front::FRONT_LEN;
use crate::pack::Footer;
use crate::seal::TAG_LEN;

/// Bytes of a record.
pub(crate) const RECORD_LEN: usize = 12;

/// One entry of a pack.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Record {
    pub(crate) stored: u32,
    pub(crate) raw: u32,
    pub(crate) kind: Kind,
    pub(crate) encoding: Encoding,
}

impl Record {
    pub(crate) fn encode(&self) -> [u8; RECORD_LEN] {
        let mut bytes = [0; RECORD_LEN];
        bytes[..4].copy_from_slice(&self.stored.to_le_bytes());
        bytes[4..8].copy_from_slice(&self.raw.to_le_bytes());
        bytes[8] = self.kind.code();
        bytes[9] = self.encoding.code();
        bytes
    }

    /// Chunks in it.
    pub(crate) fn chunks(&self) -> u32 {
        match self.kind {
            Kind::Frame => self.raw / CHUNK_SIZE as u32,
            Kind::Node => 0,
        }
    }

    fn decode(cursor: &mut Cursor<'_>) -> Result<Self, Malformed> {
        let (stored, raw) = (cursor.u32()?, cursor.u32()?);
        let (kind, encoding) = (cursor.u8()?, cursor.u8()?);
        if cursor.u16()? != 0 {
            return Err(cursor.malformed("a record's spare bytes are not zero"));
        }
        let kind =
            Kind::from_code(kind).ok_or_else(|| cursor.malformed(format!("{kind} is no kind of entry")))?;
        let encoding = Encoding::from_code(encoding)
            .ok_or_else(|| cursor.malformed(format!("{encoding} is no encoding")))?;
        let record = Self { stored, raw, kind, encoding };
        match record.is_valid() {
            true => Ok(record),
            false => Err(cursor.malformed(format!("{raw} bytes stored as {stored} cannot be"))),
        }
    }

    fn is_valid(&self) -> bool {
        let plain = self.raw.saturating_add(TAG_LEN as u32);
        let fits = match self.encoding {
            Encoding::Raw => self.stored == plain,
            _ => self.stored > TAG_LEN as u32 && self.stored < plain,
        };
        let whole = self.kind == Kind::Node || self.raw.is_multiple_of(CHUNK_SIZE as u32);
        fits && whole && (1..=MAX_RAW as u32).contains(&self.raw)
    }
}

/// All entries of a pack, where each begins and which chunk is its first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Table {
    entries: Vec<Entry>,
}

/// An entry and its place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) record: Record,
    /// Its first byte in the pack.
    pub(crate) offset: u32,
    /// The number of its first chunk among the pack's chunks.
    pub(crate) first: u32,
}

impl Table {
    /// Reads the opened bytes of a table.
    ///
    /// # Errors
    /// [`Malformed`] if a record breaks a rule, or offsets or chunks do not end where the footer says.
    pub(crate) fn decode(bytes: &[u8], footer: &Footer) -> Result<Self, Malformed> {
        let mut cursor = Cursor::new(bytes);
        let mut entries = Vec::with_capacity(bytes.len() / RECORD_LEN);
        let (mut offset, mut first) = (FRONT_LEN as u64, 0);
        for _ in 0..bytes.len() / RECORD_LEN {
            let record = Record::decode(&mut cursor)?;
            let at = u32::try_from(offset).map_err(|_| cursor.malformed("longer than a pack can be"))?;
            entries.push(Entry { record, offset: at, first });
            offset += u64::from(record.stored);
            first = first.saturating_add(record.chunks());
        }
        cursor.end()?;
        if (offset, first, entries.len()) != (footer.table_at, footer.chunks, footer.entries as usize) {
            let why = format!("{} entries of {first} chunks end at {offset}", entries.len());
            return Err(cursor.malformed(why));
        }
        Ok(Self { entries })
    }

    /// The entries in order.
    pub(crate) fn entries(&self) -> impl Iterator<Item = &Entry> {
        self.entries.iter()
    }

    /// The entry of this number.
    pub(crate) fn get(&self, number: u32) -> Option<&Entry> {
        self.entries.get(number as usize)
    }

    /// The entry and the place in it of a chunk by its number in the pack.
    pub(crate) fn of_chunk(&self, number: u32) -> Option<(u32, u8)> {
        let after = self.entries.partition_point(|entry| entry.first <= number);
        let at = after.checked_sub(1)?;
        let within = number - self.entries[at].first;
        (within < self.entries[at].record.chunks()).then_some((at as u32, within as u8))
    }

    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }
}
