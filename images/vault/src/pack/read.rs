//! Reading packs: the head (front, footer, trailer) and single entries.

use block::{ByteRange, VaultId};

use crate::chunk::decode;
use crate::front::{FRONT_LEN, Front, PACK};
use crate::key::Keys;
use crate::name::{Address, Shelf};
use crate::pack::{
    FOOTER_LEN, Footer, MAX_PACK_ENTRIES, MAX_PACK_LEN, PART_ENTRY, PART_TRAILER, RECORD_LEN, Record, Trailer,
};
use crate::seal::{BlobKey, Place, TAG_LEN};
use crate::{Error, Result};

/// What is known of a pack without reading its entries.
pub(crate) struct PackHead {
    pub(crate) front: Front,
    pub(crate) key: BlobKey,
    pub(crate) footer: Footer,
    pub(crate) trailer: Trailer,
}

/// Reads and checks front, footer and trailer of a pack of `len` bytes. `get` reads a range of it.
pub(crate) fn read_head(
    keys: &Keys,
    vault: VaultId,
    address: Address,
    len: u64,
    get: &dyn Fn(ByteRange) -> Result<Vec<u8>>,
) -> Result<PackHead> {
    let name = address.name(Shelf::Packs);
    let least = FRONT_LEN + 1 + TAG_LEN + RECORD_LEN + TAG_LEN + FOOTER_LEN;
    if len < least as u64 || len > MAX_PACK_LEN {
        let why = format!("{len} bytes long, {least} to {MAX_PACK_LEN} are valid");
        return Err(Error::damaged(&name, "length", why));
    }
    let front = get(ByteRange::between(0, FRONT_LEN as u64))?;
    let front = Front::expect(&front, PACK, vault, address, Shelf::Packs)?;
    let key = BlobKey::derive(keys, &front);
    let footer = get(ByteRange::between(len - FOOTER_LEN as u64, len))?;
    let footer = Footer::decode(&footer, len).map_err(|why| Error::damaged(&name, "footer", why))?;
    let count = footer.count as usize;
    if count > MAX_PACK_ENTRIES || footer.trailer_len as usize != count * RECORD_LEN + TAG_LEN {
        return Err(Error::damaged(&name, "footer", "count and trailer length disagree"));
    }
    let trailer_end = footer.trailer_at + u64::from(footer.trailer_len);
    let mut sealed = get(ByteRange::between(footer.trailer_at, trailer_end))?;
    let plain = key
        .open(Place::new(PART_TRAILER, 0), &footer.bound(), &mut sealed)
        .map_err(|why| Error::damaged(&name, "trailer", why))?;
    let trailer =
        Trailer::decode(plain, footer.trailer_at).map_err(|why| Error::damaged(&name, "trailer", why))?;
    Ok(PackHead { front, key, footer, trailer })
}

/// Opens, decodes and verifies one entry: the seal, the length and the id of the bytes.
pub(crate) fn open_entry(
    keys: &Keys,
    key: &BlobKey,
    pack: &Address,
    number: u32,
    record: &Record,
    sealed: &mut [u8],
) -> Result<Vec<u8>> {
    let damaged = |why: String| Error::damaged(&pack.name(Shelf::Packs), format!("entry {number}"), why);
    let encoded = key
        .open(Place::new(PART_ENTRY, u64::from(number)), &record.encode(), sealed)
        .map_err(|why| damaged(why.to_string()))?;
    let raw = decode(record.encoding, encoded, record.raw as usize).map_err(damaged)?;
    if !block::planted!("vault-seal-unchecked") && record.kind.id_of(keys, &raw) != record.id {
        return Err(damaged("its bytes are not those of its id".to_owned()));
    }
    Ok(raw)
}
