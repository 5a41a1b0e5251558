//! Reading a tree: one reference, or all of a range as runs.

use std::ops::{ControlFlow, Range};
use std::sync::Arc;

use crate::Result;
use crate::manifest::{Node, Ref, Shape};
use crate::name::Spot;

/// Where nodes come from.
pub(crate) trait NodeReader {
    /// The node in this place, which must have this level and count.
    fn node(&self, spot: &Spot, level: u8, count: usize) -> Result<Arc<Node>>;
}

/// Neighbouring chunks of one empty kind, or neighbouring chunks of one frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Run {
    pub(crate) first: u64,
    pub(crate) count: u64,
    /// What the first of them is.
    pub(crate) what: Ref,
}

impl Run {
    /// The part of it in these chunks, empty if there is none.
    fn within(self, chunks: &Range<u64>) -> Self {
        let first = self.first.max(chunks.start);
        let count = (self.first + self.count).min(chunks.end).saturating_sub(first);
        Self { first, count, what: self.what.further(first - self.first) }
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
    let chunks = chunks.start..chunks.end.min(shape.chunks());
    Walker { nodes, shape, chunks }.subtree(root, shape.root_level(), 0, visit)
}

struct Walker<'a> {
    nodes: &'a dyn NodeReader,
    shape: Shape,
    chunks: Range<u64>,
}

type Visit<'a> = dyn FnMut(Run) -> Result<ControlFlow<()>> + 'a;

impl Walker<'_> {
    fn subtree(&self, at: Ref, level: u8, index: u64, visit: &mut Visit<'_>) -> Result<ControlFlow<()>> {
        let (span, width) = (Shape::span(level), Shape::width(level));
        let whole = Run { first: index * width * span, count: width * span, what: at }.within(&self.chunks);
        if whole.count == 0 {
            return Ok(ControlFlow::Continue(()));
        }
        let Ref::Stored(spot) = at else { return visit(whole) };
        let node = self.nodes.node(&spot, level, self.shape.refs(level, index))?;
        for (number, count, what) in node.runs() {
            let number = index * width + number;
            let run = Run { first: number * span, count: count * span, what };
            let step = match what {
                Ref::Stored(_) if level > 0 => self.subtree(what, level - 1, number, visit)?,
                _ => self.part(run, visit)?,
            };
            if step.is_break() {
                return Ok(step);
            }
        }
        Ok(ControlFlow::Continue(()))
    }

    fn part(&self, run: Run, visit: &mut Visit<'_>) -> Result<ControlFlow<()>> {
        match run.within(&self.chunks) {
            Run { count: 0, .. } => Ok(ControlFlow::Continue(())),
            run => visit(run),
        }
    }
}
