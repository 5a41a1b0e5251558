//! Where blobs lie: in a directory, in several, or in the bucket of an object store.

mod copies;
mod object;
mod options;
mod parity;
mod place;
mod sums;

pub use copies::{CopyState, CopyStatus, GivenCopy, MAX_COPIES, Repaired, ReplicatedStore, fuzz_card};
pub use object::ObjectStore;
pub use options::StoreOptions;
pub use parity::{ParityStatus, ParityStore, Scheme, fuzz_parity};
pub use place::{Bucket, Cloud, Place};
pub use sums::fuzz_sums;
