//! Any bytes as what qemu or a guest agent says.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    machines::qmp::understand(bytes.to_vec());
});
