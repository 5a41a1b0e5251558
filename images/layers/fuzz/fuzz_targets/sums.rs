//! Any bytes behind a right checksum as a page of sums: none, or a page that encodes to the same bytes.
#![no_main]

use block::DiskId;
use layers::SumPage;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let disk = DiskId::from_bytes([0; 16]);
    assert_eq!(SumPage::decode(bytes, disk, 0, 0).filter(|_| bytes.len() != 4096), None);
    let mut slot = bytes.to_vec();
    slot.resize(4096, 0);
    slot[16..128].fill(0);
    let crc = crc32fast::hash(&slot[4..]);
    slot[..4].copy_from_slice(&crc.to_le_bytes());
    if let Some(page) = SumPage::decode(&slot, disk, 0, 0) {
        assert_eq!(page.encode(disk, 0, 0), slot);
    }
});
