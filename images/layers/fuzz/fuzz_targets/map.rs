//! Any bytes behind a right checksum as a map: an error or a map that survives its own encoding.
#![no_main]

use block::DiskId;
use layers::FrozenMap;

const BLOCKS: u64 = 100_000;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let disk = DiskId::from_bytes([0; 16]);
    let empty = FrozenMap::new(BLOCKS).encode(disk, 1).expect("an empty map encodes");
    // header and identity as they must be, then anything
    let mut stored = empty[..64].to_vec();
    stored.extend(bytes);
    if let Ok(map) = FrozenMap::decode(&stored, disk, 1, BLOCKS, "map") {
        let again = map.encode(disk, 1).expect("a decoded map encodes");
        assert_eq!(FrozenMap::decode(&again, disk, 1, BLOCKS, "map").ok(), Some(map));
    }
});
