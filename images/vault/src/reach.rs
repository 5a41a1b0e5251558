//! What the recovery points reach, and what nothing reaches: packs of backups that failed or run now, and what only deleted
//! points used. A sweep gives the latter back.

use std::collections::HashSet;

use block::ByteCount;

use crate::index::Index;
use crate::inner::Inner;
use crate::manifest::{FANOUT, Ref, Shape};
use crate::name::{ContentId, Shelf};
use crate::progress::Progress;
use crate::{Error, Result};

/// How the bytes in packs are used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Reach {
    /// Stored bytes of chunks and nodes that a recovery point needs.
    pub referenced: ByteCount,
    /// Stored bytes of those that none needs, and all bytes of packs that no index names.
    pub unreferenced: ByteCount,
}

/// Walks every point's tree, each node once. Memory: 32 bytes for each chunk and node that is reached.
pub(crate) fn of(vault: &Inner, progress: &dyn Progress) -> Result<Reach> {
    // before the index: a backup beside this publishes what its point needs before the point
    let points = vault.addresses(Shelf::Points)?;
    let index = vault.index.load();
    let mut reached = Reached { vault, index: &index, ids: HashSet::new() };
    for address in points {
        if progress.cancelled() {
            return Err(Error::Cancelled);
        }
        match vault.point(address) {
            Ok(point) => {
                let shape = Shape::new(point.about.size);
                reached.subtree(shape, point.root, shape.root_level(), 0)?;
            }
            // deleted since it was listed
            Err(Error::NoPoint(_)) => {}
            Err(error) => return Err(error),
        }
    }
    let (mut used, mut unused) = (0, 0);
    for record in index.records() {
        let bytes = if reached.ids.contains(&record.id) { &mut used } else { &mut unused };
        *bytes += u64::from(record.stored);
    }
    for (pack, len) in vault.sizes(Shelf::Packs)? {
        unused += if index.knows(&pack) { 0 } else { len };
    }
    Ok(Reach { referenced: ByteCount::new(used), unreferenced: ByteCount::new(unused) })
}

struct Reached<'a> {
    vault: &'a Inner,
    index: &'a Index,
    ids: HashSet<ContentId>,
}

impl Reached<'_> {
    /// Adds what is below node `number` of a level. Recursion ends at the height of the tree, at most four levels.
    fn subtree(&mut self, shape: Shape, at: Ref, level: u8, number: u64) -> Result<()> {
        let Ref::Stored(id) = at else { return Ok(()) };
        if !self.ids.insert(id) {
            return Ok(());
        }
        let node = self.vault.read_node(self.index, &id, level, shape.refs(level, number))?;
        for (below, number) in node.refs.into_iter().zip(number * FANOUT..) {
            match (below, level) {
                (Ref::Stored(chunk), 0) => drop(self.ids.insert(chunk)),
                (_, 0) => {}
                _ => self.subtree(shape, below, level - 1, number)?,
            }
        }
        Ok(())
    }
}
