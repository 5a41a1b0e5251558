//! Building the tree of a new point from the base's tree and what changed, in ascending order, holding one open node a level.

use crate::Result;
use crate::manifest::{FANOUT, Node, NodeReader, Ref, Shape};
use crate::name::ContentId;

/// Where new nodes go.
pub(crate) trait NodeStore: NodeReader {
    /// Stores a node, or finds it stored, and gives its id.
    fn store(&mut self, node: &Node) -> Result<ContentId>;
}

/// A tree to start from: its root and the size it was made for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Base {
    pub(crate) root: Ref,
    pub(crate) shape: Shape,
}

struct Open {
    index: u64,
    refs: Vec<Ref>,
}

/// Builds a tree. References not set are those of the base.
pub(crate) struct TreeBuilder {
    shape: Shape,
    base: Option<Base>,
    top: u8,
    // [0] is the root's level, each next one level lower
    open: Vec<Open>,
}

impl TreeBuilder {
    pub(crate) fn new(shape: Shape, base: Option<(Ref, Shape)>) -> Self {
        let base = base.map(|(root, shape)| Base { root, shape });
        Self { shape, base, top: shape.root_level(), open: Vec::new() }
    }

    /// Says what chunks `first .. first + count` are. Calls come in ascending order. Stored chunks come one by one.
    pub(crate) fn set(&mut self, nodes: &mut dyn NodeStore, first: u64, count: u64, what: Ref) -> Result<()> {
        let end = (first + count).min(self.shape.chunks());
        let mut at = first;
        while at < end {
            let level = if matches!(what, Ref::Stored(_)) { 0 } else { self.widest(at, end) };
            self.set_ref(nodes, level, at / Shape::span(level), what)?;
            at += Shape::span(level);
        }
        Ok(())
    }

    /// The highest level with a reference that begins at `at` and covers nothing past `end`, or past the disk.
    fn widest(&self, at: u64, end: u64) -> u8 {
        let fits = |level: u8| {
            let span = Shape::span(level);
            at.is_multiple_of(span) && (at + span <= end || end == self.shape.chunks())
        };
        (1..=self.top).take_while(|&level| fits(level)).last().unwrap_or(0)
    }

    fn set_ref(&mut self, nodes: &mut dyn NodeStore, level: u8, number: u64, what: Ref) -> Result<()> {
        self.descend(nodes, level, number / FANOUT)?;
        if let Some(one) = self.open.last_mut().and_then(|open| open.refs.get_mut((number % FANOUT) as usize))
        {
            *one = what;
        }
        Ok(())
    }

    fn level_of(&self, depth: usize) -> u8 {
        self.top - depth as u8
    }

    /// Closes and opens nodes until the last open one is node `index` of `level`.
    fn descend(&mut self, nodes: &mut dyn NodeStore, level: u8, index: u64) -> Result<()> {
        let ancestor = |at: u8| index / Shape::span(at - level);
        while let Some(last) = self.open.last() {
            let at = self.level_of(self.open.len() - 1);
            if at >= level && last.index == ancestor(at) {
                break;
            }
            self.close(nodes)?;
        }
        while self.open.len() <= usize::from(self.top - level) {
            let at = self.level_of(self.open.len());
            let open = self.opened(nodes, at, ancestor(at))?;
            self.open.push(open);
        }
        Ok(())
    }

    /// The base's references of a node, cut or filled up to the count the new size asks for.
    fn opened(&self, nodes: &dyn NodeStore, level: u8, index: u64) -> Result<Open> {
        let count = self.shape.refs(level, index);
        let mut refs = match self.inherited(nodes, level, index)? {
            Ref::Stored(id) => match self.base {
                Some(base) => nodes.node(&id, level, base.shape.refs(level, index))?.refs.clone(),
                None => Vec::new(),
            },
            // past the base's end whatever stands here is replaced: all of it counts as changed
            empty => vec![empty; count],
        };
        if let (Some(base), 0) = (self.base, index) {
            // the tree grew: the old root, or a node above it, is the first reference
            if level == base.shape.root_level() + 1 {
                refs = vec![base.root];
            } else if level > base.shape.root_level() {
                refs.clear();
            }
        }
        refs.resize(count, Ref::Hole);
        Ok(Open { index, refs })
    }

    /// What the base says of a whole node; hole for one the base does not have.
    fn inherited(&self, nodes: &dyn NodeStore, level: u8, index: u64) -> Result<Ref> {
        let Some(base) = self.base else { return Ok(Ref::Hole) };
        if let Some(parent) = self.open.last() {
            let here = parent.refs.get((index % FANOUT) as usize).copied().unwrap_or(Ref::Hole);
            // a node above the base's root has no counterpart there
            return Ok(if level > base.shape.root_level() { Ref::Hole } else { here });
        }
        // the root: follow the base's first references down to this level
        let mut at = base.root;
        for above in (level + 1..=base.shape.root_level()).rev() {
            let Ref::Stored(id) = at else { return Ok(at) };
            at =
                nodes.node(&id, above, base.shape.refs(above, 0))?.refs.first().copied().unwrap_or(Ref::Hole);
        }
        Ok(if level > base.shape.root_level() { Ref::Hole } else { at })
    }

    fn close(&mut self, nodes: &mut dyn NodeStore) -> Result<Ref> {
        let level = self.level_of(self.open.len() - 1);
        let Some(open) = self.open.pop() else { return Ok(Ref::Hole) };
        let node = Node { level, refs: open.refs };
        let what = match node.uniform() {
            Some(empty) => empty,
            None => Ref::Stored(nodes.store(&node)?),
        };
        if let Some(one) = self.open.last_mut().and_then(|up| up.refs.get_mut((open.index % FANOUT) as usize))
        {
            *one = what;
        }
        Ok(what)
    }

    /// Closes what is open and gives the root.
    pub(crate) fn finish(mut self, nodes: &mut dyn NodeStore) -> Result<Ref> {
        if self.shape.chunks() == 0 {
            return Ok(Ref::Hole);
        }
        if let Some(base) = self.base.filter(|base| base.shape != self.shape) {
            // where the sizes part, every node above is made anew, so that none reaches past the end. A disk that
            // grew has changes there, which did that already.
            let (old, new) = (base.shape.chunks(), self.shape.chunks());
            if new < old || self.open.is_empty() {
                self.descend(nodes, 0, old.min(new).saturating_sub(1) / FANOUT)?;
            }
        }
        if self.open.is_empty() {
            return Ok(self.base.map_or(Ref::Hole, |base| base.root));
        }
        let mut root = Ref::Hole;
        while !self.open.is_empty() {
            root = self.close(nodes)?;
        }
        Ok(root)
    }
}
