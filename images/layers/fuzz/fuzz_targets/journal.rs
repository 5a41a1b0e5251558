//! Any bytes as a journal's records.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    for entry in layers::read_records(bytes, 7) {
        match entry {
            layers::Entry::Word { page, word, .. } => assert!(page < 7 && word < 512),
            layers::Entry::Fill { page, .. } => assert!(page < 7),
        }
    }
});
