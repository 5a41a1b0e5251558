//! Any bytes as what was kept of a machine.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    if let Ok(pieces) = machines::unpack(bytes) {
        // what was taken can be kept
        machines::pack(&pieces).expect("a bundle");
    }
});
