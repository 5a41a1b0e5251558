//! Reading a tree: one reference, or all of a range as runs.

use std::ops::{ControlFlow, Range};
use std::sync::Arc;

use crate::Result;
use crate::manifest::{FANOUT, Node, Ref, Shape};
use crate::name::ContentId;

/// Where nodes come from.
pub(crate) trait NodeReader {
    /// The node of this id, which must have this level and count.
    fn node(&self, id: &ContentId, level: u8, count: usize) -> Result<Arc<Node>>;
}

/// Neighbouring chunks of one empty kind, or one stored chunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Run {
    pub(crate) first: u64,
    pub(crate) count: u64,
    pub(crate) what: Ref,
}

/// What the tree says of one chunk.
pub(crate) fn find(nodes: &dyn NodeReader, shape: Shape, root: Ref, chunk: u64) -> Result<Ref> {
    let mut level = shape.root_level();
    let mut at = root;
    loop {
        let Ref::Stored(id) = at else { return Ok(at) };
        let index = chunk / Shape::span(level) / FANOUT;
        let node = nodes.node(&id, level, shape.refs(level, index))?;
        let place = (chunk / Shape::span(level) % FANOUT) as usize;
        at = node.refs.get(place).copied().unwrap_or(Ref::Hole);
        if level == 0 {
            return Ok(at);
        }
        level -= 1;
    }
}

/// Visits the chunks of a range as runs, ascending, without gap or overlap.
pub(crate) fn walk(
    nodes: &dyn NodeReader,
    shape: Shape,
    root: Ref,
    chunks: Range<u64>,
    visit: &mut dyn FnMut(Run) -> Result<ControlFlow<()>>,
) -> Result<ControlFlow<()>> {
    let walker = Walker { nodes, shape, chunks };
    walker.subtree(root, shape.root_level(), 0, visit)
}

struct Walker<'a> {
    nodes: &'a dyn NodeReader,
    shape: Shape,
    chunks: Range<u64>,
}

type Visit<'a> = dyn FnMut(Run) -> Result<ControlFlow<()>> + 'a;

impl Walker<'_> {
    /// The part of the chunks from `first`, `count` of them, that is asked for.
    fn wanted(&self, first: u64, count: u64) -> Range<u64> {
        first.max(self.chunks.start)..(first + count).min(self.chunks.end).min(self.shape.chunks())
    }

    fn subtree(&self, at: Ref, level: u8, index: u64, visit: &mut Visit<'_>) -> Result<ControlFlow<()>> {
        let below = Shape::span(level);
        let first = index * FANOUT * below;
        let wanted = self.wanted(first, FANOUT * below);
        if wanted.is_empty() {
            return Ok(ControlFlow::Continue(()));
        }
        let Ref::Stored(id) = at else {
            return visit(Run { first: wanted.start, count: wanted.end - wanted.start, what: at });
        };
        let node = self.nodes.node(&id, level, self.shape.refs(level, index))?;
        for (one, number) in node.refs.iter().zip(index * FANOUT..) {
            let step = match level {
                0 => self.chunk(*one, number, visit)?,
                _ => self.subtree(*one, level - 1, number, visit)?,
            };
            if step.is_break() {
                return Ok(step);
            }
        }
        Ok(ControlFlow::Continue(()))
    }

    fn chunk(&self, at: Ref, number: u64, visit: &mut Visit<'_>) -> Result<ControlFlow<()>> {
        match self.wanted(number, 1).is_empty() {
            true => Ok(ControlFlow::Continue(())),
            false => visit(Run { first: number, count: 1, what: at }),
        }
    }
}
