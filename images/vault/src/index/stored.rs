//! The index in the store: read at open, added to by every job, written anew from the packs when it is lost.

use std::collections::HashSet;

use block::sync::lock;

use super::{Hooks, INDEX_PACKS, IndexContent, MAX_INDEX_LEN, PackRow, decode_blob, encode_blob};
use crate::check::Damage;
use crate::front::{Front, INDEX};
use crate::inner::Inner;
use crate::name::{Address, Fingerprint, Shelf};
use crate::pack::hooks;
use crate::{Error, Result};

impl Inner {
    pub(crate) fn read_index(&self, address: Address) -> Result<IndexContent> {
        let bytes = self.fetch(&address.name(Shelf::Index), MAX_INDEX_LEN)?;
        decode_blob(&self.keys, self.id, address, &bytes)
    }

    /// The hooks of all index blobs, and the damage met: those of the cache, and those of blobs it does not have. Packs that
    /// no blob names are not looked for: their chunks are only stored again.
    pub(crate) fn load_hooks(&self) -> Result<(Hooks, Vec<Damage>)> {
        let mut hooks = match &self.options.cache {
            Some(media) => Hooks::open(media.clone(), self.id)?,
            None => Hooks::default(),
        };
        let mut damage = Vec::new();
        for address in self.addresses(Shelf::Index)? {
            if hooks.covers(&address) {
                continue;
            }
            match self.read_index(address) {
                Ok(content) => hooks.add(address, &content, &self.distrust)?,
                Err(error) if error.is_damage() => {
                    damage.push(Damage::of(&error, &address.name(Shelf::Index)))
                }
                Err(error) => return Err(error),
            }
        }
        Ok((hooks, damage))
    }

    /// The packs that readable index blobs name.
    fn listed_packs(&self) -> Result<HashSet<Address>> {
        let mut packs = HashSet::new();
        for address in self.addresses(Shelf::Index)? {
            match self.read_index(address) {
                Ok(content) => packs.extend(content.packs.iter().map(|row| row.address)),
                Err(error) if error.is_damage() => {}
                Err(error) => return Err(error),
            }
        }
        Ok(packs)
    }

    /// Puts an index blob, reads it back, and publishes what it says. Gives its length.
    pub(crate) fn put_index(&self, packs: Vec<(PackRow, Vec<u64>)>) -> Result<u64> {
        let content = IndexContent::of(packs);
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
        lock(&self.hooks).add(address, &content, &self.distrust)?;
        Ok(bytes.len() as u64)
    }

    /// Writes fresh index blobs for all packs that no readable index blob names. Gives the number of packs.
    pub(crate) fn rebuild_index(&self) -> Result<u64> {
        let known = self.listed_packs()?;
        let mut packs = Vec::new();
        let mut count = 0;
        for (address, len) in self.sizes(Shelf::Packs)? {
            if known.contains(&address) {
                continue;
            }
            match self.pack_listing(address, len) {
                Ok(listing) => packs.push(listing),
                Err(error) if error.is_damage() => {}
                Err(error) => return Err(error),
            }
            if packs.len() == INDEX_PACKS {
                count += packs.len() as u64;
                self.put_index(std::mem::take(&mut packs))?;
            }
        }
        count += packs.len() as u64;
        if !packs.is_empty() {
            self.put_index(packs)?;
        }
        Ok(count)
    }

    /// What an index would say of a pack.
    pub(crate) fn pack_listing(&self, address: Address, len: u64) -> Result<(PackRow, Vec<u64>)> {
        let (head, prints) = self.pack_prints(address, len)?;
        let keys = hooks(&prints).map(Fingerprint::key).collect();
        Ok((PackRow::of(address, len, &head.table, &prints), keys))
    }
}
