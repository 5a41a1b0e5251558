//! Time and randomness, handed in so that tests own both.

use crate::Result;

/// A moment of wall-clock time: milliseconds since 1970-01-01T00:00:00Z.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Time {
    /// Milliseconds since 1970-01-01T00:00:00Z.
    pub unix_ms: u64,
}

/// The appliance's own clock.
pub trait Clock: Send + Sync {
    /// The wall-clock time now. It may step backwards; nothing may be decided by it alone.
    fn now(&self) -> Time;

    /// Nanoseconds since an arbitrary start, never going backwards.
    fn monotonic_ns(&self) -> u64;
}

/// A source of unpredictable bytes. Keys, salts and ids come from the kernel's; tests bring a seeded one.
pub trait Entropy: Send + Sync {
    /// Fills the whole buffer.
    ///
    /// # Errors
    /// `Unavailable` if the kernel has no randomness to give.
    fn fill(&self, buf: &mut [u8]) -> Result<()>;
}
