//! Any bytes as the report of a guest's hook.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    if let Some(report) = machines::report::Report::parse(bytes) {
        assert!(!report.id.is_empty() && report.failed.iter().all(|why| why.len() <= bytes.len() + 32));
    }
});
