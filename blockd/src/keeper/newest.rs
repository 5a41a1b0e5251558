//! When the newest points of disks were made, by the vaults that hold them: found once for all items that are asked about.

use crate::daemon::Daemon;
use crate::error::Result;
use crate::gate::stamp;
use crate::points::{Held, HurtCopies};
use block::DiskId;
use jiff::Timestamp;
use std::collections::HashMap;

/// The newest points.
#[derive(Default)]
pub struct Newest(HashMap<DiskId, Vec<Of>>);

/// Those of one disk in one vault.
struct Of {
    vault: String,
    stored: Timestamp,
    // neither damaged nor suspect
    good: Option<Timestamp>,
}

impl Newest {
    /// Of these points.
    ///
    /// # Errors
    /// What the catalog reports.
    pub fn of(daemon: &Daemon, points: &[Held]) -> Result<Self> {
        let mut newest = Self::default();
        newest.add(daemon, &daemon.tiers().hurt()?, points);
        Ok(newest)
    }

    /// And of these.
    pub fn add(&mut self, daemon: &Daemon, hurt: &HurtCopies, points: &[Held]) {
        let (marks, newest) = (daemon.tiers().vaults.marks(), &mut self.0);
        for held in points {
            let (made, is_suspect) = (stamp(held.time), marks.of(held.state).suspect.is_some());
            for (vault, manifest) in &held.copies {
                let good = (!is_suspect && !hurt.has(vault, manifest)).then_some(made);
                let of_disk = newest.entry(held.disk).or_default();
                match of_disk.iter_mut().find(|of| of.vault == vault.name) {
                    Some(of) => (of.stored, of.good) = (of.stored.max(made), of.good.max(good)),
                    None => of_disk.push(Of { vault: vault.name.clone(), stored: made, good }),
                }
            }
        }
    }

    /// When the newest point of an item was made that the vault holds: of a machine, that of the disk whose newest is oldest.
    /// None if a disk of it has none there.
    ///
    /// # Errors
    /// `NotFound` if there is no such disk; why the vault cannot be used.
    pub fn stored(&self, daemon: &Daemon, item: &str, vault: &str) -> Result<Option<Timestamp>> {
        self.find(daemon, item, vault, |of| Some(of.stored))
    }

    /// The same among those that are good: neither damaged nor suspect.
    ///
    /// # Errors
    /// As [`stored`](Self::stored).
    pub fn good(&self, daemon: &Daemon, item: &str, vault: &str) -> Result<Option<Timestamp>> {
        self.find(daemon, item, vault, |of| of.good)
    }

    fn find(
        &self,
        daemon: &Daemon,
        item: &str,
        vault: &str,
        when: impl Fn(&Of) -> Option<Timestamp>,
    ) -> Result<Option<Timestamp>> {
        let disks = daemon.tiers().disks.of(item)?;
        daemon.tiers().vaults.get(vault)?.vault()?;
        let of_disk = |id| self.0.get(&id)?.iter().find(|of| of.vault == vault).and_then(&when);
        let newest: Option<Vec<Timestamp>> = disks.iter().map(|named| of_disk(named.id)).collect();
        Ok(newest.and_then(|newest| newest.into_iter().min()))
    }
}
