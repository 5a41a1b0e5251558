//! Deleting what no policy keeps, and ending deletions whose term is over.

use super::judge::judge_disk;
use super::note;
use crate::daemon::Daemon;
use crate::error::Result;
use crate::gate::stamp;
use crate::points::{By, Held};
use crate::policies::PolicyName;
use crate::policy::Policy;
use block::DiskId;
use jiff::Timestamp;
use std::collections::BTreeMap;

const DAY_SECONDS: i64 = 86_400;

/// Looks at every protected item and every vault.
pub(super) fn round(daemon: &Daemon, now: Timestamp) {
    for (name, policy) in daemon.policies().all() {
        let Ok(policy) = policy else { continue };
        for item in note("policies", daemon.policies().under(&name)).unwrap_or_default() {
            note(&item, prune(daemon, &name, &policy, &item, now));
        }
    }
    for vault in daemon.tiers().vaults.all().iter().filter(|vault| vault.trouble().is_none()) {
        note(&vault.name, daemon.tiers().end_deletions(vault, now));
    }
}

fn prune(daemon: &Daemon, name: &PolicyName, policy: &Policy, item: &str, now: Timestamp) -> Result<()> {
    let tiers = daemon.tiers();
    let vault = tiers.vaults.get(&name.vault)?;
    vault.vault()?;
    let (held, trouble) = tiers.held(Some(item));
    if let Some(trouble) = trouble.first() {
        // what cannot be seen may be what must stay
        tracing::warn!(item, "nothing is pruned: {}", trouble.body.message);
        return Ok(());
    }
    let mut disks: BTreeMap<DiskId, Vec<Held>> = BTreeMap::new();
    held.into_iter().for_each(|held| disks.entry(held.disk).or_default().push(held));
    for points in disks.values() {
        for judged in judge_disk(daemon, &name.vault, policy, points, now)? {
            if judged.kept.is_empty() {
                let deleted = tiers.delete_from(&judged.held, &vault, &By::Policy(name.to_string()));
                if note(&judged.held.name, deleted).is_some() {
                    tracing::info!(point = judged.held.name, policy = %name, "is kept no longer");
                }
            }
        }
        leave_instant(daemon, policy, points, now);
    }
    Ok(())
}

/// Copies in the instant tier that are old or many leave it, if a vault holds the point; the newest of a disk stays.
fn leave_instant(daemon: &Daemon, policy: &Policy, points: &[Held], now: Timestamp) {
    let mut near: Vec<&Held> = points.iter().filter(|held| held.instant.is_some()).collect();
    near.sort_by_key(|held| std::cmp::Reverse((held.time, held.epoch)));
    let oldest = now.as_second() - i64::from(policy.instant_days) * DAY_SECONDS;
    for (rank, held) in near.iter().enumerate().skip(1) {
        let is_old = stamp(held.time).as_second() < oldest;
        let is_many = policy.instant_points.is_some_and(|most| rank >= most);
        if (is_old || is_many)
            && !held.copies.is_empty()
            && note(&held.name, daemon.tiers().shed_if_free(held)).flatten().is_some()
        {
            tracing::info!(point = held.name, "left the instant tier, as its policy says");
            daemon.consolidation().wake();
        }
    }
}
