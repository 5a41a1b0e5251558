//! Any bytes behind a right checksum as a chain: a reason, or a chain that keeps its own rules.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let mut sealed = bytes.to_vec();
    sealed.extend(crc32fast::hash(bytes).to_le_bytes());
    for bytes in [bytes, &sealed] {
        if let Ok(chain) = check::Chain::read(bytes) {
            assert!(chain.numbers().iter().all(|&number| number < chain.next));
        }
    }
});
