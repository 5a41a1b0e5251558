//! What the targets share that change bytes of real images: the first byte of their input chooses one, every twelve
//! further change it.

#[path = "../tests/it/bases.rs"]
pub mod bases;
#[path = "../tests/it/exercise.rs"]
pub mod exercise;
#[path = "../tests/it/image.rs"]
pub mod image;
#[path = "../tests/it/memory.rs"]
pub mod memory;
#[path = "../tests/it/ntfs.rs"]
pub mod ntfs;
#[path = "../tests/it/seen.rs"]
pub mod seen;
#[path = "../tests/it/volumes.rs"]
pub mod volumes;

/// Calls `look` with one of the images, changed.
pub fn changed(
    data: &[u8],
    bases: &[bases::Base],
    look: impl Fn(&std::sync::Arc<dyn block::BlockSource>) -> usize,
) {
    let Some((base, patches)) = data.split_first() else { return };
    let patches = patches.as_chunks::<12>().0.iter().map(|patch| {
        let [a, b, into, len, value @ ..] = *patch;
        (u16::from_le_bytes([a, b]), into, u64::from_le_bytes(value), len)
    });
    let changed = bases[usize::from(*base) % bases.len()].patched(patches);
    memory::bounded(|| look(&changed));
}
