//! Numbers with a unit. None of them converts silently into another and none of them wraps.

use std::fmt;

/// The unit of copy-on-write and of change tracking, in bytes. A guest's 4 KiB write copies nothing up.
pub const BLOCK_SIZE: u64 = 4096;

/// The largest disk, in bytes (64 TiB): its block numbers fit the 34 bits the formats give them, and every
/// offset on it fits an `i64` file offset with room to spare.
pub const MAX_DISK_SIZE: u64 = 64 << 40;

macro_rules! unit {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
        pub struct $name(u64);

        impl $name {
            /// The value zero.
            pub const ZERO: Self = Self(0);

            /// Gives the plain number its unit.
            pub const fn new(value: u64) -> Self {
                Self(value)
            }

            /// The plain number.
            pub const fn get(self) -> u64 {
                self.0
            }

            /// The next value, or `None` at the end of the number range.
            pub const fn next(self) -> Option<Self> {
                match self.0.checked_add(1) {
                    Some(value) => Some(Self(value)),
                    None => None,
                }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

unit!(
    /// A position on a disk or in a file, in bytes from its start.
    ByteOffset
);
unit!(
    /// A number of bytes.
    ByteCount
);
unit!(
    /// The number of a block on a disk; block N covers the bytes from N · [`BLOCK_SIZE`].
    BlockIndex
);
unit!(
    /// Counts the seals of a disk, from 1. For people; machines tell states apart by [`StateId`](crate::StateId).
    Epoch
);
unit!(
    /// Counts the rewrites of a metadata root.
    Generation
);

impl ByteOffset {
    /// The position `count` bytes further on, or `None` if no such position exists.
    pub const fn checked_add(self, count: ByteCount) -> Option<Self> {
        match self.0.checked_add(count.0) {
            Some(value) => Some(Self(value)),
            None => None,
        }
    }

    /// The block this byte lies in.
    pub const fn block(self) -> BlockIndex {
        BlockIndex(self.0 / BLOCK_SIZE)
    }

    /// Bytes between the start of its block and this position.
    pub const fn within_block(self) -> u64 {
        self.0 % BLOCK_SIZE
    }
}

impl BlockIndex {
    /// Where this block begins, or `None` past the last addressable block.
    pub const fn start(self) -> Option<ByteOffset> {
        match self.0.checked_mul(BLOCK_SIZE) {
            Some(value) => Some(ByteOffset(value)),
            None => None,
        }
    }
}

impl ByteCount {
    /// Blocks needed to hold this many bytes; the last one may be partly used.
    pub const fn blocks(self) -> u64 {
        self.0.div_ceil(BLOCK_SIZE)
    }

    /// The count rounded up to whole blocks, or `None` if that number does not exist.
    pub const fn block_aligned(self) -> Option<Self> {
        match self.blocks().checked_mul(BLOCK_SIZE) {
            Some(value) => Some(Self(value)),
            None => None,
        }
    }

    /// As a memory size, or `None` where it does not fit this machine.
    pub fn as_usize(self) -> Option<usize> {
        usize::try_from(self.0).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn offsets_do_not_wrap() {
        assert_eq!(ByteOffset::new(u64::MAX).checked_add(ByteCount::new(1)), None);
        assert_eq!(BlockIndex::new(u64::MAX / 2).start(), None);
        assert_eq!(ByteCount::new(u64::MAX).block_aligned(), None);
        assert_eq!(Epoch::new(u64::MAX).next(), None);
    }

    #[test]
    fn blocks_round_up() {
        assert_eq!(ByteCount::new(0).blocks(), 0);
        assert_eq!(ByteCount::new(1).blocks(), 1);
        assert_eq!(ByteCount::new(4096).blocks(), 1);
        assert_eq!(ByteCount::new(4097).block_aligned(), Some(ByteCount::new(8192)));
        assert_eq!(ByteOffset::new(4097).block(), BlockIndex::new(1));
        assert_eq!(ByteOffset::new(4097).within_block(), 1);
    }
}
