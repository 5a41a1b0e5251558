//! Comparing a source with what it should read, and saying where they differ.

use block::{BLOCK_SIZE, BlockSource, ByteOffset, ByteRange};

/// Where a disk and its model disagree.
#[derive(thiserror::Error)]
#[error("{0}")]
pub struct Mismatch(pub(super) String);

impl std::fmt::Debug for Mismatch {
    // what `unwrap` prints
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

/// Disks and their models must agree.
pub type Agreement = Result<(), Mismatch>;

/// Words land whole.
pub(super) const WORD: usize = 8;

/// The bytes of a block of a disk of `len` bytes; none past its end.
pub(super) fn block_bytes(block: u64, len: usize) -> std::ops::Range<usize> {
    let start = (block * BLOCK_SIZE) as usize;
    start.min(len)..(start + BLOCK_SIZE as usize).min(len)
}

pub(super) fn unreadable(block: u64, error: &block::Error) -> Mismatch {
    let why = std::error::Error::source(error).map(|source| format!(": {source}")).unwrap_or_default();
    Mismatch(format!("cannot read from block {block} on: {error}{why}"))
}

/// Bytes read at a time.
const STEP: u64 = 16 * BLOCK_SIZE;

/// Compares block by block; `or` may accept a block that differs.
pub(super) fn compare(disk: &dyn BlockSource, expected: &[u8], or: impl Fn(u64, &[u8]) -> bool) -> Agreement {
    let size = expected.len() as u64;
    if disk.size().get() != size {
        return Err(Mismatch(format!("the size is {} and should be {size}", disk.size())));
    }
    let mut buf = vec![0; STEP.min(size) as usize];
    for start in (0..size).step_by(STEP as usize) {
        let found = &mut buf[..STEP.min(size - start) as usize];
        let block = start / BLOCK_SIZE;
        disk.read_at(ByteOffset::new(start), found).map_err(|error| unreadable(block, &error))?;
        let wanted = &expected[start as usize..][..found.len()];
        if found == wanted {
            continue;
        }
        for (at, found) in found.chunks(BLOCK_SIZE as usize).enumerate() {
            let (block, wanted) = (block + at as u64, &wanted[at * BLOCK_SIZE as usize..][..found.len()]);
            if found != wanted && !or(block, found) {
                return Err(differing(block, found, wanted));
            }
        }
    }
    Ok(())
}

fn differing(block: u64, found: &[u8], wanted: &[u8]) -> Mismatch {
    let at = found.iter().zip(wanted).position(|(found, wanted)| found != wanted).unwrap_or(0);
    let count = found.iter().zip(wanted).filter(|(found, wanted)| found != wanted).count();
    let shown = |bytes: &[u8]| -> String {
        bytes[at..].iter().take(WORD).map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().join(" ")
    };
    let range = ByteRange::between(block * BLOCK_SIZE, block * BLOCK_SIZE + found.len() as u64);
    Mismatch(format!(
        "block {block} (bytes {}..{}) differs in {count} bytes, first at {at}: reads {}, should be {}",
        range.start(),
        range.end(),
        shown(found),
        shown(wanted)
    ))
}
