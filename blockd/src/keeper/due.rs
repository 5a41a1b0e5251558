//! Which items are due, and the backups made for them. What is due follows from the newest points; only attempts that failed are
//! remembered, and only as long as the process lives.

use super::{Newest, note};
use crate::audit_log::{About, Said};
use crate::daemon::Daemon;
use crate::error::Result;
use crate::jobs::Urgency;
use crate::points::{HurtCopies, View};
use crate::policies::PolicyName;
use crate::policy::Policy;
use control::{BackupRequest, JobState};
use jiff::Timestamp;
use std::cell::OnceCell;
use std::collections::HashMap;
use std::time::Duration;

/// The longest pause between two attempts of one slot.
const LONGEST_PAUSE: Duration = Duration::from_secs(3600);
const FIRST_PAUSE: Duration = Duration::from_secs(60);
/// How old a point may be where a policy says nothing.
const DAY: Duration = Duration::from_secs(24 * 3600);

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
        let looked = OnceCell::new();
        for (item, protection) in items.iter().filter(|(_, protection)| !protection.stopped) {
            let named = PolicyName::parse(&protection.policy);
            let policy = named.and_then(|name| Ok((daemon.policies().get(&name)?, name)));
            // a policy that cannot be read is in the warnings of the status
            let Ok((policy, name)) = policy else { continue };
            ended |= note(item, self.item(daemon, item, (&name, &policy), now, &looked)).unwrap_or(false);
        }
        ended
    }

    fn item(
        &mut self,
        daemon: &Daemon,
        item: &str,
        (name, policy): (&PolicyName, &Policy),
        now: Timestamp,
        looked: &OnceCell<(View, HurtCopies)>,
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
        let (view, hurt) = match looked.get() {
            Some(looked) => looked,
            None => {
                let fresh = (daemon.tiers().look(), daemon.tiers().hurt()?);
                looked.get_or_init(|| fresh)
            }
        };
        let mut newest = Newest::default();
        newest.add(daemon, hurt, &view.held(Some(item)));
        if newest.stored(daemon, item, &name.vault)?.is_some_and(|newest| newest >= slot) {
            tried.is_served = true;
            return Ok(ended);
        }
        let request = BackupRequest {
            item: item.to_owned(),
            vault: Some(name.vault.clone()),
            full: false,
            require: policy.consistency,
            ..BackupRequest::default()
        };
        let about =
            About::from([("item".to_owned(), item.into()), ("vault".to_owned(), name.vault.as_str().into())]);
        let said = Said { who: format!("policy {name}"), action: "backup".to_owned(), about };
        let urgency = Urgency::Due(minutes_left(policy, newest.good(daemon, item, &name.vault)?, now));
        match daemon.audited(&said, || daemon.backup_when(&request, urgency)) {
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

/// Minutes until the objective of a policy is missed, or until a day is over where it has none.
fn minutes_left(policy: &Policy, newest: Option<Timestamp>, now: Timestamp) -> u32 {
    let Some(newest) = newest else { return 0 };
    let allowed = policy.rpo.unwrap_or(DAY).as_secs();
    let age = u64::try_from(now.as_second().saturating_sub(newest.as_second())).unwrap_or(0);
    u32::try_from(allowed.saturating_sub(age) / 60).unwrap_or(u32::MAX)
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
