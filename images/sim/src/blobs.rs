//! A blob store in memory, with faults.

use crate::fault::{Cut, Effect, Fault, Op, Plan, Turn};
use block::sync::{Arc, Mutex, lock};
use block::{BlobStore, ByteCount, ByteRange, Error, Result, check_blob_name};
use std::collections::BTreeMap;
use std::ops::ControlFlow;

/// A blob store in memory. Clones are handles on the same store. What it stores is durable at once and whole, as the
/// seam promises; what goes wrong is planned by the test, with [`Op::Put`], [`Op::Get`], [`Op::BlobSize`],
/// [`Op::ListBlobs`] and [`Op::Delete`].
#[derive(Clone, Default)]
pub struct SimBlobStore {
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    plan: Plan,
    blobs: BTreeMap<String, Arc<Vec<u8>>>,
    capacity: Option<u64>,
}

impl SimBlobStore {
    /// An empty store without a limit.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a fault to the plan. Of several that fit a call, the one added first hits it.
    pub fn inject(&self, fault: Fault) {
        lock(&self.state).plan.inject(fault);
    }

    /// Forgets all faults.
    pub fn clear_faults(&self) {
        lock(&self.state).plan.clear();
    }

    /// How many calls were hit by a fault.
    pub fn faults_fired(&self) -> u64 {
        lock(&self.state).plan.fired()
    }

    /// How many mutating calls were made.
    pub fn calls(&self) -> u64 {
        lock(&self.state).plan.calls()
    }

    /// Lets so many further mutating calls pass; the client dies at the next one, before or after its effect. That
    /// call and every later one fail, see [`is_power_off`](crate::is_power_off).
    pub fn crash_after(&self, calls: u64, cut: Cut) {
        lock(&self.state).plan.cut_after(calls, cut);
    }

    /// Whether this client is dead.
    pub fn is_off(&self) -> bool {
        lock(&self.state).plan.off
    }

    /// The client dies and another one finds the store as it is. Faults and the planned crash are gone.
    pub fn crash(&self) -> Self {
        lock(&self.state).plan.off = true;
        self.fork()
    }

    /// A store of its own with the same blobs and no faults, while this one goes on.
    pub fn fork(&self) -> Self {
        let old = lock(&self.state);
        let state = State { plan: Plan::default(), blobs: old.blobs.clone(), capacity: old.capacity };
        Self { state: Arc::new(Mutex::new(state)) }
    }

    /// Sets how many bytes of blobs fit.
    pub fn set_capacity(&self, bytes: u64) {
        lock(&self.state).capacity = Some(bytes);
    }

    /// Every blob with its length, ascending by name.
    pub fn blobs(&self) -> Vec<(String, u64)> {
        lock(&self.state).blobs.iter().map(|(name, bytes)| (name.clone(), bytes.len() as u64)).collect()
    }

    /// Bit rot: one bit of a blob turns over.
    ///
    /// # Panics
    /// If there is no such blob, or it ends before.
    pub fn flip_bit(&self, name: &str, offset: u64, bit: u8) {
        self.damage(name, |bytes| bytes[offset as usize] ^= 1 << bit);
    }

    /// Damage: a blob is shorter.
    ///
    /// # Panics
    /// If there is no such blob, or it is no longer than this.
    pub fn truncate(&self, name: &str, len: u64) {
        self.damage(name, |bytes| {
            assert!(len < bytes.len() as u64, "{name} is not longer than {len}");
            bytes.truncate(len as usize);
        });
    }

    /// Damage: a blob is gone.
    ///
    /// # Panics
    /// If there is no such blob.
    pub fn remove(&self, name: &str) {
        assert!(lock(&self.state).blobs.remove(name).is_some(), "there is no {name}");
    }

    fn damage(&self, name: &str, damage: impl FnOnce(&mut Vec<u8>)) {
        let mut state = lock(&self.state);
        let blob = state.blobs.get_mut(name).unwrap_or_else(|| panic!("there is no {name}"));
        damage(Arc::make_mut(blob));
    }

    fn call<T>(&self, op: Op, name: &str, act: impl FnOnce(&mut State, &Turn) -> Result<T>) -> Result<T> {
        let mut state = lock(&self.state);
        let turn = state.plan.begin(op, name)?;
        let result = match turn.error(name) {
            Some(error) => Err(error),
            None => act(&mut state, &turn),
        };
        state.plan.end(&turn, name, result)
    }

    fn find(&self, op: Op, name: &str) -> Result<Arc<Vec<u8>>> {
        check_blob_name(name)?;
        self.call(op, name, |state, _| state.blobs.get(name).cloned().ok_or_else(|| missing(name)))
    }
}

fn missing(name: &str) -> Error {
    Error::NotFound { what: format!("blob {name}") }
}

impl BlobStore for SimBlobStore {
    fn put(&self, name: &str, bytes: &[u8]) -> Result<()> {
        check_blob_name(name)?;
        self.call(Op::Put, name, |state, turn| {
            if state.blobs.contains_key(name) {
                let why = "a blob of this name exists".to_owned();
                return Err(Error::Conflict { what: format!("blob {name}"), why });
            }
            let used: u64 = state.blobs.values().map(|blob| blob.len() as u64).sum();
            if state.capacity.is_some_and(|capacity| used + bytes.len() as u64 > capacity) {
                return Err(crate::fault::failed(Op::Put, name, crate::fault::ENOSPC));
            }
            if turn.effect != Some(Effect::Lose) {
                state.blobs.insert(name.to_owned(), Arc::new(bytes.to_vec()));
            }
            Ok(())
        })
    }

    fn get(&self, name: &str, range: ByteRange) -> Result<Vec<u8>> {
        let blob = self.find(Op::Get, name)?;
        let (offset, count, size) = (range.start(), range.count().get(), blob.len() as u64);
        if range.end() > size {
            return Err(Error::OutOfRange { offset, count, size });
        }
        Ok(blob[offset as usize..range.end() as usize].to_vec())
    }

    fn size(&self, name: &str) -> Result<ByteCount> {
        Ok(ByteCount::new(self.find(Op::BlobSize, name)?.len() as u64))
    }

    fn list(&self, prefix: &str, visit: &mut dyn FnMut(&str, ByteCount) -> ControlFlow<()>) -> Result<()> {
        // collected first: the visitor may call the store
        let found: Vec<(String, u64)> = self.call(Op::ListBlobs, prefix, |state, _| {
            let from = state.blobs.range(prefix.to_owned()..);
            let matching = from.take_while(|(name, _)| name.starts_with(prefix));
            Ok(matching.map(|(name, bytes)| (name.clone(), bytes.len() as u64)).collect())
        })?;
        for (name, len) in found {
            if visit(&name, ByteCount::new(len)).is_break() {
                break;
            }
        }
        Ok(())
    }

    fn delete(&self, name: &str) -> Result<()> {
        check_blob_name(name)?;
        self.call(Op::Delete, name, |state, _| {
            state.blobs.remove(name).map(|_| ()).ok_or_else(|| missing(name))
        })
    }
}
