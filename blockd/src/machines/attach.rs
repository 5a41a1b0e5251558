//! Giving a disk to a machine of libvirt: in its definition, and to the running machine.

use super::{is_same, uri};
use crate::daemon::Daemon;
use crate::error::{Doing, Error, Result};
use crate::names;
use control::{AttachDisk, DiskAttached, Kind};
use machines::{Domain, Reach, ServedDisk, Source, Told, Virsh, free_target, with_disk};

/// What is said where qemu is not told to reconnect.
pub const NO_RECONNECT: &str = "this libvirt cannot tell qemu to reconnect, and drops what is said of it: when blockd restarts, the machine is \
                                paused by its disk's error policy, and `virsh resume` lets it go on";

impl Daemon {
    /// Gives a disk to a machine: in its definition, and now if it runs.
    ///
    /// # Errors
    /// `NotFound` naming disk or machine; `Conflict` if the machine has the disk already; what libvirt says.
    pub fn attach_disk(&self, request: &AttachDisk) -> Result<DiskAttached> {
        let doing = || format!("attach disk {} to machine {}", request.disk, names::shown(&request.domain));
        let named = self.tiers().disks.get(&request.disk)?;
        named.disk()?;
        if names::is_definition(&named.name) {
            return Err(Error::said(Kind::Refused, doing(), "it holds a machine's definition"));
        }
        let virsh = Virsh::new(uri(request.uri.as_deref())?);
        let xml = virsh.definition(&request.domain, true).doing(doing)?;
        let domain = Domain::parse(&xml).doing(doing)?;
        if let Some(has) = domain.disks.iter().find(|disk| self.ours(&disk.source) == Some(&named.name)) {
            return Err(Error::said(
                Kind::Conflict,
                doing(),
                format!("the machine has it as {}", has.target),
            ));
        }
        let target = match &request.target {
            Some(target) => target.clone(),
            None => free_target(&domain).ok_or_else(|| {
                Error::said(Kind::Conflict, doing(), "every name from vda to vdz is taken")
                    .with_help("name one: --target")
            })?,
        };
        check_target(&target)?;
        let takes_place = domain.disk(&target).is_some();
        let reach = Reach::Unix(self.tiers().nbd_socket.clone());
        let disk = ServedDisk { target: target.clone(), reach, export: named.name.clone(), serial: None };
        let (told, mut notes) = define(&virsh, &request.domain, std::slice::from_ref(&disk), &|told| {
            with_disk(&xml, &disk, told)
        })
        .doing(doing)?;
        let is_active = virsh.is_active(&request.domain).doing(doing)?;
        let live = is_active && !request.at_next_start && !takes_place;
        if is_active && takes_place {
            notes.push(format!(
                "the running machine has another disk as {target}: this one takes its place at the next start"
            ));
        }
        let plugged = if live { plug(&virsh, &request.domain, &disk, told) } else { Ok(()) };
        if let Err(error) = &plugged {
            notes.push(format!(
                "the running machine does not take it, and has it from its next start on: {error}"
            ));
        }
        tracing::info!(domain = request.domain, disk = named.name, target, "attached");
        Ok(DiskAttached {
            domain: request.domain.clone(),
            disk: named.name.clone(),
            target,
            passed_on: told == Told::PassedOn,
            live: live && plugged.is_ok(),
            notes,
        })
    }
}

/// A target stands in definitions and in names of block nodes.
fn check_target(target: &str) -> Result<()> {
    match names::is_word(target) && target.len() <= 16 {
        true => Ok(()),
        false => Err(Error::said(
            Kind::Invalid,
            format!("target {:?}", names::shown(target)),
            "is called like vda",
        )),
    }
}

/// Defines a machine with disks of ours: told by libvirt's own elements, or past it where it drops what they say of reconnecting.
/// Who tells qemu then, and what a person should know.
pub fn define(
    virsh: &Virsh,
    domain: &str,
    disks: &[ServedDisk],
    make: &dyn Fn(Told) -> machines::Result<String>,
) -> machines::Result<(Told, Vec<String>)> {
    virsh.define(&make(Told::ByLibvirt)?)?;
    let kept = virsh.domain(domain)?;
    let reconnects = |ours: &ServedDisk| kept.disk(&ours.target).is_some_and(|disk| disk.reconnects);
    if disks.iter().all(reconnects) {
        return Ok((Told::ByLibvirt, Vec::new()));
    }
    let over_tls = disks.iter().any(|disk| matches!(disk.reach, Reach::Tls { .. }));
    match make(Told::PassedOn) {
        // what qemu needs for TLS is libvirt's to know
        Ok(xml) if !over_tls => {
            virsh.define(&xml)?;
            Ok((Told::PassedOn, Vec::new()))
        }
        _ => Ok((Told::ByLibvirt, vec![NO_RECONNECT.to_owned()])),
    }
}

/// Plugs a disk of ours into a running machine.
fn plug(virsh: &Virsh, domain: &str, disk: &ServedDisk, told: Told) -> machines::Result<()> {
    if told == Told::ByLibvirt {
        return virsh.plug(domain, &disk.element(None, ""));
    }
    let execute = |command: &str, arguments: serde_json::Value| {
        virsh.monitor(domain, &serde_json::json!({ "execute": command, "arguments": arguments }))
    };
    execute("blockdev-add", disk.node())?;
    let plugged = execute("device_add", disk.device(None));
    if plugged.is_err() {
        // nothing uses it; a node that stays would hold the export
        let gone = execute("blockdev-del", serde_json::json!({ "node-name": disk.node_name() }));
        if let Err(error) = gone {
            tracing::warn!(domain, "{error}");
        }
    }
    plugged.map(drop)
}

impl Daemon {
    /// The disk of ours that a machine's disk is.
    pub(super) fn ours<'a>(&self, source: &'a Source) -> Option<&'a str> {
        match source {
            Source::Nbd { socket, export } => {
                is_same(socket, &self.tiers().nbd_socket).then_some(export.as_str())
            }
            _ => None,
        }
    }
}
