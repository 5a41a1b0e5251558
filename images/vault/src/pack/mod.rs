//! Packs: many sealed entries in one blob. Specified in `docs/pack.md`.

mod footer;
mod read;
mod trailer;
mod write;

pub(crate) use footer::{FOOTER_LEN, Footer};
pub(crate) use read::{PackHead, open_entry, read_head};
pub(crate) use trailer::{RECORD_LEN, Record, Trailer};
pub(crate) use write::{Finished, PackWriter};

/// A pack is closed once it holds this many bytes.
pub const PACK_TARGET: usize = 16 << 20;
/// The most entries a pack has.
pub(crate) const MAX_PACK_ENTRIES: usize = 8192;
/// No valid pack is longer: the target, one more entry and a full trailer.
pub const MAX_PACK_LEN: u64 = (17 << 20) + (512 << 10);

/// Parts of a pack, for [`Place`](crate::seal::Place).
const PART_ENTRY: u8 = 1;
const PART_TRAILER: u8 = 2;
