//! Repair of a vault, as a job: each copy gets what it lacks, then damaged packs are healed by chunk, from other packs, from what the
//! host still has of the disks, and from what other vaults and archives have of them.

use crate::daemon::Daemon;
use crate::error::{Doing, Error, Result};
use crate::jobs::{NewJob, Run, Urgency};
use crate::points::Tiers;
use crate::transfer::Unless;
use crate::vaults::NamedVault;
use block::{BlockSource, DiskId, StateId};
use control::{Job, Kind, Problem, RepairVault, VaultRepair};
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;
use vault::{ChunkRepair, DiskSources, Repaired, ReplicatedStore, Scrub};

/// Blobs nobody can make right that a job names.
const SHOWN_PROBLEMS: usize = 20;

impl Daemon {
    /// Gives each copy of a vault what it lacks and heals what is known to be damaged, as a job; first a lost copy gets its new place, if one
    /// is named.
    ///
    /// # Errors
    /// `NotFound`, `Unavailable` if the vault is locked, `Invalid` if it has no copies and one is named; as
    /// [`Vaults::replace_copy`](crate::vaults::Vaults::replace_copy).
    pub fn repair_vault(&self, name: &str, request: &RepairVault) -> Result<Job> {
        let doing = || format!("repair vault {name}");
        let named = self.tiers().vaults.get(name)?;
        let has_more = named.copies()?.is_some() || (named.parity()?.is_some() && request.copy.is_none());
        if !has_more && (request.copy.is_some() || request.all) {
            return Err(Error::said(Kind::Invalid, doing(), "it has one copy of everything")
                .with_help("`blockctl vault create --store DIR --copy DIR`, or `--parity 8+2`, makes a vault that has more"));
        }
        match (request.copy, &request.store) {
            (None, None) => {}
            (Some(number), Some(store)) => {
                self.tiers().vaults.replace_copy(name, number, Path::new(store))?
            }
            _ => return Err(Error::said(Kind::Invalid, doing(), "a new place needs the number of its copy")),
        }
        let new = NewJob {
            operation: "repair",
            urgency: Urgency::Upkeep,
            item: name.to_owned(),
            keys: vec![format!("check {name}")],
            vault: Some(name.to_owned()),
            ..NewJob::default()
        };
        let (all, tiers) = (request.all, self.tiers().clone());
        self.jobs().start(new, move |run| {
            let doing = || format!("repair vault {}", named.name);
            let of_copies = match (named.copies()?, named.parity()?) {
                (Some(copies), _) => repair(run, copies, all).doing(doing)?,
                (_, Some(parity)) => parity.repair(all, &mut follow(run)).doing(doing)?,
                (None, None) => Repaired::default(),
            };
            run.go_on()?;
            let of_chunks = heal(run, &tiers, &named)?;
            let hopeless = of_copies.hopeless_count + of_chunks.left.len() as u64;
            run.update(|job| job.repair = Some(show(&named.name, of_copies, of_chunks)));
            if hopeless == 0 {
                return Ok(());
            }
            let why = format!("{hopeless} of its blobs are damaged and could not be made right");
            Err(Error::said(Kind::Corrupt, doing(), why).with_help(format!(
                "the job's `repair` names them; `blockctl backup DISK --full` stores again what the disk still has, another repair heals older \
                 points from that; `blockctl vault check {}` names the points that are hurt",
                named.name
            )))
        })
    }
}

/// Heals by chunk what is known to be damaged in a vault, as far as something has what was there.
///
/// # Errors
/// What the vault or the catalog reports.
pub fn heal(run: &Run, tiers: &Arc<Tiers>, named: &Arc<NamedVault>) -> Result<ChunkRepair> {
    let doing = || format!("repair vault {}", named.name);
    let sources = |disk| -> DiskSources {
        Box::new(on_the_host(tiers, disk).chain(in_other_vaults(tiers.clone(), disk, named.key())))
    };
    let healed = named.vault()?.repair(&sources, &Unless(run)).doing(doing)?;
    if !healed.packs.is_empty() {
        forget_healed(run, tiers, named)?;
    }
    named.keep_damaged(&tiers.catalog)?;
    Ok(healed)
}

/// The disk as it is, then its recovery points in the instant tier, newest first.
fn on_the_host(tiers: &Tiers, disk: DiskId) -> DiskSources {
    let named = tiers.disks.all().into_iter().find(|named| named.id == disk);
    let Some(disk) = named.and_then(|named| named.disk().cloned().ok()) else {
        return Box::new(std::iter::empty());
    };
    let states: Vec<StateId> = disk.points().iter().rev().map(|point| point.state).collect();
    let live: Arc<dyn BlockSource> = disk.clone();
    Box::new(
        std::iter::once(live)
            .chain(states.into_iter().filter_map(move |state| disk.point_source(state).ok())),
    )
}

/// Its recovery points in other vaults and in archives, newest first; looked for when nothing nearer had what is wanted.
fn in_other_vaults(tiers: Arc<Tiers>, disk: DiskId, but: String) -> DiskSources {
    let copies = std::iter::once_with(move || {
        let points = tiers.held(None).0.into_iter().filter(move |held| held.disk == disk).rev();
        points.flat_map(|held| held.stored().cloned().collect::<Vec<_>>())
    });
    let others = copies.flatten().filter(move |(vault, _)| vault.key() != but);
    Box::new(others.filter_map(|(vault, manifest)| {
        vault.image(&manifest, || format!("read what vault {} has of it", vault.name)).ok()
    }))
}

/// Points that were found damaged and restore again are said to no more.
fn forget_healed(run: &Run, tiers: &Tiers, named: &NamedVault) -> Result<()> {
    let doing = || format!("repair vault {}", named.name);
    let again = Scrub::of_damaged(&|_| Ok(0), &|_| {});
    let report = named.vault()?.scrub(&again, &Unless(run)).doing(doing)?;
    let hurt: Vec<String> = report.hurt.iter().map(|hurt| hurt.manifest.to_string()).collect();
    tiers.catalog.set_hurt(&named.name, &hurt)?;
    if hurt.is_empty() {
        named.forget_met();
    }
    Ok(())
}

/// Repairs copies; the job shows how far that is, and ends it if it is cancelled.
pub fn repair(run: &Run, copies: &ReplicatedStore, all: bool) -> block::Result<Repaired> {
    copies.repair(all, &mut follow(run))
}

/// Shows a job how far a repair is, and ends it if it was cancelled.
pub fn follow(run: &Run) -> impl FnMut(&Repaired) -> ControlFlow<()> {
    |report| {
        run.update(|job| job.bytes_read = report.bytes_read);
        if run.is_cancelled() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }
}

fn show(vault: &str, report: Repaired, chunks: ChunkRepair) -> VaultRepair {
    let hopeless = report.hopeless_count + chunks.left.len() as u64;
    let of_copies = report.hopeless.into_iter().map(|(what, why)| Problem { what, why });
    let of_chunks = chunks.left.into_iter().map(|damage| Problem {
        what: damage.blob,
        why: format!("damaged in its {}: {}; nothing else has what was there", damage.place, damage.why),
    });
    VaultRepair {
        vault: vault.to_owned(),
        blobs: report.blobs,
        bytes_read: report.bytes_read,
        repaired: report.repaired,
        packs_healed: chunks.packs,
        chunks_from_vault: chunks.from_vault,
        chunks_from_disks: chunks.from_disks,
        hopeless,
        problems: of_copies.chain(of_chunks).take(SHOWN_PROBLEMS).collect(),
    }
}
