//! The crate against the kernel's own mount, the tools that make images, and a real FUSE mount. Needs root.

#![expect(clippy::disallowed_methods, reason = "the tests act on files of a mounted filesystem, not on ours")]

mod bases;
mod btrfs;
mod exercise;
mod ext4;
mod fat;
mod files;
mod history;
mod hostile;
mod image;
mod iso;
mod luks;
mod lying;
mod memory;
mod mounted;
mod ntfs;
mod partitions;
mod sandbox;
mod seen;
mod thin;
mod volumes;
mod xfs;
