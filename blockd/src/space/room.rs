//! How much room the instant tier has, and when that is little.

use crate::error::{Error, Result};
use crate::points::Tiers;
use block::Media;

/// The reserve unless configured: one part in so many of the budget or of the filesystem, within these bounds.
const RESERVE_PARTS: u64 = 20;
/// A fold copies so much before it gives anything back.
pub const LEAST_RESERVE: u64 = layers::FOLD_BATCH.get();
const MOST_RESERVE: u64 = 1 << 30;

/// Of the reserve, what guests are not given, at most: it is there for what gives room back (folds, maps, chains) and for
/// jobs, the catalog and recovery points.
const MOST_KEPT: u64 = 64 << 20;

/// What is configured.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Limits {
    /// Bytes all disks may take together, points included.
    pub budget: Option<u64>,
    /// Bytes that are to be left of it, and of the filesystem.
    pub reserve: Option<u64>,
}

/// The room there is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Room {
    /// Bytes of the filesystem that are free.
    pub available: u64,
    /// Bytes that must not be exceeded, if configured.
    pub budget: Option<u64>,
    /// Bytes the disks take of it.
    pub used: Option<u64>,
    /// Bytes that are to be left.
    pub reserve: u64,
}

impl Limits {
    /// Bytes that are to be left on a filesystem of this size.
    pub fn reserve_of(&self, total: u64) -> u64 {
        let part = total.min(self.budget.unwrap_or(u64::MAX)) / RESERVE_PARTS;
        self.reserve.unwrap_or(part.clamp(LEAST_RESERVE, MOST_RESERVE))
    }

    /// Looks.
    ///
    /// # Errors
    /// What the host reports.
    pub fn look(&self, media: &dyn Media, tiers: &Tiers) -> Result<Room> {
        let space = media.space().map_err(|error| Error::below("look at the host's space", error))?;
        let used = || tiers.disks.all().iter().filter_map(|named| named.stored()).sum();
        Ok(Room {
            available: space.available,
            budget: self.budget,
            used: self.budget.map(|_| used()),
            reserve: self.reserve_of(space.total),
        })
    }
}

impl Room {
    /// Bytes that are left, of the filesystem or of the budget.
    pub fn left(&self) -> u64 {
        let of_budget = self.budget.map(|budget| budget.saturating_sub(self.used.unwrap_or(0)));
        self.available.min(of_budget.unwrap_or(u64::MAX))
    }

    /// Whether points should go.
    pub fn is_short(&self) -> bool {
        self.left() < self.reserve
    }

    /// Whether folding may take the guests' time.
    pub fn is_very_short(&self) -> bool {
        self.left() < self.reserve / 4 * 3
    }

    /// Bytes guests may still take.
    pub fn for_guests(&self) -> u64 {
        self.left().saturating_sub(self.kept())
    }

    fn kept(&self) -> u64 {
        (self.reserve / 2).min(MOST_KEPT)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIB: u64 = 1 << 30;

    fn room(available: u64, budget: Option<u64>, used: u64, reserve: u64) -> Room {
        Room { available, budget, used: budget.map(|_| used), reserve }
    }

    #[test]
    fn the_reserve_is_a_part_of_what_there_is() {
        let of = |budget, total| Limits { budget, reserve: None }.reserve_of(total);
        assert_eq!(of(None, 10 * GIB), GIB / 2);
        assert_eq!(of(None, 1000 * GIB), GIB);
        assert_eq!(of(None, 1 << 20), 16 << 20);
        assert_eq!(of(Some(GIB), 1000 * GIB), GIB / 20);
        assert_eq!(Limits { budget: None, reserve: Some(5 * GIB) }.reserve_of(GIB), 5 * GIB);
    }

    #[test]
    fn what_is_left_is_the_lesser_of_filesystem_and_budget() {
        assert_eq!(room(7 * GIB, None, 0, GIB).left(), 7 * GIB);
        assert_eq!(room(7 * GIB, Some(10 * GIB), 8 * GIB, GIB).left(), 2 * GIB);
        assert_eq!(room(GIB, Some(10 * GIB), 8 * GIB, GIB).left(), GIB);
        assert_eq!(room(GIB, Some(10 * GIB), 18 * GIB, GIB).left(), 0, "a budget made smaller");
    }

    #[test]
    fn guests_stop_before_the_reserve_is_gone() {
        let room = room(100 << 20, None, 0, 40 << 20);
        assert_eq!((room.for_guests(), room.is_short()), (80 << 20, false));
        let room = Room { available: 39 << 20, ..room };
        assert!(room.is_short() && room.for_guests() == 19 << 20);
        assert_eq!(Room { available: 20 << 20, ..room }.for_guests(), 0);
        assert_eq!(Room { reserve: 10 * GIB, available: GIB, ..room }.for_guests(), GIB - (64 << 20));
    }
}
