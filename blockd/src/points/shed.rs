//! Points that leave the instant tier to make room. What leaves is the nearer copy only; the point stays, in the vault.

use super::{Held, Tiers};
use crate::error::{Error, Result};
use control::Kind;
use std::collections::HashMap;
use std::sync::atomic::Ordering;

impl Tiers {
    /// The points whose copy in the instant tier may go, the first to go last: the oldest first, and the newest of each
    /// disk after all others, since it is what a restore or a run most likely asks for.
    pub fn sheddable(&self) -> Vec<Held> {
        let (points, _) = self.held(None);
        let mut newest = HashMap::new();
        for held in points.iter().filter(|held| held.instant.is_some()) {
            let last = newest.entry(held.disk).or_insert(held.epoch);
            *last = held.epoch.max(*last);
        }
        let mut may_go: Vec<Held> = points.into_iter().filter(|held| self.may_shed(held)).collect();
        may_go.sort_by_key(|held| (newest.get(&held.disk) == Some(&held.epoch), held.time, held.epoch));
        may_go.reverse();
        may_go
    }

    /// Whether a vault holds it too, nothing stands on it and nobody reads it here.
    fn may_shed(&self, held: &Held) -> bool {
        let Some(Ok(disk)) = held.instant.as_ref().map(|named| named.disk()) else { return false };
        !held.copies.is_empty() && !disk.read().contains(&held.state) && !disk.pinned().contains(&held.state)
    }

    /// Takes a point from the instant tier, if a vault holds it. Gives that vault's name.
    ///
    /// # Errors
    /// `Conflict` if no vault can be seen to hold it, or if it is in use; what the host reports.
    pub fn shed(&self, held: &Held) -> Result<String> {
        let holder = self.sound_copy(held, &self.hurt()?);
        let refused = |why: &str| Err(Error::said(Kind::Conflict, format!("shed {}", held.name), why));
        match holder {
            None => refused("no vault has a copy that can be opened and that is not known to be damaged"),
            Some(_) if !self.may_shed(held) => refused("it is in use"),
            Some((named, _)) => {
                self.delete_instant(held)?;
                Ok(named.name.clone())
            }
        }
    }

    /// As [`shed`](Self::shed), unless the point is in use: whether it left.
    ///
    /// # Errors
    /// As [`shed`](Self::shed).
    pub fn shed_if_free(&self, held: &Held) -> Result<Option<String>> {
        if self.may_shed(held) { self.shed(held).map(Some) } else { Ok(None) }
    }

    /// Takes a point from the instant tier: the one place where that happens. What may be taken was decided before.
    ///
    /// # Errors
    /// What the host reports; the point is still there then.
    pub(crate) fn delete_instant(&self, held: &Held) -> Result<()> {
        let Some(named) = &held.instant else { return Ok(()) };
        let doing = format!("delete {}", held.name);
        named.disk()?.delete_point(held.state).map_err(|error| named.failed(doing, error))
    }

    /// How many points were brought to vaults since the start.
    pub fn stored_count(&self) -> u64 {
        self.stored_count.load(Ordering::SeqCst)
    }
}
