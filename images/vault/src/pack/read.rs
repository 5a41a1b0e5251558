//! Reading packs: the head (front, footer, table), the fingerprints, and single entries.

use block::{ByteRange, VaultId};

use crate::chunk::{Kind, decode_front, fingerprints};
use crate::front::{FRONT_LEN, Front, PACK};
use crate::key::Keys;
use crate::name::{Address, Fingerprint, Shelf};
use crate::pack::{
    FOOTER_LEN, Footer, MAX_PACK_LEN, PART_ENTRY, PART_PRINTS, PART_TABLE, RECORD_LEN, Record, Table,
};
use crate::seal::{BlobKey, Place, TAG_LEN};
use crate::{Error, Result};

/// What is known of a pack without reading its entries.
pub(crate) struct PackHead {
    pub(crate) address: Address,
    pub(crate) key: BlobKey,
    pub(crate) footer: Footer,
    pub(crate) table: Table,
}

/// Reads a range of a blob.
pub(crate) type Get<'a> = dyn Fn(ByteRange) -> Result<Vec<u8>> + 'a;

/// Reads and checks front, footer and table of a pack of `len` bytes.
pub(crate) fn read_head(
    keys: &Keys,
    vault: VaultId,
    address: Address,
    len: u64,
    get: &Get<'_>,
) -> Result<PackHead> {
    let name = address.name(Shelf::Packs);
    let least = FRONT_LEN + 1 + TAG_LEN + RECORD_LEN + TAG_LEN + TAG_LEN + FOOTER_LEN;
    if len < least as u64 || len > MAX_PACK_LEN {
        let why = format!("{len} bytes long, {least} to {MAX_PACK_LEN} are valid");
        return Err(Error::damaged(&name, "length", why));
    }
    let front = get(ByteRange::between(0, FRONT_LEN as u64))?;
    let front = Front::expect(&front, PACK, vault, address, Shelf::Packs)?;
    let key = BlobKey::derive(keys, &front);
    let footer = get(ByteRange::between(len - FOOTER_LEN as u64, len))?;
    let footer = Footer::decode(&footer, len).map_err(|why| Error::damaged(&name, "footer", why))?;
    let mut sealed = get(ByteRange::between(footer.table_at, footer.table_at + footer.table_len()))?;
    let plain = key
        .open(Place::new(PART_TABLE, 0), &footer.bound(), &mut sealed)
        .map_err(|why| Error::damaged(&name, "table", why))?;
    let table = Table::decode(plain, &footer).map_err(|why| Error::damaged(&name, "table", why))?;
    Ok(PackHead { address, key, footer, table })
}

/// Reads the fingerprints of a pack's chunks.
pub(crate) fn read_prints(head: &PackHead, get: &Get<'_>) -> Result<Vec<Fingerprint>> {
    let footer = &head.footer;
    let start = footer.table_at + footer.table_len();
    let mut sealed = get(ByteRange::between(start, start + footer.prints_len()))?;
    let plain = head
        .key
        .open(Place::new(PART_PRINTS, 0), &footer.bound(), &mut sealed)
        .map_err(|why| Error::damaged(&head.address.name(Shelf::Packs), "fingerprints", why))?;
    let (prints, _) = plain.as_chunks::<16>();
    Ok(prints.iter().map(|bytes| Fingerprint::from_bytes(*bytes)).collect())
}

/// Opens and decodes one entry. The seal proves that these bytes were sealed in this place of this pack.
pub(crate) fn open_entry(
    key: &BlobKey,
    pack: &Address,
    number: u32,
    record: &Record,
    sealed: &mut [u8],
) -> Result<Vec<u8>> {
    open_front(key, pack, number, record, sealed, record.raw as usize)
}

/// Opens one entry and decodes at least so many bytes from its front, or all if it has no more. The seal is that of the whole entry.
pub(crate) fn open_front(
    key: &BlobKey,
    pack: &Address,
    number: u32,
    record: &Record,
    sealed: &mut [u8],
    until: usize,
) -> Result<Vec<u8>> {
    let damaged = |why: String| Error::damaged(&pack.name(Shelf::Packs), format!("entry {number}"), why);
    let encoded = key
        .open(Place::new(PART_ENTRY, u64::from(number)), &record.encode(), sealed)
        .map_err(|why| damaged(why.to_string()))?;
    decode_front(record.encoding, encoded, record.raw as usize, until).map_err(damaged)
}

/// Compares the chunks of an opened frame with the pack's fingerprints.
pub(crate) fn prove_frame(
    keys: &Keys,
    head: &PackHead,
    prints: &[Fingerprint],
    number: u32,
    raw: &[u8],
) -> Result<()> {
    let Some(entry) = head.table.get(number).filter(|entry| entry.record.kind == Kind::Frame) else {
        return Ok(());
    };
    let first = entry.first as usize;
    let known = prints.get(first..first + entry.record.chunks() as usize).unwrap_or_default();
    if block::planted!("vault-seal-unchecked") || fingerprints(keys, raw).eq(known.iter().copied()) {
        return Ok(());
    }
    let name = head.address.name(Shelf::Packs);
    Err(Error::damaged(&name, format!("entry {number}"), "its chunks are not those of their fingerprints"))
}
