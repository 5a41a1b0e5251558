//! Any bytes as a chain: an error or a chain that encodes to the same bytes.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    if let Ok(chain) = layers::Chain::decode(bytes, "chain") {
        assert_eq!(layers::Chain::decode(&chain.encode(), "chain").ok(), Some(chain));
    }
});
