//! Building a pack in memory, and proving that it decodes before anybody relies on it.

use block::{Entropy, VaultId};

use crate::chunk::{Encoding, Kind};
use crate::front::{FRONT_LEN, Front, PACK};
use crate::key::Keys;
use crate::name::{Address, ContentId};
use crate::pack::{
    FOOTER_LEN, Footer, MAX_PACK_ENTRIES, PACK_TARGET, PART_ENTRY, PART_TRAILER, RECORD_LEN, Record,
    open_entry, read_head,
};
use crate::seal::{BlobKey, Place, TAG_LEN};
use crate::{Error, Result};

/// A pack being filled.
pub(crate) struct PackWriter {
    front: Front,
    key: BlobKey,
    bytes: Vec<u8>,
    records: Vec<Record>,
}

/// A pack that is complete and decodes.
pub(crate) struct Finished {
    pub(crate) front: Front,
    pub(crate) bytes: Vec<u8>,
    pub(crate) records: Vec<Record>,
}

impl PackWriter {
    pub(crate) fn new(keys: &Keys, vault: VaultId, address: Address, entropy: &dyn Entropy) -> Result<Self> {
        let front = Front::fresh(PACK, vault, address, entropy)?;
        Ok(Self::with_front(keys, front))
    }

    pub(crate) fn with_front(keys: &Keys, front: Front) -> Self {
        let key = BlobKey::derive(keys, &front);
        Self { key, bytes: front.encode().to_vec(), records: Vec::new(), front }
    }

    /// Adds an entry that is encoded already. The caller adds no id twice.
    pub(crate) fn push(&mut self, kind: Kind, id: ContentId, raw: u32, encoding: Encoding, encoded: &[u8]) {
        let record = Record { id, stored: (encoded.len() + TAG_LEN) as u32, raw, kind, encoding };
        let place = Place::new(PART_ENTRY, self.records.len() as u64);
        self.key.seal(place, &record.encode(), encoded, &mut self.bytes);
        self.records.push(record);
    }

    /// Whether it is time to close it.
    pub(crate) fn is_full(&self) -> bool {
        self.bytes.len() >= PACK_TARGET || self.records.len() >= MAX_PACK_ENTRIES
    }

    /// Adds the trailer, then opens and decodes everything once as a reader would.
    pub(crate) fn finish(mut self, keys: &Keys) -> Result<Finished> {
        let footer = Footer {
            trailer_at: self.bytes.len() as u64,
            trailer_len: (self.records.len() * RECORD_LEN + TAG_LEN) as u32,
            count: self.records.len() as u32,
            body_crc: 0,
        };
        let plain: Vec<u8> = self.records.iter().flat_map(Record::encode).collect();
        self.key.seal(Place::new(PART_TRAILER, 0), &footer.bound(), &plain, &mut self.bytes);
        let footer = Footer { body_crc: crc32fast::hash(&self.bytes), ..footer };
        self.bytes.extend_from_slice(&footer.encode());
        let finished = Finished { front: self.front, bytes: self.bytes, records: self.records };
        finished.prove(keys)?;
        Ok(finished)
    }
}

impl Finished {
    pub(crate) fn len(&self) -> u64 {
        self.bytes.len() as u64
    }

    fn prove(&self, keys: &Keys) -> Result<()> {
        let not =
            |error: Error| Error::NotDecodable { what: "a new pack".to_owned(), why: error.to_string() };
        let slice =
            |range: block::ByteRange| Ok(self.bytes[range.start() as usize..range.end() as usize].to_vec());
        let head = read_head(keys, self.front.vault, self.front.address, self.len(), &slice).map_err(not)?;
        for (number, offset, record) in head.trailer.entries() {
            let (start, end) = (offset as usize, offset as usize + record.stored as usize);
            let mut sealed = self.bytes[start..end].to_vec();
            open_entry(keys, &head.key, &self.front.address, number, record, &mut sealed).map_err(not)?;
        }
        match head.trailer.len() == self.records.len() && self.bytes.len() > FRONT_LEN + FOOTER_LEN {
            true => Ok(()),
            false => Err(not(Error::damaged("it", "trailer", "entries are missing"))),
        }
    }
}
