//! Any text as a machine's definition.

#![no_main]

libfuzzer_sys::fuzz_target!(|text: &str| {
    if let Ok(domain) = machines::Domain::parse(text) {
        let choices = machines::choose(&domain.disks, &[], &[]).expect("no names, no wrong ones");
        assert_eq!(choices.len(), domain.disks.len());
    }
});
