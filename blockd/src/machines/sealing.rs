//! A recovery point of items, some of which are machines: what is kept of each machine is brought up to date, then all disks are
//! sealed at one instant, as consistent as their machines can be had.

use crate::daemon::Daemon;
use crate::error::{Error, Result};
use crate::names::is_machine;
use crate::points::Held;
use block::sync::lock;
use control::{Consistency, Kind};
use std::collections::BTreeSet;

impl Daemon {
    /// Recovery point now, of all these disks and machines.
    ///
    /// # Errors
    /// As [`Daemon::quiesced`]; a machine of which a disk would be missing.
    pub(crate) fn take_point(&self, items: &[String], require: Option<Consistency>) -> Result<Vec<Held>> {
        let mut machines = Vec::new();
        // each once and in one order, whoever asks, so that two never wait for each other
        let mut named = BTreeSet::new();
        for item in items {
            named.extend(self.tiers().disks.groups.parts(item)?);
        }
        for item in named.iter().filter(|item| is_machine(item)) {
            machines.extend(self.machines().find(item)?);
        }
        let _one_at_a_time: Vec<_> = machines.iter().map(|machine| lock(&machine.sealing)).collect();
        machines.iter().try_for_each(|machine| self.refresh(machine))?;
        match machines.iter().find(|machine| machine.record.attached) {
            None => self.quiesced(items, require),
            Some(machine) if items == [machine.name.clone()] => self.pull_points(machine, require),
            Some(machine) => {
                let why = format!(
                    "{} stays on its own images, and has its points at instants of its own",
                    machine.name
                );
                Err(Error::said(Kind::Unsupported, format!("recovery point of {}", items.join(", ")), why)
                    .with_help(format!("take its points alone: `blockctl snapshot {}`", machine.name)))
            }
        }
    }
}
