//! Checks and scrubs of vaults, as jobs: everything read and verified, and what was found remembered in the catalog.

use crate::daemon::Daemon;
use crate::error::{Doing, Error, Result};
use crate::jobs::{NewJob, Run, Urgency};
use crate::names::rfc3339;
use crate::points::{Stored, Tiers};
use crate::repair::{follow, repair};
use crate::transfer::Follow;
use crate::vaults::NamedVault;
use block::sync::atomic::{AtomicU64, Ordering};
use block::sync::{Mutex, lock};
use block::{ByteCount, Time};
use control::{Job, Kind, LastCheck, Problem, ScrubVault, VaultCheck};
use std::collections::HashMap;
use std::num::NonZeroU64;
use vault::{CheckReport, CopyState, CopyStatus, ParityStore, ReplicatedStore, Scrub, VaultPoint};

impl Daemon {
    /// Reads and verifies everything in a vault, as a job.
    ///
    /// # Errors
    /// `NotFound`, `Unavailable` if the vault is locked.
    pub fn check_vault(&self, name: &str) -> Result<Job> {
        let named = self.tiers().vaults.get(name)?;
        named.vault()?;
        let new = NewJob {
            operation: "check",
            urgency: Urgency::Upkeep,
            item: name.to_owned(),
            keys: vec![format!("check {name}")],
            vault: Some(name.to_owned()),
            ..NewJob::default()
        };
        let (tiers, clock) = (self.tiers().clone(), self.clock());
        self.jobs().start(new, move |run| {
            let vault = named.vault()?;
            let of_copies = match (named.copies()?, named.parity()?) {
                (Some(copies), _) => check_copies(run, &named, copies)?,
                (_, Some(parity)) => check_parity(run, &named, parity)?,
                (None, None) => Vec::new(),
            };
            let before = vault.survey().doing(|| format!("list vault {}", named.name))?;
            let report = vault.check(&Follow::new(run)).doing(|| format!("check vault {}", named.name))?;
            let checked = Checked { points: &before.points, report: &report };
            conclude(run, &tiers, &named, &checked, of_copies, clock.now())
        })
    }
}

/// Shows what was found, has the catalog remember it, and ends the job as that says.
fn conclude(
    run: &Run,
    tiers: &Tiers,
    named: &NamedVault,
    checked: &Checked<'_>,
    of_copies: Vec<Problem>,
    now: Time,
) -> Result<()> {
    let found = show(tiers, named, checked.report, of_copies)?;
    remember(run, tiers, named, checked, &found, now)?;
    finish(run, named, checked.report, found)
}

/// Reads every blob of every copy and puts right what can be; says what was wrong with each, mended or not.
fn check_copies(run: &Run, named: &NamedVault, copies: &ReplicatedStore) -> Result<Vec<Problem>> {
    let doing = || format!("check the copies of vault {}", named.name);
    let before = copies.status();
    let repaired = repair(run, copies, true);
    if run.is_cancelled() {
        return Err(Error::said(Kind::Cancelled, doing(), "somebody asked to stop"));
    }
    let mut problems = Vec::new();
    if let Err(error) = repaired {
        problems.push(Problem { what: "the copies".to_owned(), why: error.to_string() });
    }
    problems.extend(of_copies(named, &before, copies));
    Ok(problems)
}

/// Reads every blob, parity and twin, and puts right what can be; says what was wrong.
fn check_parity(run: &Run, named: &NamedVault, parity: &ParityStore) -> Result<Vec<Problem>> {
    let doing = || format!("check the parity of vault {}", named.name);
    let before = parity.status().mended;
    let report = parity.repair(true, &mut follow(run)).doing(doing)?;
    if run.is_cancelled() {
        return Err(Error::said(Kind::Cancelled, doing(), "somebody asked to stop"));
    }
    let hopeless = report.hopeless.into_iter().map(|(what, why)| Problem { what, why });
    Ok(of_parity(parity, before).into_iter().chain(hopeless).collect())
}

/// What parity has put right since it had mended so many blobs.
fn of_parity(parity: &ParityStore, before: u64) -> Option<Problem> {
    let mended = parity.status().mended - before;
    let why = format!("{mended} blobs were missing or damaged, and were put right from their parity or twin");
    (mended > 0).then(|| Problem { what: "the store".to_owned(), why })
}

/// What was wrong with each copy since `before`, mended or not.
fn of_copies(named: &NamedVault, before: &[CopyStatus], copies: &ReplicatedStore) -> Vec<Problem> {
    let mut problems = Vec::new();
    for (before, after) in before.iter().zip(copies.status()) {
        let what = format!("copy {} in {}", after.number, after.place);
        let mended = after.repaired - before.repaired;
        if mended > 0 {
            let why = format!(
                "{mended} of its blobs were missing or damaged, and were put right from another copy"
            );
            problems.push(Problem { what: what.clone(), why });
        }
        if let CopyState::Behind(why) | CopyState::Failed(why) | CopyState::Absent(why) = after.state {
            let why = format!(
                "it does not hold everything: {why}; `blockctl vault repair {}` gives it what it lacks",
                named.name
            );
            problems.push(Problem { what, why });
        }
    }
    problems
}

impl Daemon {
    /// Reads and proves all packs of a vault, as a job, from where the last scrub was cut off.
    ///
    /// # Errors
    /// `NotFound`, `Unavailable` if the vault is locked.
    pub fn scrub_vault(&self, name: &str, request: &ScrubVault) -> Result<Job> {
        let named = self.tiers().vaults.get(name)?;
        named.vault()?;
        let new = NewJob {
            operation: "scrub",
            urgency: Urgency::Upkeep,
            item: name.to_owned(),
            keys: vec![format!("check {name}")],
            vault: Some(name.to_owned()),
            ..NewJob::default()
        };
        let (tiers, clock, request) = (self.tiers().clone(), self.clock(), request.clone());
        self.jobs().start(new, move |run| {
            let vault = named.vault()?;
            let before = vault.survey().doing(|| format!("list vault {}", named.name))?;
            let place = ScrubPlace::of(&tiers, &named, request.restart)?;
            let copies = named.copies()?;
            let before_copies = copies.map(|copies| copies.status());
            let parity = named.parity()?;
            let before_parity = parity.map_or(0, |parity| parity.status().mended);
            let scrub = Scrub {
                after: place.after(),
                bytes_per_second: request.bytes_per_second.and_then(NonZeroU64::new),
                // what no copy has right is found by the read that follows
                coming: &|pack| Ok(copies.map_or(0, |copies| copies.prove(pack).unwrap_or(0))),
                passed: &|pack| place.passed(pack),
            };
            if let Some(after) = &scrub.after {
                run.update(|job| job.note = Some(format!("goes on behind {after}")));
            }
            let ended =
                vault.scrub(&scrub, &Follow::new(run)).doing(|| format!("scrub vault {}", named.name));
            // where it was cut off, and what it had found by then
            place.keep(ended.is_ok())?;
            named.keep_damaged(&tiers.catalog)?;
            let report = ended?;
            let mut problems = match (copies, &before_copies) {
                (Some(copies), Some(before)) => of_copies(&named, before, copies),
                _ => Vec::new(),
            };
            problems.extend(parity.and_then(|parity| of_parity(parity, before_parity)));
            let checked = Checked { points: &before.points, report: &report };
            conclude(run, &tiers, &named, &checked, problems, clock.now())
        })
    }
}

/// How far a scrub is.
struct ScrubPlace<'a> {
    tiers: &'a Tiers,
    vault: String,
    last: Mutex<Option<String>>,
    // packs since that was written down
    unkept: AtomicU64,
}

/// Packs read before the place is written down: half a GiB to read again after the host went down.
const PACKS_BETWEEN_NOTES: u64 = 32;

impl<'a> ScrubPlace<'a> {
    fn of(tiers: &'a Tiers, named: &NamedVault, restart: bool) -> Result<Self> {
        let vault = named.key();
        let last = if restart { None } else { tiers.catalog.scrubbed(&vault)? };
        Ok(Self { tiers, vault, last: Mutex::new(last), unkept: AtomicU64::new(0) })
    }

    fn after(&self) -> Option<String> {
        lock(&self.last).clone()
    }

    fn passed(&self, pack: &str) {
        *lock(&self.last) = Some(pack.to_owned());
        if self.unkept.fetch_add(1, Ordering::Relaxed) % PACKS_BETWEEN_NOTES == PACKS_BETWEEN_NOTES - 1
            && let Err(error) = self.keep(false)
        {
            // it is tried again, and the end of the job says so
            tracing::warn!("{}", error.body().message);
        }
    }

    fn keep(&self, is_done: bool) -> Result<()> {
        let last = if is_done { None } else { self.after() };
        self.tiers.catalog.set_scrubbed(&self.vault, last.as_deref())
    }
}

/// Ends the job with what was found.
fn finish(run: &Run, named: &NamedVault, report: &CheckReport, found: VaultCheck) -> Result<()> {
    let broken = (!found.ok).then_some(found.problems.len());
    run.update(|job| {
        job.bytes_read = report.bytes_read.get();
        job.check = Some(found);
    });
    match broken {
        None => Ok(()),
        Some(count) => {
            let why = format!("{count} problem{} found", if count == 1 { "" } else { "s" });
            Err(Error::said(Kind::Corrupt, format!("vault {}", named.name), why).with_help(
                "the job's `check` names them, `blockctl point list` the points that are damaged; all others restore; \
                 `blockctl vault repair` heals from another copy, `blockctl backup DISK --full` from what the disk still has",
            ))
        }
    }
}

/// What was looked at, and what was found.
struct Checked<'a> {
    points: &'a [VaultPoint],
    report: &'a CheckReport,
}

/// Takes note of what a check found. That the host has no room for the note does not make the check fail.
fn remember(
    run: &Run,
    tiers: &Tiers,
    named: &NamedVault,
    checked: &Checked<'_>,
    found: &VaultCheck,
    now: Time,
) -> Result<()> {
    let hurt: Vec<String> = checked.report.hurt.iter().map(|hurt| hurt.manifest.to_string()).collect();
    let looked_at = checked.points.iter().map(|point| point.manifest.to_string());
    let sound: Vec<String> = looked_at.filter(|manifest| !hurt.contains(manifest)).collect();
    let last = LastCheck { time: rfc3339(now), problems: found.problems.len() as u64 };
    let kept = named.keep_damaged(&tiers.catalog);
    match kept.and_then(|()| tiers.catalog.set_checked(&named.name, &last, &sound, &hurt)) {
        Err(error) if error.kind() == Kind::NoSpace => {
            let why = error.body().message;
            let note = format!("what was found is not kept, since the host is full: {why}");
            tracing::warn!(vault = named.name, "{note}");
            run.update(|job| job.note = Some(note));
            Ok(())
        }
        done => done.map(|()| named.forget_met()),
    }
}

/// What the points of a vault are called, by their ids in it: those that can be listed, and those that were.
fn names(tiers: &Tiers, named: &NamedVault) -> Result<HashMap<String, String>> {
    let stored = tiers.catalog.stored(&named.key())?.into_iter();
    let mut names: HashMap<String, String> = stored.map(|point| (point.manifest, point.name)).collect();
    let (points, _) = tiers.held(None);
    for held in points {
        let here = held.stored().filter(|(vault, _)| vault.name == named.name);
        names.extend(here.map(|(_, manifest)| (manifest.to_string(), held.name.clone())));
    }
    Ok(names)
}

fn show(
    tiers: &Tiers,
    named: &NamedVault,
    report: &CheckReport,
    of_copies: Vec<Problem>,
) -> Result<VaultCheck> {
    let (names, lost) = (names(tiers, named)?, tiers.lost(named)?);
    let damage = report.damage.iter().map(|damage| Problem {
        what: damage.blob.clone(),
        why: format!("damaged in its {}: {}", damage.place, damage.why),
    });
    let hurt = report.hurt.iter().map(|hurt| Problem {
        what: match (names.get(&hurt.manifest.to_string()), &hurt.item) {
            (Some(name), _) => format!("recovery point {name}"),
            (None, Some(item)) => format!("recovery point {} of {item}", hurt.manifest),
            (None, None) => format!("recovery point {}", hurt.manifest),
        },
        why: hurt.why.clone(),
    });
    let lost = lost.iter().map(|Stored { manifest, name }| Problem {
        what: format!("recovery point {name}"),
        why: format!("it is lost: its blob {manifest} is missing from the store"),
    });
    let problems: Vec<Problem> = of_copies.into_iter().chain(damage).chain(hurt).chain(lost).collect();
    Ok(VaultCheck {
        vault: named.name.clone(),
        ok: report.is_clean() && problems.is_empty(),
        points: report.points,
        packs: report.packs,
        chunks: report.entries,
        bytes_read: report.bytes_read.get(),
        bytes_unreferenced: report.unreferenced.map(ByteCount::get),
        problems,
    })
}
