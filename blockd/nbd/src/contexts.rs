//! What an export tells of itself beside `base:allocation`: which of its ranges changed since an older state, say.

use block::{ByteRange, Error};
use std::ops::ControlFlow;
use std::sync::Arc;

/// The extra metadata contexts of an export. Asked while a client chooses; nothing is computed before one is opened.
pub trait Contexts: Send + Sync {
    /// Full names, namespace and leaf, such as `qemu:dirty-bitmap:web@3`.
    fn names(&self) -> Vec<String>;

    /// Opens a context for one connection, which asks it until the client goes. `None` if there is none of this name.
    ///
    /// # Errors
    /// Whatever keeps it from being answered; the client is shown the message.
    fn open(&self, name: &str) -> Result<Option<Arc<dyn Status>>, Error>;
}

/// Receives `(length, flags)` pairs; breaking stops the walk early, which is not an error.
pub type VisitStatus<'a> = dyn FnMut(u64, u32) -> ControlFlow<()> + 'a;

/// An opened context.
pub trait Status: Send + Sync {
    /// Tiles `range` with lengths in bytes and the flags they have in this context: ascending, without gap or overlap.
    /// Neighbours may have the same flags. What the flags mean is the context's affair. The range lies within the
    /// export and is not empty.
    ///
    /// # Errors
    /// What the map behind it reports; the client's request fails with it.
    fn status(&self, range: ByteRange, visit: &mut VisitStatus<'_>) -> Result<(), Error>;
}
