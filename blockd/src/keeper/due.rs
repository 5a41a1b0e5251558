//! Which items are due, and the backups made for them. What is due follows from the newest points; only attempts that failed are
//! remembered, and only as long as the process lives.

use super::note;
use crate::daemon::Daemon;
use crate::error::Result;
use crate::gate::stamp;
use crate::points::Held;
use crate::policies::PolicyName;
use crate::policy::Policy;
use control::{BackupRequest, JobState};
use jiff::Timestamp;
use std::collections::HashMap;
use std::time::Duration;

/// The longest pause between two attempts of one slot.
const LONGEST_PAUSE: Duration = Duration::from_secs(3600);
const FIRST_PAUSE: Duration = Duration::from_secs(60);

/// What was tried for each item.
#[derive(Default)]
pub(super) struct Tries(HashMap<String, Try>);

struct Try {
    slot: Timestamp,
    /// The backup under way, if one is.
    job: Option<String>,
    /// A point was made at or after the slot.
    is_served: bool,
    failures: u32,
    again_at: Timestamp,
}

impl Tries {
    /// Looks at every item. Whether a backup ended since the last round.
    pub(super) fn round(&mut self, daemon: &Daemon, now: Timestamp) -> bool {
        let Some(items) = note("policies", daemon.policies().items()) else { return false };
        self.0.retain(|item, _| items.get(item).is_some_and(|protection| !protection.stopped));
        let mut ended = false;
        for (item, protection) in items.iter().filter(|(_, protection)| !protection.stopped) {
            let named = PolicyName::parse(&protection.policy);
            let policy = named.and_then(|name| Ok((daemon.policies().get(&name)?, name)));
            // a policy that cannot be read is in the warnings of the status
            let Ok((policy, name)) = policy else { continue };
            ended |= note(item, self.item(daemon, item, &name, &policy, now)).unwrap_or(false);
        }
        ended
    }

    fn item(
        &mut self,
        daemon: &Daemon,
        item: &str,
        name: &PolicyName,
        policy: &Policy,
        now: Timestamp,
    ) -> Result<bool> {
        let Some((slot, _)) = policy.schedule.around(now) else { return Ok(false) };
        let fresh = || Try { slot, job: None, is_served: false, failures: 0, again_at: now };
        let tried = self.0.entry(item.to_owned()).or_insert_with(fresh);
        let mut ended = false;
        if let Some(id) = &tried.job {
            let job = daemon.jobs().get(id)?;
            if !job.state.is_final() {
                return Ok(false);
            }
            tried.job = None;
            ended = true;
            if job.state != JobState::Done {
                tried.fail(now);
            }
        }
        if tried.slot != slot {
            *tried = fresh();
        }
        let delay = policy.schedule.delay(item, slot);
        if tried.is_served || now < tried.again_at || now.duration_since(slot).unsigned_abs() < delay {
            return Ok(ended);
        }
        let (held, _) = daemon.tiers().held(Some(item));
        if newest(daemon, item, &name.vault, &held)?.is_some_and(|newest| newest >= slot) {
            tried.is_served = true;
            return Ok(ended);
        }
        let request = BackupRequest {
            item: item.to_owned(),
            vault: Some(name.vault.clone()),
            full: false,
            keep_seconds: None,
        };
        match daemon.backup(&request) {
            Ok(job) => {
                tracing::info!(item, policy = %name, job = job.id, "a backup is due");
                tried.job = Some(job.id);
            }
            Err(error) => {
                tried.fail(now);
                tracing::warn!(item, policy = %name, "a backup is due, but cannot begin: {}", error.body().message);
            }
        }
        Ok(ended)
    }
}

impl Try {
    fn fail(&mut self, now: Timestamp) {
        let pause = FIRST_PAUSE.saturating_mul(1 << self.failures.min(10)).min(LONGEST_PAUSE);
        self.failures += 1;
        self.again_at = now
            .saturating_add(jiff::SignedDuration::try_from(pause).unwrap_or(jiff::SignedDuration::MAX))
            .unwrap_or(Timestamp::MAX);
    }
}

/// When the newest point of an item was made that the vault holds, as these points tell: of a machine, that of the disk whose
/// newest is oldest. None if a disk of it has none there.
///
/// # Errors
/// `NotFound` if there is no such disk; why the vault cannot be used.
pub fn newest(daemon: &Daemon, item: &str, vault: &str, points: &[Held]) -> Result<Option<Timestamp>> {
    let tiers = daemon.tiers();
    let disks = tiers.disks.of(item)?;
    tiers.vaults.get(vault)?.vault()?;
    let is_stored = |held: &&Held| held.copies.iter().any(|(named, _)| named.name == vault);
    let of_disk = |id| {
        points.iter().filter(|held| held.disk == id).filter(is_stored).map(|held| stamp(held.time)).max()
    };
    let newest: Option<Vec<Timestamp>> = disks.iter().map(|named| of_disk(named.id)).collect();
    Ok(newest.and_then(|newest| newest.into_iter().min()))
}
