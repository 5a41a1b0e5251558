//! Which packs there are, and in which of them a chunk may be. The stored form is specified in `docs/index.md`.
//!
//! An index does not say where a chunk is. It has a sample of the fingerprints of every pack; who finds one of them
//! loads all fingerprints of that pack, where its neighbours are too.

mod blob;
mod hooks;
mod run;
#[cfg(test)]
mod scale;
mod stored;
#[cfg(test)]
mod tests;

pub(crate) use blob::Hook;
pub use blob::fuzz_decode as fuzz_index;
pub(crate) use blob::{IndexContent, MAX_INDEX_LEN, decode_blob, encode_blob, readable_counts};
pub(crate) use hooks::Hooks;
pub use hooks::fuzz_decode as fuzz_hooks;
pub use run::fuzz_decode as fuzz_run;

use crate::name::{Address, Fingerprint};
use crate::pack::Table;

/// The most packs one index blob has. A job writes one when it has this many, so no more than that is sent again by the next attempt after the
/// process was killed: 512 MiB. Unit tests reach it with three packs.
pub(crate) const INDEX_PACKS: usize = if cfg!(test) { 2 } else { 32 };

/// A pack, as an index knows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct PackRow {
    pub(crate) address: Address,
    pub(crate) len: u64,
    pub(crate) entries: u32,
    pub(crate) chunks: u32,
}

impl PackRow {
    pub(crate) fn of(address: Address, len: u64, table: &Table, prints: &[Fingerprint]) -> Self {
        Self { address, len, entries: table.len() as u32, chunks: prints.len() as u32 }
    }
}
