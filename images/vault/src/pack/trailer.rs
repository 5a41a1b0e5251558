//! The list of what is in a pack. Specified in `docs/pack.md`.

use block::{Cursor, Malformed};

use crate::chunk::{CHUNK_SIZE, Encoding, Kind};
use crate::front::FRONT_LEN;
use crate::name::ContentId;
use crate::pack::MAX_PACK_ENTRIES;
use crate::seal::TAG_LEN;

/// Bytes of a record.
pub(crate) const RECORD_LEN: usize = 44;
/// The most raw bytes an entry has. Nodes are smaller.
pub(crate) const MAX_RAW: u32 = CHUNK_SIZE as u32;

/// One entry of a pack.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Record {
    pub(crate) id: ContentId,
    pub(crate) stored: u32,
    pub(crate) raw: u32,
    pub(crate) kind: Kind,
    pub(crate) encoding: Encoding,
}

impl Record {
    pub(crate) fn encode(&self) -> [u8; RECORD_LEN] {
        let mut bytes = [0; RECORD_LEN];
        bytes[..32].copy_from_slice(self.id.as_bytes());
        bytes[32..36].copy_from_slice(&self.stored.to_le_bytes());
        bytes[36..40].copy_from_slice(&self.raw.to_le_bytes());
        bytes[40] = self.kind.code();
        bytes[41] = self.encoding.code();
        bytes
    }

    fn decode(cursor: &mut Cursor<'_>) -> Result<Self, Malformed> {
        let id = ContentId::from_bytes(cursor.array()?);
        let (stored, raw) = (cursor.u32()?, cursor.u32()?);
        let (kind, encoding) = (cursor.u8()?, cursor.u8()?);
        if cursor.u16()? != 0 {
            return Err(cursor.malformed("a record's spare bytes are not zero"));
        }
        Self::checked(id, stored, raw, kind, encoding).map_err(|why| cursor.malformed(why))
    }

    /// The record of these fields, if they obey the rules of a pack.
    pub(crate) fn checked(
        id: ContentId,
        stored: u32,
        raw: u32,
        kind: u8,
        encoding: u8,
    ) -> Result<Self, String> {
        let kind = Kind::from_code(kind).ok_or_else(|| format!("{kind} is no kind of entry"))?;
        let encoding = Encoding::from_code(encoding).ok_or_else(|| format!("{encoding} is no encoding"))?;
        let plain = raw.saturating_add(TAG_LEN as u32);
        let fits = match encoding {
            Encoding::Raw => stored == plain,
            _ => stored > TAG_LEN as u32 && stored < plain,
        };
        if !(1..=MAX_RAW).contains(&raw) || !fits {
            return Err(format!("{raw} bytes stored as {stored} cannot be"));
        }
        Ok(Self { id, stored, raw, kind, encoding })
    }
}

/// All entries of a pack and where each begins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Trailer {
    records: Vec<Record>,
    offsets: Vec<u32>,
    end: u64,
}

impl Trailer {
    /// Reads the opened bytes of a trailer.
    ///
    /// # Errors
    /// [`Malformed`] if a record breaks a rule or the entries do not end where the trailer begins (`trailer_at`).
    pub(crate) fn decode(bytes: &[u8], trailer_at: u64) -> Result<Self, Malformed> {
        let mut cursor = Cursor::new(bytes);
        let count = bytes.len() / RECORD_LEN;
        if count == 0 || count > MAX_PACK_ENTRIES {
            return Err(cursor.malformed(format!("{count} entries, 1 to {MAX_PACK_ENTRIES} are valid")));
        }
        let mut trailer = Self {
            records: Vec::with_capacity(count),
            offsets: Vec::with_capacity(count),
            end: FRONT_LEN as u64,
        };
        for _ in 0..count {
            let record = Record::decode(&mut cursor)?;
            trailer.push(record).map_err(|why| cursor.malformed(why))?;
        }
        cursor.end()?;
        match trailer.end == trailer_at {
            true => Ok(trailer),
            false => Err(cursor.malformed(format!("entries end at {}, not at {trailer_at}", trailer.end))),
        }
    }

    fn push(&mut self, record: Record) -> Result<(), String> {
        let offset =
            u32::try_from(self.end).map_err(|_| "the entries are longer than a pack can be".to_owned())?;
        self.offsets.push(offset);
        self.records.push(record);
        self.end += u64::from(record.stored);
        Ok(())
    }

    /// The entries with their numbers and offsets.
    pub(crate) fn entries(&self) -> impl Iterator<Item = (u32, u32, &Record)> {
        self.offsets
            .iter()
            .zip(&self.records)
            .zip(0..)
            .map(|((&offset, record), number)| (number, offset, record))
    }

    /// The entry of this number and its offset.
    pub(crate) fn get(&self, number: u32) -> Option<(u32, &Record)> {
        let at = number as usize;
        Some((*self.offsets.get(at)?, self.records.get(at)?))
    }

    pub(crate) fn len(&self) -> usize {
        self.records.len()
    }
}
