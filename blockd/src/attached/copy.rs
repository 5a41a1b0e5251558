//! Making a disk of ours what another source is, by writing only the blocks that differ: what is not written did not change.

use crate::space::Space;
use block::{BLOCK_SIZE, BlockDevice, BlockSource, ByteOffset, ByteRange, Provision, RangeSet, Result};

/// Bytes at a time: a few requests of the protocol.
const PIECE: u64 = 4 << 20;

/// What it took.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Done {
    /// Bytes read from the source.
    pub read: u64,
    /// Bytes written or zeroed.
    pub written: u64,
}

/// Writes what differs in these ranges, or everywhere.
///
/// # Errors
/// What source and disk report.
pub fn differences(
    from: &dyn BlockSource,
    to: &dyn BlockDevice,
    ranges: Option<&RangeSet>,
    space: &Space,
) -> Result<Done> {
    let whole = ByteRange::whole(from.size());
    let ranges: Vec<ByteRange> = match ranges {
        Some(ranges) => ranges.clip(whole).iter().collect(),
        None => vec![whole],
    };
    let mut done = Done::default();
    for range in ranges {
        // a change of a part of a block is looked at as the block it is in
        let end = range.end().next_multiple_of(BLOCK_SIZE).min(from.size().get());
        let mut at = range.start() / BLOCK_SIZE * BLOCK_SIZE;
        while at < end {
            let next = end.min((at / PIECE + 1) * PIECE);
            piece(from, to, ByteRange::between(at, next), space, &mut done)?;
            at = next;
        }
    }
    Ok(done)
}

fn piece(
    from: &dyn BlockSource,
    to: &dyn BlockDevice,
    range: ByteRange,
    space: &Space,
    done: &mut Done,
) -> Result<()> {
    let length = range.count().get() as usize;
    let (mut theirs, mut ours) = (vec![0; length], vec![0; length]);
    from.read_at(range.offset(), &mut theirs)?;
    to.read_at(range.offset(), &mut ours)?;
    done.read += length as u64;
    let unit = BLOCK_SIZE as usize;
    let is_same = |at: usize| theirs[at..(at + unit).min(length)] == ours[at..(at + unit).min(length)];
    let is_zero = |at: usize| theirs[at..(at + unit).min(length)].iter().all(|byte| *byte == 0);
    let mut at = 0;
    while at < length {
        if is_same(at) {
            at += unit;
            continue;
        }
        let (start, zero) = (at, is_zero(at));
        while at < length && !is_same(at) && is_zero(at) == zero {
            at += unit;
        }
        let end = at.min(length);
        let first = range.start() + start as u64;
        space.with_room(|| match zero {
            true => to.zero(ByteRange::between(first, range.start() + end as u64), Provision::Sparse),
            false => to.write_at(ByteOffset::new(first), &theirs[start..end]),
        })?;
        done.written += (end - start) as u64;
    }
    Ok(())
}
