//! The vault tier: recovery points of disks as deduplicated, compressed, encrypted chunks in a blob store.
//!
//! A [`Vault`] is made on any [`block::BlobStore`], for example a [`DirectoryStore`], with a [`VaultKey`]. It takes
//! recovery points in ([`Vault::backup`]), lists them ([`Vault::points`]), gives each as a readable image
//! ([`Vault::image`]) and proves itself ([`Vault::check`]). The formats are specified in this crate's `docs/`.
//!
//! This crate knows no disk, no layer, no schedule and no policy. What may be deleted is asked at one
//! [`DeleteGate`], which refuses until somebody brings a policy.
//!
//! ```
//! use block::linux::{KernelEntropy, LinuxMedia, SystemClock};
//! use block::{BlockDevice, ByteCount, ByteOffset, Delta, DiskId, Epoch, MemoryDisk, RangeSet, StateId, Time};
//! use std::sync::Arc;
//! use vault::{Backup, DirectoryStore, Env, Quiet, Vault, VaultKey};
//!
//! # let dir = tempfile::tempdir()?;
//! let media = Arc::new(LinuxMedia::new(dir.path(), dir.path())?);
//! let store = Arc::new(DirectoryStore::open(media, "main")?);
//! let env = Env { clock: Arc::new(SystemClock), entropy: Arc::new(KernelEntropy) };
//! let key = VaultKey::generate(&KernelEntropy)?;
//! let vault = Vault::create(store, key, &env)?;
//!
//! let disk = MemoryDisk::new(ByteCount::new(1 << 20));
//! disk.write_at(ByteOffset::new(4096), b"hello")?;
//! let size = ByteCount::new(1 << 20);
//! let report = vault.backup(&Backup {
//!     item: "web-root",
//!     disk: DiskId::random(&KernelEntropy)?,
//!     state: StateId::random(&KernelEntropy)?,
//!     base: None,
//!     epoch: Epoch::new(1),
//!     time: Time { unix_ms: 0 },
//!     size,
//!     delta: Delta { source: Arc::new(disk), changed: RangeSet::whole(size) },
//!     progress: &Quiet,
//! })?;
//! let mut back = [0; 5];
//! vault.image(&report.manifest)?.read_at(ByteOffset::new(4096), &mut back)?;
//! assert_eq!(&back, b"hello");
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod backup;
mod cache;
mod check;
mod chunk;
mod compare;
mod directory;
mod distrust;
#[cfg(test)]
mod documented;
mod error;
mod frame_cache;
mod frames;
mod front;
pub mod fuzz;
mod gate;
mod image;
mod index;
mod info;
mod inner;
mod inspect;
mod key;
mod key_text;
mod manifest;
mod moved;
mod name;
mod pack;
mod progress;
mod reach;
mod repair;
mod seal;
mod slots;
mod small;
mod stores;
mod sweep;
mod vault;
mod writers;

pub use backup::{Backup, Report};
pub use check::{CheckReport, Damage, HurtPoint, Scrub};
pub use chunk::{CHUNK_SIZE, Compression};
pub use compare::Compared;
pub use directory::DirectoryStore;
pub use error::{Error, Result};
pub use frame_cache::{CacheUse, FrameCache};
pub use gate::{DeleteGate, Deletion, Refusal, RefuseAll};
pub use inspect::{
    BlobFront, MAX_SHOWN, ShownEntry, ShownIndex, ShownPack, ShownPoint, inspect_index, inspect_pack,
    inspect_point,
};
pub use key::VaultKey;
pub use manifest::{PointKind, VaultPoint};
pub use name::{ApplianceId, ManifestId, SlotId, SweepId};
pub use pack::{MAX_PACK_LEN, PACK_TARGET};
pub use progress::{Progress, Quiet};
pub use reach::{Reach, Share};
pub use repair::{ChunkRepair, DiskSources, Sources};
pub use slots::{KeyMaterial, MAX_SECRET, Slot, SlotKind, unlock};
pub use stores::{
    Bucket, Cloud, CopyState, CopyStatus, GivenCopy, MAX_COPIES, ObjectStore, ParityStatus, ParityStore,
    Place, Repaired, ReplicatedStore, Scheme, StoreOptions,
};
pub use sweep::{SweepReport, SweepRun};
pub use vault::{Env, Options, Survey, Usage, Vault};
pub use writers::{Exclusion, RegisteredWriter, Writer};
