//! Whole machines of a real libvirt.

use crate::fixture::{Daemon, State, failure};
use crate::libvirt::Libvirt;
use control::{Kind, MachinesQuery, ProtectMachine};

/// A machine that is small, and has these disks.
pub fn domain(name: &str, devices: &str) -> String {
    format!(
        "<domain type='qemu'><name>{name}</name><memory unit='MiB'>128</memory>\
         <os><type arch='x86_64' machine='pc'>hvm</type></os><features><acpi/></features>\
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

/// What qemu is told of a disk of ours, in the arguments of the running process.
fn arguments(libvirt: &Libvirt, domain: &str) -> String {
    let pid =
        std::fs::read_to_string(libvirt.path().join(format!("run/qemu/{domain}.pid"))).expect("it runs");
    let line = std::fs::read(format!("/proc/{}/cmdline", pid.trim())).expect("its arguments");
    String::from_utf8_lossy(&line).replace('\0', " ")
}

/// Reads from a running machine's block node, as its guest would. Whether it could is seen by who is connected then.
fn read_through_qemu(libvirt: &Libvirt, node: &str) {
    let command = format!("qemu-io {node} \"read 0 4096\"");
    let said = libvirt.virsh(&["qemu-monitor-command", "web", "--hmp", &command]);
    assert!(!said.contains("rror"), "{said}");
}

fn attach(libvirt: &Libvirt, domain: &str, disk: &str) -> control::AttachDisk {
    control::AttachDisk {
        domain: domain.into(),
        uri: Some(libvirt.uri()),
        disk: disk.into(),
        ..Default::default()
    }
}

#[test]
fn an_attached_disk_reconnects_whatever_libvirt_can_say() {
    let libvirt = Libvirt::new();
    let state = State::new();
    let daemon = state.start();
    let client = daemon.client();
    ["vm/web/vda", "vm/web/vdb", "vm/web/vdc"].into_iter().for_each(|name| daemon.create(name, 1 << 20));
    libvirt.define(&domain("web", "<serial type='pty'/>"));
    let first = client.attach_disk(&attach(&libvirt, "web", "vm/web/vda")).expect("attached");
    assert_eq!((first.target.as_str(), first.live), ("vda", false));
    libvirt.virsh(&["start", "web"]);
    let told = arguments(&libvirt, "web");
    for word in ["\"reconnect-delay\":30", "\"export\":\"vm/web/vda\"", "\"discard\":\"unmap\"", "stop"] {
        assert!(told.contains(word), "{word}: {told}");
    }
    // a running machine takes one more, and has it at its next start too
    let second = client.attach_disk(&attach(&libvirt, "web", "vm/web/vdb")).expect("attached");
    assert_eq!((second.target.as_str(), second.live, second.notes.len()), ("vdb", true, 0), "{second:?}");
    let writers = |disk: &str| client.disk(disk).expect("a disk").writers;
    assert_eq!((writers("vm/web/vda"), writers("vm/web/vdb")), (1, 1));
    let (kind, message) = failure(client.attach_disk(&attach(&libvirt, "web", "vm/web/vdb")));
    assert!(kind == Kind::Conflict && message.contains("vdb"), "{message}");
    let later = control::AttachDisk { at_next_start: true, ..attach(&libvirt, "web", "vm/web/vdc") };
    assert!(!client.attach_disk(&later).expect("attached").live);
    libvirt.virsh(&["destroy", "web"]);
    libvirt.virsh(&["start", "web"]);
    let told = arguments(&libvirt, "web");
    assert_eq!(told.matches("\"reconnect-delay\":30").count(), 3, "{told}");
    // the machine lives over a daemon that is killed
    drop(daemon);
    let daemon = state.start();
    // it does so when something is read
    for target in ["vda", "vdb", "vdc"] {
        read_through_qemu(&libvirt, &format!("blockd-{target}"));
        assert_eq!(daemon.client().disk(&format!("vm/web/{target}")).expect("a disk").writers, 1);
    }
    assert_eq!(libvirt.virsh(&["domstate", "web"]), "running");
    let none = attach(&libvirt, "none", "vm/web/vda");
    assert_eq!(failure(daemon.client().attach_disk(&none)).0, Kind::NotFound);
    let definition = attach(&libvirt, "web", "vm/web/definition");
    assert_eq!(failure(daemon.client().attach_disk(&definition)).0, Kind::NotFound);
}

#[test]
fn a_machine_is_restored_as_another_and_in_its_own_place() {
    let libvirt = Libvirt::new();
    let state = State::new();
    let daemon = state.start();
    let client = daemon.client();
    let card = "<interface type='user'><mac address='52:54:00:aa:bb:cc'/><model type='virtio'/></interface>";
    libvirt.define(&domain("web", card));
    for (name, seed) in [("vm/web/vda", 1), ("vm/web/vdb", 2)] {
        daemon.create(name, 1 << 20);
        daemon.write(name, 0, &crate::fixture::noise(seed, 1 << 20));
        client.attach_disk(&attach(&libvirt, "web", name)).expect("attached");
    }
    client.protect_machine("vm/web", &protect(&libvirt, "web")).expect("protected");
    client.snapshot(&["vm/web".into()]).expect("a point");
    let old = client.machine("vm/web").expect("it");

    // restored: everything is its own
    let restore = |name: &str| control::RestoreMachine {
        point: "vm/web@1".into(),
        name: name.into(),
        ..control::RestoreMachine::default()
    };
    let done = daemon.finished(&client.restore_machine(&restore("vm/copy")).expect("a job"));
    assert_eq!((done.error, done.note), (None, None));
    let copy = client.machine("vm/copy").expect("it is protected");
    assert!(copy.uuid.is_some() && copy.uuid != old.uuid && copy.warnings.is_empty(), "{copy:?}");
    for (disk, seed) in [("vm/copy/vda", 1), ("vm/copy/vdb", 2)] {
        assert_eq!(daemon.read(disk), crate::fixture::noise(seed, 1 << 20));
    }
    let xml = libvirt.virsh(&["dumpxml", "copy"]);
    assert!(!xml.contains("<interface") && !xml.contains("vm/web/"), "{xml}");
    assert_eq!(failure(client.restore_machine(&restore("vm/copy"))).0, Kind::Conflict);

    // one disk of it, at once, on the same network
    let run = control::RestoreMachine {
        run: true,
        network: control::MachineNetwork::Same,
        disks: vec!["vdb".into()],
        ..restore("vm/now")
    };
    let done = daemon.finished(&client.restore_machine(&run).expect("a job"));
    assert_eq!(done.error, None);
    assert!(done.note.is_some_and(|note| note.contains("vda")), "what was left out is said");
    assert_eq!(libvirt.virsh(&["domstate", "now"]), "running");
    let told = arguments(&libvirt, "now");
    assert!(told.contains("vm/now/vdb") && !told.contains("vda"), "{told}");
    let xml = libvirt.virsh(&["dumpxml", "now"]);
    assert!(xml.contains("<interface") && !xml.contains("52:54:00:aa:bb:cc"), "{xml}");
    let missing = control::RestoreMachine { disks: vec!["vdz".into()], ..restore("vm/other") };
    let (kind, message) = failure(client.restore_machine(&missing));
    assert!(kind == Kind::NotFound && message.contains("vda, vdb"), "{message}");
    let far = control::RestoreMachine { uri: Some("qemu+ssh://far/system".into()), ..restore("vm/other") };
    assert_eq!(failure(client.restore_machine(&far)).0, Kind::Invalid);

    // in its own place, and back
    daemon.write("vm/web/vda", 0, &crate::fixture::noise(3, 8192));
    libvirt.virsh(&["start", "web"]);
    let replace = control::ReplaceMachine { point: "vm/web@1".into(), ..control::ReplaceMachine::default() };
    let (kind, message) = failure(client.replace_machine("vm/web", &replace));
    assert!(kind == Kind::Refused && message.contains("runs"), "{message}");
    libvirt.virsh(&["destroy", "web"]);
    libvirt.virsh(&["undefine", "web"]);
    let all_done = |begun: control::MachineReplaced| {
        begun.jobs.iter().for_each(|job| assert_eq!(daemon.finished(job).error, None));
        assert_eq!((begun.jobs.len(), begun.notes.len()), (2, 0));
        begun.safety_point
    };
    let safety = all_done(client.replace_machine("vm/web", &replace).expect("begun"));
    assert_eq!(safety, "vm/web@2");
    assert_eq!(daemon.read("vm/web/vda"), crate::fixture::noise(1, 1 << 20));
    assert_eq!(client.machine("vm/web").expect("defined again").uuid, old.uuid);
    let undo = control::ReplaceMachine { undo: true, ..control::ReplaceMachine::default() };
    all_done(client.replace_machine("vm/web", &undo).expect("begun"));
    assert_eq!(daemon.read("vm/web/vda")[..8192], crate::fixture::noise(3, 8192));
    let never = failure(client.replace_machine("vm/copy", &undo));
    assert_eq!(never.0, Kind::NotFound, "{never:?}");
    // a machine on disks of its own is not put onto ours by the way
    let attached = ProtectMachine { attached: true, ..protect(&libvirt, "copy") };
    client.protect_machine("vm/copy", &attached).expect("protected");
    let (kind, message) = failure(client.replace_machine("vm/copy", &replace));
    assert!(kind == Kind::Unsupported && message.contains("disks of its own"), "{message}");
}

#[test]
fn a_running_machine_moves_here_and_back_without_stopping() {
    let libvirt = Libvirt::new();
    let state = State::new();
    let daemon = state.start();
    let client = daemon.client();
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("web.qcow2");
    crate::guest::sh(
        dir.path(),
        "qemu-img create -q -f qcow2 web.qcow2 64M && qemu-io -c 'write -q -P 7 1M 3M' web.qcow2",
    );
    let disk = format!(
        "<disk type='file' device='disk'><driver name='qemu' type='qcow2' discard='unmap'/><source file='{}'/>\
         <target dev='vda' bus='virtio'/><serial>root</serial></disk>",
        file.display()
    );
    libvirt.define(&domain("web", &disk));
    let shown = client.protect_machine("vm/web", &protect(&libvirt, "web")).expect("protected");
    assert_eq!(shown.warnings.len(), 1, "{shown:?}");
    assert_eq!(failure(client.snapshot(&["vm/web".into()])).0, Kind::Conflict);
    let (kind, message) = failure(client.migrate_in("vm/web", &control::MigrateIn::default()));
    assert!(kind == Kind::Conflict && message.contains("does not run"), "{message}");
    libvirt.virsh(&["start", "web"]);
    let missing = control::MigrateIn { disks: vec!["vdz".into()] };
    assert_eq!(failure(client.migrate_in("vm/web", &missing)).0, Kind::NotFound);

    let moved = daemon.finished(&client.migrate_in("vm/web", &control::MigrateIn::default()).expect("a job"));
    // what the file does not hold is not read
    assert_eq!((moved.error, moved.note, moved.bytes_done), (None, None, 3 << 20));
    assert_eq!(libvirt.virsh(&["domstate", "web"]), "running");
    let mut expected = vec![0; 64 << 20];
    expected[1 << 20..4 << 20].fill(7);
    client.snapshot(&["vm/web".into()]).expect("a point of all of it");
    assert!(daemon.read("vm/web/vda@1") == expected);
    assert!(client.machine("vm/web").expect("it").warnings.is_empty());
    // now, and at its next start, qemu comes back to a daemon that is killed
    let nodes = libvirt.virsh(&["qemu-monitor-command", "web", "--hmp", "info block -n -v"]);
    assert!(nodes.contains("blockd-vda"), "{nodes}");
    drop(daemon);
    let daemon = state.start();
    let client = daemon.client();
    read_through_qemu(&libvirt, "blockd-vda");
    assert!(client.disk("vm/web/vda").expect("a disk").writers > 0);
    assert_eq!(libvirt.virsh(&["domstate", "web"]), "running");

    let out = control::MigrateOut {
        to: dir.path().display().to_string(),
        format: "qcow2".into(),
        ..control::MigrateOut::default()
    };
    let moved = daemon.finished(&client.migrate_out("vm/web", &out).expect("a job"));
    assert_eq!((moved.error, moved.note), (None, None));
    assert_eq!(libvirt.virsh(&["domstate", "web"]), "running");
    let shown = client.machine("vm/web").expect("it");
    assert!(shown.disks[0].source.ends_with("web-vda.qcow2"), "{shown:?}");
    assert_eq!(failure(client.migrate_out("vm/web", &out)).0, Kind::Conflict);
    libvirt.virsh(&["destroy", "web"]);
    crate::guest::sh(dir.path(), "qemu-img convert -O raw web-vda.qcow2 out.raw");
    assert!(std::fs::read(dir.path().join("out.raw")).expect("a file") == expected);
    libvirt.virsh(&["start", "web"]);
    assert!(arguments(&libvirt, "web").contains("web-vda.qcow2"));
}
