//! Packs that arrived in the store and that no index names yet, noted on the host: what an attempt sent that was killed serves the next.
//! Specified in `docs/hooks.md`.

use std::collections::BTreeSet;

use block::sync::lock;
use block::{Cursor, FileHeader, HEADER_LEN, Malformed, OpenHow, VaultId};

use crate::Result;
use crate::index::INDEX_PACKS;
use crate::inner::Inner;
use crate::name::{ADDRESS_LEN, Address};
use crate::sweep::Pinned;

const FILE: &str = "arrived";
const FORMAT: [u8; 4] = *b"arvd";
const VERSION: u32 = 1;
/// More packs than all jobs of a host have on their way to an index.
const MAX_ARRIVED: usize = 1 << 14;
const HEAD_LEN: usize = HEADER_LEN + 16 + 4;

/// The packs, and whether those that earlier processes noted are among them.
#[derive(Default)]
pub(crate) struct Arrived {
    packs: BTreeSet<Address>,
    is_read: bool,
}

impl Inner {
    /// Takes note of a pack that is durable.
    pub(crate) fn note_arrived(&self, pack: Address) {
        let mut arrived = lock(&self.arrived);
        if arrived.packs.len() < MAX_ARRIVED {
            arrived.packs.insert(pack);
            self.keep_arrived(&arrived);
        }
    }

    /// An index names these packs.
    pub(crate) fn forget_arrived(&self, packs: &[Address]) {
        let mut arrived = lock(&self.arrived);
        arrived.packs.retain(|pack| !packs.contains(pack));
        self.keep_arrived(&arrived);
    }

    /// Puts an index of what attempts sent that were killed, so that this one finds it. Each pack is read as if it were new here.
    pub(crate) fn list_arrived(&self) -> Result<()> {
        let Some(media) = &self.options.cache else { return Ok(()) };
        if std::mem::replace(&mut lock(&self.arrived).is_read, true) {
            return Ok(());
        }
        // one that cannot be read only costs sending again
        let left = media.read_whole(FILE, (HEAD_LEN + MAX_ARRIVED * ADDRESS_LEN + 4) as u64).ok();
        let left = left.and_then(|bytes| decode(&bytes, self.id).ok()).unwrap_or_default();
        self.list_packs(&left).inspect_err(|_| lock(&self.arrived).is_read = false)?;
        self.forget_arrived(&left.into_iter().collect::<Vec<_>>());
        Ok(())
    }

    fn list_packs(&self, packs: &BTreeSet<Address>) -> Result<()> {
        // no sweep takes them between the look and the index
        let mut pinned = Pinned::new(self.pins.clone());
        let mut listings = Vec::new();
        for pack in packs.iter().filter(|pack| pinned.pin(**pack)) {
            match self.pack_len(*pack).and_then(|len| self.pack_listing(*pack, len)) {
                Ok(listing) => listings.push(listing),
                // swept, or nothing to rely on
                Err(error) if error.is_damage() => self.distrust.witness(&error),
                Err(error) => return Err(error),
            }
        }
        while !listings.is_empty() {
            let some = listings.drain(..listings.len().min(INDEX_PACKS)).collect();
            self.put_index(some)?;
        }
        Ok(())
    }

    /// Writes the note down, unsynced: it is for a process that is killed, not for a host. A note that cannot be kept costs sending again.
    fn keep_arrived(&self, arrived: &Arrived) {
        let Some(media) = &self.options.cache else { return };
        let fresh = format!("{FILE}.new");
        let write = || {
            media.open(&fresh, OpenHow::Truncate)?.write_at(0, &encode(&arrived.packs, self.id))?;
            media.rename(&fresh, FILE)
        };
        write().ok();
    }
}

fn encode(packs: &BTreeSet<Address>, vault: VaultId) -> Vec<u8> {
    let mut bytes = FileHeader::new(FORMAT, VERSION).encode().to_vec();
    bytes.extend_from_slice(vault.as_bytes());
    bytes.extend_from_slice(&(packs.len() as u32).to_le_bytes());
    packs.iter().for_each(|pack| bytes.extend_from_slice(&pack.encode()));
    bytes.extend_from_slice(&crc32fast::hash(&bytes).to_le_bytes());
    bytes
}

fn decode(bytes: &[u8], vault: VaultId) -> Result<BTreeSet<Address>, Malformed> {
    let mut cursor = Cursor::new(bytes);
    if FileHeader::check(bytes, &FileHeader::new(FORMAT, VERSION), FILE).is_err() {
        return Err(cursor.malformed("it is no note of packs"));
    }
    cursor.bytes(HEADER_LEN)?;
    let of = VaultId::from_bytes(cursor.array()?);
    let count = cursor.u32()? as usize;
    if of != vault || count > MAX_ARRIVED || cursor.remaining() != count * ADDRESS_LEN + 4 {
        return Err(cursor.malformed(format!("{count} packs of vault {of} do not fit here")));
    }
    let packs: Result<_, _> = (0..count).map(|_| Address::decode(&mut cursor)).collect();
    let end = cursor.position();
    match cursor.u32()? == crc32fast::hash(&bytes[..end]) {
        true => packs,
        false => Err(cursor.malformed("its checksum disagrees")),
    }
}

/// For fuzzing: the note of any vault.
pub fn fuzz_decode(bytes: &[u8]) {
    let mut id = [0; 16];
    if let Some(found) = bytes.get(HEADER_LEN..HEADER_LEN + 16) {
        id.copy_from_slice(found);
    }
    let vault = VaultId::from_bytes(id);
    if let Ok(packs) = decode(bytes, vault) {
        // a list that was not sorted is sorted then, and one with duplicates is shorter
        assert!(encode(&packs, vault).len() <= bytes.len());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::name::{ApplianceId, BlobId};

    #[test]
    fn a_note_round_trips_and_is_of_one_vault() {
        let vault = VaultId::from_bytes([1; 16]);
        let pack =
            |id| Address { appliance: ApplianceId::from_bytes([2; 8]), id: BlobId::from_bytes([id; 16]) };
        let packs: BTreeSet<Address> = [pack(3), pack(4)].into();
        let bytes = encode(&packs, vault);
        assert_eq!(decode(&bytes, vault), Ok(packs));
        assert!(decode(&bytes, VaultId::from_bytes([2; 16])).is_err());
        for len in 0..bytes.len() {
            assert!(decode(&bytes[..len], vault).is_err(), "{len}");
        }
        fuzz_decode(&bytes);
    }
}
