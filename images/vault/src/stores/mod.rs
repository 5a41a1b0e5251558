//! Where blobs lie: in a directory, in several, or in the bucket of an object store.

mod copies;
mod object;
mod options;
mod place;

pub use copies::{
    CopyState, CopyStatus, GivenCopy, MAX_COPIES, Repaired, ReplicatedStore, fuzz_card, fuzz_sums,
};
pub use object::ObjectStore;
pub use options::StoreOptions;
pub use place::{Bucket, Cloud, Place};
