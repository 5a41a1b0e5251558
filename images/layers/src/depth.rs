//! How deep in the chain content lies.

use crate::Result;
use crate::disk::Disk;
use crate::owner::Owner;
use crate::state::BlockState;
use crate::view::View;
use block::{BLOCK_SIZE, ByteRange, check_range};
use std::ops::ControlFlow;

/// Receives `(length, depth)` pairs; breaking stops the walk early, which is not an error.
pub type VisitDepth<'a> = dyn FnMut(u64, u32) -> ControlFlow<()> + 'a;

impl Disk {
    /// Tiles `range` with lengths in bytes and how deep in the chain their content lies: 0 nowhere, because it was never
    /// written; 1 in the active layer; 2 in the layer below it, and so on. Zeros made below the active layer count as just
    /// below it: which layer made them is not kept. What the disk stands on counts as one layer below the oldest, its holes
    /// included. Neighbours may be of one depth.
    ///
    /// # Errors
    /// `OutOfRange` if the range passes the end; nothing is visited.
    pub fn depths(&self, range: ByteRange, visit: &mut VisitDepth<'_>) -> Result<()> {
        let mut at = range.start();
        while at < range.end() {
            let view = self.view.load();
            check_range(range.offset(), range.count().get(), view.size)?;
            let sealed = sealed_numbers(&view);
            let past = range.end().div_ceil(BLOCK_SIZE);
            while at < range.end() {
                let block = at / BLOCK_SIZE;
                // a view too old to know a layer is loaded anew
                let Some((depth, count)) = depth_of(&view, &sealed, block, past - block) else { break };
                let until = ((block + count) * BLOCK_SIZE).min(range.end());
                if visit(until - at, depth).is_break() {
                    return Ok(());
                }
                at = until;
            }
        }
        Ok(())
    }
}

/// The numbers of the layers in the index, newest first: a newer layer has a higher number.
fn sealed_numbers(view: &View) -> Vec<u64> {
    let mut numbers: Vec<u64> = view.below.slots.iter().flatten().map(|layer| layer.number).collect();
    numbers.sort_unstable_by(|a, b| b.cmp(a));
    numbers
}

/// A block's depth, and for how many blocks from it, at most `limit`, it is the same.
fn depth_of(view: &View, sealed: &[u64], block: u64, limit: u64) -> Option<(u32, u64)> {
    let mut limit = limit;
    let live = std::iter::once(&view.active).chain(&view.below.pending);
    for (layer, depth) in live.zip(1..) {
        let (state, count) = layer.map.run(block, limit);
        if state != BlockState::Absent {
            return Some((depth, count));
        }
        limit = count;
    }
    let first_sealed = 2 + view.below.pending.len() as u32;
    let (owner, count) = view.below.index.run(block, limit);
    let depth = match owner {
        Owner::None => match &view.below.ground {
            Some(ground) if block < ground.blocks() => {
                return Some((first_sealed + sealed.len() as u32, count.min(ground.blocks() - block)));
            }
            _ => 0,
        },
        Owner::Zero => first_sealed,
        Owner::Slot(slot) => {
            let layer = view.below.slots.get(usize::from(slot))?.as_ref()?;
            let newer = sealed.iter().take_while(|number| **number > layer.number).count();
            first_sealed + newer as u32
        }
    };
    Some((depth, count))
}
