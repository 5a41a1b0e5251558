//! The vocabulary of blockd: units, ids, ranges, errors and the four seams every other crate is written against.
//!
//! | seam | for | implementations |
//! |---|---|---|
//! | [`BlockSource`] | bytes addressed by offset, readable | a disk, a recovery point, a vault image, an NBD client, a foreign image, [`FileSource`] |
//! | [`BlockDevice`] | the same, writable | a disk, an NBD client, [`MemoryDisk`] |
//! | [`Media`] | files of the host | [`linux::LinuxMedia`], the simulated media of `sim` |
//! | [`BlobStore`] | whole immutable objects | a directory, object stores, the simulated store of `sim` |
//!
//! This crate knows no format, no protocol and no policy. All `unsafe` code and all direct system calls of the
//! storage side live in its module [`linux`].
//!
//! ```
//! use block::{BlockDevice, BlockSource, ByteCount, ByteOffset, MemoryDisk};
//! let disk = MemoryDisk::new(ByteCount::new(1 << 20));
//! disk.write_at(ByteOffset::new(512), b"hello")?;
//! let mut back = [0; 5];
//! disk.read_at(ByteOffset::new(512), &mut back)?;
//! assert_eq!(&back, b"hello");
//! # Ok::<(), block::Error>(())
//! ```

mod ahead;
mod blob;
mod chance;
mod copy;
mod crc32c;
mod cursor;
mod error;
mod file_source;
mod header;
mod ids;
#[cfg(not(blockd_shuttle))]
pub mod linux;
mod media;
mod memory_disk;
pub mod planted;
mod range;
mod source;
pub mod sync;
mod units;
mod window;

pub use blob::{BlobStore, check_blob_name};
pub use chance::{Clock, Entropy, Time};
pub use copy::{Pace, Walked, copy, copy_to_file, each_run, runs_of};
pub use crc32c::crc32c;
pub use cursor::{Cursor, Malformed};
pub use error::{Error, Failure, Foreign, Kind, Result};
pub use file_source::FileSource;
pub use header::{FileHeader, HEADER_LEN};
pub use ids::{DiskId, JobId, StateId, VaultId};
pub use media::{DirEntry, Lock, Media, MediaFile, Memory, OpenHow, Session, Shelved, Space, check_path};
pub use memory_disk::MemoryDisk;
pub use range::{ByteRange, RangeSet};
pub use source::{
    BlockDevice, BlockSource, Delta, Extent, ExtentKind, Provision, Stored, Visit, check_range, visit_last,
};
pub use units::{BLOCK_SIZE, BlockIndex, ByteCount, ByteOffset, Epoch, Generation, MAX_DISK_SIZE};
pub use window::Window;
