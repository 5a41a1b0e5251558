//! What is known of an item's recovery points, by whoever knows: this crate sees bytes of one point at a time.

use crate::Result;
use block::RangeSet;
use std::sync::Arc;

/// A recovery point of a disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Point {
    /// Its name, `web@3`.
    pub name: String,
    /// The disk's name.
    pub disk: String,
    /// The number of its seal.
    pub epoch: u64,
    /// When it was sealed, as it is to be shown.
    pub time: String,
    /// Its NBD URI.
    pub uri: String,
}

/// The recovery points of an item: a disk, or a machine with several.
pub trait Points: Send + Sync {
    /// Every point there is now, oldest first within a disk.
    ///
    /// # Errors
    /// Whoever knows cannot be asked.
    fn list(&self) -> Result<Vec<Point>>;

    /// The bytes that may differ between two points of one disk: every byte outside is equal. `None` if that is not
    /// known.
    ///
    /// # Errors
    /// Whoever knows cannot be asked.
    fn changes(&self, older: &Point, newer: &Point) -> Result<Option<RangeSet>>;
}

/// Makes the points of an item from the text that names it, in the process that serves a mount.
pub type PointsFrom = fn(&str) -> Result<Arc<dyn Points>>;
