//! Points that a policy sends to the archive.

use super::judge::Judged;
use super::{DAY_SECONDS, note};
use crate::audit_log::{About, Said};
use crate::daemon::Daemon;
use crate::gate::stamp;
use crate::jobs::Urgency;
use crate::points::Held;
use crate::policies::PolicyName;
use crate::policy::ArchiveRule;
use jiff::Timestamp;

/// Begins to move those points of one disk that are due, if none are on their way.
pub(super) fn send(
    daemon: &Daemon,
    name: &PolicyName,
    rule: &ArchiveRule,
    judged: &[Judged<'_>],
    now: Timestamp,
) {
    let due: Vec<Held> = judged
        .iter()
        .filter(|judged| is_due(daemon, name, rule, judged, now))
        .map(|judged| judged.held.clone())
        .collect();
    let Some(first) = due.first() else { return };
    if daemon.is_archiving(first.disk) {
        return;
    }
    let item = first.item.clone();
    let what = if due.len() == 1 {
        first.name.clone()
    } else {
        format!("{} and {} more", first.name, due.len() - 1)
    };
    let about = About::from([
        (
            "points".to_owned(),
            due.iter().map(|held| held.name.as_str()).collect::<Vec<_>>().join(", ").into(),
        ),
        ("archive".to_owned(), rule.to.as_str().into()),
    ]);
    let said = Said { who: format!("policy {name}"), action: "archive".to_owned(), about };
    let begun = daemon.audited(&said, || daemon.archive_points(due, &what, &rule.to, Urgency::Upkeep));
    note(&item, begun);
}

fn is_due(
    daemon: &Daemon,
    name: &PolicyName,
    rule: &ArchiveRule,
    judged: &Judged<'_>,
    now: Timestamp,
) -> bool {
    let held = judged.held;
    let oldest = now.as_second() - i64::from(rule.after_days) * DAY_SECONDS;
    let is_here = held.copies.iter().any(|(vault, _)| vault.name == name.vault);
    let is_back = || daemon.tiers().rehydrated_until(held).is_some();
    let may_leave = || {
        let vault = daemon.tiers().vaults.get(&name.vault);
        vault.is_ok_and(|vault| vault.terms().immutable_until(held.time, now).is_none())
    };
    is_here
        && stamp(held.time).as_second() < oldest
        && !judged.kept.is_empty()
        && judged.kept.iter().all(|kept| rule.classes.contains(&kept.reason))
        && !is_back()
        && may_leave()
}
