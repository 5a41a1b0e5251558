//! The index in the store: read at open, added to by every job, written anew from the packs when it is lost.

use std::collections::HashSet;

use block::sync::{Arc, lock};

use super::{Entry, INDEX_RECORDS, Index, IndexContent, MAX_INDEX_LEN, PackRow, decode_blob, encode_blob};
use crate::check::Damage;
use crate::front::{Front, INDEX};
use crate::inner::Inner;
use crate::name::{Address, ContentId, Shelf};
use crate::pack::PackHead;
use crate::{Error, Result};

impl Inner {
    fn index_blobs(&self) -> Result<(Vec<IndexContent>, Vec<Damage>)> {
        let (mut contents, mut damage) = (Vec::new(), Vec::new());
        for address in self.addresses(Shelf::Index)? {
            match self.read_index(address) {
                Ok(content) => contents.push(content),
                Err(error) if error.is_damage() => {
                    damage.push(Damage::of(&error, &address.name(Shelf::Index)))
                }
                Err(error) => return Err(error),
            }
        }
        Ok((contents, damage))
    }

    pub(crate) fn read_index(&self, address: Address) -> Result<IndexContent> {
        let bytes = self.fetch(&address.name(Shelf::Index), MAX_INDEX_LEN)?;
        decode_blob(&self.keys, self.id, address, &bytes)
    }

    /// What the trailers say of the packs that an index does not know.
    fn unindexed(&self, index: &Index) -> Result<(Vec<IndexContent>, Vec<Damage>)> {
        let (mut contents, mut damage) = (Vec::new(), Vec::new());
        for (address, len) in self.sizes(Shelf::Packs)? {
            if index.knows(&address) {
                continue;
            }
            match self.pack_head(address, len) {
                Ok(head) => contents.push(content_of(&head, len)),
                Err(error) if error.is_damage() => {
                    damage.push(Damage::of(&error, &address.name(Shelf::Packs)))
                }
                Err(error) => return Err(error),
            }
        }
        Ok((contents, damage))
    }

    /// The index of everything there, and the damage met.
    pub(crate) fn load_index(&self) -> Result<(Index, Vec<Damage>)> {
        let (blobs, mut damage) = self.index_blobs()?;
        let index = Index::of(&blobs);
        let (left, more) = self.unindexed(&index)?;
        damage.extend(more);
        Ok((left.iter().fold(index, |index, content| index.with(content)), damage))
    }

    /// Puts an index blob, reads it back, and publishes what it says. Gives its length.
    pub(crate) fn put_index(&self, (packs, entries): (Vec<PackRow>, Vec<Entry>)) -> Result<u64> {
        let content = IndexContent::sorted(packs, entries);
        let address = self.fresh_address()?;
        let front = Front::fresh(INDEX, self.id, address, &*self.env.entropy)?;
        let bytes = encode_blob(&self.keys, &front, &content);
        let not = |why: String| Error::NotDecodable { what: "a new index".to_owned(), why };
        let back =
            decode_blob(&self.keys, self.id, address, &bytes).map_err(|error| not(error.to_string()))?;
        if back != content {
            return Err(not("other content".to_owned()));
        }
        self.put(&address.name(Shelf::Index), &bytes)?;
        if self.read_index(address)? != content {
            return Err(not("the store gave back something else".to_owned()));
        }
        let _publishing = lock(&self.publishing);
        let next = self.index.load().with(&content);
        self.index.store(Arc::new(next));
        Ok(bytes.len() as u64)
    }

    /// See [`crate::Vault::rebuild_index`].
    pub(crate) fn rebuild_index(&self) -> Result<u64> {
        let (blobs, _) = self.index_blobs()?;
        let (left, _) = self.unindexed(&Index::of(&blobs))?;
        let packs = left.len() as u64;
        let mut batch = Batch::default();
        for content in left {
            if !batch.fits(&content) {
                self.put_index(std::mem::take(&mut batch).content)?;
            }
            batch.add(content);
        }
        if !batch.ids.is_empty() {
            self.put_index(batch.content)?;
        }
        Ok(packs)
    }
}

/// Packs that go into one index blob, which has no id twice and not too many.
#[derive(Default)]
struct Batch {
    content: (Vec<PackRow>, Vec<Entry>),
    ids: HashSet<ContentId>,
}

impl Batch {
    fn fits(&self, content: &IndexContent) -> bool {
        self.ids.len() + content.entries.len() <= INDEX_RECORDS
            && !content.entries.iter().any(|entry| self.ids.contains(&entry.record.id))
    }

    fn add(&mut self, content: IndexContent) {
        let row = self.content.0.len() as u32;
        self.ids.extend(content.entries.iter().map(|entry| entry.record.id));
        self.content.0.extend(content.packs);
        self.content.1.extend(content.entries.into_iter().map(|entry| Entry { pack: row, ..entry }));
    }
}

fn content_of(head: &PackHead, len: u64) -> IndexContent {
    let row = PackRow { address: head.front.address, salt: head.front.salt, len };
    let entries = head.trailer.entries().map(|(number, offset, record)| Entry {
        record: *record,
        pack: 0,
        number,
        offset,
    });
    IndexContent::sorted(vec![row], entries.collect())
}
