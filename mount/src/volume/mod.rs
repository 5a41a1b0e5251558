//! Volumes that are put together from parts of others: what LVM and MD make of partitions and disks.
//!
//! All bytes there are lie in one address space: first the disks, end to end, then each volume that was put together,
//! behind all that it is made of. So a volume is a range of addresses, whatever it is, and the reader of a filesystem
//! knows no difference. What a volume is made of is worked out by the parser ([`assemble`]), and only arithmetic for the
//! supervisor ([`Space`]).

mod assemble;
mod joined;
mod lvm;
mod md;
mod space;
pub mod thin;

pub use assemble::{Found, Member, assemble};
pub use joined::Joined;
pub use space::{Part, Space, fits};
pub(crate) use space::{Stretch, Way};
pub use thin::Thin;

/// The most parts a volume is made of: `lvextend` adds one at a time, and a pool that was rebuilt block by block for
/// years has some hundreds.
pub const MAX_PARTS: usize = 4096;
/// The most legs of one part, as in LVM.
pub const MAX_LEGS: usize = 128;
/// The longest name of a volume, in bytes: group and name, both at most 127 bytes with hyphens doubled, would not fit a
/// directory entry if they were longer.
pub const MAX_VOLUME_NAME: usize = 200;
