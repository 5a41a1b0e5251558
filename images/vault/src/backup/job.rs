//! The part of a backup that writes: packs, then indexes, then the point.

use std::collections::HashSet;

use block::ByteCount;
use block::sync::Arc;

use crate::backup::hits::Hits;
use crate::backup::stages::Data;
use crate::backup::{Counts, Report};
use crate::chunk::{Encoder, Encoding, Kind};
use crate::front::{Front, POINT};
use crate::index::{Entry, INDEX_RECORDS, Index, PackRow, Spot};
use crate::inner::Inner;
use crate::manifest::{Node, NodeReader, NodeStore, Point, decode_point, encode_point};
use crate::name::{Address, ContentId, Shelf};
use crate::pack::{Finished, MAX_PACK_ENTRIES, PackWriter};
use crate::{Error, Result};

/// Entries of a new pack that are read back from the store and decoded, besides its trailer: the first, the last and
/// every so many between.
const READ_BACK_EVERY: usize = 64;

/// One backup's writing side.
pub(crate) struct Job<'a> {
    vault: &'a Inner,
    index: Arc<Index>,
    hits: Hits,
    encoder: Encoder,
    writer: Option<PackWriter>,
    // in packs of this job that no published index names yet
    fresh: HashSet<ContentId>,
    packs: Vec<PackRow>,
    entries: Vec<Entry>,
    // planted bugs only: packs to be put too late
    late: Vec<Finished>,
    pub(crate) counts: Counts,
}

impl<'a> Job<'a> {
    pub(crate) fn new(vault: &'a Inner) -> Result<Self> {
        Ok(Self {
            vault,
            index: vault.index.load().clone(),
            hits: Hits::new(),
            encoder: Encoder::new(vault.options.compression).map_err(Error::Threads)?,
            writer: None,
            fresh: HashSet::new(),
            packs: Vec::new(),
            entries: Vec::new(),
            late: Vec::new(),
            counts: Counts::default(),
        })
    }

    /// Stores a chunk unless the vault has it.
    pub(crate) fn add_chunk(&mut self, data: Data) -> Result<ContentId> {
        match self.add(Kind::Chunk, data.id, &data.raw, data.encoded)? {
            true => self.counts.chunks_new += 1,
            false => self.counts.chunks_reused += 1,
        }
        Ok(data.id)
    }

    /// Gives whether the content was stored; `false` if what is there already can be relied on.
    fn add(
        &mut self,
        kind: Kind,
        id: ContentId,
        raw: &[u8],
        encoded: Option<(Encoding, Vec<u8>)>,
    ) -> Result<bool> {
        if self.fresh.contains(&id) || self.hits.relies_on(self.vault, &self.index, &id)? {
            return Ok(false);
        }
        let (encoding, bytes) = encoded.unwrap_or_else(|| self.encoder.encode(raw));
        if self.writer.is_none() {
            let address = self.vault.fresh_address()?;
            let entropy = &*self.vault.env.entropy;
            self.writer = Some(PackWriter::new(&self.vault.keys, self.vault.id, address, entropy)?);
        }
        if let Some(writer) = &mut self.writer {
            writer.push(kind, id, raw.len() as u32, encoding, &bytes);
            self.fresh.insert(id);
            if writer.is_full() {
                self.close_pack()?;
            }
        }
        Ok(true)
    }

    fn close_pack(&mut self) -> Result<()> {
        let Some(writer) = self.writer.take() else { return Ok(()) };
        let pack = writer.finish(&self.vault.keys)?;
        self.counts.bytes_stored += pack.len();
        let row = self.packs.len() as u32;
        self.packs.push(PackRow { address: pack.front.address, salt: pack.front.salt, len: pack.len() });
        let mut offset = crate::front::FRONT_LEN as u32;
        for (number, record) in (0..).zip(&pack.records) {
            self.entries.push(Entry { record: *record, pack: row, number, offset });
            offset += record.stored;
        }
        if block::planted!("vault-point-before-pack") || block::planted!("vault-index-before-pack") {
            self.late.push(pack);
            return Ok(());
        }
        self.put_pack(&pack)?;
        if self.entries.len() + MAX_PACK_ENTRIES > INDEX_RECORDS {
            self.put_index()?;
        }
        Ok(())
    }

    /// Puts a pack and reads back what readers will rely on: head and a sample of entries.
    fn put_pack(&self, pack: &Finished) -> Result<()> {
        let address = pack.front.address;
        self.vault.put(&address.name(Shelf::Packs), &pack.bytes)?;
        let head = self.vault.pack_head(address, pack.len())?;
        let row = PackRow { address, salt: head.front.salt, len: pack.len() };
        let last = pack.records.len() - 1;
        for (number, offset, record) in head.trailer.entries() {
            let at = number as usize;
            if at.is_multiple_of(READ_BACK_EVERY) || at == last {
                self.vault.read_spot(&Spot {
                    entry: Entry { record: *record, pack: 0, number, offset },
                    pack: row,
                })?;
            }
        }
        Ok(())
    }

    fn put_late(&mut self) -> Result<()> {
        std::mem::take(&mut self.late).iter().try_for_each(|pack| self.put_pack(pack))
    }

    fn put_index(&mut self) -> Result<()> {
        if self.packs.is_empty() {
            return Ok(());
        }
        let content = (std::mem::take(&mut self.packs), std::mem::take(&mut self.entries));
        self.counts.bytes_stored += self.vault.put_index(content)?;
        // what was fresh is found in the index from now on
        self.fresh.clear();
        self.index = self.vault.index.load().clone();
        Ok(())
    }

    /// Writes what is left of packs and index. Gives the address for the point and the counts.
    pub(crate) fn close(&mut self) -> Result<Address> {
        self.close_pack()?;
        self.put_index()?;
        if !block::planted!("vault-point-before-pack") {
            self.put_late()?;
        }
        self.vault.fresh_address()
    }

    /// Puts the point, after everything it relies on is durable, and reads it back.
    pub(crate) fn commit(mut self, address: Address, mut point: Point) -> Result<Report> {
        let vault = self.vault;
        let front = Front::fresh(POINT, vault.id, address, &*vault.env.entropy)?;
        // the point counts itself; its length does not depend on the number it says
        let len = encode_point(&vault.keys, &front, &point).len() as u64;
        point.about.bytes_stored = ByteCount::new(self.counts.bytes_stored + len);
        let bytes = encode_point(&vault.keys, &front, &point);
        let not = |why: &str| Error::NotDecodable { what: "a new point".to_owned(), why: why.to_owned() };
        if decode_point(&vault.keys, vault.id, address, &bytes).map_err(|e| not(&e.to_string()))? != point {
            return Err(not("other content"));
        }
        vault.put(&address.name(Shelf::Points), &bytes)?;
        self.put_late()?;
        if vault.read_point(address)? != point {
            return Err(not("the store gave back something else"));
        }
        let about = point.about;
        Ok(Report {
            manifest: about.manifest,
            bytes_changed: about.bytes_changed,
            bytes_read: about.bytes_read,
            chunks_new: about.chunks_new,
            chunks_reused: about.chunks_reused,
            bytes_stored: about.bytes_stored,
        })
    }
}

impl NodeReader for Job<'_> {
    fn node(&self, id: &ContentId, level: u8, count: usize) -> Result<std::sync::Arc<Node>> {
        Ok(std::sync::Arc::new(self.vault.read_node(&self.index, id, level, count)?))
    }
}

impl NodeStore for Job<'_> {
    fn store(&mut self, node: &Node) -> Result<ContentId> {
        let raw = node.encode();
        let id = Kind::Node.id_of(&self.vault.keys, &raw);
        self.add(Kind::Node, id, &raw, None)?;
        Ok(id)
    }
}
