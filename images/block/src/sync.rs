//! The synchronisation primitives of the storage side, in one place so that interleaving tests can replace them.
//!
//! Built with `--cfg blockd_shuttle`, every lock and atomic here is shuttle's, whose scheduler then explores
//! interleavings of the real state machine. Otherwise they are the standard library's.

#[cfg(blockd_shuttle)]
pub use shuttle::sync::{Arc, Condvar, Mutex, MutexGuard, RwLock, RwLockReadGuard, RwLockWriteGuard, atomic};
#[cfg(not(blockd_shuttle))]
pub use std::sync::{Arc, Condvar, Mutex, MutexGuard, RwLock, RwLockReadGuard, RwLockWriteGuard, atomic};

#[cfg(blockd_shuttle)]
pub use shuttle::thread;
#[cfg(not(blockd_shuttle))]
pub use std::thread;

/// Locks, whatever happened to earlier holders. Data behind these locks is valid after every statement, so a panic
/// of another thread does not make it wrong.
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

/// Waits on a condition variable, whatever happened to other holders of the lock.
pub fn wait<'a, T>(condvar: &Condvar, guard: MutexGuard<'a, T>) -> MutexGuard<'a, T> {
    condvar.wait(guard).unwrap_or_else(|poisoned| poisoned.into_inner())
}

/// A value that many threads read and few replace. Loading takes no lock that another reader could hold.
#[cfg(not(blockd_shuttle))]
pub struct Published<T>(arc_swap::ArcSwap<T>);

#[cfg(not(blockd_shuttle))]
impl<T> Published<T> {
    /// Publishes a first value.
    pub fn new(value: Arc<T>) -> Self {
        Self(arc_swap::ArcSwap::new(value))
    }

    /// The value now. It stays alive as long as the guard.
    pub fn load(&self) -> Loaded<T> {
        self.0.load()
    }

    /// Replaces the value; readers of the old one keep it until they are done.
    pub fn store(&self, value: Arc<T>) {
        self.0.store(value);
    }
}

/// A loaded value, kept alive until dropped.
#[cfg(not(blockd_shuttle))]
pub type Loaded<T> = arc_swap::Guard<Arc<T>>;

/// A loaded value, kept alive until dropped.
#[cfg(blockd_shuttle)]
pub struct Loaded<T>(Arc<T>);

#[cfg(blockd_shuttle)]
impl<T> std::ops::Deref for Loaded<T> {
    type Target = Arc<T>;

    fn deref(&self) -> &Arc<T> {
        &self.0
    }
}

/// The same for interleaving tests, where every step must be visible to the scheduler.
#[cfg(blockd_shuttle)]
pub struct Published<T>(RwLock<Arc<T>>);

#[cfg(blockd_shuttle)]
impl<T> Published<T> {
    /// Publishes a first value.
    pub fn new(value: Arc<T>) -> Self {
        Self(RwLock::new(value))
    }

    /// The value now.
    pub fn load(&self) -> Loaded<T> {
        Loaded(self.0.read().unwrap_or_else(|e| e.into_inner()).clone())
    }

    /// Replaces the value.
    pub fn store(&self, value: Arc<T>) {
        *self.0.write().unwrap_or_else(|e| e.into_inner()) = value;
    }
}
