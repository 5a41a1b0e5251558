//! What a restore will take and cost, before it begins.

use super::replace::differing;
use crate::daemon::Daemon;
use crate::error::{Doing, Error, Result};
use crate::points::Held;
use block::{ByteRange, ExtentKind, RangeSet};
use control::{JobState, Preflight, RestoreRequest, Tier};
use layers::Until;
use std::ops::ControlFlow;

/// Restores that an estimate rests on, the newest.
const MEASURED: usize = 8;

impl Daemon {
    /// What a restore will take and cost. Nothing is done.
    ///
    /// # Errors
    /// `NotFound` naming point or disk. A request that says neither where to nor what is replaced is about a target the client sees to.
    pub fn preflight(&self, request: &RestoreRequest) -> Result<Preflight> {
        let tiers = self.tiers();
        let replaced = request.replace.as_deref().map(|name| tiers.disks.get(name)).transpose()?;
        let point = match &replaced {
            Some(named) if request.undo => {
                let former = tiers.disks.replaced(named)?;
                let former = former.ok_or_else(|| Error::not_found("a replacement to undo"))?;
                tiers.by_state(named.id, &former.safety)?
            }
            _ => tiers.find(&request.point)?,
        };
        let target = request.replace.clone().unwrap_or_else(|| request.to.clone());
        let mut obstacles = Vec::new();
        let (tier, vault, unlocked) = nearest(&point);
        if !unlocked {
            obstacles.push(match tier {
                Tier::Archive => point.unreadable().body().message,
                _ => format!("no vault that holds {} can be read: `blockctl vault list`", point.name),
            });
        }
        let doing = || format!("look what restoring {} takes", point.name);
        let mut to_read = RangeSet::whole(point.size);
        let (mut clients, mut bytes_lost) = (Vec::new(), None);
        if let Some(named) = &replaced {
            let disk = named.disk()?;
            to_read = differing(disk, &point).doing(doing)?.clip(ByteRange::whole(point.size));
            bytes_lost = match disk.changes(Some(point.state), Until::Live) {
                Ok(changes) => Some(changes.all().total().get()),
                Err(_) => None,
            };
            // whoever said good-bye just now may still be leaving
            named.is_left_alone();
            clients = named.claim.clients().into_iter().map(|client| client.client).collect();
            if !clients.is_empty() && !request.force_disconnect {
                obstacles.push(format!("disk {target} is in use by {}", clients.join(", ")));
            }
        } else if !target.is_empty()
            && let Err(error) = tiers.disks.reserve(&target)
        {
            obstacles.push(error.body().message);
        }
        let elsewhere = target.is_empty();
        let unchanged = point.size.get() - to_read.total().get();
        let bytes_to_read = if unlocked { data_in(&point, &to_read)? } else { to_read.total().get() };
        let (space_needed, space_available) = (bytes_to_read, self.space_available()?);
        if space_needed > space_available && !elsewhere {
            obstacles.push(format!("{space_needed} bytes are needed, and {space_available} are there"));
        }
        let (speed, measured_jobs) = self.measured()?;
        Ok(Preflight {
            point: point.name.clone(),
            target,
            size: point.size.get(),
            tier,
            vault,
            unlocked,
            bytes_to_read,
            bytes_unchanged: unchanged,
            space_needed,
            space_available,
            estimate_ms: speed.map(|speed| bytes_to_read.saturating_mul(1000) / speed.max(1)),
            measured_jobs,
            clients,
            bytes_lost,
            elsewhere,
            obstacles,
        })
    }

    /// Bytes a second of the last restores; none before the first.
    ///
    /// # Errors
    /// What the catalog reports.
    pub(crate) fn restore_speed(&self) -> Result<Option<u64>> {
        Ok(self.measured()?.0)
    }

    /// Bytes a second of the last restores, and how many they were.
    fn measured(&self) -> Result<(Option<u64>, u64)> {
        let jobs = self.jobs().list()?;
        let is_one = |job: &&control::Job| {
            job.operation == "restore"
                && job.state == JobState::Done
                && job.bytes_read > 0
                && job.duration_ms > 0
        };
        let (mut bytes, mut took_ms, mut count) = (0u64, 0u64, 0);
        for job in jobs.iter().filter(is_one).take(MEASURED) {
            (bytes, took_ms, count) = (bytes + job.bytes_read, took_ms + job.duration_ms, count + 1);
        }
        Ok(((count > 0).then(|| bytes.saturating_mul(1000) / took_ms.max(1)), count))
    }
}

/// The tier most is read from, and whether it can be.
fn nearest(point: &Held) -> (Tier, Option<String>, bool) {
    if point.instant.as_ref().is_some_and(|named| named.disk().is_ok()) {
        return (Tier::Instant, None, true);
    }
    if let ([], Some((archive, _))) = (point.copies.as_slice(), point.archived.first()) {
        return (Tier::Archive, Some(archive.name.clone()), false);
    }
    let open = point.copies.iter().find(|(vault, _)| vault.vault().is_ok());
    let any = open.or(point.copies.first()).map(|(vault, _)| vault.name.clone());
    (Tier::Vault, any, open.is_some())
}

/// Bytes of these ranges that hold something.
fn data_in(point: &Held, ranges: &RangeSet) -> Result<u64> {
    let source = point.source()?;
    let mut bytes = 0;
    // what changed behind its end, of a disk that has grown since, is not in it
    for range in ranges.clip(ByteRange::whole(source.size())).iter() {
        let counted = source.extents(range, &mut |extent| {
            bytes += if extent.kind == ExtentKind::Data { extent.range.count().get() } else { 0 };
            ControlFlow::Continue(())
        });
        counted.map_err(|error| Error::below(format!("look into {}", point.name), error))?;
    }
    Ok(bytes)
}
