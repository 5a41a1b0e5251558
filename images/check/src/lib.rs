//! A second opinion on a disk's directory, by the documents in `images/layers/docs` alone.
//!
//! Nothing here calls the code that writes these files, or shares a decision with it: headers, chains, maps, journals
//! and sums are decoded anew, and what a recovery point reads is worked out block by block. It only reads, through a
//! [`block::Media`], so that the same check judges real directories and simulated ones.

mod active;
mod bytes;
mod chain;
mod directory;
mod layer;
mod map;
mod rules;
mod sums;

pub use chain::{Base, Chain, Fold, Layer, Seal};
pub use directory::{Directory, Finding};
pub use layer::{LayerReport, inspect_layer};
pub use map::{Map, MapHead, Run, State, inspect_map};
pub use rules::{Report, check_directory};

/// Bytes of a block.
pub const BLOCK: u64 = 4096;
