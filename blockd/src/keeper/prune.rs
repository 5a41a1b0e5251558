//! Deleting what no policy keeps, and ending deletions whose term is over.

use super::judge::judge_disk;
use super::{DAY_SECONDS, archive, note};
use crate::archive::end_rehydrations;
use crate::audit_log::{About, Said};
use crate::daemon::Daemon;
use crate::error::Result;
use crate::gate::stamp;
use crate::points::{By, Held, HurtCopies, Trouble, View};
use crate::policies::PolicyName;
use crate::policy::Policy;
use crate::vaults::NamedVault;
use block::DiskId;
use jiff::Timestamp;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Deletions that are written down together.
const TOGETHER: usize = 64;

/// Looks at every disk that stands under a policy, and at every vault.
pub(super) fn round(daemon: &Daemon, now: Timestamp) {
    if let Some(why) = daemon.appliance_clock().freezes() {
        tracing::warn!("nothing is deleted: {why}");
        return;
    }
    let Some(hurt) = note("prune", daemon.tiers().hurt()) else { return };
    let view = daemon.tiers().look();
    let trouble = view.trouble();
    for vault in usable(daemon).iter().filter(|vault| !vault.archive) {
        note(&vault.name, end_rehydrations(daemon.tiers(), vault, &view, &hurt, now));
    }
    let (mut going, mut suspects) = (Going::default(), Suspects::default());
    for item in view.names() {
        // why a policy cannot be read is in the warnings of the status
        let Ok(Some((name, policy))) = daemon.policies().of_disk(item) else { continue };
        let archive = policy.archive.as_ref().map(|rule| &rule.to);
        let hides = |trouble: &&Arc<Trouble>| {
            (trouble.vault == name.vault || Some(&trouble.vault) == archive) && trouble.may_hide_one_of(item)
        };
        if let Some(trouble) = trouble.iter().find(hides) {
            // what cannot be seen may be the good point that must stay
            tracing::warn!(disk = item, "is not pruned: {}", trouble.body.message);
            continue;
        }
        if let Some(suspect) = suspects.of(daemon, &view, item) {
            tracing::warn!(
                disk = item,
                "{suspect} is suspect: nothing of its item is pruned until somebody answers"
            );
            continue;
        }
        let (held, mut disks) = (view.held(Some(item)), BTreeMap::<DiskId, Vec<&Held>>::new());
        held.iter().for_each(|held| disks.entry(held.disk).or_default().push(held));
        for points in disks.values() {
            note(item, prune(daemon, &hurt, (&name, &policy), points, now, &mut going));
        }
    }
    going.all_go(daemon);
    for vault in usable(daemon) {
        note(&vault.name, daemon.tiers().end_deletions(&vault, now));
    }
}

/// The suspect points of items, looked for once an item: of a machine or a group all disks wait for an answer about one.
#[derive(Default)]
struct Suspects(BTreeMap<String, Option<String>>);

impl Suspects {
    fn of(&mut self, daemon: &Daemon, view: &View, disk: &str) -> Option<String> {
        let covering = daemon.policies().covering(disk).ok().flatten();
        let item = covering.unwrap_or_else(|| disk.to_owned());
        let look = || {
            let marks = daemon.tiers().vaults.marks();
            let points = view.held(Some(&item));
            points.into_iter().find(|held| marks.of(held.state).suspect.is_some()).map(|held| held.name)
        };
        self.0.entry(item.clone()).or_insert_with(look).clone()
    }
}

fn usable(daemon: &Daemon) -> Vec<Arc<NamedVault>> {
    daemon.tiers().vaults.all().into_iter().filter(|vault| vault.trouble().is_none()).collect()
}

fn prune(
    daemon: &Daemon,
    hurt: &HurtCopies,
    (name, policy): (&PolicyName, &Policy),
    points: &[&Held],
    now: Timestamp,
    going: &mut Going,
) -> Result<()> {
    daemon.tiers().vaults.get(&name.vault)?.vault()?;
    let judged = judge_disk(daemon, hurt, &name.vault, policy, points, now);
    let places = [Some(&name.vault), policy.archive.as_ref().map(|rule| &rule.to)];
    for judged in judged.iter().filter(|judged| judged.kept.is_empty()) {
        for (place, _) in judged.held.stored().filter(|(place, _)| places.contains(&Some(&place.name))) {
            if place.vault().is_ok() && place.terms().immutable_until(judged.held.time, now).is_none() {
                going.add(daemon, name, place, judged.held);
            }
        }
    }
    if let Some(rule) = &policy.archive {
        archive::send(daemon, name, rule, &judged, now);
    }
    leave_instant(daemon, policy, points, now);
    Ok(())
}

/// Copies that policies do not keep any longer, by policy and place: what goes together is written down together.
#[derive(Default)]
struct Going(BTreeMap<(String, String), (Arc<NamedVault>, Vec<Held>)>);

impl Going {
    fn add(&mut self, daemon: &Daemon, policy: &PolicyName, place: &Arc<NamedVault>, held: &Held) {
        let key = (policy.to_string(), place.name.clone());
        let (_, points) = self.0.entry(key.clone()).or_insert_with(|| (place.clone(), Vec::new()));
        points.push(held.clone());
        if points.len() >= TOGETHER
            && let Some((place, points)) = self.0.remove(&key)
        {
            let_go(daemon, &key.0, &place, &points);
        }
    }

    fn all_go(self, daemon: &Daemon) {
        for ((policy, _), (place, points)) in self.0 {
            let_go(daemon, &policy, &place, &points);
        }
    }
}

fn let_go(daemon: &Daemon, policy: &str, place: &NamedVault, points: &[Held]) {
    let names: Vec<&str> = points.iter().map(|held| held.name.as_str()).collect();
    let about = About::from([
        ("points".to_owned(), names.join(", ").into()),
        ("vault".to_owned(), place.name.as_str().into()),
    ]);
    let said = Said { who: format!("policy {policy}"), action: "prune".to_owned(), about };
    let delete = || {
        let points: Vec<&Held> = points.iter().collect();
        let outcomes = daemon.tiers().delete_all_from(&points, place, &By::Policy(policy.to_owned()))?;
        // all of them, whatever is said of one
        let mut first = Ok(());
        for (held, outcome) in points.iter().zip(outcomes) {
            match outcome {
                Ok(_) => tracing::info!(point = held.name, policy, "is kept no longer"),
                Err(error) if first.is_ok() => first = Err(error),
                Err(error) => tracing::warn!("{}", error.body().message),
            }
        }
        first
    };
    note(&place.name, daemon.audited(&said, delete));
}

/// Copies in the instant tier that are old or many leave it, if a vault holds the point; the newest of a disk stays.
fn leave_instant(daemon: &Daemon, policy: &Policy, points: &[&Held], now: Timestamp) {
    let mut near: Vec<&Held> = points.iter().copied().filter(|held| held.instant.is_some()).collect();
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
