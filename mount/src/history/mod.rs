//! How files came to be what they are: which recovery points hold another version of one, and which files differ between
//! two points.
//!
//! Neither is found by comparing trees of every point. What a parser answers depends on nothing but the bytes it read,
//! so as long as none of these bytes changed from one point to the next, and none of the file's own, the file is the
//! same in both, and the other point is not even opened.

mod diff;
mod look;
mod recorded;

pub use diff::{Difference, differences};
pub use look::Look;
pub(crate) use recorded::Recorded;

use crate::files::Files;
use crate::luks::Passphrases;
use crate::points::{Point, Points};
use crate::serve::{connect, own_executable};
use crate::tree::Recent;
use crate::{Error, Result};
use block::RangeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Points kept open (twice as many at most): each has a parser and connections.
const MAX_OPEN: usize = 8;
/// Change maps kept (twice as many at most).
const MAX_MAPS: usize = 512;

/// The history of an item.
pub struct History {
    points: Arc<dyn Points>,
    executable: PathBuf,
    passphrases: Passphrases,
    open: Recent<String, Files>,
    maps: Recent<(String, String), Option<RangeSet>>,
}

/// A state of a file or directory that one or more neighbouring points hold.
pub struct Version {
    /// The newest point that holds it; its numbers are of this point.
    pub newest: Point,
    /// The oldest point that holds it.
    pub oldest: Point,
    /// How it looks.
    pub look: Look,
}

impl History {
    /// The history of these points. `executable` and `passphrases` are as in [`Options`](crate::Options).
    pub fn new(points: Arc<dyn Points>, executable: Option<&Path>, passphrases: Passphrases) -> Self {
        let executable = executable.map_or_else(own_executable, Path::to_owned);
        Self { points, executable, passphrases, open: Recent::new(MAX_OPEN), maps: Recent::new(MAX_MAPS) }
    }

    /// Every point there is now, oldest first within a disk.
    ///
    /// # Errors
    /// As [`Points::list`].
    pub fn points(&self) -> Result<Vec<Point>> {
        self.points.list()
    }

    /// The files of a point, opened at the first look.
    ///
    /// # Errors
    /// As [`Files::open`].
    pub fn files(&self, point: &Point) -> Result<Arc<Files>> {
        if let Some(files) = self.open.get(&point.name) {
            return Ok(files);
        }
        let files = Arc::new(Files::recorded(connect(&point.uri)?, &self.executable, &self.passphrases)?);
        self.open.insert(point.name.clone(), Arc::clone(&files));
        Ok(files)
    }

    /// Closes the points that were not looked into since this was called last: nobody can delete one that is open.
    pub fn close_idle(&self) {
        self.open.age();
    }

    /// What may have changed from one point to a newer one; `None` is everything.
    fn changes(&self, older: &Point, newer: &Point) -> Result<Arc<Option<RangeSet>>> {
        let key = (older.name.clone(), newer.name.clone());
        if let Some(map) = self.maps.get(&key) {
            return Ok(map);
        }
        let map = Arc::new(self.points.changes(older, newer)?);
        self.maps.insert(key, Arc::clone(&map));
        Ok(map)
    }

    fn look(&self, point: &Point, volume: u32, path: &[u8]) -> Result<Look> {
        let looked = self.files(point).and_then(|files| Look::at(&files, volume, path));
        let failed = |error: Error| Error::Reported {
            kind: error.kind(),
            text: format!("{}: {}", point.name, error.with_causes()),
        };
        looked.map_err(failed)
    }

    /// The versions of what a path of a partition leads to, newest first; links are not followed. Points in which there
    /// is nothing at that path have no version.
    ///
    /// # Errors
    /// A point cannot be read. `NotFound` if the disk has no point.
    pub fn versions(&self, disk: &str, volume: u32, path: &[u8]) -> Result<Vec<Version>> {
        let points: Vec<Point> = self.points()?.into_iter().filter(|point| point.disk == disk).collect();
        let mut newer_first = points.into_iter().rev();
        let newest = newer_first.next().ok_or_else(|| Error::not_found(format!("a point of {disk}")))?;
        let mut look = self.look(&newest, volume, path)?;
        let mut versions = Vec::new();
        // the newest and the oldest point known to hold what `look` shows
        let (mut last, mut first) = (newest.clone(), newest);
        for point in newer_first {
            let changed = self.changes(&point, &first)?;
            if !look.is_touched(changed.as_ref().as_ref()) {
                first = point;
                continue;
            }
            let older = self.look(&point, volume, path)?;
            if older.is_same(&look, changed.as_ref().as_ref()) {
                first = point;
                // what it depends on is other bytes now
                look = older.with_node_of(look);
                continue;
            }
            let seen = std::mem::replace(&mut look, older);
            let (newest, oldest) = (std::mem::replace(&mut last, point.clone()), first);
            first = point;
            if seen.exists() {
                versions.push(Version { newest, oldest, look: seen });
            }
        }
        if look.exists() {
            versions.push(Version { newest: last, oldest: first, look });
        }
        Ok(versions)
    }
}
