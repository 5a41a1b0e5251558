//! Mirroring a disk of a running machine to another place, and going over to it.

use crate::domain::{Domain, ServedDisk, Source, document, element, elements};
use crate::error::{Error, Result};
use crate::virsh::Virsh;
use block::Kind;
use serde_json::json;
use std::path::PathBuf;

/// Where a disk is mirrored to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Mirror {
    /// What this element of a definition names; it is there already.
    Device(String),
    /// A file that is made.
    File {
        /// Its path.
        path: PathBuf,
        /// Its format.
        format: String,
    },
}

impl Virsh {
    /// Bytes of a machine's disk.
    ///
    /// # Errors
    /// What libvirt says.
    pub fn disk_size(&self, domain: &str, target: &str) -> Result<u64> {
        let said = self.ask(&["domblkinfo", "--domain", domain, "--device", target], b"")?;
        field(&said, "Capacity:")
            .ok_or_else(|| Error::Definition(format!("libvirt does not say how large disk {target} is")))
    }

    /// Begins to mirror a disk of a running machine.
    ///
    /// # Errors
    /// What libvirt says.
    pub fn mirror(&self, domain: &str, target: &str, to: &Mirror) -> Result<()> {
        let words = ["blockcopy", "--domain", domain, "--path", target, "--transient-job"];
        match to {
            Mirror::Device(element) => {
                let more = ["--reuse-external", "--xml", "/dev/stdin"];
                self.ask(&[&words[..], &more].concat(), element.as_bytes())
            }
            Mirror::File { path, format } => {
                let path = path.to_string_lossy();
                let more = ["--dest", &path, "--format", format];
                self.ask(&[&words[..], &more].concat(), b"")
            }
        }
        .map(drop)
    }

    /// How far a mirror is: bytes done, and bytes to do. None if there is none.
    ///
    /// # Errors
    /// What libvirt says.
    pub fn mirrored(&self, domain: &str, target: &str) -> Result<Option<(u64, u64)>> {
        let said = self.ask(&["blockjob", "--domain", domain, "--path", target, "--info", "--raw"], b"")?;
        let number = |name: &str| said.lines().find_map(|line| line.trim().strip_prefix(name)?.parse().ok());
        Ok(number("cur=").zip(number("end=")))
    }

    /// Lets a machine go over to the mirror of its disk.
    ///
    /// # Errors
    /// What libvirt says, as long as both are not the same too.
    pub fn go_over(&self, domain: &str, target: &str) -> Result<()> {
        self.ask(&["blockjob", "--domain", domain, "--path", target, "--pivot"], b"").map(drop)
    }

    /// Ends a mirror; the machine has its disk as before.
    ///
    /// # Errors
    /// `NotFound` if there is none.
    pub fn stop_mirror(&self, domain: &str, target: &str) -> Result<()> {
        match self.mirrored(domain, target)? {
            Some(_) => {
                self.ask(&["blockjob", "--domain", domain, "--path", target, "--abort"], b"").map(drop)
            }
            None => Err(Error::Said {
                program: "libvirt".to_owned(),
                said: "no mirror".to_owned(),
                kind: Kind::NotFound,
            }),
        }
    }

    /// Makes qemu reconnect to a disk of ours that libvirt has told it of without saying so: the format's block node, which libvirt goes
    /// on to work with, is given a connection that does.
    ///
    /// # Errors
    /// What libvirt or qemu say; nothing is changed then.
    pub fn make_reconnect(&self, domain: &str, disk: &ServedDisk) -> Result<()> {
        let xml = self.definition(domain, false)?;
        if Domain::parse(&xml)?.disk(&disk.target).is_some_and(|disk| disk.reconnects) {
            return Ok(());
        }
        let missing = || Error::Definition(format!("the running machine has no disk {}", disk.target));
        let index = index_of(&xml, &disk.target)?.ok_or_else(missing)?;
        let execute = |command: &str, arguments| {
            self.monitor(domain, &json!({ "execute": command, "arguments": arguments }))
        };
        execute("blockdev-add", disk.node())?;
        let reopened = json!({ "options": [{
            "driver": "raw",
            "node-name": format!("libvirt-{index}-format"),
            "file": disk.node_name(),
            "read-only": false,
            "discard": "unmap",
            "cache": { "direct": true, "no-flush": false },
        }] });
        let done = execute("blockdev-reopen", reopened);
        if done.is_err() {
            execute("blockdev-del", json!({ "node-name": disk.node_name() }))?;
        }
        done.map(drop)
    }
}

/// The number that libvirt has given the source of a running machine's disk.
fn index_of(xml: &str, target: &str) -> Result<Option<u32>> {
    let document = document(xml)?;
    let Some(devices) = element(document.root_element(), "devices") else { return Ok(None) };
    let is_it = |disk: &roxmltree::Node<'_, '_>| {
        element(*disk, "target").is_some_and(|found| found.attribute("dev") == Some(target))
    };
    let disk = elements(devices, "disk").find(is_it);
    Ok(disk.and_then(|disk| element(disk, "source")?.attribute("index")?.parse().ok()))
}

/// The number behind a word.
fn field(said: &str, name: &str) -> Option<u64> {
    said.lines().find_map(|line| line.trim().strip_prefix(name)?.trim().parse().ok())
}

/// A definition whose disk lies in a file, as this one says.
///
/// # Errors
/// `Corrupt` if that is no definition, or does not have the disk.
pub fn with_file(xml: &str, disk: &crate::DomainDisk) -> Result<String> {
    let Source::File(path) = &disk.source else {
        return Err(Error::Invalid(format!("disk {}: is no file", disk.target)));
    };
    crate::domain::with_file(xml, &disk.target, path, disk.format.as_deref().unwrap_or("raw"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_goes_back_to_a_file_with_its_address() {
        let whole = include_str!("../tests/data/web.xml");
        for (target, serial) in [("vda", Some("root")), ("vdb", None), ("vdd", Some("data & more"))] {
            let mut disk = Domain::parse(whole).expect("a definition").disk(target).expect("a disk").clone();
            (disk.source, disk.format) = (Source::File("/srv/a & b.qcow2".into()), Some("qcow2".into()));
            let changed = with_file(whole, &disk).expect("a definition");
            let found = Domain::parse(&changed).expect("a definition");
            assert_eq!(found.disks.iter().filter(|found| found.target == target).count(), 1, "{changed}");
            let found = found.disk(target).expect("a disk");
            assert_eq!((&found.source, found.format.as_deref()), (&disk.source, Some("qcow2")));
            assert_eq!((found.serial.as_deref(), found.is_passed_on), (serial, false));
        }
        assert_eq!(field("Capacity:       67108864\nAllocation: 1", "Capacity:"), Some(67_108_864));
    }
}
