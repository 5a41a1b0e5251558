//! One look at a path in one point: what is there, and the bytes this depends on.

use crate::files::Files;
use crate::guest::{Node, NodeKind, Piece, Stamp};
use crate::{Error, Result};
use block::{Kind, RangeSet};

/// What a path leads to in a point, if anything.
pub struct Look {
    found: Option<Found>,
    /// Everything that was read until it was known; content that is coded was read by the parser.
    read: RangeSet,
}

struct Found {
    node: Node,
    /// Where the content of a file is.
    pieces: Vec<Piece>,
    data: RangeSet,
    /// What stands for content that is coded.
    coded: Option<u64>,
    /// The names in a directory, in order.
    names: Vec<Vec<u8>>,
}

impl Look {
    /// Looks.
    pub(super) fn at(files: &Files, volume: u32, path: &[u8]) -> Result<Self> {
        let found = match files.find(volume, path, false) {
            Ok(node) => Some(Found::of(files, node)?),
            Err(error) if is_absence(&error) => None,
            Err(error) => return Err(error),
        };
        Ok(Self { found, read: files.read_so_far() })
    }

    /// Whether there is anything.
    pub fn exists(&self) -> bool {
        self.found.is_some()
    }

    /// What is there.
    pub fn node(&self) -> Option<&Node> {
        self.found.as_ref().map(|found| &found.node)
    }

    /// The names in the directory that is there.
    pub fn names(&self) -> &[Vec<u8>] {
        self.found.as_ref().map_or(&[], |found| &found.names)
    }

    /// Whether a change of these bytes, or an unknown one, may have changed what was seen.
    pub(super) fn is_touched(&self, changed: Option<&RangeSet>) -> bool {
        let Some(changed) = changed else { return true };
        let touches = |set: &RangeSet| set.iter().any(|range| changed.touches(range));
        touches(&self.read) || self.found.as_ref().is_some_and(|found| touches(&found.data))
    }

    /// Whether both are the same, if only these bytes changed from one to the other. The time of the last access is
    /// no difference.
    pub(super) fn is_same(&self, other: &Self, changed: Option<&RangeSet>) -> bool {
        match (&self.found, &other.found) {
            (None, None) => true,
            (Some(mine), Some(theirs)) => mine.is_same(theirs, changed),
            _ => false,
        }
    }

    /// The same with the other's numbers and times, which belong to the newest point that shows it.
    pub(super) fn with_node_of(self, newer: Self) -> Self {
        match (self.found, newer.found) {
            (Some(found), Some(newer)) => Self { found: Some(Found { node: newer.node, ..found }), ..self },
            (found, _) => Self { found, ..self },
        }
    }
}

impl Found {
    fn of(files: &Files, node: Node) -> Result<Self> {
        let mut found =
            Self { node, pieces: Vec::new(), data: RangeSet::new(), coded: None, names: Vec::new() };
        match found.node.kind {
            NodeKind::File => {
                (found.pieces, found.data) = files.pieces(&found.node)?;
                found.coded = files.coded(&found.node, &found.pieces)?;
            }
            NodeKind::Directory => {
                for child in files.list(&found.node)? {
                    found.names.push(child?.name);
                }
                found.names.sort_unstable();
            }
            _ => {}
        }
        Ok(found)
    }

    fn is_same(&self, other: &Self, changed: Option<&RangeSet>) -> bool {
        let untouched = |data: &RangeSet| match changed {
            Some(changed) => !data.iter().any(|range| changed.touches(range)),
            // of bytes nobody knows anything of, only none are surely the same
            None => data.is_empty(),
        };
        same_node(&self.node, &other.node)
            && self.pieces == other.pieces
            && self.coded == other.coded
            && self.names == other.names
            && untouched(&self.data)
    }
}

/// Whether two nodes say the same; the time of the last access is no difference.
pub(super) fn same_node(a: &Node, b: &Node) -> bool {
    let without = |node: &Node| Node { atime: Stamp::default(), ..node.clone() };
    without(a) == without(b)
}

/// Whether the path leads nowhere, as it may in an older point.
fn is_absence(error: &Error) -> bool {
    matches!(error.kind(), Kind::NotFound | Kind::Invalid)
}
