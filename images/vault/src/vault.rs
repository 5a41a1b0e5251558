//! Making, opening and asking a vault. Backup, image and check have their own modules.

use std::collections::{HashMap, HashSet};
use std::ops::ControlFlow;

use block::sync::{Arc, Mutex, Published, lock};
use block::{BlobStore, BlockSource, ByteCount, ByteRange, Clock, Entropy, Failure, Kind, VaultId};

use crate::backup::{Backup, Report};
use crate::check::{CheckReport, Damage};
use crate::chunk::Compression;
use crate::front::{Front, INDEX, INFO};
use crate::gate::{DeleteGate, Deletion, RefuseAll};
use crate::image::VaultImage;
use crate::index::{
    Entry, INDEX_RECORDS, Index, IndexContent, MAX_INDEX_LEN, PackRow, Spot, decode_blob, encode_blob,
};
use crate::info::{self, Info};
use crate::key::Keys;
use crate::manifest::{MAX_POINT_LEN, Node, Point, VaultPoint, decode_point};
use crate::name::{Address, ApplianceId, BlobId, ContentId, INFO_NAME, Shelf};
use crate::pack::{PackHead, open_entry, read_head};
use crate::progress::Progress;
use crate::seal::BlobKey;
use crate::{Error, ManifestId, Result, VaultKey};

/// What a vault needs from its surroundings.
#[derive(Clone)]
pub struct Env {
    /// The appliance's time.
    pub clock: Arc<dyn Clock>,
    /// Where keys, salts and ids come from. In production the kernel; never seeded randomness.
    pub entropy: Arc<dyn Entropy>,
}

/// How a vault is used by this process.
#[derive(Clone)]
pub struct Options {
    /// How new chunks are made smaller. What is stored already can be read whatever it says.
    pub compression: Compression,
    /// Asked before anything is deleted.
    pub gate: Arc<dyn DeleteGate>,
}

impl Default for Options {
    fn default() -> Self {
        Self { compression: Compression::default(), gate: Arc::new(RefuseAll) }
    }
}

/// All recovery points of a vault, and the damage found on the way.
#[derive(Debug, Clone, Default)]
pub struct Survey {
    /// Points that can be listed, oldest first.
    pub points: Vec<VaultPoint>,
    /// Point blobs that cannot be read, index blobs and packs found damaged when the vault was opened.
    pub damaged: Vec<Damage>,
}

/// What a vault takes in its store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Usage {
    /// Recovery points.
    pub points: u64,
    /// Packs.
    pub packs: u64,
    /// Bytes of all packs.
    pub pack_bytes: u64,
    /// Bytes of everything.
    pub bytes: u64,
}

/// An open vault. Shared between threads as an `Arc`; several backups and readers may run at once.
pub struct Vault {
    pub(crate) inner: Arc<Inner>,
}

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
    publishing: Mutex<()>,
    // points are immutable, so what was read once stays true until deleted
    points: Mutex<HashMap<Address, Arc<Point>>>,
    found_at_open: Vec<Damage>,
}

impl Vault {
    /// Makes a vault in an empty store.
    ///
    /// # Errors
    /// [`Error::Exists`] if the store holds a vault, [`Error::Invalid`] if it holds anything else.
    pub fn create(store: Arc<dyn BlobStore>, key: VaultKey, env: &Env) -> Result<Self> {
        check_empty(&*store)?;
        let keys = Keys::derive(&key);
        let entropy = &*env.entropy;
        let id = VaultId::random(entropy).map_err(Error::Entropy)?;
        let address =
            Address { appliance: ApplianceId::random(entropy)?, id: BlobId::from_bytes(*id.as_bytes()) };
        let info = Info::new(&keys, Front::fresh(INFO, id, address, entropy)?, env.clock.now());
        store.put(INFO_NAME, &info.encode(&keys)).map_err(Error::store("write", INFO_NAME))?;
        Self::open(store, key, env)
    }

    /// Opens the vault of a store, refusing every deletion.
    ///
    /// # Errors
    /// As [`open_with`](Self::open_with).
    pub fn open(store: Arc<dyn BlobStore>, key: VaultKey, env: &Env) -> Result<Self> {
        Self::open_with(store, key, env, Options::default())
    }

    /// Opens the vault of a store. Cost: reads all index blobs and lists all packs.
    ///
    /// # Errors
    /// [`Error::NoVault`] if there is none, [`Error::WrongKey`] if the key is another vault's, [`Error::Damaged`] if the
    /// blob `vault` is damaged. Damaged index blobs and packs are no error here, see [`survey`](Self::survey).
    pub fn open_with(store: Arc<dyn BlobStore>, key: VaultKey, env: &Env, options: Options) -> Result<Self> {
        let (info, bytes) = Info::load(&*store)?;
        let keys = Keys::derive(&key);
        drop(key);
        info.verify(&keys, &bytes)?;
        let mut inner = Inner {
            store,
            keys,
            id: info.front.vault,
            appliance: info.front.address.appliance,
            env: env.clone(),
            options,
            index: Published::new(Arc::default()),
            publishing: Mutex::new(()),
            points: Mutex::default(),
            found_at_open: Vec::new(),
        };
        let (index, damage) = inner.load_index()?;
        inner.index.store(Arc::new(index));
        inner.found_at_open = damage;
        Ok(Self { inner: Arc::new(inner) })
    }

    /// Which vault a store holds, without a key: what can be said of a locked vault.
    ///
    /// # Errors
    /// [`Error::NoVault`] if it holds none, [`Error::Damaged`] if the blob `vault` is damaged.
    pub fn describe(store: &dyn BlobStore) -> Result<VaultId> {
        info::describe(store)
    }

    /// The vault's id.
    pub fn id(&self) -> VaultId {
        self.inner.id
    }

    /// Transfers a delta into the vault as a recovery point; see [`Backup`]. On return it is durable and was read back.
    ///
    /// # Errors
    /// [`Error::NoPoint`] if the base is not here, [`Error::Cancelled`] if asked, [`Error::Source`] and
    /// [`Error::Store`] as they happen. No point exists then; packs already stored serve the next attempt.
    pub fn backup(&self, request: &Backup<'_>) -> Result<Report> {
        crate::backup::run(&self.inner, request)
    }

    /// All recovery points that can be listed, oldest first. Reads no chunk. [`survey`](Self::survey) also names
    /// those whose blob is damaged.
    ///
    /// # Errors
    /// [`Error::Store`] if the store fails.
    pub fn points(&self) -> Result<Vec<VaultPoint>> {
        Ok(self.survey()?.points)
    }

    /// All recovery points, and the damage met in listing them and in opening the vault.
    ///
    /// # Errors
    /// [`Error::Store`] if the store fails.
    pub fn survey(&self) -> Result<Survey> {
        let mut survey = Survey { damaged: self.inner.found_at_open.clone(), ..Survey::default() };
        for address in self.inner.addresses(Shelf::Points)? {
            match self.inner.point(address) {
                Ok(point) => survey.points.push(point.about.clone()),
                // deleted since it was listed
                Err(Error::NoPoint(_)) => {}
                Err(error) if error.is_damage() || error.kind() == Kind::Unsupported => {
                    survey.damaged.push(Damage::of(&error, &address.name(Shelf::Points)));
                }
                Err(error) => return Err(error),
            }
        }
        survey.points.sort_by_key(|point| (point.time, point.epoch, point.manifest));
        Ok(survey)
    }

    /// One recovery point as something that can be read. Its chunks are verified as they are read.
    ///
    /// # Errors
    /// [`Error::NoPoint`] if it is not here, [`Error::Damaged`] if its blob is.
    pub fn image(&self, point: &ManifestId) -> Result<Arc<dyn BlockSource>> {
        let (_, point) = self.inner.find_point(point)?;
        Ok(Arc::new(VaultImage::new(self.inner.clone(), &point)))
    }

    /// Deletes a recovery point if the gate agrees: removes its blob. What only it used stays until a sweep.
    ///
    /// # Errors
    /// [`Error::NoPoint`] if it is not here, [`Error::Refused`] with the gate's reason.
    pub fn delete_point(&self, point: &ManifestId) -> Result<()> {
        let address = self.inner.point_address(point)?;
        let what = match self.inner.point(address) {
            Ok(point) => Deletion::Point(Box::new(point.about.clone())),
            Err(error) if error.is_damage() => Deletion::DamagedPoint(*point),
            Err(error) => return Err(error),
        };
        let name = address.name(Shelf::Points);
        self.inner.options.gate.may_delete(&what).map_err(|refusal| Error::Refused {
            what: format!("recovery point {point}"),
            why: refusal.why,
        })?;
        self.inner.store.delete(&name).map_err(Error::store("delete", &name))?;
        lock(&self.inner.points).remove(&address);
        Ok(())
    }

    /// Reads and verifies everything: every point, node, index record, pack and chunk.
    ///
    /// # Errors
    /// [`Error::Cancelled`] if asked, [`Error::Store`] if the store fails. Damage is not an error but the report's
    /// content.
    pub fn check(&self, progress: &dyn Progress) -> Result<CheckReport> {
        crate::check::run(&self.inner, progress)
    }

    /// Writes fresh index blobs for all packs that no readable index blob names, from the packs' own trailers. Gives
    /// the number of packs.
    ///
    /// # Errors
    /// [`Error::Store`] if the store fails. Packs whose trailer is damaged are left out; see [`check`](Self::check).
    pub fn rebuild_index(&self) -> Result<u64> {
        let (blobs, _) = self.inner.index_blobs()?;
        let (left, _) = self.inner.unindexed(&Index::of(&blobs))?;
        let packs = left.len() as u64;
        let mut batch = Batch::default();
        for content in left {
            if !batch.fits(&content) {
                self.inner.put_index(std::mem::take(&mut batch).content)?;
            }
            batch.add(content);
        }
        if !batch.ids.is_empty() {
            self.inner.put_index(batch.content)?;
        }
        Ok(packs)
    }

    /// What the vault takes in its store.
    ///
    /// # Errors
    /// [`Error::Store`] if the store fails.
    pub fn usage(&self) -> Result<Usage> {
        let mut usage = Usage::default();
        let mut add = |name: &str, size: ByteCount| {
            usage.bytes += size.get();
            if Address::parse(Shelf::Packs, name).is_some() {
                usage.packs += 1;
                usage.pack_bytes += size.get();
            }
            usage.points += u64::from(Address::parse(Shelf::Points, name).is_some());
            ControlFlow::Continue(())
        };
        self.inner.store.list("", &mut add).map_err(Error::store("list", ""))?;
        Ok(usage)
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

fn check_empty(store: &dyn BlobStore) -> Result<()> {
    match Info::load(store) {
        Ok((info, _)) => return Err(Error::Exists(info.front.vault)),
        Err(Error::NoVault) => {}
        Err(error) => return Err(error),
    }
    let mut stranger = None;
    let mut look = |name: &str, _| {
        stranger = Some(name.to_owned());
        ControlFlow::Break(())
    };
    store.list("", &mut look).map_err(Error::store("list", ""))?;
    match stranger {
        Some(name) => {
            Err(Error::invalid("the store", format!("holds {name}, but a new vault needs an empty one")))
        }
        None => Ok(()),
    }
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

    // ---- points

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

    // ---- index

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

    fn load_index(&self) -> Result<(Index, Vec<Damage>)> {
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

    // ---- packs

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
