//! The list of where the content of one pack is now.

use block::{Cursor, Malformed, VaultId};

use crate::chunk::MAX_FRAME_CHUNKS;
use crate::front::{FRONT_LEN, Front, MOVED};
use crate::key::Keys;
use crate::name::{ADDRESS_LEN, Address, Shelf, Spot};
use crate::pack::{MAX_PACK_CHUNKS, MAX_PACK_ENTRIES};
use crate::seal::{BlobKey, Place, TAG_LEN};
use crate::{Error, Result};

const PART_BODY: u8 = 1;
const HEAD_LEN: usize = 8;
const ROW_LEN: usize = 16;
/// Every chunk and every node of the largest pack, each in a run of its own.
const MAX_ROWS: usize = MAX_PACK_CHUNKS + MAX_PACK_ENTRIES;
/// The most packs the content of one goes to.
const MAX_TARGETS: usize = MAX_PACK_ENTRIES;
/// No valid list is longer.
pub(crate) const MAX_MOVED_LEN: u64 =
    (FRONT_LEN + HEAD_LEN + MAX_TARGETS * ADDRESS_LEN + MAX_ROWS * ROW_LEN + TAG_LEN) as u64;

/// Neighbouring chunks of a frame that are neighbours in their new frame too, or a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Row {
    entry: u32,
    chunk: u8,
    count: u8,
    pack: u16,
    new_entry: u32,
    new_chunk: u8,
}

impl Row {
    fn end(&self) -> (u32, u32) {
        (self.entry, u32::from(self.chunk) + u32::from(self.count))
    }

    fn is_valid(&self, packs: usize) -> bool {
        let fits = |chunk: u8| usize::from(chunk) + usize::from(self.count) <= MAX_FRAME_CHUNKS;
        self.count > 0 && fits(self.chunk) && fits(self.new_chunk) && usize::from(self.pack) < packs
    }
}

/// Where the content of one pack is now.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Moved {
    packs: Vec<Address>,
    // ascending by the old place
    rows: Vec<Row>,
}

impl Moved {
    /// Adds a chunk or a node. Calls come in ascending order of the old places.
    pub(crate) fn push(&mut self, entry: u32, chunk: u8, new: &Spot) {
        let pack = self.packs.iter().rposition(|pack| *pack == new.pack).unwrap_or_else(|| {
            self.packs.push(new.pack);
            self.packs.len() - 1
        }) as u16;
        if let Some(last) = self.rows.last_mut()
            && last.end() == (entry, u32::from(chunk))
            && (last.pack, last.new_entry) == (pack, new.entry)
            && last.new_chunk + last.count == new.chunk
        {
            last.count += 1;
            return;
        }
        self.rows.push(Row { entry, chunk, count: 1, pack, new_entry: new.entry, new_chunk: new.chunk });
    }

    /// Where `count` neighbouring chunks from an old place on are now, or a node; `None` if it does not say so of all of them.
    pub(crate) fn follow(&self, old: &Spot, count: u64) -> Option<Vec<(Spot, u64)>> {
        let (mut at, end) = (u32::from(old.chunk), u32::from(old.chunk) + count as u32);
        let first = self.rows.partition_point(|row| row.end() <= (old.entry, at));
        let mut found = Vec::new();
        for row in self.rows.get(first..)? {
            if at >= end {
                break;
            }
            let start = u32::from(row.chunk);
            if row.entry != old.entry || start > at {
                return None;
            }
            let upto = row.end().1.min(end);
            let chunk = row.new_chunk + (at - start) as u8;
            let pack = *self.packs.get(usize::from(row.pack))?;
            found.push((Spot { pack, entry: row.new_entry, chunk }, u64::from(upto - at)));
            at = upto;
        }
        (at >= end).then_some(found)
    }

    fn body(&self) -> Vec<u8> {
        let mut bytes =
            Vec::with_capacity(HEAD_LEN + self.packs.len() * ADDRESS_LEN + self.rows.len() * ROW_LEN);
        bytes.extend_from_slice(&(self.packs.len() as u32).to_le_bytes());
        bytes.extend_from_slice(&(self.rows.len() as u32).to_le_bytes());
        self.packs.iter().for_each(|pack| bytes.extend_from_slice(&pack.encode()));
        for row in &self.rows {
            bytes.extend_from_slice(&row.entry.to_le_bytes());
            bytes.extend_from_slice(&[row.chunk, row.count]);
            bytes.extend_from_slice(&row.pack.to_le_bytes());
            bytes.extend_from_slice(&row.new_entry.to_le_bytes());
            bytes.extend_from_slice(&[row.new_chunk, 0, 0, 0]);
        }
        bytes
    }

    /// The stored form; `front` is that of the old pack's address.
    pub(crate) fn encode(&self, keys: &Keys, front: &Front) -> Vec<u8> {
        let mut out = front.encode().to_vec();
        BlobKey::derive(keys, front).seal(Place::new(PART_BODY, 0), &[], &self.body(), &mut out);
        out
    }

    pub(crate) fn decode(keys: &Keys, vault: VaultId, pack: Address, bytes: &[u8]) -> Result<Self> {
        let name = pack.name(Shelf::Moved);
        let front = Front::expect(bytes, MOVED, vault, pack, Shelf::Moved)?;
        let mut sealed = bytes[FRONT_LEN..].to_vec();
        let plain = BlobKey::derive(keys, &front)
            .open(Place::new(PART_BODY, 0), &[], &mut sealed)
            .map_err(|why| Error::damaged(&name, "body", why))?;
        decode_body(plain).map_err(|why| Error::damaged(&name, "body", why))
    }
}

fn decode_body(bytes: &[u8]) -> Result<Moved, Malformed> {
    let mut cursor = Cursor::new(bytes);
    let (packs, rows) = (cursor.u32()? as usize, cursor.u32()? as usize);
    if packs > MAX_TARGETS || rows > MAX_ROWS || cursor.remaining() != packs * ADDRESS_LEN + rows * ROW_LEN {
        return Err(cursor.malformed(format!("{packs} packs and {rows} rows do not fit here")));
    }
    let packs: Result<Vec<_>, _> = (0..packs).map(|_| Address::decode(&mut cursor)).collect();
    let mut moved = Moved { packs: packs?, rows: Vec::with_capacity(rows) };
    for _ in 0..rows {
        let (entry, chunk, count, pack) = (cursor.u32()?, cursor.u8()?, cursor.u8()?, cursor.u16()?);
        let row = Row { entry, chunk, count, pack, new_entry: cursor.u32()?, new_chunk: cursor.u8()? };
        let is_zero = cursor.array::<3>()? == [0; 3];
        let follows = moved.rows.last().is_none_or(|last| last.end() <= (entry, u32::from(chunk)));
        if !is_zero || !follows || !row.is_valid(moved.packs.len()) {
            return Err(cursor.malformed(format!("{row:?} cannot be here")));
        }
        moved.rows.push(row);
    }
    cursor.end()?;
    Ok(moved)
}

/// For fuzzing: whatever decodes must encode to the same bytes, and be followed without a panic.
pub fn fuzz_decode(bytes: &[u8]) {
    if let Ok(moved) = decode_body(bytes) {
        assert_eq!(moved.body(), bytes);
        for row in &moved.rows {
            let Some(pack) = moved.packs.first() else { continue };
            let old = Spot { pack: *pack, entry: row.entry, chunk: row.chunk };
            let found = moved.follow(&old, u64::from(row.count)).expect("it is named");
            assert_eq!(found.iter().map(|(_, count)| count).sum::<u64>(), u64::from(row.count));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::name::{ApplianceId, BlobId};

    fn spot(pack: u8, entry: u32, chunk: u8) -> Spot {
        let (appliance, id) = (ApplianceId::from_bytes([7; 8]), BlobId::from_bytes([pack; 16]));
        Spot { pack: Address { appliance, id }, entry, chunk }
    }

    #[test]
    fn runs_are_followed_to_all_their_parts_or_not_at_all() {
        let mut moved = Moved::default();
        for (chunk, new) in [(3, spot(2, 0, 62)), (4, spot(2, 0, 63)), (5, spot(2, 1, 0)), (7, spot(3, 9, 1))]
        {
            moved.push(4, chunk, &new);
        }
        moved.push(6, 0, &spot(3, 10, 0));
        assert_eq!(moved.rows.len(), 4, "neighbours are one row");
        let follow = |entry, chunk, count| moved.follow(&spot(1, entry, chunk), count);
        assert_eq!(follow(4, 3, 3), Some(vec![(spot(2, 0, 62), 2), (spot(2, 1, 0), 1)]));
        assert_eq!(follow(4, 4, 1), Some(vec![(spot(2, 0, 63), 1)]));
        assert_eq!(follow(6, 0, 1), Some(vec![(spot(3, 10, 0), 1)]));
        for (entry, chunk, count) in
            [(4, 2, 2), (4, 5, 3), (4, 7, 2), (5, 0, 1), (6, 1, 1), (7, 0, 1), (3, 9, 1)]
        {
            assert_eq!(follow(entry, chunk, count), None, "{entry} {chunk} {count}");
        }
        let bytes = moved.body();
        fuzz_decode(&bytes);
        assert_eq!(decode_body(&bytes).as_ref(), Ok(&moved));
        for len in 0..bytes.len() {
            assert!(decode_body(&bytes[..len]).is_err(), "{len}");
        }
        for (at, value) in [(8 + 48 + 5, 0), (8 + 48 + 5, 62), (8 + 48 + 6, 2), (8 + 48 + 13, 1)] {
            let mut bad = bytes.clone();
            bad[at] = value;
            assert!(decode_body(&bad).is_err(), "{at}");
        }
    }
}
