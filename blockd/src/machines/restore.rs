//! A machine's recovery point as a new machine: its disks restored or run, its definition with other identities, defined and, if it
//! runs, started.

use super::attach::define;
use super::definition::{self, NVRAM, TPM, nvram_dir, tpm_dir};
use super::record::Record;
use crate::daemon::Daemon;
use crate::error::{Doing, Error, Result};
use crate::jobs::{NewJob, Run, Urgency, disk_key};
use crate::names;
use crate::points::Held;
use crate::restore::restore_to;
use control::{DeleteDiskQuery, Job, Kind, MachineNetwork, RestoreMachine, RunRequest};
use machines::{Domain, Piece, Reach, Renewal, ServedDisk, Uri, Virsh, renew};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// What is to become of a machine's recovery point.
struct Plan {
    request: RestoreMachine,
    /// The disks, with the targets they have.
    members: Vec<(String, Held)>,
    pieces: Vec<Piece>,
    xml: String,
    point: String,
    uri: Uri,
    reach: Reach,
}

/// What is there of a new machine.
#[derive(Default)]
struct Made {
    disks: Vec<String>,
    is_defined: bool,
}

impl Daemon {
    /// A recovery point of a machine as a new machine, as a job.
    ///
    /// # Errors
    /// `NotFound` naming the point or a disk of it, `Conflict` if the name is taken, `Invalid` for a libvirt of another host that is
    /// not told where the exports are.
    pub fn restore_machine(self: &Arc<Self>, request: &RestoreMachine) -> Result<Job> {
        let plan = self.plan_machine(request)?;
        for (target, _) in &plan.members {
            drop(self.tiers().disks.reserve(&format!("{}/{target}", request.name))?);
        }
        let new = NewJob {
            operation: "restore",
            urgency: Urgency::Restore,
            item: names::item_of(&plan.point).to_owned(),
            keys: vec![format!("new machine {}", request.name)],
            reads: plan
                .members
                .iter()
                .filter_map(|(_, held)| Some(disk_key(held.instant.as_ref()?.id)))
                .collect(),
            point: Some(plan.point.clone()),
            target: Some(request.name.clone()),
            ..NewJob::default()
        };
        let daemon = self.clone();
        self.jobs().start(new, move |run| {
            let mut made = Made::default();
            let done = daemon.make_machine(run, &plan, &mut made);
            if done.is_err() {
                daemon.unmake(&plan, &made);
            }
            done
        })
    }

    fn plan_machine(&self, request: &RestoreMachine) -> Result<Plan> {
        let doing = || format!("restore machine {}", names::shown(&request.point));
        if !names::is_machine(&request.name) {
            return Err(Error::said(Kind::Invalid, doing(), "the new machine is called like vm/web-2"));
        }
        if names::machine_word(&request.name).bytes().all(|byte| byte.is_ascii_digit()) {
            let why = "libvirt would take the new machine's name for the number of another";
            return Err(Error::said(Kind::Invalid, doing(), why).with_help("call it like vm/web-2"));
        }
        let definition = self.definition_point(&request.point)?;
        let machine = names::machine_of(&definition.item).to_owned();
        let point = format!("{machine}@{}", definition.epoch);
        let pieces = self.kept(&definition)?;
        let xml = definition::xml(&pieces, &definition.name)?;
        let members = self.chosen_members(&request.point, &request.disks)?;
        let known = self.machines().find(&machine)?.map(|protected| protected.record.uri.clone());
        // whom to connect to is not for a recovery point to say
        let uri = request.uri.clone().or(known).unwrap_or_else(|| Uri::default().to_string());
        let uri = Uri::parse(&uri).doing(doing)?;
        let reach = match &request.exports_at {
            None if !uri.is_elsewhere() => Reach::Unix(self.tiers().nbd_socket.clone()),
            None => {
                return Err(Error::said(
                    Kind::Invalid,
                    doing(),
                    "a libvirt of another host has to be told where our exports are",
                )
                .with_help("--exports-at HOST:PORT, as in `blockd serve --nbd-listen`, with TLS"));
            }
            Some(at) => reach(at)
                .ok_or_else(|| Error::said(Kind::Invalid, doing(), format!("{at:?} is not HOST:PORT")))?,
        };
        let word = names::machine_word(&request.name);
        let virsh = Virsh::new(uri.clone());
        let taken = virsh.list().doing(doing)?.into_iter().any(|listed| listed.name == word);
        if taken {
            let why = format!("libvirt at {uri} has a machine called {word}");
            return Err(Error::said(Kind::Conflict, doing(), why).with_help("choose another --name"));
        }
        Ok(Plan { request: request.clone(), members, pieces, xml, point, uri, reach })
    }

    /// The disks of a machine's point by target, without its definition: all, or these.
    ///
    /// # Errors
    /// `NotFound` naming a target.
    pub(super) fn chosen_members(&self, point: &str, targets: &[String]) -> Result<Vec<(String, Held)>> {
        let target = |held: &Held| held.item.rsplit('/').next().unwrap_or_default().to_owned();
        let members = self.tiers().members(point)?.into_iter();
        let members = members.filter(|held| !names::is_definition(&held.item));
        let mut members: Vec<(String, Held)> = members.map(|held| (target(&held), held)).collect();
        if let Some(missing) =
            targets.iter().find(|wanted| members.iter().all(|(target, _)| target != *wanted))
        {
            let known: Vec<&str> = members.iter().map(|(target, _)| target.as_str()).collect();
            let why = format!("is not in it; there are {}", known.join(", "));
            return Err(Error::said(Kind::NotFound, format!("disk {missing} of {point}"), why));
        }
        members.retain(|(target, _)| targets.is_empty() || targets.contains(target));
        match members.is_empty() {
            true => Err(Error::not_found(format!("a disk of {point}"))),
            false => Ok(members),
        }
    }

    /// Does it. `made` says what is there, for whoever has to take it away.
    fn make_machine(&self, run: &Run, plan: &Plan, made: &mut Made) -> Result<()> {
        let name = &plan.request.name;
        let doing = || format!("restore {} as {name}", plan.point);
        for (target, member) in &plan.members {
            let disk = format!("{name}/{target}");
            if plan.request.run {
                self.run(&RunRequest { point: member.name.clone(), name: disk.clone(), hydrate: true })?;
            } else {
                let id = self.tiers().disks.fresh_id()?;
                restore_to(run, self.tiers(), self.space(), member, (id, &disk), false)?;
            }
            made.disks.push(disk);
        }
        run.go_on()?;
        let notes = self.define_machine(plan).map_err(|error| {
            let help = error.body().help.unwrap_or_else(|| {
                "`virsh define` of what `blockctl vm definition` shows, changed by hand".to_owned()
            });
            error.with_help(help)
        })?;
        made.is_defined = true;
        let record = Record {
            domain: names::machine_word(name).to_owned(),
            uri: plan.uri.to_string(),
            include: Vec::new(),
            exclude: Vec::new(),
            attached: false,
        };
        self.machines().put(name, record)?;
        if plan.request.run {
            Virsh::new(plan.uri.clone()).start(names::machine_word(name)).doing(doing)?;
        }
        if !notes.is_empty() {
            run.update(|job| job.note = Some(notes.join("; ")));
        }
        Ok(())
    }

    /// Writes the files beside the disks and defines the machine. What a person should know.
    fn define_machine(&self, plan: &Plan) -> Result<Vec<String>> {
        let word = names::machine_word(&plan.request.name);
        let doing = || format!("define machine {word}");
        let uuid = self.draw_uuid()?;
        let old = Domain::parse(&plan.xml).doing(doing)?;
        let mut notes = Vec::new();
        let nvram = self.place_files(plan, &old, &uuid, word, &mut notes)?;
        let disks: Vec<ServedDisk> = plan
            .members
            .iter()
            .map(|(target, _)| ServedDisk {
                target: target.clone(),
                reach: plan.reach.clone(),
                export: format!("{}/{target}", plan.request.name),
                serial: old.disk(target).and_then(|disk| disk.serial.clone()),
            })
            .collect();
        // two attempts have the same cards
        let macs: Vec<String> = (0..64).map(|_| self.draw_mac()).collect::<Result<_>>()?;
        let make = |told| {
            let next = std::cell::Cell::new(0);
            let mac = || {
                let at = next.replace(next.get() + 1);
                macs.get(at)
                    .cloned()
                    .ok_or_else(|| machines::Error::Invalid("more than 64 network cards".to_owned()))
            };
            let network = plan.request.network == MachineNetwork::Same;
            let new = Renewal {
                name: word,
                uuid: &uuid,
                mac: &mac,
                network,
                nvram: nvram.clone(),
                disks: &disks,
                told,
            };
            renew(&plan.xml, &new)
        };
        let (_, left_out) = make(machines::Told::ByLibvirt).doing(doing)?;
        if !left_out.is_empty() {
            notes.push(format!(
                "left out, since the point does not have them or they were not asked for: {}",
                left_out.join(", ")
            ));
        }
        let (_, said) =
            define(&Virsh::new(plan.uri.clone()), word, &disks, &|told| make(told).map(|(xml, _)| xml))
                .doing(doing)?;
        notes.extend(said);
        Ok(notes)
    }

    /// Firmware variables and TPM state, where a libvirt of this host will look for them.
    fn place_files(
        &self,
        plan: &Plan,
        old: &Domain,
        uuid: &str,
        word: &str,
        notes: &mut Vec<String>,
    ) -> Result<Option<PathBuf>> {
        let has = |front: &str| plan.pieces.iter().any(|piece| piece.name.starts_with(front));
        if plan.uri.is_elsewhere() {
            if has(NVRAM) || has(TPM) {
                notes.push("firmware variables and TPM state are not brought to another host: the machine starts with new ones".to_owned());
            }
            return Ok(None);
        }
        write_tpm(&plan.pieces, &tpm_dir(&plan.uri, uuid))?;
        // where libvirt has them, whatever the definition in the point says: that may be of anybody's making
        let path = old.nvram.as_ref().map(|_| nvram_dir(&plan.uri).join(format!("{word}_VARS.fd")));
        match (path, plan.pieces.iter().find(|piece| piece.name == NVRAM)) {
            (Some(path), Some(piece)) => {
                write_new(&path, &piece.bytes)?;
                Ok(Some(path))
            }
            _ => Ok(None),
        }
    }

    /// Takes away what is there of a new machine that did not become one.
    fn unmake(&self, plan: &Plan, made: &Made) {
        let name = &plan.request.name;
        let left = |what: &str, why: String| {
            tracing::warn!(machine = name, "{what} is left of a restore that failed: {why}")
        };
        if made.is_defined {
            if let Err(error) = Virsh::new(plan.uri.clone()).undefine(names::machine_word(name)) {
                left("its definition", error.to_string());
            }
            if self.machines().find(name).is_ok_and(|found| found.is_some())
                && let Err(error) = self.machines().remove(name)
            {
                left("its record", error.body().message);
            }
        }
        for disk in &made.disks {
            if let Err(error) = self.delete_disk(disk, &DeleteDiskQuery::default()) {
                left(disk, error.body().message);
            }
        }
    }

    /// A random UUID, version 4.
    fn draw_uuid(&self) -> Result<String> {
        let mut bytes = [0; 16];
        self.tiers().disks.env().entropy.fill(&mut bytes).doing(|| "draw a UUID".to_owned())?;
        bytes[6] = (bytes[6] & 0x0f) | 0x40;
        bytes[8] = (bytes[8] & 0x3f) | 0x80;
        let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        Ok(format!("{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]))
    }

    /// An address of a network card, of those that are qemu's.
    fn draw_mac(&self) -> Result<String> {
        let mut bytes = [0; 3];
        self.tiers().disks.env().entropy.fill(&mut bytes).doing(|| "draw an address".to_owned())?;
        Ok(format!("52:54:00:{:02x}:{:02x}:{:02x}", bytes[0], bytes[1], bytes[2]))
    }
}

fn reach(at: &str) -> Option<Reach> {
    let (host, port) = at.rsplit_once(':')?;
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let is_host =
        !host.is_empty() && host.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".-:".contains(&byte));
    is_host.then_some(Reach::Tls { host: host.to_owned(), port: port.parse().ok()? })
}

/// Writes a file that is not there yet.
fn write_new(path: &Path, bytes: &[u8]) -> Result<()> {
    use std::io::Write;
    use std::os::unix::fs::OpenOptionsExt;
    let failed = |error| Error::host(format!("write {}", path.display()), error);
    if let Some(dir) = path.parent() {
        std::fs::create_dir_all(dir).map_err(failed)?;
    }
    let mut file =
        std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).map_err(failed)?;
    file.write_all(bytes).and_then(|()| file.sync_all()).map_err(failed)
}

fn write_tpm(pieces: &[Piece], dir: &Path) -> Result<()> {
    for piece in pieces {
        if let Some(name) = piece.name.strip_prefix(TPM).and_then(|name| name.strip_prefix('/')) {
            write_new(&dir.join(name), &piece.bytes)?;
        }
    }
    Ok(())
}
