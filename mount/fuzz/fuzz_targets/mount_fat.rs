//! FAT and exFAT as their tools make them, with bytes changed.
#![no_main]

#[path = "../images.rs"]
#[allow(dead_code, unused_imports)]
mod images;
#[allow(unused_imports)]
use images::{bases, exercise, image, ntfs, seen, volumes};

libfuzzer_sys::fuzz_target!(|data: &[u8]| images::changed(data, &bases::FAT, exercise::filesystem));
