//! Real filesystems made by mkntfs, with bytes changed: the first byte chooses one, every twelve further change it.
#![no_main]

#[path = "../../tests/it/bases.rs"]
mod bases;
#[path = "../../tests/it/exercise.rs"]
#[allow(dead_code)]
mod exercise;
#[path = "../../tests/it/image.rs"]
#[allow(dead_code)]
mod image;
#[path = "../../tests/it/ntfs.rs"]
#[allow(dead_code, unused_imports)]
mod ntfs;
#[path = "../../tests/it/seen.rs"]
#[allow(dead_code, unused_imports)]
mod seen;
#[path = "../../tests/it/volumes.rs"]
#[allow(dead_code, unused_imports)]
mod volumes;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let Some((base, patches)) = data.split_first() else { return };
    let bases = &*bases::NTFS;
    let patches = patches.as_chunks::<12>().0.iter().map(|patch| {
        let [a, b, into, len, value @ ..] = *patch;
        (u16::from_le_bytes([a, b]), into, u64::from_le_bytes(value), len)
    });
    exercise::filesystem(&bases[usize::from(*base) % bases.len()].patched(patches));
});
