//! Any bytes behind a right checksum as a map: a reason, or runs that are ascending and within the map.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let mut sealed = bytes.to_vec();
    sealed.extend(crc32fast::hash(bytes).to_le_bytes());
    for bytes in [bytes, &sealed] {
        if let Ok((head, map)) = check::inspect_map(bytes) {
            assert!(map.runs.windows(2).all(|pair| pair[0].past <= pair[1].first));
            assert!(map.runs.iter().all(|run| run.first < run.past && run.past <= head.blocks));
        }
    }
});
