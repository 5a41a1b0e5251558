//! The stored form of an index. Specified in `docs/index.md`.

use block::{ByteRange, Cursor, Malformed, VaultId};

use crate::front::{FRONT_LEN, Front, INDEX};
use crate::index::{Entry, INDEX_RECORDS, PackRow};
use crate::key::Keys;
use crate::name::{Address, ApplianceId, BlobId, ContentId, Shelf};
use crate::pack::{FOOTER_LEN, Footer, MAX_PACK_LEN, Record};
use crate::seal::{BlobKey, Place, TAG_LEN};
use crate::{Error, Result};

const PART_PACKS: u8 = 1;
const PART_RECORDS: u8 = 2;
const PART_TRAILER: u8 = 3;

const ROW_LEN: usize = 64;
const ENTRY_LEN: usize = 52;
/// Records in a section, all but the last.
const SECTION: usize = 4096;
/// Trailer bytes before the first ids.
const TRAILER_HEAD: usize = 8;
/// No valid index blob is longer: a full table of packs of one record each, and all sections.
pub(crate) const MAX_INDEX_LEN: u64 = ((INDEX_RECORDS + 1) * (ROW_LEN + ENTRY_LEN + 1)) as u64 + (1 << 20);

/// What an index blob says.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct IndexContent {
    /// Ascending by address.
    pub(crate) packs: Vec<PackRow>,
    /// Ascending by id; `pack` is a row of `packs`.
    pub(crate) entries: Vec<Entry>,
}

impl IndexContent {
    /// Sorts rows and entries into the stored order. Of several entries with one id the first stays.
    pub(crate) fn sorted(packs: Vec<PackRow>, mut entries: Vec<Entry>) -> Self {
        let mut order: Vec<u32> = (0..packs.len() as u32).collect();
        order.sort_by_key(|&row| packs[row as usize].address);
        let mut place = vec![0; packs.len()];
        for (new, &old) in order.iter().enumerate() {
            place[old as usize] = new as u32;
        }
        for entry in &mut entries {
            entry.pack = place[entry.pack as usize];
        }
        entries.sort_by_key(|entry| entry.record.id);
        entries.dedup_by_key(|entry| entry.record.id);
        Self { packs: order.iter().map(|&row| packs[row as usize]).collect(), entries }
    }
}

fn row_bytes(row: &PackRow) -> [u8; ROW_LEN] {
    let mut bytes = [0; ROW_LEN];
    bytes[..8].copy_from_slice(row.address.appliance.as_bytes());
    bytes[8..24].copy_from_slice(row.address.id.as_bytes());
    bytes[24..56].copy_from_slice(&row.salt);
    bytes[56..].copy_from_slice(&row.len.to_le_bytes());
    bytes
}

fn entry_bytes(entry: &Entry) -> [u8; ENTRY_LEN] {
    let mut bytes = [0; ENTRY_LEN];
    bytes[..32].copy_from_slice(entry.record.id.as_bytes());
    let words = [entry.pack, entry.number, entry.offset, entry.record.stored];
    for (field, word) in bytes[32..48].chunks_exact_mut(4).zip(words) {
        field.copy_from_slice(&word.to_le_bytes());
    }
    bytes[48..50].copy_from_slice(&((entry.record.raw - 1) as u16).to_le_bytes());
    bytes[50] = entry.record.kind.code();
    bytes[51] = entry.record.encoding.code();
    bytes
}

/// The stored form of sorted content.
pub(crate) fn encode_blob(keys: &Keys, front: &Front, content: &IndexContent) -> Vec<u8> {
    let key = BlobKey::derive(keys, front);
    let mut out = front.encode().to_vec();
    let rows: Vec<u8> = content.packs.iter().flat_map(row_bytes).collect();
    key.seal(Place::new(PART_PACKS, 0), &[], &rows, &mut out);
    let mut trailer = (content.packs.len() as u32).to_le_bytes().to_vec();
    trailer.extend_from_slice(&(content.entries.len() as u32).to_le_bytes());
    let mut sections = 0;
    for section in content.entries.chunks(SECTION) {
        let plain: Vec<u8> = section.iter().flat_map(entry_bytes).collect();
        key.seal(Place::new(PART_RECORDS, sections), &[], &plain, &mut out);
        trailer.extend_from_slice(section[0].record.id.as_bytes());
        sections += 1;
    }
    let footer = Footer {
        trailer_at: out.len() as u64,
        trailer_len: (trailer.len() + TAG_LEN) as u32,
        count: sections as u32,
        body_crc: 0,
    };
    key.seal(Place::new(PART_TRAILER, 0), &footer.bound(), &trailer, &mut out);
    let footer = Footer { body_crc: crc32fast::hash(&out), ..footer };
    out.extend_from_slice(&footer.encode());
    out
}

/// Reads and verifies a whole index blob.
pub(crate) fn decode_blob(
    keys: &Keys,
    vault: VaultId,
    address: Address,
    bytes: &[u8],
) -> Result<IndexContent> {
    let name = address.name(Shelf::Index);
    let front = Front::expect(bytes, INDEX, vault, address, Shelf::Index)?;
    let key = BlobKey::derive(keys, &front);
    let reader = Reader { name: &name, key: &key, bytes };
    let (footer, counts) = reader.trailer()?;
    let packs_end = FRONT_LEN + counts.packs * ROW_LEN + TAG_LEN;
    let rows = reader.part("pack table", Place::new(PART_PACKS, 0), FRONT_LEN, packs_end)?;
    let packs = decode_rows(&rows).map_err(|why| Error::damaged(&name, "pack table", why))?;
    let mut entries: Vec<Entry> = Vec::with_capacity(counts.entries);
    let mut at = packs_end;
    for (section, first) in counts.firsts.iter().enumerate() {
        let place = format!("records {section}");
        let count = SECTION.min(counts.entries - entries.len());
        let end = at + count * ENTRY_LEN + TAG_LEN;
        let plain = reader.part(&place, Place::new(PART_RECORDS, section as u64), at, end)?;
        let last = entries.last().map(|entry| entry.record.id);
        let section =
            decode_entries(&plain, &packs, last).map_err(|why| Error::damaged(&name, &place, why))?;
        if section.first().map(|entry| entry.record.id) != Some(*first) {
            return Err(Error::damaged(&name, place, "it does not begin as the trailer says"));
        }
        entries.extend(section);
        at = end;
    }
    match at as u64 == footer.trailer_at {
        true => Ok(IndexContent { packs, entries }),
        false => Err(Error::damaged(&name, "trailer", "the sections end elsewhere")),
    }
}

struct Counts {
    packs: usize,
    entries: usize,
    firsts: Vec<ContentId>,
}

struct Reader<'a> {
    name: &'a str,
    key: &'a BlobKey,
    bytes: &'a [u8],
}

impl Reader<'_> {
    fn part(&self, place: &str, sealed_as: Place, start: usize, end: usize) -> Result<Vec<u8>> {
        self.open(place, sealed_as, &[], ByteRange::between(start as u64, end as u64))
    }

    fn open(&self, place: &str, sealed_as: Place, extra: &[u8], range: ByteRange) -> Result<Vec<u8>> {
        let sealed = self.bytes.get(range.start() as usize..range.end() as usize);
        let mut sealed =
            sealed.ok_or_else(|| Error::damaged(self.name, place, "it passes the end of the blob"))?.to_vec();
        let plain = self.key.open(sealed_as, extra, &mut sealed);
        plain.map(<[u8]>::to_vec).map_err(|why| Error::damaged(self.name, place, why))
    }

    fn trailer(&self) -> Result<(Footer, Counts)> {
        let len = self.bytes.len();
        let footer = self.bytes.get(len.saturating_sub(FOOTER_LEN)..).unwrap_or_default();
        let footer =
            Footer::decode(footer, len as u64).map_err(|why| Error::damaged(self.name, "footer", why))?;
        let end = footer.trailer_at + u64::from(footer.trailer_len);
        let range = ByteRange::between(footer.trailer_at, end);
        let plain = self.open("trailer", Place::new(PART_TRAILER, 0), &footer.bound(), range)?;
        let counts = decode_trailer(&plain, footer.count);
        Ok((footer, counts.map_err(|why| Error::damaged(self.name, "trailer", why))?))
    }
}

fn decode_trailer(bytes: &[u8], sections: u32) -> Result<Counts, Malformed> {
    let mut cursor = Cursor::new(bytes);
    let packs = cursor.u32()? as usize;
    let entries = cursor.u32()? as usize;
    let fits = (1..=INDEX_RECORDS).contains(&entries) && (1..=entries).contains(&packs);
    if !fits
        || entries.div_ceil(SECTION) != sections as usize
        || bytes.len() != TRAILER_HEAD + 32 * sections as usize
    {
        return Err(
            cursor.malformed(format!("{packs} packs, {entries} records and {sections} sections cannot be"))
        );
    }
    let firsts: Result<_, _> = (0..sections).map(|_| cursor.array().map(ContentId::from_bytes)).collect();
    Ok(Counts { packs, entries, firsts: firsts? })
}

fn decode_rows(bytes: &[u8]) -> Result<Vec<PackRow>, Malformed> {
    let mut cursor = Cursor::new(bytes);
    let mut rows: Vec<PackRow> = Vec::with_capacity(bytes.len() / ROW_LEN);
    while cursor.remaining() > 0 {
        let appliance = ApplianceId::from_bytes(cursor.array()?);
        let id = BlobId::from_bytes(cursor.array()?);
        let row = PackRow { address: Address { appliance, id }, salt: cursor.array()?, len: cursor.u64()? };
        if rows.last().is_some_and(|last| last.address >= row.address) || row.len > MAX_PACK_LEN {
            return Err(cursor.malformed("packs out of order or too long"));
        }
        rows.push(row);
    }
    Ok(rows)
}

fn decode_entries(
    bytes: &[u8],
    packs: &[PackRow],
    mut last: Option<ContentId>,
) -> Result<Vec<Entry>, Malformed> {
    let mut cursor = Cursor::new(bytes);
    let mut entries = Vec::with_capacity(bytes.len() / ENTRY_LEN);
    while cursor.remaining() > 0 {
        let entry = decode_entry(&mut cursor)?;
        let end = u64::from(entry.offset) + u64::from(entry.record.stored);
        let pack = packs.get(entry.pack as usize);
        if pack.is_none_or(|pack| end > pack.len) || (entry.offset as usize) < FRONT_LEN {
            return Err(cursor.malformed("a record points outside its pack"));
        }
        if last.is_some_and(|last| last >= entry.record.id) {
            return Err(cursor.malformed("records out of order"));
        }
        last = Some(entry.record.id);
        entries.push(entry);
    }
    Ok(entries)
}

fn decode_entry(cursor: &mut Cursor<'_>) -> Result<Entry, Malformed> {
    let id = ContentId::from_bytes(cursor.array()?);
    let (pack, number, offset, stored) = (cursor.u32()?, cursor.u32()?, cursor.u32()?, cursor.u32()?);
    let raw = u32::from(cursor.u16()?) + 1;
    let (kind, encoding) = (cursor.u8()?, cursor.u8()?);
    let record = Record::checked(id, stored, raw, kind, encoding).map_err(|why| cursor.malformed(why))?;
    Ok(Entry { record, pack, number, offset })
}

/// For fuzzing: decodes the opened sections of an index, as if `bytes` were each of them.
pub fn fuzz_decode(bytes: &[u8]) {
    let rows = decode_rows(bytes).unwrap_or_default();
    let entries = decode_entries(bytes, &rows, None);
    let trailer = decode_trailer(bytes, (bytes.len() / 32) as u32);
    assert!(entries.is_err() || !bytes.is_empty() || trailer.is_err());
}
