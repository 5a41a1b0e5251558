//! Sweeps of vaults: packs that no recovery point reaches go, through quarantine.

use crate::daemon::Daemon;
use crate::error::{Doing, Error, Result};
use crate::jobs::{NewJob, Urgency};
use crate::names::rfc3339;
use crate::transfer::Follow;
use block::ByteCount;
use control::{Job, Kind, SweepRun, VaultSweep};

impl Daemon {
    /// Sweeps a vault, as a job.
    ///
    /// # Errors
    /// `NotFound`, `Unavailable` if the vault is locked, `Refused` while the clock is not believed: what is in quarantine goes by time.
    pub fn sweep_vault(&self, name: &str) -> Result<Job> {
        let named = self.tiers().vaults.get(name)?;
        if let Some(why) = self.appliance_clock().freezes() {
            return Err(Error::said(Kind::Refused, format!("sweep vault {name}"), why)
                .with_help("`blockctl clock show` says more"));
        }
        named.vault()?;
        let new = NewJob {
            operation: "sweep",
            urgency: Urgency::Upkeep,
            item: name.to_owned(),
            keys: vec![format!("sweep {name}")],
            vault: Some(name.to_owned()),
            ..NewJob::default()
        };
        self.jobs().start(new, move |run| {
            let doing = || format!("sweep vault {}", named.name);
            let report = named.vault()?.sweep(&Follow::new(run)).doing(doing)?;
            run.update(|job| {
                job.sweep = Some(VaultSweep {
                    vault: named.name.clone(),
                    run: report.run.map(|run| run.to_string()),
                    quarantined: report.quarantined,
                    rewritten: report.rewritten,
                    bytes_rewritten: report.bytes_rewritten.get(),
                    bytes_quarantined: report.quarantined_bytes.get(),
                    deleted: report.deleted,
                    bytes_deleted: report.deleted_bytes.get(),
                    released: report.released,
                });
            });
            Ok(())
        })
    }

    /// The sweeps of a vault whose packs are in quarantine, oldest first.
    ///
    /// # Errors
    /// `NotFound`, `Unavailable` if the vault is locked.
    pub fn sweeps(&self, name: &str) -> Result<Vec<SweepRun>> {
        let named = self.tiers().vaults.get(name)?;
        let runs = named.vault()?.sweeps().doing(|| format!("list the sweeps of vault {name}"))?;
        Ok(runs.iter().map(show).collect())
    }

    /// Takes a sweep back.
    ///
    /// # Errors
    /// `NotFound` naming the vault or the run, `Unavailable` if the vault is locked.
    pub fn undo_sweep(&self, name: &str, run: &str) -> Result<SweepRun> {
        let named = self.tiers().vaults.get(name)?;
        let doing = || format!("undo sweep {run} of vault {name}");
        let vault = named.vault()?;
        let gone = || {
            Error::not_found(format!("sweep {run} of vault {name}"))
                .with_help(format!("`blockctl vault sweep {name} --list` shows what can be undone"))
        };
        let is_it = |one: &&vault::SweepRun| one.run.to_string() == run;
        let runs = vault.sweeps().doing(doing)?;
        let found = runs.iter().find(is_it).ok_or_else(gone)?;
        vault.undo_sweep(&found.run).doing(doing)?;
        Ok(show(found))
    }
}

fn show(run: &vault::SweepRun) -> SweepRun {
    SweepRun {
        run: run.run.to_string(),
        time: rfc3339(run.made),
        packs: run.packs,
        bytes: ByteCount::get(run.bytes),
    }
}
