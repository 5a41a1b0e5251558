//! The points of a disk before the rules of a policy.

use crate::daemon::Daemon;
use crate::error::Result;
use crate::gate::stamp;
use crate::points::{Held, HurtCopies};
use crate::policies::PolicyName;
use crate::policy::{Candidate, Kept, Policy, judge};
use control::KeptBy;
use jiff::Timestamp;

/// A point, and why the policy keeps it.
pub(super) struct Judged<'a> {
    pub(super) held: &'a Held,
    pub(super) kept: Vec<Kept>,
}

/// Judges the points of one disk that the policy's vault holds, or the archive it sends them to; oldest first.
pub(super) fn judge_disk<'a>(
    daemon: &Daemon,
    hurt: &HurtCopies,
    vault: &str,
    policy: &Policy,
    points: &[&'a Held],
    now: Timestamp,
) -> Vec<Judged<'a>> {
    let tiers = daemon.tiers();
    let archive = policy.archive.as_ref().map(|rule| rule.to.as_str());
    let is_here = |held: &&'a Held| {
        held.stored().any(|(named, _)| named.name == vault || Some(named.name.as_str()) == archive)
    };
    let mut points: Vec<&'a Held> = points.iter().copied().filter(is_here).collect();
    points.sort_by_key(|held| (held.time, held.epoch));
    let candidate = |held: &&Held| {
        let mark = tiers.vaults.marks().of(held.state);
        Candidate {
            time: stamp(held.time),
            is_good: mark.suspect.is_none() && is_sound(hurt, held, vault, archive),
            keep_until: mark.keep_until,
            is_held: mark.hold.is_some(),
        }
    };
    let candidates: Vec<_> = points.iter().map(candidate).collect();
    let kept = judge(&policy.retention, &policy.schedule.zone, now, &candidates);
    points.into_iter().zip(kept).map(|(held, kept)| Judged { held, kept }).collect()
}

/// Whether one of those copies is not known to be damaged.
fn is_sound(hurt: &HurtCopies, held: &Held, vault: &str, archive: Option<&str>) -> bool {
    held.stored().any(|(named, manifest)| {
        (named.name == vault || Some(named.name.as_str()) == archive) && !hurt.has(named, manifest)
    })
}

/// A reason as the API shows it.
pub(super) fn show(kept: &Kept) -> KeptBy {
    KeptBy { reason: kept.reason.name().to_owned(), until: kept.until.map(|date| date.to_string()) }
}

/// Why the policy in force keeps this point; none if its disk stands under none, or no vault of the policy holds it.
///
/// # Errors
/// Why the policy cannot be read; what the catalog reports.
pub fn expiry(daemon: &Daemon, point: &Held) -> Result<Option<(PolicyName, Vec<KeptBy>)>> {
    let Some((name, policy)) = daemon.policies().of_disk(&point.item)? else { return Ok(None) };
    let (held, _) = daemon.tiers().held(Some(&point.item));
    let of_disk: Vec<_> = held.iter().filter(|held| held.disk == point.disk).collect();
    let judged = judge_disk(daemon, &daemon.tiers().hurt()?, &name.vault, &policy, &of_disk, daemon.now());
    let found = judged.iter().find(|judged| judged.held.state == point.state);
    Ok(found.map(|judged| (name, judged.kept.iter().map(show).collect())))
}
