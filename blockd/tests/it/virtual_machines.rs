//! Whole machines of a real libvirt.

use crate::fixture::{Daemon, State, failure};
use crate::libvirt::Libvirt;
use control::{Kind, MachinesQuery, ProtectMachine};

/// A machine that is small, and has these disks.
pub fn domain(name: &str, devices: &str) -> String {
    format!(
        "<domain type='qemu'><name>{name}</name><memory unit='MiB'>128</memory>\
         <os><type arch='x86_64' machine='pc'>hvm</type></os>\
         <devices><emulator>/usr/bin/qemu-system-x86_64</emulator>{devices}</devices></domain>"
    )
}

fn ours(daemon: &Daemon, target: &str, disk: &str) -> String {
    let socket = daemon.client().socket().with_file_name("nbd.sock");
    format!(
        "<disk type='network' device='disk'><driver name='qemu' type='raw' cache='none' discard='unmap'/>\
         <source protocol='nbd' name='{disk}'><host transport='unix' socket='{}'/></source>\
         <target dev='{target}' bus='virtio'/></disk>",
        socket.display()
    )
}

fn protect(libvirt: &Libvirt, domain: &str) -> ProtectMachine {
    ProtectMachine { domain: domain.into(), uri: Some(libvirt.uri()), ..ProtectMachine::default() }
}

#[test]
fn a_machine_of_libvirt_is_an_item_and_its_points_hold_its_definition() {
    let mut libvirt = Libvirt::new();
    let state = State::new();
    let daemon = state.start();
    let client = daemon.client();
    ["vm/web/vda", "vm/web/vdb"].into_iter().for_each(|name| daemon.create(name, 1 << 20));
    let scratch = state.file("scratch.raw");
    let devices = format!(
        "{}{}<disk type='file' device='disk'><source file='{}'/><target dev='vdc' bus='virtio'/><serial>scratch-1</serial></disk>\
         <disk type='file' device='cdrom'><target dev='hda' bus='ide'/></disk>\
         <graphics type='vnc' passwd='secret'/>",
        ours(&daemon, "vda", "vm/web/vda"),
        ours(&daemon, "vdb", "vm/web/vdb"),
        scratch.display()
    );
    libvirt.define(&domain("Web", &devices));
    let listed = client.machines(&MachinesQuery { uri: Some(libvirt.uri()) }).expect("machines");
    assert_eq!(listed.machines.iter().map(|machine| machine.domain.as_str()).collect::<Vec<_>>(), ["Web"]);
    assert_eq!((listed.machines[0].name.as_deref(), listed.warnings.len()), (None, 0));

    assert_eq!(failure(client.protect_machine("vm/web", &protect(&libvirt, "none"))).0, Kind::NotFound);
    let no_disk = ProtectMachine { include: vec!["vdz".into()], ..protect(&libvirt, "Web") };
    let (kind, message) = failure(client.protect_machine("vm/web", &no_disk));
    assert!(kind == Kind::Invalid && message.contains("vda, vdb, vdc, hda"), "{message}");
    let bad = ProtectMachine {
        uri: Some("qemu+ext:///system?command=/bin/true".into()),
        ..protect(&libvirt, "Web")
    };
    assert_eq!(failure(client.protect_machine("vm/web", &bad)).0, Kind::Invalid);
    let shown = client.protect_machine("vm/web", &protect(&libvirt, "Web")).expect("protected");
    let chosen: Vec<_> = shown
        .disks
        .iter()
        .map(|disk| (disk.target.as_str(), disk.disk.as_deref(), disk.left_out.is_none()))
        .collect();
    assert_eq!(
        chosen,
        [
            ("vda", Some("vm/web/vda"), true),
            ("vdb", Some("vm/web/vdb"), true),
            ("vdc", None, false),
            ("hda", None, false)
        ]
    );
    assert_eq!((shown.state.as_deref(), shown.warnings.len()), (Some("shut off"), 0), "{shown:?}");
    assert_eq!(failure(client.protect_machine("vm/again", &protect(&libvirt, "Web"))).0, Kind::Conflict);

    let points = client.snapshot(&["vm/web".into()]).expect("a point");
    let names: Vec<&str> = points.iter().map(|point| point.name.as_str()).collect();
    assert_eq!(names, ["vm/web/definition@1", "vm/web/vda@1", "vm/web/vdb@1"]);
    let kept = client.definition("vm/web@1").expect("a definition");
    assert_eq!(kept.files, ["domain.xml", "machine.toml"]);
    assert!(kept.domain_xml.contains("<name>Web</name>") && kept.domain_xml.contains("passwd='secret'"));
    let tried = daemon.try_export("vm/web/definition").err().map(|error| error.to_string());
    assert!(tried.is_some_and(|why| why.contains("definition")), "no client writes it");
    assert!(daemon.read("vm/web/definition@1").starts_with(b"domain.xml\0"));

    // the same definition is no change; another one is, and a disk that is not ours is no silent gap
    client.snapshot(&["vm/web".into()]).expect("a point");
    let changes = |client: &control::Client, until: &str| {
        let since =
            control::ChangesQuery { since: Some("vm/web/definition@1".into()), until: Some(until.into()) };
        client.changes("vm/web/definition", &since).expect("changes").bytes
    };
    assert_eq!(changes(client, "vm/web/definition@2"), 0);
    let more = format!(
        "{devices}<disk type='file' device='disk'><source file='/x.raw'/><target dev='vdd' bus='virtio'/></disk>"
    );
    libvirt.define(
        &domain("Web", &more).replace("<name>", &format!("<uuid>{}</uuid><name>", shown.uuid.expect("one"))),
    );
    let (kind, message) = failure(client.snapshot(&["vm/web".into()]));
    assert!(kind == Kind::Conflict && message.contains("vdd") && message.contains("/x.raw"), "{message}");
    let without = ProtectMachine { exclude: vec!["vdd".into()], ..protect(&libvirt, "Web") };
    client.protect_machine("vm/web", &without).expect("protected");
    client.snapshot(&["vm/web".into()]).expect("a point");
    assert!(changes(client, "vm/web/definition@3") > 0);
    assert!(client.definition("vm/web@latest").expect("a definition").domain_xml.contains("/x.raw"));

    // libvirt away: the point is made, and the status says what it lacks
    libvirt.kill();
    client.snapshot(&["vm/web".into()]).expect("a point");
    assert!(client.definition("vm/web@4").expect("a definition").domain_xml.contains("/x.raw"));
    let warnings = client.status().expect("status").warnings;
    assert!(warnings.iter().any(|warning| warning.contains("last known definition")), "{warnings:?}");
    drop(daemon);
    let daemon = state.start();
    let machine = daemon.client().machine("vm/web").expect("it outlives the daemon");
    assert_eq!((machine.domain.as_str(), machine.state), ("Web", None));
    libvirt.restart();
    let state_of = || daemon.client().machine("vm/web").expect("it").state;
    assert_eq!(state_of().as_deref(), Some("shut off"));
    libvirt.virsh(&["undefine", "Web"]);
    assert_eq!(state_of(), None);
    daemon.client().unprotect_machine("vm/web").expect("forgotten");
    assert_eq!(failure(daemon.client().machine("vm/web")).0, Kind::NotFound);
    assert_eq!(daemon.client().points(Some("vm/web@3")).expect("points stay").points.len(), 3);
}
