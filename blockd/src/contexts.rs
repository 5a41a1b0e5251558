//! What exports tell of themselves beside which ranges are holes. The live disk has `qemu:allocation-depth`: how deep in
//! its chain content lies.
//!
//! What changed up to a recovery point is told as qemu tells it: the export of a point has a metadata context
//! `qemu:dirty-bitmap:OLDER` for each older point of its disk, with bit 0 set where the two may differ. The live disk has
//! none: its changes go on while they are asked for.

use crate::error::Error;
use crate::points::{Held, Tiers};
use block::{ByteRange, RangeSet};
use layers::Until;
use nbd::{Contexts, Status, VisitStatus};
use std::sync::Arc;

/// The namespace and the beginning of the leaf, as qemu calls its own.
const PREFIX: &str = "qemu:dirty-bitmap:";

/// The one flag of these contexts.
const DIRTY: u32 = 1;

/// The contexts of a point's export.
pub struct ChangedSince {
    tiers: Arc<Tiers>,
    point: Held,
}

impl ChangedSince {
    /// The contexts of this point.
    pub fn new(tiers: Arc<Tiers>, point: Held) -> Self {
        Self { tiers, point }
    }

    /// The disk whose history knows the point, if it is there and opened.
    fn disk(&self) -> Option<Arc<layers::Disk>> {
        let named = self.tiers.disks.all().into_iter().find(|named| named.id == self.point.disk)?;
        named.disk().ok().cloned()
    }
}

impl Contexts for ChangedSince {
    fn names(&self) -> Vec<String> {
        let Some(disk) = self.disk() else { return Vec::new() };
        let history = disk.history();
        let place = |state| history.iter().position(|known| *known == state);
        let Some(own) = place(self.point.state) else { return Vec::new() };
        let (points, _) = self.tiers.held(Some(&self.point.item));
        let older = points.iter().filter(|point| place(point.state).is_some_and(|place| place < own));
        older.map(|point| format!("{PREFIX}{}", point.name)).collect()
    }

    fn open(&self, name: &str) -> block::Result<Option<Arc<dyn Status>>> {
        let (Some(older), Some(disk)) = (name.strip_prefix(PREFIX), self.disk()) else { return Ok(None) };
        let older = match self.tiers.find(older) {
            Ok(older) if older.disk == self.point.disk => older,
            Ok(_) => return Ok(None),
            Err(error) if matches!(error.kind(), control::Kind::NotFound | control::Kind::Invalid) => {
                return Ok(None);
            }
            Err(error) => return Err(block::Error::other(error)),
        };
        match disk.changes(Some(older.state), Until::State(self.point.state)) {
            Ok(changes) => Ok(Some(Arc::new(Dirty(changes.all())))),
            Err(layers::Error::NotAnAncestor { .. }) => Ok(None),
            Err(error) => Err(block::Error::other(Error::below(format!("answer {name}"), error))),
        }
    }
}

/// The one context of a live disk, by qemu's name.
const DEPTH: &str = "qemu:allocation-depth";

/// The contexts of a live disk's export.
pub struct OfLive(pub Arc<layers::Disk>);

impl Contexts for OfLive {
    fn names(&self) -> Vec<String> {
        vec![DEPTH.to_owned()]
    }

    fn open(&self, name: &str) -> block::Result<Option<Arc<dyn Status>>> {
        Ok((name == DEPTH).then(|| -> Arc<dyn Status> { Arc::new(Depths(self.0.clone())) }))
    }
}

/// Depths in the chain as a status.
struct Depths(Arc<layers::Disk>);

impl Status for Depths {
    fn status(&self, range: ByteRange, visit: &mut VisitStatus<'_>) -> block::Result<()> {
        Ok(self.0.depths(range, visit)?)
    }
}

/// Changed ranges as a status.
struct Dirty(RangeSet);

impl Status for Dirty {
    fn status(&self, range: ByteRange, visit: &mut VisitStatus<'_>) -> block::Result<()> {
        let mut at = range.start();
        for dirty in self.0.clip(range).iter() {
            for (until, flags) in [(dirty.start(), 0), (dirty.end(), DIRTY)] {
                if until > at && visit(until - at, flags).is_break() {
                    return Ok(());
                }
                at = until;
            }
        }
        if at < range.end() {
            let _nothing_more = visit(range.end() - at, 0);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::ops::ControlFlow;

    fn told(start: u64, end: u64) -> Vec<(u64, u32)> {
        let mut set = RangeSet::new();
        [(0, 10), (30, 40)].iter().for_each(|&(start, end)| set.insert(ByteRange::between(start, end)));
        let mut told = Vec::new();
        let mut visit = |length, flags| {
            told.push((length, flags));
            ControlFlow::Continue(())
        };
        Dirty(set).status(ByteRange::between(start, end), &mut visit).expect("a status");
        told
    }

    #[test]
    fn any_range_is_tiled() {
        assert_eq!(told(0, 50), [(10, 1), (20, 0), (10, 1), (10, 0)]);
        assert_eq!(told(5, 35), [(5, 1), (20, 0), (5, 1)]);
        assert_eq!(told(10, 30), [(20, 0)]);
        assert_eq!(told(30, 40), [(10, 1)]);
    }
}
