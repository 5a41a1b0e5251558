//! Whole machines: which are protected, what is kept of each with its recovery points, and how one is brought back. The crate
//! `machines` speaks to libvirt and qemu; here its words and those of disks and points meet. `docs/machines.md` has the rules.

mod attach;
mod definition;
mod migrate;
mod record;
mod replace;
mod restore;
mod sealing;

pub use record::{DIR, Machines, Protected, Record};

use crate::daemon::Daemon;
use crate::error::{Doing, Error, Result};
use crate::names::{self, PointName};
use control::{Definition, Kind, Machine, MachineDisk, MachinesQuery, ProtectMachine};
use machines::{Domain, DomainDisk, Source, Uri, Virsh, choose};
use std::path::Path;

impl Daemon {
    /// Protected machines, and those that libvirt has besides.
    ///
    /// # Errors
    /// `Invalid` for a URI that is none. What does not answer is a warning.
    pub fn list_machines(&self, query: &MachinesQuery) -> Result<control::Machines> {
        let uri = uri(query.uri.as_deref())?;
        let mut machines: Vec<Machine> =
            self.machines().all().iter().map(|one| self.show_machine(one)).collect();
        let known =
            |name: &str| machines.iter().any(|machine| machine.domain == name && machine.uri == uri.as_str());
        let mut warnings = Vec::new();
        let virsh = Virsh::new(uri.clone());
        match virsh.list() {
            Ok(listed) => {
                let others: Vec<Machine> = listed
                    .into_iter()
                    .filter(|listed| !known(&listed.name))
                    .map(|listed| self.look_at(&virsh, None, &listed.name, (&[], &[])))
                    .collect();
                machines.extend(others);
            }
            Err(error) => warnings.push(Error::below("list the machines of libvirt", error).body().message),
        }
        Ok(control::Machines { machines, warnings })
    }

    /// One protected machine.
    ///
    /// # Errors
    /// `NotFound`.
    pub fn machine(&self, name: &str) -> Result<Machine> {
        Ok(self.show_machine(&*self.machines().get(name)?))
    }

    /// Protects a machine, or anew with other disks.
    ///
    /// # Errors
    /// `NotFound` if libvirt does not have it; `Invalid` for a name or a choice of disks that makes no sense.
    pub fn protect_machine(&self, name: &str, request: &ProtectMachine) -> Result<Machine> {
        if !names::is_machine(name) {
            return Err(Error::said(
                Kind::Invalid,
                format!("machine {:?}", names::shown(name)),
                "is called like vm/web",
            ));
        }
        let uri = uri(request.uri.as_deref())?;
        let doing = || format!("protect machine {}", names::shown(&request.domain));
        let domain = Virsh::new(uri.clone()).domain(&request.domain).doing(doing)?;
        choose(&domain.disks, &request.include, &request.exclude).doing(doing)?;
        let twice = self.machines().all().into_iter().find(|other| {
            other.name != name
                && (&other.record.domain, other.record.uri.as_str()) == (&domain.name, uri.as_str())
        });
        if let Some(other) = twice {
            return Err(Error::said(
                Kind::Conflict,
                doing(),
                format!("it is protected already, as {}", other.name),
            ));
        }
        let record = Record {
            domain: domain.name,
            uri: uri.to_string(),
            include: request.include.clone(),
            exclude: request.exclude.clone(),
            attached: request.attached,
        };
        let protected = self.machines().put(name, record)?;
        tracing::info!(machine = name, domain = protected.record.domain, "protected");
        Ok(self.show_machine(&protected))
    }

    /// Forgets a machine; its disks and recovery points stay.
    ///
    /// # Errors
    /// `NotFound`; what the host reports.
    pub fn unprotect_machine(&self, name: &str) -> Result<Machine> {
        let shown = self.machine(name)?;
        self.machines().remove(name)?;
        tracing::info!(machine = name, "no longer protected");
        Ok(shown)
    }

    /// What a recovery point of a machine holds of it beside its disks.
    ///
    /// # Errors
    /// `NotFound`; what keeps it from being read.
    pub fn definition(&self, point: &str) -> Result<Definition> {
        let parsed = PointName::parse(point)?;
        let point = match names::is_machine(&parsed.item) {
            true => self.definition_point(point)?,
            false => self.tiers().find(point)?,
        };
        let pieces = self.kept(&point)?;
        Ok(Definition {
            point: point.name.clone(),
            domain_xml: definition::xml(&pieces, &point.name)?,
            files: pieces.into_iter().map(|piece| piece.name).collect(),
        })
    }

    fn show_machine(&self, protected: &Protected) -> Machine {
        let record = &protected.record;
        match record.uri() {
            Ok(uri) => {
                let chosen = (record.include.as_slice(), record.exclude.as_slice());
                self.look_at(&Virsh::new(uri), Some(&protected.name), &record.domain, chosen)
            }
            Err(error) => Machine {
                name: Some(protected.name.clone()),
                domain: record.domain.clone(),
                uri: record.uri.clone(),
                uuid: None,
                state: None,
                disks: Vec::new(),
                warnings: vec![error.body().message],
            },
        }
    }

    /// A machine as libvirt has it now. What cannot be looked at is a warning.
    fn look_at(
        &self,
        virsh: &Virsh,
        name: Option<&str>,
        domain: &str,
        (include, exclude): (&[String], &[String]),
    ) -> Machine {
        let mut shown = Machine {
            name: name.map(str::to_owned),
            domain: domain.to_owned(),
            uri: virsh.uri().to_string(),
            uuid: None,
            state: None,
            disks: Vec::new(),
            warnings: Vec::new(),
        };
        let looked = virsh.domain(domain).and_then(|domain| Ok((virsh.state(&domain.name)?, domain)));
        let (state, domain) = match looked {
            Ok(looked) => looked,
            Err(error) => {
                shown.warnings.push(Error::below("look at it", error).body().message);
                return shown;
            }
        };
        let choices = choose(&domain.disks, include, exclude).unwrap_or_else(|error| {
            // a disk that was named is gone
            shown.warnings.push(error.to_string());
            choose(&domain.disks, &[], &[]).unwrap_or_default()
        });
        (shown.uuid, shown.state) = (domain.uuid.clone(), Some(state));
        for (disk, choice) in domain.disks.iter().zip(choices) {
            let ours = self.ours(&disk.source).map(str::to_owned);
            if let Some(name) = name
                && choice.left_out.is_none()
                && let Some(why) = self.not_served(name, disk)
            {
                shown.warnings.push(why);
            }
            shown.disks.push(MachineDisk {
                target: disk.target.clone(),
                serial: disk.serial.clone(),
                source: told(&disk.source),
                disk: ours,
                left_out: choice.left_out,
            });
        }
        shown
    }

    /// Why a disk of a machine would not be in its recovery points.
    fn not_served(&self, machine: &str, disk: &DomainDisk) -> Option<String> {
        if self.machines().find(machine).ok().flatten().is_some_and(|it| it.record.attached) {
            // it is to stay where it is, and is pulled
            return None;
        }
        let wanted = format!("{machine}/{}", disk.target);
        match self.ours(&disk.source) {
            Some(ours) if ours == wanted => None,
            Some(ours) => Some(format!(
                "disk {} is {ours}, and the machine's points are made of disks called {machine}/…: with the machine shut off, `blockctl disk \
                 rename {ours} {wanted}` and attach it again",
                disk.target
            )),
            None => Some(format!(
                "disk {} lies in {} and is in no recovery point",
                disk.target,
                told(&disk.source)
            )),
        }
    }

    /// Refuses a machine of which a protected disk would be in no recovery point.
    fn check_served(&self, protected: &Protected, domain: &Domain) -> Result<()> {
        let record = &protected.record;
        let doing = || format!("take a recovery point of {}", protected.name);
        let choices = choose(&domain.disks, &record.include, &record.exclude).doing(doing)?;
        let chosen = domain.disks.iter().zip(&choices).filter(|(_, choice)| choice.left_out.is_none());
        let problems: Vec<String> =
            chosen.filter_map(|(disk, _)| self.not_served(&protected.name, disk)).collect();
        if problems.is_empty() {
            return Ok(());
        }
        Err(Error::said(Kind::Conflict, doing(), problems.join("; ")).with_help(
            "bring the disk here with `blockctl vm attach`, or leave it out: `blockctl vm protect DOMAIN --exclude TARGET`",
        ))
    }

    /// What went wrong with machines without keeping their points from being made.
    pub(crate) fn machine_warnings(&self) -> Vec<String> {
        self.machines().warnings()
    }
}

/// The libvirt that is meant.
fn uri(text: Option<&str>) -> Result<Uri> {
    text.map_or_else(|| Ok(Uri::default()), |text| Uri::parse(text).doing(|| "reach libvirt".to_owned()))
}

/// Where a disk's bytes are, for people.
fn told(source: &Source) -> String {
    match source {
        Source::File(path) | Source::Device(path) => path.display().to_string(),
        Source::Nbd { export, socket } => format!("export {export} at {}", socket.display()),
        Source::Other(kind) => format!("a source of type {kind}"),
        Source::Empty => "nothing".to_owned(),
    }
}

fn is_same(one: &Path, other: &Path) -> bool {
    one == other || one.canonicalize().ok().zip(other.canonicalize().ok()).is_some_and(|(a, b)| a == b)
}
