//! A machine of a real libvirt that stays on its own images: its points are pulled from its qemu, and are what it had on its disks.

use crate::fixture::{Daemon, State};
use crate::guest::{find, initramfs, kernel, sh};
use crate::libvirt::Libvirt;
use control::{ChangesQuery, ProtectMachine};
use rustix::process::{Pid, Signal, kill_process};
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

/// Emulated, on a machine busy with other tests.
const PATIENCE: Duration = Duration::from_secs(120);

/// A machine whose console takes commands.
struct Machine<'a> {
    libvirt: &'a Libvirt,
    dir: &'a Path,
    asked: u32,
}

impl Machine<'_> {
    fn define(&self) {
        let first = initramfs(self.dir, &[], "exec sh < /dev/ttyS0 > /dev/ttyS0 2>&1");
        let disk = |target: &str, format: &str, image: &str| {
            format!(
                "<disk type='file' device='disk'><driver name='qemu' type='{format}'/><source file='{}'/><target dev='{target}' bus='virtio'/></disk>",
                self.dir.join(image).display()
            )
        };
        self.libvirt.define(&format!(
            "<domain type='qemu'><name>att</name><memory unit='MiB'>192</memory><os><type arch='x86_64'>hvm</type><kernel>{}</kernel>\
             <initrd>{}</initrd><cmdline>console=ttyS0 panic=-1 quiet</cmdline></os><features><acpi/></features><devices>\
             <emulator>/usr/bin/qemu-system-x86_64</emulator>{}{}<serial type='unix'><source mode='bind' path='{}'/></serial></devices></domain>",
            find(&kernel().join("boot"), "vmlinuz-*").display(),
            first.display(),
            disk("vda", "qcow2", "a.qcow2"),
            disk("vdb", "raw", "b.raw"),
            self.dir.join("console").display(),
        ));
    }

    /// Starts it, and waits until its console takes commands: what is typed before is lost.
    fn start(&self) {
        self.libvirt.virsh(&["start", "att"]);
        let began = Instant::now();
        loop {
            assert!(began.elapsed() < PATIENCE, "its console takes no command");
            let mut console = UnixStream::connect(self.dir.join("console")).expect("a console");
            console.set_read_timeout(Some(Duration::from_secs(1))).expect("a limit");
            writeln!(console, "echo U''P").expect("typed");
            let lines = BufReader::new(console).lines().map_while(Result::ok);
            if lines.map(|line| line.trim().to_owned()).any(|line| line == "UP") {
                return;
            }
        }
    }

    /// Has the guest do something; what it says.
    fn ask(&mut self, script: &str) -> String {
        self.asked += 1;
        let end = format!("END-{}", self.asked);
        let mut console = UnixStream::connect(self.dir.join("console")).expect("a console");
        console.set_read_timeout(Some(PATIENCE)).expect("a limit");
        // what is typed is echoed, so the words to wait for are not in it
        writeln!(console, "{script}; echo EN''D-{}", self.asked).expect("typed");
        let mut said = String::new();
        for line in BufReader::new(console).lines() {
            let line = line.unwrap_or_else(|error| panic!("{script}: {error} after\n{said}"));
            if line.trim() == end {
                return said;
            }
            said += line.trim();
            said.push('\n');
        }
        panic!("the machine ended after\n{said}");
    }

    /// Sums of its disks.
    fn sums(&mut self) -> Vec<String> {
        let said = self.ask("md5sum /dev/vda /dev/vdb");
        let sums: Vec<String> = said
            .lines()
            .filter(|line| line.contains("  /dev/vd"))
            .filter_map(|line| line.split_whitespace().next().map(str::to_owned))
            .collect();
        assert_eq!(sums.len(), 2, "{said}");
        sums
    }

    fn write(&mut self, disk: &str, at: u32, count: u32) {
        self.ask(&format!("dd if=/dev/urandom of=/dev/{disk} bs=64k seek={at} count={count} conv=fsync"));
    }
}

/// Sums of what a point has.
fn sums_of(daemon: &Daemon, dir: &Path, number: u64) -> Vec<String> {
    let sum = |target: &str| {
        let uri = daemon.client().point(&format!("vm/att/{target}@{number}")).expect("a point").uri;
        sh(dir, &format!("nbdcopy '{uri}' - | md5sum | cut -d' ' -f1 > sum.txt"));
        fs::read_to_string(dir.join("sum.txt")).expect("a sum").trim().to_owned()
    };
    vec![sum("vda"), sum("vdb")]
}

fn changed(daemon: &Daemon, target: &str, from: u64, to: u64) -> u64 {
    let name = |number: u64| Some(format!("vm/att/{target}@{number}"));
    let query = ChangesQuery { since: name(from), until: name(to) };
    daemon.client().changes(&format!("vm/att/{target}"), &query).expect("changes").bytes
}

#[test]
fn a_machine_on_its_own_images_is_pulled_and_only_what_differs_is_stored() {
    let dir = tempfile::tempdir().expect("a directory");
    let libvirt = Libvirt::new();
    sh(
        dir.path(),
        "qemu-img create -q -f qcow2 a.qcow2 48M; qemu-io -c 'write -P 7 0 8M' a.qcow2 >/dev/null
         truncate -s 16M b.raw",
    );
    let mut machine = Machine { libvirt: &libvirt, dir: dir.path(), asked: 0 };
    machine.define();
    machine.start();
    let state = State::new();
    let daemon = state.start();
    let request = ProtectMachine {
        domain: "att".into(),
        uri: Some(libvirt.uri()),
        attached: true,
        ..ProtectMachine::default()
    };
    daemon.client().protect_machine("vm/att", &request).expect("protected");
    let take = || {
        let points = daemon.client().snapshot(&["vm/att".into()]).expect("points");
        points.iter().map(|point| point.epoch).max().expect("a number")
    };
    // somebody else's, which stays whatever we do
    libvirt.virsh(&[
        "checkpoint-create-as",
        "att",
        "theirs",
        "--diskspec",
        "vda,checkpoint=bitmap",
        "--diskspec",
        "vdb,checkpoint=no",
    ]);
    let first = take();
    assert_eq!(sums_of(&daemon, dir.path(), first), machine.sums());

    // only what changed is read of the qcow2, and only that is stored of both
    machine.write("vda", 100, 4);
    machine.write("vdb", 8, 2);
    let second = take();
    assert_eq!(sums_of(&daemon, dir.path(), second), machine.sums());
    assert_eq!(
        (changed(&daemon, "vda", first, second), changed(&daemon, "vdb", first, second)),
        (4 << 16, 2 << 16)
    );
    let log = daemon.log();
    let brought = log.lines().rfind(|line| line.contains("vm/att/vda") && line.contains("brought"));
    assert!(
        brought.is_some_and(|line| line.contains("incremental=true") && line.contains("bytes_read=262144")),
        "{log}"
    );

    // qemu is killed, and its bitmap with it
    let pid = fs::read_to_string(libvirt.path().join("run/qemu/att.pid")).expect("a process");
    let pid = Pid::from_raw(pid.trim().parse().expect("a number")).expect("a process");
    kill_process(pid, Signal::KILL).expect("killed");
    while libvirt.virsh(&["domstate", "att"]) != "shut off" {
        std::thread::sleep(Duration::from_millis(50));
    }
    machine.start();
    machine.write("vda", 200, 3);
    let third = take();
    assert_eq!(sums_of(&daemon, dir.path(), third), machine.sums());
    assert_eq!(changed(&daemon, "vda", second, third), 3 << 16);
    let log = daemon.log();
    assert!(log.contains("is not known") && log.contains("broken bitmap"), "{log}");

    // and goes on from there; also where somebody wrote to our disk meanwhile
    machine.write("vda", 300, 1);
    let fourth = take();
    assert_eq!(
        (changed(&daemon, "vda", third, fourth), sums_of(&daemon, dir.path(), fourth)),
        (1 << 16, machine.sums())
    );
    daemon.write("vm/att/vda", 1 << 20, &[1; 4096]);
    let fifth = take();
    assert_eq!(sums_of(&daemon, dir.path(), fifth), machine.sums());
    let ours = libvirt.virsh(&["checkpoint-list", "--name", "att"]);
    let ours: Vec<&str> = ours.split_whitespace().collect();
    assert!(ours.len() == 2 && ours.contains(&"theirs"), "{ours:?}");

    // a machine that is shut off is read from its images
    let last = machine.sums();
    libvirt.virsh(&["destroy", "att"]);
    let sixth = take();
    assert_eq!(sums_of(&daemon, dir.path(), sixth), last);
    let left = fs::read_dir(std::env::temp_dir()).expect("a directory").flatten();
    let left: Vec<_> = left
        .filter(|entry| {
            entry.file_name().to_string_lossy().starts_with(&format!("blockd-pull-{}-", daemon.pid()))
        })
        .collect();
    assert!(left.is_empty(), "{left:?}");
}
