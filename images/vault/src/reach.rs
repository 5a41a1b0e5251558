//! What the recovery points reach, and what nothing reaches: packs of backups that failed or run now, and what only deleted
//! points used. A sweep gives the latter back.

use std::collections::{HashMap, HashSet};

use block::ByteCount;

use crate::inner::Inner;
use crate::manifest::{Ref, Shape};
use crate::moved::{MAX_MOVES, Needed};
use crate::name::{Address, Shelf, Spot};
use crate::progress::Progress;
use crate::{Error, ManifestId, Result};

/// How the bytes in packs are used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Reach {
    /// Stored bytes of chunks and nodes that a recovery point needs. A chunk has its share of its frame.
    pub referenced: ByteCount,
    /// Stored bytes of those that none needs.
    pub unreferenced: ByteCount,
}

/// What one point needs of the packs, compressed and sealed as it lies there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Share {
    /// Stored bytes of its chunks and nodes. A chunk has its share of its frame.
    pub needed: ByteCount,
    /// Those of them that no other point needs.
    pub alone: ByteCount,
}

/// What points reach, and trees that are held or come to be held meanwhile. A point that cannot be followed is an error.
pub(crate) fn in_use<'a>(
    vault: &'a Inner,
    mut held: Vec<(Shape, Ref)>,
    progress: &dyn Progress,
) -> Result<Reached<'a>> {
    let mut reached = of_points(vault, vault.addresses(Shelf::Points)?, progress)?;
    loop {
        for (shape, root) in held {
            reached.subtree(shape, root, shape.root_level(), 0)?;
        }
        held = vault.pins.new_roots();
        if held.is_empty() {
            return Ok(reached);
        }
    }
}

/// Walks every point's tree, each node once. Memory: a bit for each chunk and some bytes for each frame and node that is reached.
pub(crate) fn of(vault: &Inner, progress: &dyn Progress) -> Result<Reach> {
    // before the packs: a backup beside this puts the packs its point needs before the point
    let points = vault.addresses(Shelf::Points)?;
    let reached = of_points(vault, points, progress)?;
    let (mut used, mut unused) = (0, 0);
    for (pack, len) in vault.sizes(Shelf::Packs)? {
        let share = match reached.used.get(&pack) {
            Some(entries) => share(vault, pack, entries)?,
            None => 0,
        };
        used += share;
        unused += len - share.min(len);
    }
    Ok(Reach { referenced: ByteCount::new(used), unreferenced: ByteCount::new(unused) })
}

/// What a point needs, and what of it no other point needs.
pub(crate) fn share_of(vault: &Inner, point: &ManifestId, progress: &dyn Progress) -> Result<Share> {
    let address = vault.point_address(point)?;
    let mut others = vault.addresses(Shelf::Points)?;
    others.retain(|other| *other != address);
    let (own, theirs) = (of_points(vault, vec![address], progress)?, of_points(vault, others, progress)?);
    let mut share = Share::default();
    for (pack, entries) in &own.used {
        let shared = theirs.used.get(pack);
        for (entry, number) in vault.head(*pack)?.table.entries().zip(0..) {
            let Some(bits) = entries.get(&number) else { continue };
            let all = u64::from(entry.record.chunks().max(1));
            let stored =
                |bits: u64| u64::from(entry.record.stored) * u64::from(bits.count_ones()).min(all) / all;
            let others = shared.and_then(|entries| entries.get(&number)).copied().unwrap_or(0);
            share.needed = ByteCount::new(share.needed.get() + stored(*bits));
            share.alone = ByteCount::new(share.alone.get() + stored(bits & !others));
        }
    }
    Ok(share)
}

fn of_points<'a>(vault: &'a Inner, points: Vec<Address>, progress: &dyn Progress) -> Result<Reached<'a>> {
    let mut reached = Reached {
        vault,
        moved: vault.addresses(Shelf::Moved)?.into_iter().map(|pack| (pack, false)).collect(),
        nodes: HashSet::new(),
        used: HashMap::new(),
        order: Vec::new(),
    };
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
    Ok(reached)
}

/// The bytes of a pack that are needed: all but the share of chunks and entries that are not.
pub(crate) fn share(vault: &Inner, pack: Address, used: &Needed) -> Result<u64> {
    let (mut needed, mut left) = (vault.pack_len(pack)?, 0);
    for (entry, number) in vault.head(pack)?.table.entries().zip(0..) {
        let all = u64::from(entry.record.chunks().max(1));
        let of = used.get(&number).map_or(0, |bits| u64::from(bits.count_ones()).min(all));
        left += u64::from(entry.record.stored) * (all - of) / all;
    }
    needed -= left.min(needed);
    Ok(needed)
}

/// What is reached.
pub(crate) struct Reached<'a> {
    vault: &'a Inner,
    /// Packs whose content was written anew elsewhere, and whether a tree names them.
    pub(crate) moved: HashMap<Address, bool>,
    nodes: HashSet<Spot>,
    /// By pack.
    pub(crate) used: HashMap<Address, Needed>,
    /// The packs in the order they were reached, which is mostly that of disks.
    pub(crate) order: Vec<Address>,
}

impl Reached<'_> {
    fn mark(&mut self, spot: &Spot, count: u64) -> Result<()> {
        let mut places = vec![(*spot, count, 0)];
        while let Some((spot, count, moves)) = places.pop() {
            match self.next_places(&spot, count)? {
                Some(next) if moves < MAX_MOVES => {
                    places.extend(next.into_iter().map(|(spot, count)| (spot, count, moves + 1)));
                }
                Some(_) => {
                    let why = format!("it was moved more than {MAX_MOVES} times");
                    return Err(Error::damaged(&spot.pack.name(Shelf::Moved), "body", why));
                }
                None => {
                    let bits = (u64::MAX >> (64 - count.clamp(1, 64))) << (spot.chunk & 63);
                    let Self { used, order, .. } = self;
                    let entries = used.entry(spot.pack).or_insert_with(|| {
                        order.push(spot.pack);
                        Needed::default()
                    });
                    *entries.entry(spot.entry).or_default() |= bits;
                }
            }
        }
        Ok(())
    }

    /// Where the content of a place was moved to. What the list of a pack does not name was relied on beside the move, and keeps the pack.
    fn next_places(&mut self, spot: &Spot, count: u64) -> Result<Option<Vec<(Spot, u64)>>> {
        let Some(is_named) = self.moved.get_mut(&spot.pack) else { return Ok(None) };
        *is_named = true;
        Ok(self.vault.moved(&spot.pack)?.and_then(|moved| moved.follow(spot, count)))
    }

    /// Adds what is below node `index` of a level. Recursion ends at the height of the tree, at most four levels.
    fn subtree(&mut self, shape: Shape, at: Ref, level: u8, index: u64) -> Result<()> {
        let Ref::Stored(spot) = at else { return Ok(()) };
        if !self.nodes.insert(spot) {
            return Ok(());
        }
        self.mark(&spot, 1)?;
        let node = self.vault.read_node(&spot, level, shape.refs(level, index))?;
        for (number, count, what) in node.runs() {
            match (what, level) {
                (Ref::Stored(chunks), 0) => self.mark(&chunks, count)?,
                (_, 0) => {}
                _ => self.subtree(shape, what, level - 1, index * Shape::width(level) + number)?,
            }
        }
        Ok(())
    }
}
