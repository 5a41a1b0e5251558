//! Building a pack in memory, and proving that it opens before anybody relies on it.

use block::{ByteRange, Entropy, VaultId};

use crate::chunk::FRAME_CHUNKS;
use crate::chunk::{Encoding, Kind};
use crate::front::{Front, PACK};
use crate::index::PackRow;
use crate::key::Keys;
use crate::name::{Address, Fingerprint, Spot};
use crate::pack::{
    Footer, MAX_PACK_CHUNKS, MAX_PACK_ENTRIES, PACK_TARGET, PART_ENTRY, PART_PRINTS, PART_TABLE, Record,
    Table, hooks, read_head, read_prints,
};
use crate::seal::{BlobKey, Place};
use crate::{Error, Result};

/// A pack being filled.
pub(crate) struct PackWriter {
    front: Front,
    key: BlobKey,
    bytes: Vec<u8>,
    records: Vec<Record>,
    prints: Vec<Fingerprint>,
}

/// A pack that is complete and opens.
pub(crate) struct Finished {
    pub(crate) address: Address,
    pub(crate) len: u64,
    /// All of it; nothing once it is stored.
    pub(crate) bytes: Vec<u8>,
    pub(crate) table: Table,
    pub(crate) prints: Vec<Fingerprint>,
}

impl PackWriter {
    pub(crate) fn new(keys: &Keys, vault: VaultId, address: Address, entropy: &dyn Entropy) -> Result<Self> {
        Ok(Self::with_front(keys, Front::fresh(PACK, vault, address, entropy)?))
    }

    pub(crate) fn with_front(keys: &Keys, front: Front) -> Self {
        let key = BlobKey::derive(keys, &front);
        Self { key, bytes: front.encode().to_vec(), records: Vec::new(), prints: Vec::new(), front }
    }

    /// Adds a frame of these chunks, encoded already. Gives where its first chunk is.
    pub(crate) fn push_frame(
        &mut self,
        prints: &[Fingerprint],
        raw: u32,
        encoding: Encoding,
        encoded: &[u8],
    ) -> Spot {
        self.prints.extend_from_slice(prints);
        self.push(Kind::Frame, raw, encoding, encoded)
    }

    /// Adds a node, encoded already. Gives where it is.
    pub(crate) fn push_node(&mut self, raw: u32, encoding: Encoding, encoded: &[u8]) -> Spot {
        self.push(Kind::Node, raw, encoding, encoded)
    }

    fn push(&mut self, kind: Kind, raw: u32, encoding: Encoding, encoded: &[u8]) -> Spot {
        let number = self.records.len() as u32;
        let stored = (encoded.len() + crate::seal::TAG_LEN) as u32;
        let record = Record { stored, raw, kind, encoding };
        self.key.seal(Place::new(PART_ENTRY, u64::from(number)), &record.encode(), encoded, &mut self.bytes);
        self.records.push(record);
        Spot { pack: self.front.address, entry: number, chunk: 0 }
    }

    /// Whether it is time to close it.
    pub(crate) fn is_full(&self) -> bool {
        self.bytes.len() >= PACK_TARGET
            || self.records.len() >= MAX_PACK_ENTRIES
            || self.prints.len() + FRAME_CHUNKS > MAX_PACK_CHUNKS
    }

    /// Adds table, fingerprints and footer, then opens everything once as a reader would. That what is sealed decodes to
    /// what was read was seen before it was pushed.
    pub(crate) fn finish(mut self, keys: &Keys) -> Result<Finished> {
        let footer = Footer {
            table_at: self.bytes.len() as u64,
            entries: self.records.len() as u32,
            chunks: self.prints.len() as u32,
            body_crc: 0,
        };
        let table: Vec<u8> = self.records.iter().flat_map(Record::encode).collect();
        self.key.seal(Place::new(PART_TABLE, 0), &footer.bound(), &table, &mut self.bytes);
        let prints: Vec<u8> = self.prints.iter().flat_map(|print| *print.as_bytes()).collect();
        self.key.seal(Place::new(PART_PRINTS, 0), &footer.bound(), &prints, &mut self.bytes);
        let footer = Footer { body_crc: crc32fast::hash(&self.bytes), ..footer };
        self.bytes.extend_from_slice(&footer.encode());
        let table = self
            .prove(keys)
            .map_err(|error| Error::NotDecodable { what: "a new pack".to_owned(), why: error.to_string() })?;
        let len = self.bytes.len() as u64;
        Ok(Finished { address: self.front.address, len, bytes: self.bytes, table, prints: self.prints })
    }

    fn prove(&self, keys: &Keys) -> Result<Table> {
        let slice = |range: ByteRange| Ok(self.bytes[range.start() as usize..range.end() as usize].to_vec());
        let address = self.front.address;
        let head = read_head(keys, self.front.vault, address, self.bytes.len() as u64, &slice)?;
        let name = address.name(crate::name::Shelf::Packs);
        for (entry, number) in head.table.entries().zip(0..) {
            let end = entry.offset as usize + entry.record.stored as usize;
            let mut sealed = self.bytes[entry.offset as usize..end].to_vec();
            head.key
                .open(Place::new(PART_ENTRY, number), &entry.record.encode(), &mut sealed)
                .map_err(|why| Error::damaged(&name, format!("entry {number}"), why))?;
        }
        match head.table.len() == self.records.len() && read_prints(&head, &slice)? == self.prints {
            true => Ok(head.table),
            false => Err(Error::damaged(&name, "table", "entries or fingerprints are others")),
        }
    }
}

impl Finished {
    /// What an index says of it.
    pub(crate) fn row(&self) -> PackRow {
        PackRow::of(self.address, self.len, &self.table, &self.prints)
    }

    /// The keys by which an index finds it.
    pub(crate) fn hooks(&self) -> Vec<u64> {
        hooks(&self.prints).map(Fingerprint::key).collect()
    }
}
