//! Where chunks and nodes are. The stored form is specified in `docs/index.md`.
//!
//! In this version all index blobs are held in memory, sorted; callers see only [`Index::find`], so that a mapped
//! index can take its place.

mod blob;
mod stored;
mod table;
#[cfg(test)]
mod tests;

pub use blob::fuzz_decode as fuzz_index;
pub(crate) use blob::{IndexContent, MAX_INDEX_LEN, decode_blob, encode_blob};
pub(crate) use table::{Index, Spot};

use crate::name::Address;
use crate::pack::Record;

/// The most records one index blob has; a longer job writes several. Unit tests reach it without 16 GiB of data.
pub(crate) const INDEX_RECORDS: usize = if cfg!(test) { 20_000 } else { 1 << 18 };

/// A pack, as an index knows it: enough to derive its key and to tell whether it was cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct PackRow {
    pub(crate) address: Address,
    pub(crate) salt: [u8; 32],
    pub(crate) len: u64,
}

/// Where an entry is: in which row of a table of packs, under which number, from which byte.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) record: Record,
    pub(crate) pack: u32,
    pub(crate) number: u32,
    pub(crate) offset: u32,
}
