//! Sums files: `images/layers/docs/sums.md`.

use crate::bytes::{Fields, Why, header};

/// Blocks of a page of sums.
pub(crate) const PAGE: u64 = 992;

/// Checks the head of a sums file.
pub(crate) fn head(bytes: &[u8], disk: [u8; 16], number: u64) -> Result<(), Why> {
    let mut fields = Fields::new(bytes);
    header(&mut fields, b"sums")?;
    let owner = (fields.id()?, fields.u64()?);
    if owner != (disk, number) || fields.number::<4>()? != u64::from(crc32fast::hash(&bytes[..56])) {
        return Err("is another disk's, or has another number".to_owned());
    }
    Ok(())
}

/// The length of the file for a layer of this many blocks.
pub(crate) fn length(blocks: u64) -> u64 {
    4096 + blocks.div_ceil(PAGE) * 8192
}

/// The sums of a page from its two slots, 0 for none.
pub(crate) fn page(slots: &[u8], disk: [u8; 16], number: u64, page: u64) -> Vec<u32> {
    let mut newest = (0, vec![0; PAGE as usize]);
    for slot in slots.chunks_exact(4096) {
        if let Some(found) = slot_of(slot, disk, number, page)
            && found.0 > newest.0
        {
            newest = found;
        }
    }
    newest.1
}

fn slot_of(slot: &[u8], disk: [u8; 16], number: u64, page: u64) -> Option<(u64, Vec<u32>)> {
    let mut fields = Fields::new(slot);
    let (crc, zero, sequence) = (fields.number::<4>().ok()?, fields.number::<4>().ok()?, fields.u64().ok()?);
    let place = (fields.u64().ok()?, fields.u64().ok()?, fields.id().ok()?);
    let is_whole = u64::from(crc32fast::hash(&slot[4..])) == crc && zero == 0 && sequence > 0;
    fields.take(80).ok()?;
    let sums = fields.rest().chunks_exact(4);
    let sums = sums.map(|sum| u32::from_le_bytes([sum[0], sum[1], sum[2], sum[3]])).collect();
    (is_whole && place == (page, number, disk)).then_some((sequence, sums))
}

/// The sum of a block.
pub(crate) fn of(block: &[u8]) -> u32 {
    crc32fast::hash(block).max(1)
}
