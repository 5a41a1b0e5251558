//! A disk of ours as a machine has it: what libvirt's definition says, and what qemu is told where libvirt cannot say it.

use super::edit::{Edits, escape};
use super::{NODE, QEMU_NS, document, element, elements};
use crate::error::{Error, Result};
use roxmltree::Node;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

/// How long qemu tries to reach a server that is gone before requests fail, in seconds. A restart takes one; then the
/// machine is paused.
pub const RECONNECT_SECONDS: u32 = 30;

/// Where exports are served.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reach {
    /// Behind a unix socket of the machine's host.
    Unix(PathBuf),
    /// At another host, over TLS.
    Tls {
        /// The host.
        host: String,
        /// The port.
        port: u16,
    },
}

/// A disk of ours.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServedDisk {
    /// What it is called in the machine: `vda`.
    pub target: String,
    /// Where it is served.
    pub reach: Reach,
    /// Its export.
    pub export: String,
    /// Its serial, if it is to have one; else what the disk in its place has.
    pub serial: Option<String>,
}

/// Who tells qemu of a disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Told {
    /// libvirt, by its own element. One older than 9.1 drops what is said of reconnecting.
    ByLibvirt,
    /// We, by arguments that libvirt passes on. It does not know the disk then.
    PassedOn,
}

impl ServedDisk {
    /// What is written for it in a definition, in the place of `old` if there is one, whose bus, address, boot order and serial stay.
    pub fn element(&self, old: Option<Node<'_, '_>>, xml: &str) -> String {
        let kept = |name: &'static str| old.and_then(|old| element(old, name)).map(|node| &xml[node.range()]);
        let bus = old.and_then(|old| element(old, "target")?.attribute("bus"));
        let bus = bus.unwrap_or_else(|| bus_of(&self.target));
        let export = escape(&self.export);
        let host = match &self.reach {
            Reach::Unix(socket) => format!(
                "<source protocol='nbd' name='{export}'><host transport='unix' socket='{}'/>",
                escape(&socket.to_string_lossy())
            ),
            Reach::Tls { host, port } => format!(
                "<source protocol='nbd' name='{export}' tls='yes'><host name='{}' port='{port}'/>",
                escape(host)
            ),
        };
        let serial = self.serial.as_ref().map(|serial| format!("<serial>{}</serial>", escape(serial)));
        let serial = serial.or_else(|| kept("serial").map(str::to_owned)).unwrap_or_default();
        format!(
            "<disk type='network' device='disk'>\
             <driver name='qemu' type='raw' cache='none' error_policy='stop' rerror_policy='stop' discard='unmap'/>\
             {host}<reconnect delay='{RECONNECT_SECONDS}'/></source><target dev='{}' bus='{}'/>{serial}{}{}</disk>",
            escape(&self.target),
            escape(bus),
            kept("boot").unwrap_or_default(),
            kept("address").unwrap_or_default(),
        )
    }

    /// The block node, as qemu takes it on its command line and from its monitor.
    pub fn node(&self) -> Value {
        let server = match &self.reach {
            Reach::Unix(path) => json!({ "type": "unix", "path": path.to_string_lossy() }),
            Reach::Tls { host, port } => json!({ "type": "inet", "host": host, "port": port.to_string() }),
        };
        json!({
            "driver": "nbd",
            "node-name": self.node_name(),
            "server": server,
            "export": self.export,
            "reconnect-delay": RECONNECT_SECONDS,
            "discard": "unmap",
            "cache": { "direct": true },
        })
    }

    /// The name of the block node.
    pub fn node_name(&self) -> String {
        format!("{NODE}{}", self.target)
    }

    /// The device.
    pub fn device(&self, boot: Option<u32>) -> Value {
        let mut device = json!({
            "driver": "virtio-blk-pci",
            "id": format!("{}-device", self.node_name()),
            "drive": self.node_name(),
            "werror": "stop",
            "rerror": "stop",
        });
        if let Some(serial) = &self.serial {
            device["serial"] = json!(serial);
        }
        if let Some(boot) = boot {
            device["bootindex"] = json!(boot);
        }
        device
    }
}

/// The bus a disk of this name is on.
fn bus_of(target: &str) -> &'static str {
    match target.get(..2) {
        Some("sd") => "scsi",
        Some("hd") => "ide",
        _ => "virtio",
    }
}

/// A definition with a disk of ours in it: in the place of the disk with its target, or as one more.
///
/// # Errors
/// `Corrupt` if that is no definition; `Invalid` if only virtio disks can be passed on, and this is another.
pub fn with_disk(xml: &str, disk: &ServedDisk, told: Told) -> Result<String> {
    let document = document(xml)?;
    let mut edits = Edits::of(xml);
    put_disks(&mut edits, document.root_element(), xml, std::slice::from_ref(disk), told)?;
    let changed = edits.apply();
    super::Domain::parse(&changed)?;
    Ok(changed)
}

/// A definition in which a disk lies in a file of the host, with address, boot order and serial as before; one that was passed on to
/// qemu is libvirt's again.
///
/// # Errors
/// `Corrupt` if that is no definition, or does not have the disk.
pub fn with_file(xml: &str, target: &str, path: &Path, format: &str) -> Result<String> {
    let domain = super::Domain::parse(xml)?;
    let known = domain.disk(target).ok_or_else(|| Error::Definition(format!("has no disk {target}")))?;
    let document = document(xml)?;
    let root = document.root_element();
    let devices = element(root, "devices").ok_or_else(|| Error::Definition("has no devices".to_owned()))?;
    let is_it = |disk: &Node<'_, '_>| {
        element(*disk, "target").is_some_and(|found| found.attribute("dev") == Some(target))
    };
    let old = elements(devices, "disk").find(is_it);
    let kept =
        |name: &'static str| old.and_then(|old| element(old, name)).map_or("", |node| &xml[node.range()]);
    let bus = escape(known.bus.as_deref().unwrap_or_else(|| bus_of(target)));
    let serial = known.serial.as_ref().map(|serial| format!("<serial>{}</serial>", escape(serial)));
    let disk = format!(
        "<disk type='file' device='disk'><driver name='qemu' type='{}' discard='unmap'/><source file='{}'/>\
         <target dev='{}' bus='{bus}'/>{}{}{}</disk>",
        escape(format),
        escape(&path.to_string_lossy()),
        escape(target),
        serial.unwrap_or_default(),
        kept("boot"),
        kept("address"),
    );
    let mut edits = Edits::of(xml);
    ours_passed_on(root, &|passed| passed == target).into_iter().for_each(|arg| edits.remove(arg));
    match old {
        Some(old) => edits.replace(old, disk),
        None => edits.append(devices, &disk),
    }
    let changed = edits.apply();
    super::Domain::parse(&changed)?;
    Ok(changed)
}

/// Puts disks of ours into a definition.
pub(super) fn put_disks(
    edits: &mut Edits<'_>,
    root: Node<'_, '_>,
    xml: &str,
    disks: &[ServedDisk],
    told: Told,
) -> Result<()> {
    let devices = element(root, "devices").ok_or_else(|| Error::Definition("has no devices".to_owned()))?;
    let is_replaced = |target: &str| disks.iter().any(|disk| disk.target == target);
    ours_passed_on(root, &is_replaced).into_iter().for_each(|arg| edits.remove(arg));
    let mut args = String::new();
    for disk in disks {
        let target_of = |node: Node<'_, '_>| {
            element(node, "target").and_then(|target| target.attribute("dev").map(str::to_owned))
        };
        let old = elements(devices, "disk").find(|node| target_of(*node).as_deref() == Some(&disk.target));
        match (told, old) {
            (Told::ByLibvirt, Some(old)) => edits.replace(old, disk.element(Some(old), xml)),
            (Told::ByLibvirt, None) => edits.append(devices, &disk.element(None, xml)),
            (Told::PassedOn, old) => {
                let bus = old.and_then(|old| element(old, "target")?.attribute("bus"));
                if bus.unwrap_or_else(|| bus_of(&disk.target)) != "virtio" {
                    let why = "only a virtio disk can be passed on to qemu by a libvirt that cannot say how to reconnect";
                    return Err(Error::Invalid(format!("disk {}: {why}", disk.target)));
                }
                let boot = old.and_then(|old| element(old, "boot")?.attribute("order")?.parse().ok());
                let serial =
                    old.and_then(|old| element(old, "serial")?.text().map(|text| text.trim().to_owned()));
                old.into_iter().for_each(|old| edits.remove(old));
                let disk = ServedDisk { serial: disk.serial.clone().or(serial), ..disk.clone() };
                for (word, value) in [("-blockdev", disk.node()), ("-device", disk.device(boot))] {
                    args += &format!("<arg value='{word}'/><arg value='{}'/>", escape(&value.to_string()));
                }
            }
        }
    }
    if !args.is_empty() {
        // a namespace of its own, whatever prefix the definition has for it
        let line = root.children().find(|node| node.has_tag_name((QEMU_NS, "commandline")));
        let args = args.replace("<arg ", &format!("<arg xmlns='{QEMU_NS}' "));
        match line {
            Some(line) => edits.append(line, &args),
            None => edits.append(root, &format!("<commandline xmlns='{QEMU_NS}'>{args}</commandline>")),
        }
    }
    Ok(())
}

/// The arguments of disks of ours that are passed on to qemu, those whose target `which` says.
pub(super) fn ours_passed_on<'a, 'i>(root: Node<'a, 'i>, which: &dyn Fn(&str) -> bool) -> Vec<Node<'a, 'i>> {
    let lines = root.children().filter(|node| node.has_tag_name((QEMU_NS, "commandline")));
    let args: Vec<Node<'_, '_>> =
        lines.flat_map(|line| line.children().filter(|node| node.has_tag_name((QEMU_NS, "arg")))).collect();
    let is_ours = |arg: &Node<'_, '_>| {
        let Some(Ok(value)) = arg.attribute("value").map(serde_json::from_str::<Value>) else { return false };
        let name = value["node-name"].as_str().or_else(|| value["drive"].as_str());
        name.and_then(|name| name.strip_prefix(NODE)).is_some_and(which)
    };
    args.windows(2).filter(|pair| is_ours(&pair[1])).flatten().copied().collect()
}

/// The first target that no disk has: `vda`, `vdb`, …
pub fn free_target(domain: &super::Domain) -> Option<String> {
    let mut names = (b'a'..=b'z').map(|letter| format!("vd{}", char::from(letter)));
    names.find(|name| domain.disk(name).is_none())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Domain, Source};

    const WHOLE: &str = include_str!("../../tests/data/web.xml");

    fn disk(target: &str) -> ServedDisk {
        let reach = Reach::Unix("/run/b & c/nbd.sock".into());
        ServedDisk { target: target.into(), reach, export: format!("vm/web/{target}"), serial: None }
    }

    #[test]
    fn a_disk_takes_the_place_of_another_or_is_one_more() {
        for told in [Told::ByLibvirt, Told::PassedOn] {
            for target in ["vda", "vdb", "vdd", "vde"] {
                let changed = with_disk(WHOLE, &disk(target), told).expect("a definition");
                let domain = Domain::parse(&changed).expect("a definition");
                let found: Vec<_> = domain.disks.iter().filter(|found| found.target == target).collect();
                assert_eq!(found.len(), 1, "{told:?} {target}\n{changed}");
                let source =
                    Source::Nbd { socket: "/run/b & c/nbd.sock".into(), export: format!("vm/web/{target}") };
                assert_eq!(
                    (&found[0].source, found[0].is_passed_on),
                    (&source, told == Told::PassedOn),
                    "{changed}"
                );
                let others = Domain::parse(WHOLE).expect("a definition").disks;
                let others = others.iter().filter(|other| other.target != target);
                assert!(others.into_iter().all(|other| domain.disks.contains(other)), "{changed}");
                assert!(changed.contains("kept as it is: &amp; &lt;"));
            }
        }
        let inserted = with_disk(WHOLE, &disk("vda"), Told::ByLibvirt).expect("a definition");
        for kept in [
            "<serial>root</serial>",
            "<boot order='1'/>",
            "slot='0x00' function='0x0'",
            "reconnect delay='30'",
        ] {
            assert!(inserted.contains(kept), "{kept}\n{inserted}");
        }
        let passed = with_disk(WHOLE, &disk("vda"), Told::PassedOn).expect("a definition");
        assert!(
            passed.contains("reconnect-delay&quot;:30") && passed.contains("bootindex&quot;:1"),
            "{passed}"
        );
        assert!(with_disk(WHOLE, &disk("sda"), Told::PassedOn).is_err(), "a SATA disk");
        assert_eq!(free_target(&Domain::parse(WHOLE).expect("one")).as_deref(), Some("vde"));
    }

    #[test]
    fn off_host_it_is_tls() {
        let reach = Reach::Tls { host: "far".into(), port: 10809 };
        let far = ServedDisk { reach, ..disk("vde") };
        let changed = with_disk(WHOLE, &far, Told::ByLibvirt).expect("a definition");
        assert!(changed.contains("tls='yes'><host name='far' port='10809'/>"), "{changed}");
    }
}
