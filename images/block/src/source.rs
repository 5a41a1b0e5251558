//! The two block seams. A trait here contains blocks and nothing else; copying, comparing and slicing are functions
//! and types over it.

use crate::{ByteCount, ByteOffset, ByteRange, Error, MediaFile, RangeSet, Result};
use std::any::Any;
use std::ops::ControlFlow;
use std::sync::Arc;

/// What is known of a range without reading it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ExtentKind {
    /// Stored bytes; they may happen to be zeros.
    Data,
    /// Reads as zeros because zeros were written or the range was trimmed.
    Zero,
    /// Reads as zeros because nothing was ever written there.
    Hole,
}

/// A range in one state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extent {
    /// Where.
    pub range: ByteRange,
    /// What is there.
    pub kind: ExtentKind,
}

/// Bytes of a source as they lie in a file of the host, for callers that can move them without a copy or without
/// waiting. Drop it soon. A write that comes later may show in them, as it may in a read that is
/// under way.
#[derive(Clone)]
pub struct Stored {
    /// The file.
    pub file: crate::sync::Arc<dyn MediaFile>,
    /// First byte in the file.
    pub offset: u64,
    /// How many bytes.
    pub count: u64,
    /// Whether they may be believed as they are. If not, reading them here only brings them nearer, and
    /// [`BlockSource::read_at`] must be asked.
    pub is_verified: bool,
    /// Keeps the bytes where they are: whoever would give their place to others waits for it.
    pub held: Option<crate::sync::Arc<dyn Any + Send + Sync>>,
}

impl Stored {
    /// The bytes' place in the file.
    pub fn range(&self) -> ByteRange {
        ByteRange::between(self.offset, self.offset + self.count)
    }
}

/// Receives extents; breaking stops the walk early, which is not an error.
pub type Visit<'a> = dyn FnMut(Extent) -> ControlFlow<()> + 'a;

/// Shows a walk of extents the last of them, or the only one: there is nothing left to stop.
pub fn visit_last(range: ByteRange, kind: ExtentKind, visit: &mut Visit<'_>) {
    if !range.is_empty() {
        let _stop = visit(Extent { range, kind });
    }
}

/// Bytes addressed by offset that can be read.
pub trait BlockSource: Send + Sync {
    /// The number of bytes. It does not change while the source is open.
    fn size(&self) -> ByteCount;

    /// Reads `buf.len()` bytes starting at `offset` (bytes from the start).
    ///
    /// Fills the whole buffer or fails; a short read does not exist. Bytes never written read as zero.
    ///
    /// # Errors
    /// `OutOfRange` if the range passes the end; nothing is read. `Corrupt` if a checksum disagrees.
    fn read_at(&self, offset: ByteOffset, buf: &mut [u8]) -> Result<()>;

    /// Tiles `range` with extents: ascending, without gap or overlap, clipped to `range`. Neighbours may have the
    /// same kind. Zero and hole both read as zeros; only the reason differs. An empty range visits nothing.
    ///
    /// # Errors
    /// `OutOfRange` if the range passes the end; nothing is visited.
    fn extents(&self, range: ByteRange, visit: &mut Visit<'_>) -> Result<()>;

    /// Where the bytes at the front of `range` lie, as far as they lie together. `None` if that is no file or if they are
    /// zeros: then [`read_at`](Self::read_at) is the only way.
    fn stored(&self, _range: ByteRange) -> Option<Stored> {
        None
    }

    /// Whether reading this needs nothing but this host and little time. Where it does, as for what only a vault's store has, whoever
    /// has others to serve reads it beside them. A guess: what was near may be far by the time it is read.
    fn is_near(&self, _range: ByteRange) -> bool {
        true
    }
}

/// Whether zeroing may give space back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Provision {
    /// Zeros need no space: the range may become a hole on the host.
    Sparse,
    /// The range must stay allocated, so that a later write to it finds room.
    Allocated,
}

/// A source that can be written.
pub trait BlockDevice: BlockSource {
    /// Writes all of `buf` at `offset`. On return the bytes are visible to every reader; they are durable after the
    /// next [`flush`](Self::flush).
    ///
    /// # Errors
    /// `OutOfRange` if the range passes the end; nothing is written. `NoSpace` if the host is full: blocks of the
    /// range are each old or new, and a retry after freeing space is safe. `Poisoned` after a failed sync.
    fn write_at(&self, offset: ByteOffset, buf: &[u8]) -> Result<()>;

    /// Makes the range read as zeros, exactly to the byte, as one tracked change. Cost: O(map pages), not O(bytes),
    /// unless [`Provision::Allocated`] asks for space.
    ///
    /// # Errors
    /// As [`write_at`](Self::write_at).
    fn zero(&self, range: ByteRange, provision: Provision) -> Result<()>;

    /// The guest no longer needs the range. Whole blocks inside it read as zeros afterwards; bytes of blocks only
    /// partly inside are unchanged.
    ///
    /// # Errors
    /// As [`write_at`](Self::write_at).
    fn discard(&self, range: ByteRange) -> Result<()>;

    /// Makes everything acknowledged before this call durable, whichever thread wrote it.
    ///
    /// # Errors
    /// `Poisoned` if a sync failed, now or earlier: nothing acknowledged since the last good flush is promised, and
    /// no later call succeeds.
    fn flush(&self) -> Result<()>;
}

/// What a transfer moves: ranges of a source that changed. A full backup is a delta against nothing.
#[derive(Clone)]
pub struct Delta {
    /// The state to transfer.
    pub source: Arc<dyn BlockSource>,
    /// Where it may differ from the base. Bytes outside are equal to the base's.
    pub changed: RangeSet,
}

/// Checks that `count` bytes at `offset` lie within `size`.
///
/// # Errors
/// `OutOfRange` if they do not.
pub fn check_range(offset: ByteOffset, count: u64, size: ByteCount) -> Result<()> {
    match offset.checked_add(ByteCount::new(count)) {
        Some(end) if end.get() <= size.get() => Ok(()),
        _ => Err(Error::OutOfRange { offset: offset.get(), count, size: size.get() }),
    }
}
