//! How far long work is, and the wish to stop it.

use block::ByteCount;

/// Watches long work. Called often, from the thread that does the work; it should return at once.
pub trait Progress: Send + Sync {
    /// `done` bytes of about `total` are dealt with.
    fn at(&self, done: ByteCount, total: ByteCount);

    /// Whether the work should stop at the next opportunity, with [`Error::Cancelled`](crate::Error::Cancelled).
    fn cancelled(&self) -> bool {
        false
    }
}

/// Nobody watches.
#[derive(Debug, Clone, Copy, Default)]
pub struct Quiet;

impl Progress for Quiet {
    fn at(&self, _done: ByteCount, _total: ByteCount) {}
}
