//! Recovery points: the point blob and the tree below it. Specified in `docs/manifest.md`.

mod build;
mod node;
mod point;
mod shape;
mod walk;

pub(crate) use build::{NodeStore, TreeBuilder};
pub use node::fuzz_decode as fuzz_node;
pub(crate) use node::{Node, Ref};
#[cfg(test)]
pub(crate) use point::encode_body;
pub use point::fuzz_decode as fuzz_point;
pub(crate) use point::{MAX_POINT_LEN, Point, check_item, decode_point, encode_point};
pub use point::{PointKind, VaultPoint};
pub(crate) use shape::Shape;
pub(crate) use walk::{NodeReader, Run, walk};

/// Chunks below a full leaf: 16 MiB of a disk. One changed chunk writes one leaf anew, which for an unmodified disk is a few hundred bytes.
pub(crate) const LEAF_CHUNKS: u64 = 4096;
/// References in a full node above the leaves.
pub(crate) const FANOUT: u64 = 256;
/// The level of the highest root: 4096 · 256^3 chunks are 256 TiB, more than the largest disk.
pub(crate) const MAX_LEVEL: u8 = 3;
