//! What a vault, its images and its jobs share: the store, the keys, and reading a point, a pack or a content by name.

use std::collections::HashMap;
use std::ops::ControlFlow;

use block::sync::{Arc, Mutex, Published, lock};
use block::{BlobStore, ByteCount, ByteRange, Kind, VaultId};

use crate::check::Damage;
use crate::front::Front;
use crate::index::{Index, Spot};
use crate::key::Keys;
use crate::manifest::{MAX_POINT_LEN, Node, Point, decode_point};
use crate::name::{Address, ApplianceId, BlobId, ContentId, Shelf};
use crate::pack::{PackHead, open_entry, read_head};
use crate::seal::BlobKey;
use crate::vault::{Env, Options};
use crate::{Error, ManifestId, Result};

/// What the vault, its images and its jobs share.
pub(crate) struct Inner {
    pub(crate) store: Arc<dyn BlobStore>,
    pub(crate) keys: Keys,
    pub(crate) id: VaultId,
    pub(crate) appliance: ApplianceId,
    pub(crate) env: Env,
    pub(crate) options: Options,
    pub(crate) index: Published<Index>,
    // held while a new index is published
    pub(crate) publishing: Mutex<()>,
    // points are immutable, so what was read once stays true until deleted
    pub(crate) points: Mutex<HashMap<Address, Arc<Point>>>,
    pub(crate) found_at_open: Vec<Damage>,
}

impl Inner {
    pub(crate) fn fresh_address(&self) -> Result<Address> {
        Ok(Address { appliance: self.appliance, id: BlobId::random(&*self.env.entropy)? })
    }

    /// The addresses on a shelf, ascending. Names no writer of ours made are passed over.
    pub(crate) fn addresses(&self, shelf: Shelf) -> Result<Vec<Address>> {
        Ok(self.sizes(shelf)?.into_iter().map(|(address, _)| address).collect())
    }

    pub(crate) fn sizes(&self, shelf: Shelf) -> Result<Vec<(Address, u64)>> {
        let mut found = Vec::new();
        let mut look = |name: &str, size: ByteCount| {
            found.extend(Address::parse(shelf, name).map(|address| (address, size.get())));
            ControlFlow::Continue(())
        };
        self.store.list(shelf.prefix(), &mut look).map_err(Error::store("list", shelf.prefix()))?;
        Ok(found)
    }

    /// Reads a whole blob of at most `limit` bytes.
    pub(crate) fn fetch(&self, name: &str, limit: u64) -> Result<Vec<u8>> {
        let gone = |error: block::Error| match error.kind() {
            Kind::NotFound => Error::Missing { blob: name.to_owned(), needed_for: "this request".to_owned() },
            _ => Error::store("read", name)(error),
        };
        let size = self.store.size(name).map_err(gone)?;
        if size.get() > limit {
            return Err(Error::damaged(
                name,
                "length",
                format!("{size} bytes long, at most {limit} are valid"),
            ));
        }
        self.store.get(name, ByteRange::whole(size)).map_err(gone)
    }

    pub(crate) fn put(&self, name: &str, bytes: &[u8]) -> Result<()> {
        self.store.put(name, bytes).map_err(Error::store("write", name))
    }

    pub(crate) fn point_address(&self, id: &ManifestId) -> Result<Address> {
        let id = BlobId::from_bytes(*id.as_bytes());
        let own = Address { appliance: self.appliance, id };
        let name = own.name(Shelf::Points);
        match self.store.size(&name) {
            Ok(_) => return Ok(own),
            Err(error) if error.kind() == Kind::NotFound => {}
            Err(error) => return Err(Error::store("read", &name)(error)),
        }
        let mut all = self.addresses(Shelf::Points)?.into_iter();
        all.find(|address| address.id == id).ok_or(Error::NoPoint(ManifestId::from_bytes(*id.as_bytes())))
    }

    pub(crate) fn find_point(&self, id: &ManifestId) -> Result<(Address, Arc<Point>)> {
        let address = self.point_address(id)?;
        Ok((address, self.point(address)?))
    }

    /// The point of this blob, from memory if it was read before.
    pub(crate) fn point(&self, address: Address) -> Result<Arc<Point>> {
        if let Some(known) = lock(&self.points).get(&address) {
            return Ok(known.clone());
        }
        let point = Arc::new(self.read_point(address)?);
        lock(&self.points).insert(address, point.clone());
        Ok(point)
    }

    /// Reads a point blob from the store, whatever is in memory.
    pub(crate) fn read_point(&self, address: Address) -> Result<Point> {
        let name = address.name(Shelf::Points);
        let bytes = self.fetch(&name, MAX_POINT_LEN).map_err(|error| match error {
            Error::Missing { .. } => Error::NoPoint(ManifestId::from_bytes(*address.id.as_bytes())),
            error => error,
        })?;
        decode_point(&self.keys, self.id, address, &bytes)
    }

    /// Front, footer and trailer of a pack of this length.
    pub(crate) fn pack_head(&self, address: Address, len: u64) -> Result<PackHead> {
        let name = address.name(Shelf::Packs);
        let get = |range| self.store.get(&name, range).map_err(|error| gone(error, &name, "its own listing"));
        read_head(&self.keys, self.id, address, len, &get)
    }

    /// Reads and verifies the entry at one place.
    pub(crate) fn read_spot(&self, spot: &Spot) -> Result<Vec<u8>> {
        let Spot { entry, pack } = spot;
        let name = pack.address.name(Shelf::Packs);
        let start = u64::from(entry.offset);
        let range = ByteRange::between(start, start + u64::from(entry.record.stored));
        let mut sealed =
            self.store.get(&name, range).map_err(|error| gone(error, &name, "a chunk it holds"))?;
        let front =
            Front { format: crate::front::PACK, vault: self.id, address: pack.address, salt: pack.salt };
        let key = BlobKey::derive(&self.keys, &front);
        open_entry(&self.keys, &key, &pack.address, entry.number, &entry.record, &mut sealed)
    }

    /// Reads and verifies a chunk or node from the first of its places that is whole.
    pub(crate) fn read_content(&self, index: &Index, id: &ContentId) -> Result<Vec<u8>> {
        let mut first = None;
        for spot in index.find(id) {
            match self.read_spot(&spot) {
                Ok(raw) => return Ok(raw),
                Err(error) if error.is_damage() => drop(first.get_or_insert(error)),
                Err(error) => return Err(error),
            }
        }
        Err(first.unwrap_or_else(|| Error::Missing {
            blob: "(of a pack no index or listing names)".to_owned(),
            needed_for: format!("content {id}"),
        }))
    }

    /// Reads, verifies and decodes a node, which must have this level and count.
    pub(crate) fn read_node(&self, index: &Index, id: &ContentId, level: u8, count: usize) -> Result<Node> {
        let raw = self.read_content(index, id)?;
        let wrong = |why: String| Error::damaged(&format!("(node {id})"), "content", why);
        let node = Node::decode(&raw).map_err(|why| wrong(why.to_string()))?;
        if (node.level, node.refs.len()) != (level, count) {
            return Err(wrong(format!(
                "level {} with {} references, level {level} with {count} expected",
                node.level,
                node.refs.len()
            )));
        }
        Ok(node)
    }
}

/// What a store's error says of a pack that should be there.
fn gone(error: block::Error, name: &str, needed_for: &str) -> Error {
    match error.kind() {
        Kind::NotFound => Error::Missing { blob: name.to_owned(), needed_for: needed_for.to_owned() },
        Kind::OutOfRange => Error::damaged(name, "length", "it ends before what it should hold"),
        _ => Error::store("read", name)(error),
    }
}
