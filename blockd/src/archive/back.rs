//! Points that come back from an archive for a time, and the end of that.

use super::{key, known, store};
use crate::daemon::Daemon;
use crate::error::{Error, Result};
use crate::gate::stamp;
use crate::jobs::{NewJob, Run, Urgency};
use crate::marks::Mark;
use crate::points::{By, Held, HurtCopies, Tiers, View};
use crate::repair::heal;
use crate::vaults::{MAIN, NamedVault};
use block::StateId;
use control::{Job, Kind, RehydratePoint};
use jiff::{SignedDuration, Timestamp};
use std::sync::Arc;
use vault::ManifestId;

/// Ten years: what is wanted for longer is not wanted in an archive.
const MOST_SECONDS: u64 = 10 * 366 * 86_400;

impl Daemon {
    /// Brings an archived point back to a vault for a time, as a job; of a machine's point every member. Asked again it sets the
    /// time anew.
    ///
    /// # Errors
    /// `NotFound` naming point or vault; `Conflict` if no archive holds it; `Invalid` for no time or one without end.
    pub fn rehydrate(&self, name: &str, request: &RehydratePoint) -> Result<Job> {
        let points = self.tiers().members(name)?;
        let vault = self.tiers().vaults.get(request.vault.as_deref().unwrap_or(MAIN))?;
        vault.vault()?;
        let what = || format!("rehydrate {name}");
        if vault.archive {
            return Err(Error::said(Kind::Invalid, what(), format!("{} is an archive", vault.name)));
        }
        if !(1..=MOST_SECONDS).contains(&request.seconds) {
            let why = format!("a time has 1 to {MOST_SECONDS} seconds, not {}", request.seconds);
            return Err(Error::said(Kind::Invalid, what(), why));
        }
        // members that never left are where they are wanted
        let (points, near): (Vec<Held>, Vec<Held>) =
            points.into_iter().partition(|point| !point.archived.is_empty());
        if let (true, Some(point)) = (points.is_empty(), near.first()) {
            return Err(Error::said(Kind::Conflict, what(), format!("{} is in no archive", point.name))
                .with_help(format!("`blockctl point show {}` says where it is", point.name)));
        }
        let new = NewJob {
            operation: "rehydrate",
            item: points.first().map(|point| point.item.clone()).unwrap_or_default(),
            keys: points.iter().map(|point| key(point.disk)).collect(),
            point: Some(name.to_owned()),
            vault: Some(vault.name.clone()),
            urgency: Urgency::Restore,
            ..NewJob::default()
        };
        let (tiers, seconds) = (self.tiers().clone(), request.seconds);
        self.jobs().start(new, move |run| {
            points.iter().try_for_each(|point| {
                run.go_on()?;
                bring_back(run, &tiers, point, &vault, seconds)
            })
        })
    }
}

fn bring_back(
    run: &Run,
    tiers: &Arc<Tiers>,
    point: &Held,
    vault: &Arc<NamedVault>,
    seconds: u64,
) -> Result<()> {
    // before the copy is there, so that none is left without a term
    tiers.set_term(point, vault, seconds)?;
    if let Some(manifest) = known(vault, point)? {
        // it was there all the time, or came back from deletion
        return whole_again(run, tiers, point, vault, &manifest);
    }
    let mut last = None;
    for (archive, manifest) in &point.archived {
        let source = match archive.image(manifest, || format!("bring back {}", point.name)) {
            Ok(source) => source,
            Err(error) => {
                last = Some(error);
                continue;
            }
        };
        store(run, tiers, point, vault, source)?;
        tiers.set_term(point, vault, seconds)?;
        tracing::info!(point = point.name, vault = vault.name, "brought back from the archive");
        return Ok(());
    }
    Err(last.unwrap_or_else(|| point.unreadable()))
}

/// Sees to it that a copy which is there already is not a damaged one: the archive has what it lacks.
fn whole_again(
    run: &Run,
    tiers: &Arc<Tiers>,
    point: &Held,
    vault: &Arc<NamedVault>,
    manifest: &ManifestId,
) -> Result<()> {
    if !tiers.hurt()?.has(vault, manifest) {
        return Ok(());
    }
    heal(run, tiers, vault)?;
    if !tiers.hurt()?.has(vault, manifest) {
        return Ok(());
    }
    let what = format!("the copy of {} in vault {}", point.name, vault.name);
    let why = "is damaged, and what it lacks could not be taken from the archive";
    Err(Error::said(Kind::Corrupt, what, why)
        .with_help(format!("`blockctl vault repair {}` says what is left of it", vault.name)))
}

impl Tiers {
    /// Until when a vault holds an archived point again.
    pub(crate) fn rehydrated_until(&self, point: &Held) -> Option<Timestamp> {
        let mark = self.vaults.marks().of(point.state);
        point.copies.iter().filter_map(|(vault, _)| mark.rehydrated.get(&vault.key())).max().copied()
    }

    fn set_term(&self, point: &Held, vault: &NamedVault, seconds: u64) -> Result<()> {
        let span = SignedDuration::from_secs(i64::try_from(seconds).unwrap_or(i64::MAX));
        let now = stamp(self.disks.env().clock.now());
        let until = now.saturating_add(span).unwrap_or(Timestamp::MAX);
        let is_there = point.stored_in(&vault.name).is_some();
        let term = |mark: &mut Mark| {
            mark.deleted.remove(&vault.key());
            // a copy that never left has no term
            if !is_there || mark.rehydrated.contains_key(&vault.key()) {
                mark.rehydrated.insert(vault.key(), until);
            }
            Ok(())
        };
        self.vaults.marks().change(point.state, &point.name, term).map(|_| ())
    }
}

/// Takes points from a vault whose time is over, if an archive is seen to hold them.
///
/// # Errors
/// What vault, catalog or host report, of the first that failed; the others are taken.
pub fn end_rehydrations(
    tiers: &Tiers,
    vault: &NamedVault,
    view: &View,
    hurt: &HurtCopies,
    now: Timestamp,
) -> Result<()> {
    let mut failed = None;
    for (state, _) in
        tiers.vaults.marks().rehydrated_to(&vault.key()).into_iter().filter(|(_, until)| *until <= now)
    {
        let name = tiers.vaults.marks().of(state).point;
        let item = name.split_once('@').map(|(item, _)| item);
        let mut points = view.held(item);
        if points.iter().all(|point| point.state != state) {
            // its disk is called something else by now
            points = view.held(None);
        }
        let ended = match points.iter().find(|point| point.state == state) {
            Some(point) if point.stored_in(&vault.name).is_some() => end(tiers, vault, point, hurt),
            // it went another way
            _ => forget(tiers, vault, state, &name),
        };
        failed = failed.or(ended.err());
    }
    failed.map_or(Ok(()), Err)
}

fn end(tiers: &Tiers, vault: &NamedVault, point: &Held, hurt: &HurtCopies) -> Result<()> {
    if tiers.sound_archived(point, hurt).is_none() {
        let why = format!("stays in vault {}: no archive can be seen to hold it whole", vault.name);
        return Err(Error::said(Kind::Unavailable, format!("point {}", point.name), why));
    }
    tiers.delete_from(point, vault, &By::Rehydration)?;
    tracing::info!(point = point.name, vault = vault.name, "its time back from the archive is over");
    Ok(())
}

fn forget(tiers: &Tiers, vault: &NamedVault, state: StateId, name: &str) -> Result<()> {
    let over = |mark: &mut Mark| {
        mark.rehydrated.remove(&vault.key());
        Ok(())
    };
    tiers.vaults.marks().change(state, name, over).map(|_| ())
}
