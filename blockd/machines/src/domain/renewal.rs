//! A definition made one of another machine: a new name, new identities, and the disks it is given.

use super::edit::Edits;
use super::served::{ServedDisk, Told, ours_passed_on, put_disks};
use super::{Domain, Medium, document, element, elements};
use crate::error::Result;
use roxmltree::Node;
use std::path::PathBuf;

/// What the new machine is.
pub struct Renewal<'a> {
    /// Its name.
    pub name: &'a str,
    /// Its UUID.
    pub uuid: &'a str,
    /// Gives the address of one more network card.
    pub mac: &'a dyn Fn() -> Result<String>,
    /// Whether it has network cards at all.
    pub network: bool,
    /// The file of its firmware's variables; none lets libvirt make one.
    pub nvram: Option<PathBuf>,
    /// Its disks. Every other disk of the machine it is made of is left out.
    pub disks: &'a [ServedDisk],
    /// Who tells qemu of them.
    pub told: Told,
}

/// The definition of the new machine, and the targets of the disks that were left out.
///
/// # Errors
/// `Corrupt` if that is no definition; what `mac` reports.
pub fn renew(xml: &str, new: &Renewal<'_>) -> Result<(String, Vec<String>)> {
    let domain = Domain::parse(xml)?;
    let document = document(xml)?;
    let root = document.root_element();
    let mut edits = Edits::of(xml);
    identity(&mut edits, root, new)?;
    let given = |target: &str| new.disks.iter().any(|disk| disk.target == target);
    let gone = |disk: &&super::DomainDisk| disk.medium == Medium::Disk && !given(&disk.target);
    let left_out: Vec<String> = domain.disks.iter().filter(gone).map(|disk| disk.target.clone()).collect();
    if let Some(devices) = element(root, "devices") {
        for node in elements(devices, "disk") {
            let target = element(node, "target").and_then(|target| target.attribute("dev"));
            if target.is_some_and(|target| left_out.iter().any(|gone| gone == target)) {
                edits.remove(node);
            }
        }
        for card in elements(devices, "interface") {
            match (new.network, element(card, "mac")) {
                (false, _) => edits.remove(card),
                (true, Some(mac)) => edits.set_attribute(mac, "address", &(new.mac)()?),
                (true, None) => {}
            }
        }
    }
    ours_passed_on(root, &|target| !given(target)).into_iter().for_each(|arg| edits.remove(arg));
    put_disks(&mut edits, root, xml, new.disks, new.told)?;
    let renewed = edits.apply();
    Domain::parse(&renewed)?;
    Ok((renewed, left_out))
}

/// Whatever says who a machine is.
fn identity(edits: &mut Edits<'_>, root: Node<'_, '_>, new: &Renewal<'_>) -> Result<()> {
    for node in root.children().filter(Node::is_element) {
        match node.tag_name().name() {
            "name" => edits.set_text(node, new.name),
            "uuid" => edits.set_text(node, new.uuid),
            // libvirt draws one
            "genid" => edits.replace(node, "<genid/>"),
            "sysinfo" => {
                for entry in node.descendants().filter(|node| node.has_tag_name("entry")) {
                    if entry.attribute("name") == Some("uuid") {
                        edits.set_text(entry, new.uuid);
                    }
                }
            }
            "os" => {
                for nvram in elements(node, "nvram") {
                    match &new.nvram {
                        Some(path) => edits.set_text(nvram, &path.to_string_lossy()),
                        None => edits.remove(nvram),
                    }
                }
            }
            _ => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Reach, Source};

    const WHOLE: &str = include_str!("../../tests/data/web.xml");

    #[test]
    fn nothing_of_the_old_machine_is_left_in_a_new_one() {
        for (network, told) in [(true, Told::ByLibvirt), (false, Told::PassedOn)] {
            let disks: Vec<ServedDisk> = ["vda", "vdd"]
                .into_iter()
                .map(|target| ServedDisk {
                    target: target.into(),
                    reach: Reach::Unix("/new.sock".into()),
                    export: format!("vm/new/{target}"),
                    serial: None,
                })
                .collect();
            let new = Renewal {
                name: "new",
                uuid: "11111111-2222-4333-8444-555555555555",
                mac: &|| Ok("52:54:00:00:00:01".to_owned()),
                network,
                nvram: Some("/new_VARS.fd".into()),
                disks: &disks,
                told,
            };
            let (xml, left_out) = renew(WHOLE, &new).expect("a definition");
            assert_eq!(left_out, ["vdb", "vdc"]);
            for old in
                ["aa1949ca", "43dc0cf8", "52:54:00:aa:bb:cc", "web_VARS", "/srv/web.qcow2", "/var/lib/blockd"]
            {
                assert!(!xml.contains(old), "{old}\n{xml}");
            }
            let domain = Domain::parse(&xml).expect("a definition");
            assert_eq!((domain.name.as_str(), domain.nvram), ("new", Some("/new_VARS.fd".into())));
            let mut found: Vec<_> = domain
                .disks
                .iter()
                .filter_map(|disk| match &disk.source {
                    Source::Nbd { export, .. } => Some(export.as_str()),
                    _ => None,
                })
                .collect();
            found.sort_unstable();
            assert_eq!(found, ["vm/new/vda", "vm/new/vdd"]);
            assert_eq!(xml.matches("52:54:00:00:00:01").count(), usize::from(network));
            assert_eq!(xml.contains("<interface"), network);
        }
    }
}
