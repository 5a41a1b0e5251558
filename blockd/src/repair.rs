//! Repair of the copies of a vault, as a job.

use crate::daemon::Daemon;
use crate::error::{Doing, Error, Result};
use crate::jobs::{NewJob, Run, Urgency};
use control::{Job, Kind, Problem, RepairVault, VaultRepair};
use std::ops::ControlFlow;
use std::path::Path;
use vault::{Repaired, ReplicatedStore};

/// Blobs nobody can make right that a job names.
const SHOWN_PROBLEMS: usize = 20;

impl Daemon {
    /// Gives each copy of a vault what it lacks, as a job; first a lost copy its new place, if one is named.
    ///
    /// # Errors
    /// `NotFound`, `Unavailable` if the vault is locked, `Invalid` if it has no copies; as
    /// [`Vaults::replace_copy`](crate::vaults::Vaults::replace_copy).
    pub fn repair_vault(&self, name: &str, request: &RepairVault) -> Result<Job> {
        let doing = || format!("repair vault {name}");
        let named = self.tiers().vaults.get(name)?;
        if named.copies()?.is_none() {
            return Err(Error::said(Kind::Invalid, doing(), "it has one copy of everything")
                .with_help("`blockctl vault create --store DIR --copy DIR` makes a vault that has more"));
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
        let all = request.all;
        self.jobs().start(new, move |run| {
            let doing = || format!("repair vault {}", named.name);
            let Some(copies) = named.copies()? else { return Ok(()) };
            let report = repair(run, copies, all).doing(doing)?;
            if run.is_cancelled() {
                return Err(Error::said(Kind::Cancelled, doing(), "somebody asked to stop"));
            }
            let hopeless = report.hopeless_count;
            run.update(|job| job.repair = Some(show(&named.name, report)));
            if hopeless == 0 {
                return Ok(());
            }
            let why = format!("no copy has {hopeless} of its blobs whole");
            Err(Error::said(Kind::Corrupt, doing(), why).with_help(format!(
                "the job's `repair` names them; `blockctl vault check {}` names the points that are hurt",
                named.name
            )))
        })
    }
}

/// Repairs copies; the job shows how far that is, and ends it if it is cancelled.
pub fn repair(run: &Run, copies: &ReplicatedStore, all: bool) -> block::Result<Repaired> {
    copies.repair(all, &mut |report: &Repaired| {
        run.update(|job| job.bytes_read = report.bytes_read);
        if run.is_cancelled() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    })
}

fn show(vault: &str, report: Repaired) -> VaultRepair {
    let problems = report.hopeless.into_iter().take(SHOWN_PROBLEMS).map(|(what, why)| Problem { what, why });
    VaultRepair {
        vault: vault.to_owned(),
        blobs: report.blobs,
        bytes_read: report.bytes_read,
        repaired: report.repaired,
        hopeless: report.hopeless_count,
        problems: problems.collect(),
    }
}
