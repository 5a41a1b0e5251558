//! A machine's definition as libvirt writes it: read within bounds. What is not asked for here is not looked at.

mod choice;
pub(crate) mod edit;
mod renewal;
mod served;

pub use choice::{Choice, choose};
pub use renewal::{Renewal, renew};
pub use served::{RECONNECT_SECONDS, Reach, ServedDisk, Told, free_target, with_disk, with_file};

use crate::error::{Error, Result};
use roxmltree::{Document, Node, ParsingOptions};
use std::path::PathBuf;

/// A machine's definition is far smaller.
pub const LIMIT_BYTES: usize = 4 << 20;
/// Elements, attributes and texts of a definition: one with a thousand disks has some ten thousand.
const NODES_LIMIT: u32 = 200_000;
/// Disks of a machine. qemu gives out before.
const DISKS_LIMIT: usize = 1024;

/// The namespace of what libvirt passes on to qemu.
pub const QEMU_NS: &str = "http://libvirt.org/schemas/domain/qemu/1.0";
/// What begins the names of block nodes that we pass on.
pub const NODE: &str = "blockd-";

/// What is known of a machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Domain {
    /// Its name.
    pub name: String,
    /// Its UUID.
    pub uuid: Option<String>,
    /// Its disks, in the order of the definition.
    pub disks: Vec<DomainDisk>,
    /// The file of its firmware's variables.
    pub nvram: Option<PathBuf>,
    /// Whether it has an emulated TPM, whose state lies in a directory of libvirt's.
    pub has_tpm: bool,
    /// Whether a guest agent can be asked.
    pub has_agent: bool,
}

/// A disk of a machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DomainDisk {
    /// What it is called in the machine: `vda`.
    pub target: String,
    /// What it is plugged into: `virtio`, `scsi`.
    pub bus: Option<String>,
    /// Its serial.
    pub serial: Option<String>,
    /// The name a person gave it.
    pub alias: Option<String>,
    /// What kind of medium.
    pub medium: Medium,
    /// Where its bytes are.
    pub source: Source,
    /// Their format: `raw`, `qcow2`.
    pub format: Option<String>,
    /// Whether it cannot be written.
    pub readonly: bool,
    /// Whether what is written is thrown away at its end.
    pub transient: bool,
    /// Whether several machines write to it.
    pub shareable: bool,
    /// Whether qemu tries to reach its server again for a while.
    pub reconnects: bool,
    /// Whether libvirt only passes it on to qemu.
    pub is_passed_on: bool,
}

impl DomainDisk {
    /// The file or device of the host that it is.
    pub fn path(&self) -> Option<&std::path::Path> {
        match &self.source {
            Source::File(path) | Source::Device(path) => Some(path),
            _ => None,
        }
    }
}

/// What kind of medium a disk is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Medium {
    /// A disk.
    Disk,
    /// A CD, a floppy, or a device that is passed through.
    Other,
}

/// Where a disk's bytes are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// A file of the host.
    File(PathBuf),
    /// A device of the host.
    Device(PathBuf),
    /// An NBD export behind a unix socket.
    Nbd {
        /// The socket.
        socket: PathBuf,
        /// The export.
        export: String,
    },
    /// Something else, by its type.
    Other(String),
    /// Nothing is in it.
    Empty,
}

impl Domain {
    /// Reads a definition.
    ///
    /// # Errors
    /// `Corrupt` if it is none, or larger than any is.
    pub fn parse(xml: &str) -> Result<Self> {
        let document = document(xml)?;
        let root = document.root_element();
        let child = |name: &str| root.children().find(|node| node.has_tag_name(name));
        let text = |name: &str| child(name).and_then(|node| node.text()).map(|text| text.trim().to_owned());
        let name = text("name").filter(|name| !name.is_empty());
        let name = name.ok_or_else(|| Error::Definition("has no name".to_owned()))?;
        let devices = child("devices");
        let mut disks: Vec<DomainDisk> =
            devices.iter().flat_map(|devices| elements(*devices, "disk")).filter_map(disk).collect();
        disks.extend(passed_on(root));
        if disks.len() > DISKS_LIMIT {
            return Err(Error::Definition(format!("has more than {DISKS_LIMIT} disks")));
        }
        let nvram = child("os").and_then(|os| elements(os, "nvram").next());
        let nvram = nvram.and_then(|node| node.text()).map(|path| PathBuf::from(path.trim()));
        let has_tpm = devices
            .iter()
            .flat_map(|devices| elements(*devices, "tpm"))
            .any(|tpm| elements(tpm, "backend").any(|backend| backend.attribute("type") == Some("emulator")));
        let has_agent = devices.iter().flat_map(|devices| elements(*devices, "channel")).any(|channel| {
            elements(channel, "target")
                .any(|target| target.attribute("name") == Some("org.qemu.guest_agent.0"))
        });
        Ok(Self { name, uuid: text("uuid"), disks, nvram, has_tpm, has_agent })
    }

    /// The disk with this target.
    pub fn disk(&self, target: &str) -> Option<&DomainDisk> {
        self.disks.iter().find(|disk| disk.target == target)
    }
}

/// A definition, within bounds.
///
/// # Errors
/// `Corrupt` if it is none, or larger than any is.
pub fn document(xml: &str) -> Result<Document<'_>> {
    if xml.len() > LIMIT_BYTES {
        return Err(Error::Definition(format!("is longer than {LIMIT_BYTES} bytes")));
    }
    let options = ParsingOptions { allow_dtd: false, nodes_limit: NODES_LIMIT, ..ParsingOptions::default() };
    let document =
        Document::parse_with_options(xml, options).map_err(|error| Error::Definition(error.to_string()))?;
    match document.root_element().has_tag_name("domain") {
        true => Ok(document),
        false => Err(Error::Definition("is not one of a domain".to_owned())),
    }
}

/// The children of this name.
pub fn elements<'a, 'i>(node: Node<'a, 'i>, name: &'static str) -> impl Iterator<Item = Node<'a, 'i>> {
    node.children().filter(move |child| child.is_element() && child.has_tag_name(name))
}

/// The first child of this name.
pub fn element<'a, 'i>(node: Node<'a, 'i>, name: &'static str) -> Option<Node<'a, 'i>> {
    elements(node, name).next()
}

fn disk(node: Node<'_, '_>) -> Option<DomainDisk> {
    let target = element(node, "target")?;
    let medium = match node.attribute("device") {
        None | Some("disk") => Medium::Disk,
        Some(_) => Medium::Other,
    };
    let text = |name: &'static str| element(node, name)?.text().map(|text| text.trim().to_owned());
    let alias = element(node, "alias").and_then(|alias| alias.attribute("name")).map(str::to_owned);
    Some(DomainDisk {
        target: target.attribute("dev")?.to_owned(),
        bus: target.attribute("bus").map(str::to_owned),
        serial: text("serial"),
        alias,
        medium,
        source: source(node),
        format: element(node, "driver").and_then(|driver| driver.attribute("type")).map(str::to_owned),
        readonly: element(node, "readonly").is_some(),
        transient: element(node, "transient").is_some(),
        shareable: element(node, "shareable").is_some(),
        reconnects: element(node, "source").is_some_and(|source| element(source, "reconnect").is_some()),
        is_passed_on: false,
    })
}

fn source(disk: Node<'_, '_>) -> Source {
    let Some(source) = element(disk, "source") else { return Source::Empty };
    let path = |name: &str| source.attribute(name).map(PathBuf::from);
    let kind = disk.attribute("type").unwrap_or("file");
    let found = match kind {
        "file" => path("file").map(Source::File),
        "block" => path("dev").map(Source::Device),
        "network" if source.attribute("protocol") == Some("nbd") => element(source, "host")
            .filter(|host| host.attribute("transport") == Some("unix"))
            .and_then(|host| host.attribute("socket"))
            .map(|socket| Source::Nbd {
                socket: socket.into(),
                export: export(source.attribute("name").unwrap_or_default()),
            }),
        _ => None,
    };
    found.unwrap_or_else(|| Source::Other(kind.to_owned()))
}

/// As in a URI, an export's name may begin with a slash.
fn export(name: &str) -> String {
    name.trim_start_matches('/').to_owned()
}

/// The disks that libvirt passes on to qemu without knowing them: ours, where it cannot say what they need.
fn passed_on(root: Node<'_, '_>) -> Vec<DomainDisk> {
    let args: Vec<&str> = root
        .children()
        .filter(|node| node.has_tag_name((QEMU_NS, "commandline")))
        .flat_map(|line| line.children().filter(|node| node.has_tag_name((QEMU_NS, "arg"))))
        .filter_map(|arg| arg.attribute("value"))
        .collect();
    let after = |what: &'static str| args.windows(2).filter(move |pair| pair[0] == what).map(|pair| pair[1]);
    let nodes = after("-blockdev").filter_map(|text| serde_json::from_str::<serde_json::Value>(text).ok());
    let devices: Vec<serde_json::Value> =
        after("-device").filter_map(|text| serde_json::from_str(text).ok()).collect();
    nodes
        .filter_map(|node| {
            let name = node["node-name"].as_str()?;
            let target = name.strip_prefix(NODE)?.to_owned();
            let device = devices.iter().find(|device| device["drive"].as_str() == Some(name))?;
            let path = node["server"]["path"].as_str()?.into();
            Some(DomainDisk {
                target,
                bus: Some("virtio".to_owned()),
                serial: device["serial"].as_str().map(str::to_owned),
                alias: None,
                medium: Medium::Disk,
                source: Source::Nbd { socket: path, export: export(node["export"].as_str()?) },
                format: Some("raw".to_owned()),
                readonly: false,
                transient: false,
                shareable: false,
                reconnects: node["reconnect-delay"].as_u64().is_some_and(|seconds| seconds > 0),
                is_passed_on: true,
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const WHOLE: &str = include_str!("../../tests/data/web.xml");

    #[test]
    fn a_definition_is_read() {
        let domain = Domain::parse(WHOLE).expect("a definition");
        assert_eq!(domain.name, "web");
        assert_eq!(domain.uuid.as_deref(), Some("aa1949ca-2d43-49af-af9d-ad37ffa77e7a"));
        assert_eq!(
            domain.nvram.as_deref().and_then(|path| path.to_str()),
            Some("/var/lib/libvirt/qemu/nvram/web_VARS.fd")
        );
        assert!(domain.has_tpm && domain.has_agent);
        let found: Vec<_> = domain.disks.iter().map(|disk| (disk.target.as_str(), &disk.source)).collect();
        let nbd = |export: &str| Source::Nbd {
            socket: "/var/lib/blockd/nbd.sock".into(),
            export: export.to_owned(),
        };
        assert_eq!(
            found,
            [
                ("vda", &Source::File("/srv/web.qcow2".into())),
                ("vdb", &nbd("vm/web/vdb")),
                ("sda", &Source::Empty),
                ("vdc", &Source::Device("/dev/vg/scratch".into())),
                ("vdd", &nbd("vm/web/vdd")),
            ]
        );
        let last = domain.disk("vdd").expect("a disk");
        assert!(last.is_passed_on && last.serial.as_deref() == Some("data & more"));
        assert!(domain.disk("vdc").expect("a disk").transient);
        assert_eq!(domain.disk("sda").expect("a disk").medium, Medium::Other);
    }

    #[test]
    fn what_is_none_is_refused() {
        let bomb = "<!DOCTYPE a [<!ENTITY b 'c'>]><domain><name>&b;</name></domain>";
        let many = format!("<domain><name>a</name>{}</domain>", "<a/>".repeat(200_000));
        let disks = "<disk><target dev='a'/></disk>".repeat(DISKS_LIMIT + 1);
        let disks = format!("<domain><name>a</name><devices>{disks}</devices></domain>");
        for bad in ["", "<a/>", "<domain/>", "<domain><name> </name></domain>", bomb, &many, &disks] {
            assert!(Domain::parse(bad).is_err(), "{}", &bad[..bad.len().min(60)]);
        }
        assert!(Domain::parse(&" ".repeat(LIMIT_BYTES + 1)).is_err());
    }
}
