//! Rehearsals that policies ask for: of the newest point of an item, once the last one is old enough.

use super::note;
use crate::audit_log::{About, Said};
use crate::daemon::Daemon;
use crate::error::Result;
use crate::jobs::Urgency;
use crate::policies::PolicyName;
use control::RehearseRequest;
use jiff::Timestamp;
use std::sync::Arc;

const DAY_SECONDS: i64 = 86_400;
/// One that failed is not made again at once: it takes the host's processors for minutes.
const AGAIN_SECONDS: i64 = DAY_SECONDS;

/// Begins those that are due.
pub(super) fn round(daemon: &Arc<Daemon>, now: Timestamp) {
    let Some(items) = note("policies", daemon.policies().items()) else { return };
    for (item, protection) in items.iter().filter(|(_, protection)| !protection.stopped) {
        note(item, one(daemon, item, &protection.policy, now));
    }
}

fn one(daemon: &Arc<Daemon>, item: &str, policy: &str, now: Timestamp) -> Result<()> {
    // a policy that cannot be read is in the warnings of the status
    let Ok(policy) = PolicyName::parse(policy).and_then(|name| daemon.policies().get(&name)) else {
        return Ok(());
    };
    let Some(rule) = &policy.rehearsal else { return Ok(()) };
    let (last, passed) = daemon.evidence().newest(item);
    let age = |time: &str| {
        let time = time.parse::<Timestamp>().unwrap_or(Timestamp::UNIX_EPOCH);
        now.as_second().saturating_sub(time.as_second())
    };
    let is_fresh = |seconds: i64, time: Option<&str>| time.is_some_and(|time| age(time) < seconds);
    if is_fresh(i64::from(rule.every_days) * DAY_SECONDS, passed.as_ref().map(|it| it.time.as_str()))
        || is_fresh(AGAIN_SECONDS, last.as_ref().map(|it| it.time.as_str()))
        || daemon
            .jobs()
            .list()?
            .iter()
            .any(|job| job.operation == "rehearse" && job.item == item && !job.state.is_final())
        || daemon.tiers().held(Some(item)).0.is_empty()
    {
        return Ok(());
    }
    let request = RehearseRequest { point: format!("{item}@latest"), ..rule.request.clone() };
    let about =
        About::from([("item".to_owned(), item.into()), ("point".to_owned(), request.point.as_str().into())]);
    let said = Said { who: "a policy".to_owned(), action: "rehearse".to_owned(), about };
    let job = daemon.audited(&said, || daemon.rehearse(&request, Urgency::Upkeep))?;
    tracing::info!(item, job = job.id, "a rehearsal is due");
    Ok(())
}
