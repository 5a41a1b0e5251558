//! A blob store that keeps every blob in several others. Its promises and how they are kept are in `docs/copies.md`.

mod member;
mod members;
mod merge;
mod repair;

pub use self::member::{MAX_COPIES, fuzz_card};
pub use self::members::{CopyState, CopyStatus, GivenCopy};
pub use self::repair::Repaired;

use std::collections::HashSet;
use std::ops::ControlFlow;

use block::sync::{Arc, Mutex, lock};
use block::{BlobStore, ByteCount, ByteRange, Entropy, Error, Kind, Result, check_blob_name};

use self::member::{Card, MEMBER, OWN, buried, bury};
use self::members::{Copy, Members};
use super::sums;

/// Every blob in several stores: `local:N`. A put returns when every copy that is in service has it, and reading falls back.
pub struct ReplicatedStore {
    members: Members,
    // names a put, a repair or a deletion is at
    taken: Mutex<HashSet<String>>,
    // blobs that were deleted while a copy could not hear of it
    buried: Mutex<HashSet<String>>,
}

/// The name is free again when this goes.
struct Taken<'a> {
    store: &'a ReplicatedStore,
    name: &'a str,
}

impl Drop for Taken<'_> {
    fn drop(&mut self) {
        lock(&self.store.taken).remove(self.name);
    }
}

impl ReplicatedStore {
    /// Makes empty stores the copies of a set. `copies` are stores and what people call their places.
    ///
    /// # Errors
    /// `Invalid` if there are fewer than two or more than [`MAX_COPIES`], `Conflict` if one holds anything.
    pub fn create(copies: Vec<(String, Arc<dyn BlobStore>)>, entropy: &dyn Entropy) -> Result<Self> {
        if !(2..=MAX_COPIES).contains(&copies.len()) {
            let why = format!("{} are given, 2 to {MAX_COPIES} are valid", copies.len());
            return Err(Error::refused(Kind::Invalid, "copies of a vault", why));
        }
        let (set, count) = (Card::fresh_set(entropy)?, copies.len() as u8);
        for (place, store) in &copies {
            must_be_empty(place, &**store)?;
        }
        for (number, (_, store)) in (1..).zip(&copies) {
            // of a creation that was cut off
            match store.delete(MEMBER) {
                Err(error) if error.kind() != Kind::NotFound => return Err(error),
                _ => store.put(MEMBER, &Card { set, count, number }.encode())?,
            }
        }
        Self::open(copies.into_iter().map(|(place, store)| (place, Ok(store))).collect())
    }

    /// Opens a set. `copies` are the places people named, each with its store or with why there is none. A place that does
    /// not hold a copy of the set is told in [`status`](Self::status); whether enough do is asked when something is put.
    ///
    /// # Errors
    /// `NotFound` if no place holds a copy; what a copy reports that is there and cannot be read.
    pub fn open(copies: Vec<GivenCopy>) -> Result<Self> {
        let members = Members::of(copies)?;
        let mut gone = HashSet::new();
        for copy in members.present() {
            gone.extend(buried(&*copy.store)?);
        }
        Ok(Self { members, taken: Mutex::default(), buried: Mutex::new(gone) })
    }

    /// Whether a store is a copy of a set.
    ///
    /// # Errors
    /// `Corrupt` if it says so and is damaged; what the store reports.
    pub fn is_copy(store: &dyn BlobStore) -> Result<bool> {
        Ok(Card::load(store)?.is_some())
    }

    /// Every copy, in order, and how it is.
    pub fn status(&self) -> Vec<CopyStatus> {
        self.members.status()
    }

    /// Copies that must take a put for it to be acknowledged: half of them, rounded up.
    pub fn quorum(&self) -> usize {
        self.members.quorum()
    }

    /// Makes an empty store copy `number`, in the place of one that is lost. It lacks everything until [`repair`](Self::repair).
    ///
    /// # Errors
    /// `Invalid` if there is no such copy, `Conflict` if it is in service or the store holds anything.
    pub fn replace(&self, number: u8, place: String, store: Arc<dyn BlobStore>) -> Result<()> {
        must_be_empty(&place, &*store)?;
        self.members.replace(number, place, store)
    }

    fn check_name(name: &str) -> Result<()> {
        check_blob_name(name)?;
        if name.starts_with(OWN) {
            return Err(Error::refused(
                Kind::Invalid,
                format!("blob name {name:?}"),
                "copies/ is the store's own",
            ));
        }
        Ok(())
    }

    fn take<'a>(&'a self, name: &'a str) -> Result<Taken<'a>> {
        if lock(&self.taken).insert(name.to_owned()) {
            return Ok(Taken { store: self, name });
        }
        Err(Error::Conflict {
            what: format!("blob {name}"),
            why: "it is being written or removed".to_owned(),
        })
    }

    fn is_buried(&self, name: &str) -> bool {
        lock(&self.buried).contains(name)
    }

    /// What the first copy says that can; the others are asked in turn, and what some lack is given to them.
    fn read<T>(&self, name: &str, read: impl Fn(&dyn BlobStore) -> Result<T>) -> Result<T> {
        Self::check_name(name)?;
        if self.is_buried(name) {
            return Err(Error::NotFound { what: format!("blob {name}") });
        }
        let mut worst: Option<Error> = None;
        for copy in self.members.present() {
            match read(&*copy.store) {
                Ok(found) => {
                    if worst.is_some() {
                        // who asked has what was asked for; what does not heal now is seen again
                        self.heal(name).ok();
                    }
                    return Ok(found);
                }
                Err(error) if worst.as_ref().is_none_or(|worst| worst.kind() == Kind::NotFound) => {
                    worst = Some(error);
                }
                Err(_) => {}
            }
        }
        Err(worst.unwrap_or_else(|| self.members.too_few(0)))
    }

    /// Puts into all copies at once; what each says.
    fn put_all(&self, copies: &[Copy], name: &str, stored: &[u8]) -> Vec<Result<()>> {
        std::thread::scope(|scope| {
            let puts: Vec<_> =
                copies.iter().map(|copy| scope.spawn(move || copy.store.put(name, stored))).collect();
            puts.into_iter()
                .map(|put| put.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
                .collect()
        })
    }

    /// Takes a put back that cannot be acknowledged.
    fn undo(&self, copies: &[&Copy], name: &str) {
        for copy in copies {
            // the first error says more; a blob left alone is one that was never acknowledged
            copy.store.delete(name).ok();
        }
    }
}

fn must_be_empty(place: &str, store: &dyn BlobStore) -> Result<()> {
    let mut stranger = None;
    store.list("", &mut |name, _| {
        if name == MEMBER {
            return ControlFlow::Continue(());
        }
        stranger = Some(name.to_owned());
        ControlFlow::Break(())
    })?;
    match stranger {
        Some(name) => {
            Err(Error::Conflict { what: format!("{place} as a copy"), why: format!("it holds {name}") })
        }
        None => Ok(()),
    }
}

impl BlobStore for ReplicatedStore {
    fn put(&self, name: &str, bytes: &[u8]) -> Result<()> {
        Self::check_name(name)?;
        let _taken = self.take(name)?;
        let conflict = |why: &str| Error::Conflict { what: format!("blob {name}"), why: why.to_owned() };
        if self.is_buried(name) {
            return Err(conflict("it was deleted, and not every copy has heard"));
        }
        let copies = self.members.writable(name)?;
        for copy in &copies {
            match copy.store.size(name) {
                Ok(_) => return Err(conflict("it exists already")),
                Err(error) if error.kind() == Kind::NotFound => {}
                // the put below fails there too, and is told apart there
                Err(_) => {}
            }
        }
        let stored = sums::encode(bytes);
        let done = self.put_all(&copies, name, &stored);
        let (good, bad): (Vec<_>, Vec<_>) = copies.iter().zip(done).partition(|(_, done)| done.is_ok());
        let good: Vec<&Copy> = good.into_iter().map(|(copy, _)| copy).collect();
        let bad: Vec<(&Copy, Error)> =
            bad.into_iter().filter_map(|(copy, done)| Some((copy, done.err()?))).collect();
        // a full copy is a full store: deleting makes room on all of them
        let is_full = bad.iter().any(|(_, error)| error.kind() == Kind::NoSpace);
        if is_full || good.len() < self.quorum() {
            self.undo(&good, name);
            let of_kind = |(_, error): &(&Copy, Error)| !is_full || error.kind() == Kind::NoSpace;
            let first = bad.into_iter().find(of_kind).map(|(_, error)| error);
            return Err(first.unwrap_or_else(|| self.members.too_few(good.len())));
        }
        for (copy, error) in &bad {
            self.members.fail(copy.number, error);
        }
        // acknowledged only when the others say durably what the failed ones lack
        self.members.mark_away(name).inspect_err(|_| self.undo(&good, name))
    }

    fn get(&self, name: &str, range: ByteRange) -> Result<Vec<u8>> {
        self.read(name, |store| sums::get(store, name, range))
    }

    fn size(&self, name: &str) -> Result<ByteCount> {
        self.read(name, |store| sums::size(store, name).map(ByteCount::new))
    }

    fn list(&self, prefix: &str, visit: &mut dyn FnMut(&str, ByteCount) -> ControlFlow<()>) -> Result<()> {
        let copies = self.members.present();
        let stores: Vec<&dyn BlobStore> = copies.iter().map(|copy| &*copy.store).collect();
        let ends = merge::each_name(&stores, prefix, &mut |name, said| {
            let size = said.first().map_or(ByteCount::ZERO, |(_, size)| sums::listed(*size));
            if name.starts_with(OWN) || self.is_buried(name) {
                ControlFlow::Continue(())
            } else {
                visit(name, size)
            }
        });
        // a copy that lacks nothing and was listed to its end has named everything
        let is_whole = copies.iter().zip(&ends).any(|(copy, end)| end.is_ok() && !copy.is_behind);
        match ends.into_iter().find_map(Result::err) {
            Some(error) if !is_whole => Err(error),
            _ if copies.is_empty() => Err(self.members.too_few(0)),
            _ => Ok(()),
        }
    }

    fn delete(&self, name: &str) -> Result<()> {
        Self::check_name(name)?;
        let _taken = self.take(name)?;
        if self.is_buried(name) {
            return Err(Error::NotFound { what: format!("blob {name}") });
        }
        let copies = self.members.writable(name)?;
        if copies.len() < self.members.count() {
            self.bury(&copies, name)?;
        }
        let (mut deleted, mut worst) = (0, None);
        for copy in &copies {
            match copy.store.delete(name) {
                Ok(()) => deleted += 1,
                Err(error) if error.kind() == Kind::NotFound => {}
                Err(error) => {
                    self.members.fail(copy.number, &error);
                    worst = Some(error);
                }
            }
        }
        if worst.is_some() {
            // acknowledged only when the others say durably what the failed ones have too much
            let copies = self.members.writable(name)?;
            return self.bury(&copies, name);
        }
        if deleted > 0 { Ok(()) } else { Err(Error::NotFound { what: format!("blob {name}") }) }
    }
}

impl ReplicatedStore {
    fn bury(&self, copies: &[Copy], name: &str) -> Result<()> {
        for copy in copies {
            bury(&*copy.store, name)?;
        }
        self.members.mark_away(name)?;
        lock(&self.buried).insert(name.to_owned());
        Ok(())
    }
}
