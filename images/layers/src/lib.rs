//! The instant tier: a disk as a chain of copy-on-write layers, exact change maps, recovery points in milliseconds.
//!
//! A [`Disk`] is a directory on a [`block::Media`]. Guest writes go to its one *active* layer; a *seal* freezes that
//! layer and starts the next, which is all a recovery point costs. The active layer's map of block states is the
//! change map of its epoch: what is not in it did not happen, what is in it is both visible and changed.
//!
//! Formats: `docs/chain.md`, `docs/map.md`, `docs/journal.md`, `docs/live-map.md`, `docs/sums.md`.
//! Why it is safe: `docs/durability.md`.
//! What becomes of deleted points: `docs/consolidation.md`. Disks that stand on something: `docs/base.md`, and how they
//! come to stand on nothing: `docs/hydrate.md`.
//!
//! This crate knows no socket, no schedule and no vault.
//!
//! ```
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! use block::{BlockDevice, BlockSource, ByteCount, ByteOffset, DiskId, linux};
//! # let (dir, shm) = (tempfile::tempdir()?, tempfile::tempdir()?);
//! let env = layers::Env::linux(dir.path(), shm.path())?;
//! let disk = layers::Disk::create(&env, "web", DiskId::random(&*env.entropy)?, ByteCount::new(1 << 30))?;
//! disk.write_at(ByteOffset::new(4096), b"before")?;
//! let point = disk.seal()?;
//! disk.write_at(ByteOffset::new(4096), b"after!")?;
//! let mut old = [0; 6];
//! disk.point_source(point.state)?.read_at(ByteOffset::new(4096), &mut old)?;
//! assert_eq!(&old, b"before");
//! assert_eq!(disk.changes(Some(point.state), layers::Until::Live)?.data.total().get(), 4096);
//! # Ok(()) }
//! ```

mod active;
mod base;
mod budget;
mod carry;
mod chain;
mod changes;
mod committed;
mod damage;
mod data_file;
mod depth;
mod disk;
mod error;
mod files;
mod flush;
mod fold;
mod frozen;
mod gate;
mod group;
mod hydrate;
mod identity;
mod journal;
mod live_map;
mod names;
mod open;
mod owner;
mod pin;
mod point;
mod poison;
mod read;
mod resize;
mod room;
mod scrub;
mod seal;
mod seen;
mod source;
mod state;
mod succession;
mod summing;
mod sums;
mod usage;
mod verify;
mod view;
mod write;

pub use base::Base;
pub use budget::Budget;
pub use chain::{
    BaseRecord, Chain, EpochRecord, FoldRecord, LayerRecord, MAX_CHAIN_BYTES, MAX_GROUP, SumsRecord,
};
pub use changes::{Changes, Until};
pub use damage::{HurtBlock, HurtMap};
pub use depth::VisitDepth;
pub use disk::{Disk, Env, FOLD_BATCH, JOURNAL_ROOM, Opened};
pub use error::{Error, Result};
pub use fold::{FoldProgress, Folding};
pub use frozen::FrozenMap;
pub use group::incomplete_groups;
pub use hydrate::{Hydrating, HydrationProgress};
pub use journal::{Entry, read_records};
pub use point::Point;
pub use scrub::{HurtRange, Scrubbed};
pub use seal::{Numbering, seal_group};
pub use state::BlockState;
pub use sums::{SumPage, sum_of};
pub use usage::Usage;
