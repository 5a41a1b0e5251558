//! A machine's recovery point in the place of what it holds: one safety point of all disks, then each disk by itself as ever, and the
//! definition that belongs to them.

use super::definition::{self, disk_of};
use crate::daemon::Daemon;
use crate::disks::Named;
use crate::error::{Doing, Error, Result};
use crate::points::Held;
use control::{Job, Kind, MachineReplaced, ReplaceMachine};
use machines::{Domain, Reach, ServedDisk, Virsh, with_disk};
use std::sync::Arc;

impl Daemon {
    /// Puts a machine's recovery point in the place of what it holds, as a job for each disk.
    ///
    /// # Errors
    /// `Refused` while it runs; `NotFound` naming the point or a disk; `Conflict` while a job works with one of its disks. Nothing is
    /// changed then.
    pub fn replace_machine(&self, name: &str, request: &ReplaceMachine) -> Result<MachineReplaced> {
        let protected = self.machines().get(name)?;
        let doing = || format!("replace machine {name}");
        if protected.record.attached {
            let why = "it has disks of its own, which are not replaced from here";
            return Err(Error::said(Kind::Unsupported, doing(), why)
                .with_help("`blockctl restore vm POINT --name NEW` makes a new machine of the point"));
        }
        let virsh = Virsh::new(protected.record.uri()?);
        match virsh.is_active(&protected.record.domain) {
            Ok(false) => {}
            Ok(true) => {
                return Err(Error::said(Kind::Refused, doing(), "it runs")
                    .with_help(format!("shut it down first: virsh shutdown {}", protected.record.domain)));
            }
            // one that libvirt does not have any more is defined again
            Err(error) if block::Failure::kind(&error) == block::Kind::NotFound => {}
            Err(error) => return Err(Error::below(doing(), error)),
        }
        let point = if request.undo { self.before_replacement(name)? } else { request.point.clone() };
        let members = self.chosen_members(&point, &request.disks)?;
        let mut disks: Vec<(Arc<Named>, Held)> = Vec::new();
        for (target, held) in members {
            let named = self.tiers().disks.get(&format!("{name}/{target}"))?;
            named.disk()?;
            self.check_replaceable(&named, false)?;
            disks.push((named, held));
        }
        let definition = self.definition_point(&point)?;
        let xml = definition::xml(&self.kept(&definition)?, &definition.name)?;
        let safety = self.take_point(&[name.to_owned()], None)?;
        let safety_of = |named: &Named| {
            let found = safety.iter().find(|held| held.disk == named.id);
            found
                .map(|held| held.state.to_string())
                .ok_or_else(|| Error::not_found(format!("the safety point of {}", named.name)))
        };
        let mut jobs: Vec<Job> = Vec::new();
        for (named, held) in &disks {
            let safety = safety_of(named)?;
            jobs.push(self.replace_by(named, held.clone(), safety, (false, request.verify))?);
        }
        let mut notes = Vec::new();
        if request.disks.is_empty() {
            notes = self.define_again(&virsh, name, &xml, &disks).doing(doing)?;
        }
        let number = safety.first().map_or(0, |held| held.epoch.get());
        tracing::info!(machine = name, point, "is being replaced");
        let point = format!("{name}@{}", definition.epoch);
        Ok(MachineReplaced { point, safety_point: format!("{name}@{number}"), jobs, notes })
    }

    /// The machine's point that was taken before its last replacement.
    fn before_replacement(&self, name: &str) -> Result<String> {
        let disks = &self.tiers().disks;
        for named in disks.of(name)?.into_iter().filter(|named| named.name != disk_of(name)) {
            if let Some(former) = disks.replaced(&named)? {
                let safety = self.tiers().by_state(named.id, &former.safety)?;
                return Ok(format!("{name}@{}", safety.epoch));
            }
        }
        Err(Error::not_found(format!("a replacement of machine {name} to undo"))
            .with_help("`blockctl point list` shows what it can be restored to"))
    }

    /// Defines a machine as it was at a point, with the disks it has here.
    fn define_again(
        &self,
        virsh: &Virsh,
        machine: &str,
        xml: &str,
        disks: &[(Arc<Named>, Held)],
    ) -> machines::Result<Vec<String>> {
        let domain = Domain::parse(xml)?;
        let target = |named: &Named| named.name.rsplit('/').next().unwrap_or_default().to_owned();
        let moved: Vec<ServedDisk> = disks
            .iter()
            .map(|(named, _)| (target(named), named))
            .filter(|(target, named)| {
                domain.disk(target).is_none_or(|disk| self.ours(&disk.source) != Some(&named.name))
            })
            .map(|(target, named)| ServedDisk {
                target,
                reach: Reach::Unix(self.tiers().nbd_socket.clone()),
                export: named.name.clone(),
                serial: None,
            })
            .collect();
        if moved.is_empty() {
            virsh.define(xml)?;
            return Ok(Vec::new());
        }
        let make = |told| moved.iter().try_fold(xml.to_owned(), |xml, disk| with_disk(&xml, disk, told));
        let (_, mut notes) = super::attach::define(virsh, &domain.name, &moved, &make)?;
        notes.push(format!("{machine} had other disks at the point: it is defined with those it has here"));
        Ok(notes)
    }
}
