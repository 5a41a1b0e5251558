//! What a vault, its images and its jobs share: the store, the keys, and reading a point, a pack or a node.

use std::collections::HashMap;
use std::ops::ControlFlow;

use block::sync::{Arc, Mutex, lock};
use block::{BlobStore, ByteCount, ByteRange, Kind, VaultId};

use crate::backup::Arrived;
use crate::cache::Cache;
use crate::check::Damage;
use crate::chunk::Kind as Entry;
use crate::distrust::Distrust;
use crate::frames::KEPT_HEADS;
use crate::index::Hooks;
use crate::key::Keys;
use crate::manifest::{MAX_POINT_LEN, Node, Point, decode_point};
use crate::moved::Moved;
use crate::name::{Address, ApplianceId, BlobId, Fingerprint, Shelf, Spot};
use crate::pack::{Finished, PackHead, open_entry, prove_frame, read_head, read_prints};
use crate::sweep::Pins;
use crate::vault::{Env, Options};
use crate::writers::Token;
use crate::{Error, ManifestId, Result};

/// Entries of a new pack that are read back from the store and decoded: the first, the last and every so many between.
const READ_BACK_EVERY: usize = 64;

/// What the vault, its images and its jobs share.
pub(crate) struct Inner {
    pub(crate) store: Arc<dyn BlobStore>,
    pub(crate) keys: Keys,
    pub(crate) id: VaultId,
    pub(crate) appliance: ApplianceId,
    pub(crate) token: Arc<Token>,
    pub(crate) env: Env,
    pub(crate) options: Options,
    pub(crate) distrust: Distrust,
    pub(crate) hooks: Mutex<Hooks>,
    pub(crate) arrived: Mutex<Arrived>,
    pub(crate) heads: Mutex<Cache<Address, Arc<PackHead>>>,
    // points are immutable, so what was read once stays true until deleted
    pub(crate) points: Mutex<HashMap<Address, Arc<Point>>>,
    // where packs went that were found missing or damaged, and written anew before
    pub(crate) moves: Mutex<Cache<Address, Arc<Moved>>>,
    pub(crate) pins: Arc<Pins>,
    // held by the one sweep that runs
    pub(crate) sweeping: Mutex<()>,
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

    /// Puts a pack and reads back what readers will rely on: head, fingerprints, and a sample of its frames.
    pub(crate) fn put_pack(&self, pack: Finished) -> Result<Finished> {
        self.put(&pack.address.name(Shelf::Packs), &pack.bytes)?;
        let (head, prints) = self.pack_prints(pack.address, pack.len)?;
        let last = head.table.len() - 1;
        for (at, entry) in head.table.entries().enumerate() {
            if at.is_multiple_of(READ_BACK_EVERY) || at == last {
                let raw = self.read_entry(&head, at as u32, entry.record.kind)?;
                prove_frame(&self.keys, &head, &prints, at as u32, &raw)?;
            }
        }
        Ok(Finished { bytes: Vec::new(), len: pack.len, ..pack })
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

    /// Front, footer and table of a pack of this length, from the store.
    pub(crate) fn fresh_head(&self, address: Address, len: u64) -> Result<PackHead> {
        let name = address.name(Shelf::Packs);
        read_head(&self.keys, self.id, address, len, &|range| self.get_pack(&name, range))
    }

    /// Head and fingerprints of a pack of this length, from the store.
    pub(crate) fn pack_prints(&self, address: Address, len: u64) -> Result<(PackHead, Vec<Fingerprint>)> {
        let name = address.name(Shelf::Packs);
        let head = self.fresh_head(address, len)?;
        let prints = read_prints(&head, &|range| self.get_pack(&name, range))?;
        Ok((head, prints))
    }

    /// The length of a pack.
    pub(crate) fn pack_len(&self, address: Address) -> Result<u64> {
        let name = address.name(Shelf::Packs);
        Ok(self.store.size(&name).map_err(|error| gone(error, &name))?.get())
    }

    /// The head of a pack, from memory if it was read before.
    pub(crate) fn head(&self, address: Address) -> Result<Arc<PackHead>> {
        if let Some(known) = lock(&self.heads).get(&address) {
            return Ok(known);
        }
        let fresh = self.pack_len(address).and_then(|len| self.fresh_head(address, len));
        let head = Arc::new(fresh.inspect_err(|error| self.distrust.witness(error))?);
        lock(&self.heads).put(address, head.clone());
        Ok(head)
    }

    pub(crate) fn get_pack(&self, name: &str, range: ByteRange) -> Result<Vec<u8>> {
        self.store.get(name, range).map_err(|error| gone(error, name))
    }

    /// Reads, opens and decodes an entry of a pack, which must be of this kind.
    pub(crate) fn read_entry(&self, head: &PackHead, number: u32, kind: Entry) -> Result<Vec<u8>> {
        let name = head.address.name(Shelf::Packs);
        let Some(entry) = head.table.get(number).filter(|entry| entry.record.kind == kind) else {
            return Err(Error::damaged(&name, format!("entry {number}"), format!("it is no {kind:?}")));
        };
        let start = u64::from(entry.offset);
        let range = ByteRange::between(start, start + u64::from(entry.record.stored));
        let sealed = self.get_pack(&name, range);
        sealed
            .and_then(|mut sealed| open_entry(&head.key, &head.address, number, &entry.record, &mut sealed))
            .inspect_err(|error| self.distrust.witness(error))
    }

    /// Reads and decodes a node, which must have this level and count.
    pub(crate) fn read_node(&self, spot: &Spot, level: u8, count: usize) -> Result<Node> {
        self.past_moves(|| self.node_in(&self.place(spot), level, count))
    }

    fn node_in(&self, spot: &Spot, level: u8, count: usize) -> Result<Node> {
        let head = self.head(spot.pack)?;
        let raw = self.read_entry(&head, spot.entry, Entry::Node)?;
        let wrong = |why: String| {
            Error::damaged(&spot.pack.name(Shelf::Packs), format!("entry {} (a node)", spot.entry), why)
        };
        let node = Node::decode(&raw).map_err(|why| wrong(why.to_string()))?;
        match (node.level, node.len()) == (level, count) {
            true => Ok(node),
            false => Err(wrong(format!(
                "level {} with {} references, level {level} with {count} expected",
                node.level,
                node.len()
            ))),
        }
    }
}

/// Memory for the heads of packs that were read.
pub(crate) fn head_cache() -> Mutex<Cache<Address, Arc<PackHead>>> {
    Mutex::new(Cache::new(KEPT_HEADS))
}

/// What a store's error says of a pack that should be there.
fn gone(error: block::Error, name: &str) -> Error {
    match error.kind() {
        Kind::NotFound => Error::Missing { blob: name.to_owned(), needed_for: "chunks it holds".to_owned() },
        Kind::OutOfRange => Error::damaged(name, "length", "it ends before what it should hold"),
        _ => Error::store("read", name)(error),
    }
}
