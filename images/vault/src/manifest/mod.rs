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
pub(crate) use walk::{NodeReader, Run, find, walk};

/// References in a full node.
pub(crate) const FANOUT: u64 = 256;
/// The level of the highest root: 256^4 chunks are 256 TiB, more than the largest disk.
pub(crate) const MAX_LEVEL: u8 = 3;
