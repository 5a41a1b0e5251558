//! The conformance suites, run by the implementations at hand.

use block::linux::LinuxMedia;
use block::{BlobStore, BlockDevice, Media, MemoryDisk};
use sim::{SimBlobStore, SimMedia, conformance};
use std::cell::RefCell;
use std::sync::Arc;

#[test]
fn simulated_media() {
    conformance::media(|| Arc::new(SimMedia::new()) as Arc<dyn Media>);
}

#[test]
fn linux_media() {
    let dirs = RefCell::new(Vec::new());
    conformance::media(|| {
        let (root, volatile) = (tempfile::tempdir().unwrap(), tempfile::tempdir_in("/dev/shm").unwrap());
        let media = LinuxMedia::new(root.path(), volatile.path()).unwrap();
        dirs.borrow_mut().extend([root, volatile]);
        Arc::new(media) as Arc<dyn Media>
    });
}

#[test]
fn memory_disk() {
    conformance::block_device(|size| Arc::new(MemoryDisk::new(size)) as Arc<dyn BlockDevice>);
}

#[test]
fn simulated_blob_store() {
    conformance::blob_store(|| Arc::new(SimBlobStore::new()) as Arc<dyn BlobStore>);
}
