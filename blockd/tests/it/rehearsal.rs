//! A machine of two disks with Debian's own guest agent in it: held still for its points while it writes, and its points rehearsed.

use crate::fixture::{Daemon, State, job_failure};
use crate::guest::{Guest, busybox, find, initramfs, kernel, script, sh};
use control::{Consistency, Job, Kind, RehearseRequest, SnapshotRequest};
use rustix::fs::{FlockOperation, flock};
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

/// What the guest has of busybox besides.
const TOOLS: [&str; 10] =
    ["basename", "chmod", "mv", "printf", "sed", "sort", "tail", "test", "touch", "uname"];

/// Has its agent at work, says so, and writes for ever.
const INIT: &str = "#!/bin/sh
mount -t proc proc /proc; mount -t sysfs sys /sys; mount -t devtmpfs dev /dev
mkdir -p /run; mount -t tmpfs run /run
qemu-ga -m virtio-serial -p $(echo /dev/vport*p1) -t /run -F/etc/qemu/fsfreeze-hook -l /run/ga.log &
echo GUEST-UP login:
i=0
while :; do
  i=$((i + 1)); echo line $i >> /data/log; dd if=/dev/urandom of=/data/$((i % 9)) bs=4k count=3 2>/dev/null
  sleep 0.02
done
";

/// An application of the guest: it is quiet while a file is there.
const APPLICATION: &str = "#!/bin/sh
case $1 in freeze) touch /run/quiet ;; thaw) test -f /run/quiet ;; esac
";

/// Programs of Debian packages, fetched once.
fn fetched() -> PathBuf {
    let dir = kernel().with_file_name("guest-programs");
    fs::create_dir_all(&dir).expect("a directory");
    let lock = fs::File::create(dir.join("lock")).expect("a lock");
    flock(&lock, FlockOperation::LockExclusive).expect("the lock");
    if !dir.join("done").exists() {
        sh(
            &dir,
            "apt-get download -qq -o APT::Sandbox::User=root syslinux qemu-guest-agent
             for deb in *.deb; do dpkg -x \"$deb\" root; done; rm *.deb; touch done",
        );
    }
    dir.join("root")
}

/// A disk that starts a kernel, and one with the root filesystem.
fn images(dir: &Path) {
    let (root, programs) = (dir.join("root"), fetched());
    busybox(&root);
    TOOLS.iter().for_each(|tool| symlink("busybox", root.join("bin").join(tool)).expect("a link"));
    script(&root.join("sbin/init"), INIT);
    script(&root.join("etc/qemu/fsfreeze-hook.d/writer"), APPLICATION);
    let hook = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tools/hooks/guest/fsfreeze-hook");
    script(&root.join("etc/qemu/fsfreeze-hook"), &fs::read_to_string(hook).expect("the hook"));
    let agent = programs.join("usr/sbin/qemu-ga");
    let libraries = Command::new("ldd").arg(&agent).output().expect("ldd");
    let libraries = String::from_utf8_lossy(&libraries.stdout).into_owned();
    assert!(!libraries.contains("not found"), "{libraries}");
    for library in libraries.split_whitespace().filter(|word| word.starts_with('/')) {
        let to = root.join(library.trim_start_matches('/'));
        fs::create_dir_all(to.parent().expect("a folder")).expect("a directory");
        fs::copy(library, to).expect("a library");
    }
    fs::copy(agent, root.join("bin/qemu-ga")).expect("the agent");
    let first = initramfs(
        dir,
        &["virtio_console"],
        "mount -t ext4 /dev/vdb /root && exec switch_root /root /sbin/init",
    );
    let (vmlinuz, syslinux) = (find(&kernel().join("boot"), "vmlinuz-*"), programs.join("usr/bin/syslinux"));
    sh(
        dir,
        &format!(
            "truncate -s 64M boot.raw; mformat -i boot.raw -F ::
             mcopy -i boot.raw {} ::vmlinuz; mcopy -i boot.raw {} ::initrd.gz
             printf 'DEFAULT l\\nLABEL l\\nKERNEL vmlinuz\\nAPPEND console=ttyS0 panic=-1 quiet initrd=initrd.gz\\n' > syslinux.cfg
             mcopy -i boot.raw syslinux.cfg ::; {} -i boot.raw
             truncate -s 96M root.raw; mke2fs -q -t ext4 -d root root.raw",
            vmlinuz.display(),
            first.display(),
            syslinux.display()
        ),
    );
}

/// The machine `vm/web`, and a daemon that knows its agent.
fn machine(dir: &Path) -> (State, Daemon, Guest) {
    images(dir);
    let state = State::new();
    fs::create_dir(state.path()).expect("a directory");
    let agent = dir.join("agent.sock");
    let config = format!("[machine.web]\nagent = {agent:?}\n[rehearsal]\naccelerator = \"tcg\"\n");
    fs::write(state.file("blockd.toml"), config).expect("a configuration");
    let daemon = state.start();
    let mut drives = Vec::new();
    for (target, image, size) in [("vda", "boot.raw", 64), ("vdb", "root.raw", 96)] {
        let name = format!("vm/web/{target}");
        daemon.create(&name, size << 20);
        let uri = daemon.client().disk(&name).expect("a disk").uri;
        sh(dir, &format!("nbdcopy --flush {image} '{uri}'"));
        drives.push(format!(
            "driver=nbd,node-name={target},server.type=unix,server.path={},export={name}",
            daemon.client().socket().with_file_name("nbd.sock").display()
        ));
    }
    let channel = format!("socket,id=agent,path={},server=on,wait=off", agent.display());
    let more = [
        "-blockdev",
        &drives[0],
        "-device",
        "virtio-blk-pci,drive=vda",
        "-blockdev",
        &drives[1],
        "-device",
        "virtio-blk-pci,drive=vdb",
        "-device",
        "virtio-serial-pci",
        "-chardev",
        &channel,
        "-device",
        "virtserialport,chardev=agent,name=org.qemu.guest_agent.0",
    ];
    let mut guest = Guest::boot(&dir.join("initramfs.gz"), &more);
    guest.until("GUEST-UP");
    (state, daemon, guest)
}

fn rehearse(daemon: &Daemon, request: &RehearseRequest) -> Job {
    daemon.finished(&daemon.client().rehearse(request).expect("a job"))
}

/// Whether a filesystem has to be recovered from its journal.
fn needs_recovery(daemon: &Daemon, dir: &Path, point: &str) -> bool {
    let uri = daemon.client().point(point).expect("a point").uri;
    sh(
        dir,
        &format!("rm -f point.raw; nbdcopy '{uri}' point.raw; dumpe2fs -h point.raw > head.txt 2>/dev/null"),
    );
    fs::read_to_string(dir.join("head.txt")).expect("its head").contains("needs_recovery")
}

#[test]
fn a_guest_that_writes_is_held_still_for_its_points_and_they_are_rehearsed() {
    let blockctl = Path::new(env!("CARGO_BIN_EXE_blockd")).with_file_name("blockctl");
    assert!(blockctl.is_file(), "{} is missing: build it with `cargo build -p blockctl`", blockctl.display());
    let dir = tempfile::tempdir().expect("a directory");
    let (_state, daemon, guest) = machine(dir.path());
    let take = |require| {
        let request = SnapshotRequest { disks: vec!["vm/web".into()], require: Some(require) };
        daemon.client().snapshot_with(&request)
    };
    daemon.eventually("its agent answers", |_| take(Consistency::Filesystem).is_ok());
    let mut held = Vec::new();
    for _ in 0..5 {
        let points = take(Consistency::Application).expect("points of a quiet application");
        held.extend(points[0].frozen_ms);
    }
    held.sort_unstable();
    println!("held still for {held:?} ms");
    assert!(held.len() == 5 && held[2] < 1000, "{held:?}");
    let point = daemon.client().points(Some("vm/web@latest")).expect("points").points;
    let root = point.iter().find(|point| point.disk == "vm/web/vdb").expect("the root").name.clone();
    assert!(!needs_recovery(&daemon, dir.path(), &root), "it was not held still");
    sh(dir.path(), "e2fsck -fn point.raw");

    let asked = |point: &str| RehearseRequest {
        point: point.to_owned(),
        memory_bytes: Some(256 << 20),
        timeout_seconds: Some(120),
        ..RehearseRequest::default()
    };
    let at = root.replace("/vdb@", "@");
    let probe = Some("test -s /data/log && tail -n 1 /data/log".to_owned());
    let job = rehearse(&daemon, &RehearseRequest { probe, ..asked(&at) });
    let report = job.rehearsal.clone().expect("a report");
    assert_eq!(job.error, None, "{}", console(&report));
    println!("disks after {:?} ms, up after {:?} ms", report.disks_ms, report.up_ms);
    assert!(report.passed && report.up_ms > report.disks_ms, "{report:?}");
    assert!(report.probe.as_ref().is_some_and(|probe| probe.output.contains("line ")), "{report:?}");
    let files =
        report.filesystems.iter().find(|volume| volume.content.contains("ext4")).expect("a filesystem");
    assert!(files.readable && files.damaged == 0 && files.entries > 20, "{files:?}");
    assert!(console(&report).contains("GUEST-UP"));
    let picture = fs::read(report.screenshot.as_ref().expect("a picture")).expect("a picture");
    assert!(picture.starts_with(b"\x89PNG"), "no picture");

    // one that is never up, and one whose probe fails
    let wait = Some("console:GUEST-NEVER".to_owned());
    let job = rehearse(&daemon, &RehearseRequest { wait, timeout_seconds: Some(1), ..asked(&at) });
    let (kind, message) = job_failure(&job);
    assert!(kind == Kind::Unavailable && message.contains("no sign of console:GUEST-NEVER"), "{message}");
    let wait = Some("console:GUEST-UP".to_owned());
    let request = RehearseRequest { wait, probe: Some("echo no; exit 3".into()), ..asked(&at) };
    let (_, message) = job_failure(&rehearse(&daemon, &request));
    assert!(message.contains("ended with 3"), "{message}");
    let kept = daemon.client().point(&root).expect("a point").rehearsals;
    assert_eq!(kept.iter().map(|it| it.passed).collect::<Vec<_>>(), [true, false, false]);
    let disks: Vec<String> =
        daemon.client().status().expect("status").disks.into_iter().map(|it| it.name).collect();
    assert_eq!(disks, ["vm/web/vda", "vm/web/vdb"], "a rehearsal left disks");
    // the machine itself noticed nothing, and without its agent a point is what a power cut leaves
    drop(guest);
    let points = daemon.client().snapshot(&["vm/web".into()]).expect("points");
    assert_eq!(points[0].consistency, Consistency::Crash);
    assert!(needs_recovery(&daemon, dir.path(), &points[1].name), "a power cut that was none");
}

fn console(report: &control::Rehearsal) -> String {
    let path = report.console.as_ref().expect("a console");
    String::from_utf8_lossy(&fs::read(path).expect("a console")).into_owned()
}
