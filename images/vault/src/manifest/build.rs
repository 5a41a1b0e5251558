//! Building the tree of a new point from the base's tree and what changed, in ascending order, holding one open node a level.

use crate::Result;
use crate::manifest::{FANOUT, LEAF_CHUNKS, Node, NodeReader, Ref, Shape};
use crate::name::Spot;

/// Where new nodes go.
pub(crate) trait NodeStore: NodeReader {
    /// Stores a node and gives its place.
    fn store(&mut self, node: &Node) -> Result<Spot>;
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

    /// Says what chunks `first .. first + count` are; stored ones follow each other in one frame. Calls come in ascending order.
    pub(crate) fn set(&mut self, nodes: &mut dyn NodeStore, first: u64, count: u64, what: Ref) -> Result<()> {
        let end = (first + count).min(self.shape.chunks());
        let mut at = first;
        while at < end {
            let level = if matches!(what, Ref::Stored(_)) { 0 } else { self.widest(at, end) };
            self.set_ref(nodes, level, at / Shape::span(level), what.further(at - first))?;
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
        let width = Shape::width(level);
        self.descend(nodes, level, number / width)?;
        if let Some(one) = self.open.last_mut().and_then(|open| open.refs.get_mut((number % width) as usize))
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
        let ancestor = |at: u8| index / FANOUT.pow(u32::from(at - level));
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
                Some(base) => nodes.node(&id, level, base.shape.refs(level, index))?.refs(),
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
            let node = nodes.node(&id, above, base.shape.refs(above, 0))?;
            at = node.runs().next().map_or(Ref::Hole, |(_, _, what)| what);
        }
        Ok(if level > base.shape.root_level() { Ref::Hole } else { at })
    }

    fn close(&mut self, nodes: &mut dyn NodeStore) -> Result<Ref> {
        let level = self.level_of(self.open.len() - 1);
        let Some(open) = self.open.pop() else { return Ok(Ref::Hole) };
        let node = Node::new(level, &open.refs);
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
                self.descend(nodes, 0, old.min(new).saturating_sub(1) / LEAF_CHUNKS)?;
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

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::collections::HashMap;
    use std::ops::ControlFlow;
    use std::sync::Arc;

    use block::ByteCount;
    use proptest::prelude::*;

    use super::*;
    use crate::chunk::CHUNK_SIZE;
    use crate::manifest::walk;
    use crate::name::{Address, ApplianceId, BlobId};

    /// Nodes in memory; every one that is read must be there and be what the shape says.
    #[derive(Default)]
    struct Nodes {
        kept: HashMap<Spot, Arc<Node>>,
        read: RefCell<u64>,
    }

    impl NodeReader for Nodes {
        fn node(&self, spot: &Spot, level: u8, count: usize) -> Result<Arc<Node>> {
            let node = self.kept.get(spot).expect("the node was stored");
            assert_eq!((node.level, node.len()), (level, count), "the node is where its shape belongs");
            *self.read.borrow_mut() += 1;
            Ok(node.clone())
        }
    }

    impl NodeStore for Nodes {
        fn store(&mut self, node: &Node) -> Result<Spot> {
            assert_eq!(node.uniform(), None, "empty nodes are not stored");
            assert_eq!(Node::decode(&node.encode()).as_ref(), Ok(node));
            let spot = Spot { entry: self.kept.len() as u32, ..spot(0) };
            self.kept.insert(spot, Arc::new(node.clone()));
            Ok(spot)
        }
    }

    fn shape(chunks: u64) -> Shape {
        Shape::new(ByteCount::new(chunks * CHUNK_SIZE))
    }

    fn spot(pack: u8) -> Spot {
        let (appliance, id) = (ApplianceId::from_bytes([7; 8]), BlobId::from_bytes([pack; 16]));
        Spot { pack: Address { appliance, id }, entry: 5, chunk: 0 }
    }

    fn stored(number: u8) -> Ref {
        Ref::Stored(spot(number))
    }

    fn find(nodes: &Nodes, root: Ref, shape: Shape, chunk: u64) -> Ref {
        let mut found = Ref::Hole;
        let end = walk(nodes, shape, root, chunk..chunk + 1, &mut |run| {
            assert_eq!((run.first, run.count), (chunk, 1));
            found = run.what;
            Ok(ControlFlow::Break(()))
        });
        assert!(end.unwrap().is_break());
        found
    }

    /// Runs of what a disk is, ascending and complete.
    type Model = Vec<(u64, u64, Ref)>;

    fn overlay(model: &Model, chunks: u64, sets: &[(u64, u64, Ref)]) -> Model {
        let mut borders: Vec<u64> = [0, chunks].into();
        borders.extend(model.iter().chain(sets).flat_map(|&(first, count, _)| [first, first + count]));
        borders.retain(|border| *border <= chunks);
        borders.sort_unstable();
        borders.dedup();
        let at = |chunk: u64| {
            let mut layers = sets.iter().rev().chain(model.iter());
            let found = layers.find(|&&(first, count, _)| (first..first + count).contains(&chunk));
            found.map_or(Ref::Hole, |&(_, _, what)| what)
        };
        borders.windows(2).map(|two| (two[0], two[1] - two[0], at(two[0]))).collect()
    }

    fn compare(nodes: &Nodes, root: Ref, shape: Shape, model: &Model) {
        for &(first, count, what) in model {
            for chunk in [first, first + count / 2, first + count - 1] {
                assert_eq!(find(nodes, root, shape, chunk), what, "chunk {chunk}");
            }
        }
        let mut end = 0;
        let walked = walk(nodes, shape, root, 0..shape.chunks(), &mut |run| {
            assert_eq!(run.first, end, "runs tile the disk");
            end += run.count;
            let inside = |&&(first, count, what): &&(u64, u64, Ref)| {
                what == run.what && (first..first + count).contains(&run.first)
            };
            assert!(model.iter().any(|part| inside(&part)), "{run:?}");
            Ok(ControlFlow::Continue(()))
        });
        assert!(walked.unwrap().is_continue());
        assert_eq!(end, shape.chunks());
    }

    /// One step: a new size, and what is set on it, ascending, as a backup would do it.
    fn step() -> impl Strategy<Value = (u64, Vec<(u64, u64, u8)>)> {
        let size = prop_oneof![
            // mostly near each other, so that one size cuts into the leaves of another
            6 => 3900..9000u64,
            1 => 1..4u64,
            1 => 500..70_000u64,
            1 => 1_048_570..1_048_580u64,
            1 => 268_435_450..268_435_460u64,
            1 => 1..1u64 << 34,
        ];
        let count = prop_oneof![1..3u64, 200..700u64, 60_000..70_000u64, Just(1 << 24)];
        let set = (any::<u64>(), any::<bool>(), count, 0..6u8);
        (size, prop::collection::vec(set, 0..5)).prop_map(|(chunks, sets)| {
            let place = |at: u64, near_end: bool| match near_end {
                true => chunks - 1 - at % chunks.min(600),
                false => at % chunks,
            };
            let sets = sets.into_iter().map(|(at, near_end, count, what)| (place(at, near_end), count, what));
            let mut sets: Vec<(u64, u64, u8)> = sets.collect();
            sets.sort_unstable();
            (chunks, sets)
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(300))]

        /// Points of disks of any size, growing and shrinking over every level of the tree.
        #[test]
        fn every_tree_says_what_was_set(steps in prop::collection::vec(step(), 1..6)) {
            let mut nodes = Nodes::default();
            let mut base: Option<(Ref, Shape)> = None;
            let mut model = Model::new();
            for (chunks, sets) in steps {
                let shape = shape(chunks);
                // all that a changed size touches is set to something
                let parted = base.filter(|(_, old)| *old != shape).map_or(chunks, |(_, old)| old.chunks().min(chunks));
                let mut plan: Vec<(u64, u64, Ref)> = Vec::new();
                for (first, count, what) in sets {
                    let from = first.max(plan.last().map_or(0, |&(first, count, _)| first + count));
                    let count = (first + count).min(parted).saturating_sub(from);
                    let count = if what > 1 { count.min(600) } else { count };
                    match what {
                        _ if count == 0 => {}
                        0 => plan.push((from, count, Ref::Hole)),
                        1 => plan.push((from, count, Ref::Zero)),
                        what => plan.extend((from..from + count).map(|chunk| (chunk, 1, stored(what)))),
                    }
                }
                plan.extend((parted < chunks).then_some((parted, chunks - parted, Ref::Zero)));
                let mut builder = TreeBuilder::new(shape, base);
                for &(first, count, what) in &plan {
                    builder.set(&mut nodes, first, count, what).unwrap();
                }
                let root = builder.finish(&mut nodes).unwrap();
                model = overlay(&model, chunks, &plan);
                compare(&nodes, root, shape, &model);
                base = Some((root, shape));
            }
        }
    }

    /// One changed chunk of the largest disk reads and writes one node a level.
    #[test]
    fn an_increment_touches_only_the_path_to_it() {
        let mut nodes = Nodes::default();
        let shape = shape(1 << 34);
        let mut builder = TreeBuilder::new(shape, None);
        for chunk in (0..1 << 34).step_by(1 << 24) {
            builder.set(&mut nodes, chunk, 1, stored(7)).unwrap();
        }
        let root = builder.finish(&mut nodes).unwrap();
        let before = nodes.kept.len();
        *nodes.read.borrow_mut() = 0;
        let mut builder = TreeBuilder::new(shape, Some((root, shape)));
        builder.set(&mut nodes, 5 << 24, 1, stored(8)).unwrap();
        let next = builder.finish(&mut nodes).unwrap();
        assert!(next != root);
        assert_eq!((nodes.kept.len() - before, *nodes.read.borrow()), (4, 4));
    }
}
