//! One suite per seam, run by every implementation in its own tests. A suite panics where the implementation breaks a
//! promise of the seam; it tests nothing beyond the promises.
//!
//! ```
//! use block::{BlockDevice, MemoryDisk};
//! use std::sync::Arc;
//! sim::conformance::block_device(|size| Arc::new(MemoryDisk::new(size)) as Arc<dyn BlockDevice>);
//! ```

mod blobs;
mod device;
mod media;
mod source;

pub use blobs::blob_store;
pub use device::block_device;
pub use media::media;
pub use source::block_source;

use block::{Failure, Kind};

/// The call must have failed with this kind.
#[track_caller]
fn fails<T>(result: Result<T, impl Failure>, kind: Kind, what: &str) {
    match result {
        Ok(_) => panic!("{what}: succeeded, {kind:?} was expected"),
        Err(error) => assert_eq!(error.kind(), kind, "{what}: {error}"),
    }
}
