//! Disks that LVM volumes and MD arrays are put together from, with bytes changed.
#![no_main]

#[path = "../images.rs"]
#[allow(dead_code, unused_imports)]
mod images;
#[allow(unused_imports)]
use images::{bases, exercise, image, ntfs, seen, volumes};

libfuzzer_sys::fuzz_target!(|data: &[u8]| images::changed(data, &bases::DISKS, exercise::volumes));
