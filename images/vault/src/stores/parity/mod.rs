//! A blob store that keeps parity beside its blobs: protection without a second device. Its promises and how they are kept are in
//! `docs/parity.md`.

mod columns;
mod making;
mod mending;
mod opening;
mod set;
mod table;

pub use self::set::{Scheme, fuzz_parity};

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use block::sync::atomic::{AtomicU64, Ordering};
use block::sync::{Arc, Mutex, lock};
use block::{BlobStore, ByteCount, ByteRange, Entropy, Error, Kind, Result, check_blob_name};

use self::set::{OWN, SetId, Sums, TWINS, gone_name, sums_of};
use self::table::{Table, Waiting};
use super::sums;
use crate::cache::Cache;

/// Blobs of this length and more share parity; smaller ones have a twin, which costs less than a set's sums would.
const LARGE: u64 = 1 << 20;
/// Sets whose sums are kept: some 150 KiB each.
const KEPT_SUMS: usize = 32;

/// Every blob of one store, with parity or a twin.
pub struct ParityStore {
    store: Arc<dyn BlobStore>,
    scheme: Scheme,
    entropy: Arc<dyn Entropy>,
    table: Mutex<Table>,
    sums: Mutex<Cache<SetId, Arc<Sums>>>,
    // held while sets are made and while a large blob is deleted
    making: Mutex<()>,
    // held while something is mended or deleted; taken after `making`
    mending: Mutex<()>,
    // what was mended last and could not be written
    given: Mutex<Option<(String, Arc<Vec<u8>>)>>,
    // blobs that were written in their place again
    mended: AtomicU64,
}

/// Blobs and their parity, as people are told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ParityStatus {
    /// How much parity there is.
    pub scheme: Scheme,
    /// Sets of large blobs.
    pub sets: usize,
    /// Large blobs that no set protects as it should: until the next commit or repair.
    pub loose: usize,
    /// Blobs that were missing or damaged and were written again since the store was opened.
    pub mended: u64,
}

impl ParityStore {
    /// Makes an empty store one with parity.
    ///
    /// # Errors
    /// `Conflict` if it holds anything; what the store reports.
    pub fn create(store: Arc<dyn BlobStore>, scheme: Scheme, entropy: Arc<dyn Entropy>) -> Result<Self> {
        let mut stranger = None;
        store.list("", &mut |name, _| {
            stranger = Some(name.to_owned()).filter(|name| name != set::SCHEME);
            if stranger.is_some() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        })?;
        if let Some(name) = stranger {
            return Err(Error::Conflict {
                what: "a store with parity".to_owned(),
                why: format!("it holds {name}"),
            });
        }
        // of a creation that was cut off
        tolerate(store.delete(set::SCHEME), Kind::NotFound)?;
        store.put(set::SCHEME, &scheme.encode())?;
        Self::open(store, entropy)
    }

    /// Whether a store keeps parity.
    ///
    /// # Errors
    /// `Corrupt` if it says so and is damaged; what the store reports.
    pub fn has_parity(store: &dyn BlobStore) -> Result<bool> {
        Ok(Scheme::load(store)?.is_some())
    }

    /// How it stands.
    pub fn status(&self) -> ParityStatus {
        let table = lock(&self.table);
        ParityStatus {
            scheme: self.scheme,
            sets: table.set_ids().len(),
            loose: table.loose(self.scheme).len(),
            mended: self.mended.load(Ordering::Relaxed),
        }
    }

    fn check_name(name: &str) -> Result<()> {
        check_blob_name(name)?;
        let longest = 200 - TWINS.len();
        if name.starts_with(OWN) || name.len() > longest {
            let why = format!("parity/ is the store's own, and {longest} bytes are the longest");
            return Err(Error::refused(Kind::Invalid, format!("blob name {name:?}"), why));
        }
        Ok(())
    }

    fn put_large(&self, name: &str, bytes: &[u8]) -> Result<()> {
        let waiting = lock(&self.table).waiting.len();
        if waiting >= self.scheme.members() {
            // before: what fails here left nothing under the name
            self.protect()?;
        }
        self.store.put(name, bytes)?;
        let waiting = Waiting { len: bytes.len() as u64, sums: Some(sums_of(bytes)) };
        lock(&self.table).waiting.insert(name.to_owned(), waiting);
        Ok(())
    }

    fn put_small(&self, name: &str, bytes: &[u8]) -> Result<()> {
        self.protect()?;
        self.store.put(name, bytes)?;
        self.store.put(&twin(name), &sums::encode(bytes)).inspect_err(|_| {
            // the first error says more; a blob left alone is one that was never acknowledged
            self.store.delete(name).ok();
        })
    }

    fn exists(&self, name: &str) -> Result<bool> {
        match self.size(name) {
            Ok(_) => Ok(true),
            Err(error) if error.kind() == Kind::NotFound => Ok(false),
            // something is there, and cannot be judged
            Err(error) if error.kind() == Kind::Corrupt => Ok(true),
            Err(error) => Err(error),
        }
    }

    /// Every blob and its length, those that are missing from the store's own listing and can be given back too.
    fn listing(&self, prefix: &str) -> Result<BTreeMap<String, ByteCount>> {
        let mut names = BTreeMap::new();
        self.store.list(prefix, &mut |name, size| {
            if !name.starts_with(OWN) {
                names.insert(name.to_owned(), size);
            }
            ControlFlow::Continue(())
        })?;
        let mut doubtful = Vec::new();
        self.store.list(&twin(prefix), &mut |name, stored| {
            let (name, size) = (&name[TWINS.len()..], sums::listed(stored));
            if names.insert(name.to_owned(), size) != Some(size) {
                doubtful.push(name.to_owned());
            }
            ControlFlow::Continue(())
        })?;
        {
            let table = lock(&self.table);
            names
                .extend(table.members_from(prefix).map(|(name, len)| (name.to_owned(), ByteCount::new(len))));
            names.retain(|name, _| !table.is_gone(name));
        }
        for name in doubtful {
            // the blob or its twin is missing or cut short; one that is neither is deleted by now
            match self.size(&name) {
                Ok(size) => drop(names.insert(name, size)),
                Err(error) if error.kind() == Kind::NotFound => drop(names.remove(&name)),
                Err(error) => return Err(error),
            }
        }
        Ok(names)
    }

    fn delete_large(&self, name: &str) -> Result<()> {
        let _making = lock(&self.making);
        let _mending = lock(&self.mending);
        if lock(&self.table).seat(name).is_none() {
            lock(&self.table).waiting.remove(name);
            return self.store.delete(name);
        }
        tolerate(self.store.put(&gone_name(name), name.as_bytes()), Kind::Conflict)?;
        lock(&self.table).bury(name);
        tolerate(self.store.delete(name), Kind::NotFound)?;
        self.remove_empty()
    }
}

fn twin(name: &str) -> String {
    format!("{TWINS}{name}")
}

fn not_found(name: &str) -> Error {
    Error::NotFound { what: format!("blob {name}") }
}

fn tolerate(done: Result<()>, kind: Kind) -> Result<()> {
    match done {
        Err(error) if error.kind() == kind => Ok(()),
        done => done,
    }
}

impl BlobStore for ParityStore {
    fn put(&self, name: &str, bytes: &[u8]) -> Result<()> {
        Self::check_name(name)?;
        if bytes.len() as u64 > set::MAX_MEMBER {
            let why = format!("{} bytes, at most {} fit a set", bytes.len(), set::MAX_MEMBER);
            return Err(Error::refused(Kind::Invalid, format!("blob {name}"), why));
        }
        if self.exists(name)? || lock(&self.table).is_gone(name) {
            return Err(Error::Conflict {
                what: format!("blob {name}"),
                why: "it exists already, or did".to_owned(),
            });
        }
        match bytes.len() as u64 >= LARGE {
            true => self.put_large(name, bytes),
            false => self.put_small(name, bytes),
        }
    }

    fn get(&self, name: &str, range: ByteRange) -> Result<Vec<u8>> {
        Self::check_name(name)?;
        let (seat, is_gone, waits) = {
            let table = lock(&self.table);
            (table.seat(name), table.is_gone(name), table.waiting.contains_key(name))
        };
        match seat {
            _ if is_gone => Err(not_found(name)),
            Some(seat) => self.get_member(name, &seat, range),
            None if waits => self.store.get(name, range),
            None => self.get_small(name, range),
        }
    }

    fn size(&self, name: &str) -> Result<ByteCount> {
        Self::check_name(name)?;
        let (len, is_gone, waits) = {
            let table = lock(&self.table);
            let member = table.seat(name).and_then(|seat| table.member(&seat).map(|member| member.len));
            (member, table.is_gone(name), table.waiting.contains_key(name))
        };
        match len {
            _ if is_gone => Err(not_found(name)),
            Some(len) => Ok(ByteCount::new(len)),
            None if waits => self.store.size(name),
            None => match sums::size(&*self.store, &twin(name)) {
                Ok(len) => Ok(ByteCount::new(len)),
                Err(_) => self.store.size(name),
            },
        }
    }

    fn list(&self, prefix: &str, visit: &mut dyn FnMut(&str, ByteCount) -> ControlFlow<()>) -> Result<()> {
        // whoever stops early has seen what it wanted
        let _end = self.listing(prefix)?.into_iter().try_for_each(|(name, size)| visit(&name, size));
        Ok(())
    }

    fn delete(&self, name: &str) -> Result<()> {
        Self::check_name(name)?;
        let (large, is_gone) = {
            let table = lock(&self.table);
            (table.seat(name).is_some() || table.waiting.contains_key(name), table.is_gone(name))
        };
        if is_gone {
            return Err(not_found(name));
        }
        if large {
            return self.delete_large(name);
        }
        let _mending = lock(&self.mending);
        match (self.store.delete(&twin(name)), self.store.delete(name)) {
            (Ok(()), done) => tolerate(done, Kind::NotFound),
            (Err(error), done) if error.kind() == Kind::NotFound => done,
            (Err(error), _) => Err(error),
        }
    }
}
