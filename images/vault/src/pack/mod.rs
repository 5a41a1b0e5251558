//! Packs: many sealed entries in one blob. Specified in `docs/pack.md`.

mod footer;
mod read;
mod table;
mod write;

pub(crate) use footer::{FOOTER_LEN, Footer};
pub(crate) use read::{PackHead, open_entry, open_front, prove_frame, read_head, read_prints};
pub(crate) use table::{Entry, RECORD_LEN, Record, Table};
pub(crate) use write::{Finished, PackWriter};

use crate::chunk::{FRAME_CHUNKS, MAX_FRAME_CHUNKS};
use crate::name::Fingerprint;

/// A pack is closed once it holds this many bytes.
pub const PACK_TARGET: usize = 16 << 20;
/// The most entries a pack has.
pub(crate) const MAX_PACK_ENTRIES: usize = 4096;
/// The most chunks a pack has: the list of their fingerprints has 512 KiB. Unit tests reach it with 8 MiB of data.
pub(crate) const MAX_PACK_CHUNKS: usize = if cfg!(test) { 2048 } else { 32_768 };
/// No valid pack is longer: the target, one more entry, a full table and all fingerprints.
pub const MAX_PACK_LEN: u64 = (17 << 20) + (512 << 10);

/// Parts of a pack, for [`Place`](crate::seal::Place).
const PART_ENTRY: u8 = 1;
const PART_TABLE: u8 = 2;
const PART_PRINTS: u8 = 3;

/// Of so many chunks of a pack, in order, at least the first stands in an index.
const HOOKED_CHUNKS: usize = 64;

/// The chunks of a pack that stand in an index, of all of the pack's in order.
pub(crate) fn hooks(prints: &[Fingerprint]) -> impl Iterator<Item = &Fingerprint> {
    prints
        .iter()
        .enumerate()
        .filter(|(at, print)| at.is_multiple_of(HOOKED_CHUNKS) || print.is_sample())
        .map(|(_, print)| print)
}

const _: () = assert!(MAX_PACK_CHUNKS.is_multiple_of(FRAME_CHUNKS) && FRAME_CHUNKS <= MAX_FRAME_CHUNKS);
