//! The thread that looks after the instant tier's space.

use super::{ROUND, SHOWN, Space};
use crate::points::{Held, Tiers};
use block::DiskId;
use block::sync::lock;
use control::Shed;
use layers::Folding;
use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

/// Steps of a fold between two looks at what they gave: a batch.
const STEPS: usize = 64;

/// What a host takes to give back what was removed, on filesystems that do so in the background.
const SETTLING: Duration = Duration::from_millis(50);

/// How long a search that found nothing holds, if nothing was backed up meanwhile: it looks into every vault.
const SEARCH_AGAIN: Duration = Duration::from_secs(2);

pub(super) struct Rounds {
    space: Arc<Space>,
    /// What a search that found no point to shed went by, and until when that holds.
    searched_in_vain: Option<(u64, Duration)>,
}

/// What folding did.
#[derive(PartialEq)]
enum Folded {
    /// Something, as much as may be done at a time.
    Some,
    /// There is something to do, for the thread that does it at the guests' pace.
    Later,
    /// There is nothing to do that can be done.
    Nothing,
}

impl Rounds {
    pub(super) fn new(space: Arc<Space>) -> Self {
        Self { space, searched_in_vain: None }
    }

    pub(super) fn run(mut self) {
        while let Some(serving) = self.next_turn() {
            match self.round() {
                Ok(is_exhausted) => self.space.change(|state| state.is_exhausted = is_exhausted),
                Err(error) => tracing::warn!("{}", error.body().message),
            }
            self.space.change(|state| state.served = serving);
        }
    }

    /// Waits for the next round: what was asked for up to it, or nothing if this is the end.
    fn next_turn(&self) -> Option<u64> {
        let state = lock(&self.space.state);
        let idle = |state: &mut super::State| !state.is_stopping && state.asked == state.served;
        let waited = self.space.changed.wait_timeout_while(state, ROUND, idle);
        let state = waited.unwrap_or_else(|poisoned| poisoned.into_inner()).0;
        (!state.is_stopping).then_some(state.asked)
    }

    /// Makes room until there is enough. Whether there is not, and nothing can be done about it.
    fn round(&mut self) -> crate::error::Result<bool> {
        let (mut candidates, mut stuck) = (None, HashSet::new());
        // something was given up, and what that gives may come a moment later, or by the thread that folds
        let mut is_due = false;
        loop {
            let room = self.space.look()?;
            let (is_stopping, is_waited_for) = {
                let state = lock(&self.space.state);
                (state.is_stopping, state.waiting > 0)
            };
            if is_stopping || !room.is_short() {
                return Ok(false);
            }
            match self.fold(is_waited_for || room.is_very_short(), &mut stuck) {
                Folded::Some => is_due = true,
                Folded::Later => return Ok(false),
                Folded::Nothing if std::mem::take(&mut is_due) => std::thread::sleep(SETTLING),
                // it is decided by what is so now, not by what was before somebody else's fold
                Folded::Nothing if self.space.look()?.left() > room.left() => {}
                Folded::Nothing => match self.shed_next(&mut candidates) {
                    Some(disk) => {
                        is_due = true;
                        stuck.remove(&disk);
                    }
                    None => return Ok(true),
                },
            }
        }
    }

    /// What deleted points left gives room without taking anything from anybody.
    fn fold(&self, is_urgent: bool, stuck: &mut HashSet<DiskId>) -> Folded {
        let mut did = Folded::Nothing;
        for named in self.space.tiers.disks.all() {
            let Ok(disk) = named.disk() else { continue };
            for _ in 0..if is_urgent { STEPS } else { 1 } {
                if stuck.contains(&named.id) {
                    break;
                }
                match disk.fold_step() {
                    Ok(Folding::Working) if is_urgent => did = Folded::Some,
                    Ok(Folding::Working) => return Folded::Later,
                    Ok(Folding::Idle) => break,
                    Err(error) => {
                        tracing::debug!(disk = named.name, "no room is made by folding: {error}");
                        stuck.insert(named.id);
                    }
                }
            }
        }
        did
    }

    /// Takes the next point from the instant tier, if there is one that may go. Whose it was.
    fn shed_next(&mut self, candidates: &mut Option<Vec<Held>>) -> Option<DiskId> {
        let tiers = self.space.tiers.clone();
        let (stored, now) =
            (tiers.stored_count(), Duration::from_nanos(tiers.disks.env().clock.monotonic_ns()));
        if self.searched_in_vain.is_some_and(|(then, until)| then == stored && now < until) {
            return None;
        }
        let candidates = candidates.get_or_insert_with(|| tiers.sheddable());
        while let Some(held) = candidates.pop() {
            match tiers.shed(&held) {
                Ok(vault) => {
                    self.note(&tiers, &held, vault);
                    return Some(held.disk);
                }
                Err(error) => {
                    tracing::warn!(point = held.name, "stays in the instant tier: {}", error.body().message)
                }
            }
        }
        self.searched_in_vain = Some((stored, now + SEARCH_AGAIN));
        None
    }

    fn note(&self, tiers: &Tiers, held: &Held, vault: String) {
        let left = lock(&self.space.state).room.left();
        tracing::info!(
            point = held.name,
            vault,
            left,
            "shed: space is low, so the point is in the vault only"
        );
        let time = crate::names::rfc3339(tiers.disks.env().clock.now());
        let shed = Shed { point: held.name.clone(), disk: held.item.clone(), vault, time };
        self.space.change(|state| {
            state.shed_count += 1;
            state.shed.push_front(shed);
            state.shed.truncate(SHOWN);
        });
    }
}
