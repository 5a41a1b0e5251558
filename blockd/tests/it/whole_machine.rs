//! The proof of whole machines: a real machine of a real libvirt writes to two disks as a database does while points are taken, the
//! daemon is killed and libvirtd restarted; every point comes back as a machine that boots, whose filesystems are clean, and whose
//! two disks tell one story.

use crate::fixture::{Daemon, State};
use crate::guest::{initramfs, sh, trouble, vmlinuz};
use crate::libvirt::Libvirt;
use control::{AttachDisk, DeletePointQuery, JobState, ProtectMachine, RestoreMachine, Tier};
use std::fs;
use std::path::Path;
use std::time::Duration;

/// Emulated, on a machine busy with other tests.
const PATIENCE: Duration = Duration::from_secs(180);
const STEP: Duration = Duration::from_millis(50);

/// A record goes to the log on one disk, durably, then to its place on the other, durably, and is then said to be committed.
const WRITER: &str = "mkdir /log /db
mount -t ext4 /dev/vda /log && mount -t ext4 /dev/vdb /db || echo GUEST-FAILED
echo GUEST-READY
i=0
while [ $i -lt 1000000 ]; do
  i=$((i + 1))
  echo $i | dd of=/log/wal oflag=append conv=notrunc,fsync 2>/dev/null || echo GUEST-FAILED
  echo $i | dd of=/db/$((i % 64)) conv=fsync 2>/dev/null || echo GUEST-FAILED
  echo GUEST-COMMIT $i.
done
poweroff -f";

/// The log has no gap, and everything before its last record is in its place on the other disk.
const CHECKER: &str = "mkdir /log /db
mount -t ext4 /dev/vda /log && mount -t ext4 /dev/vdb /db || echo GUEST-FAILED
last=0
while read record; do
  last=$((last + 1))
  [ \"$record\" = $last ] || echo GUEST-FAILED gap at $last: $record
done < /log/wal
at=$((last - 63)); [ $at -ge 1 ] || at=1
while [ $at -lt $last ]; do
  read found < /db/$((at % 64))
  [ \"$found\" = $at ] || echo GUEST-FAILED record $at: $found
  at=$((at + 1))
done
for place in /db/[0-9]*; do
  found=0; read found < $place
  [ ${found:-0} -le $last ] || echo GUEST-FAILED $place is ahead: $found
done
umount /log; umount /db
e2fsck -fn /dev/vda >/dev/null && e2fsck -fn /dev/vdb >/dev/null || echo GUEST-FAILED e2fsck
echo GUEST-PREFIX $last.
echo GUEST-DONE
poweroff -f";

/// A first filesystem with e2fsck in it, in a directory of its own.
fn first(dir: &Path, name: &str, then: &str) -> std::path::PathBuf {
    let dir = dir.join(name);
    fs::create_dir_all(dir.join("initramfs/bin")).expect("a directory");
    sh(
        &dir.join("initramfs"),
        "cp $(command -v e2fsck || echo /sbin/e2fsck) bin/e2fsck
         for library in $(ldd bin/e2fsck | grep -o '/[^ ]*'); do mkdir -p .$(dirname $library); cp -L $library .$library; done",
    );
    initramfs(&dir, &[], then)
}

/// What a machine's console says, once it says this; trouble on the way is the end of the test.
fn console_with(path: &Path, word: &str) -> String {
    let mut waited = Duration::ZERO;
    loop {
        let text =
            fs::read(path).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default();
        assert!(trouble(&text).is_none(), "{text}");
        if text.contains(word) {
            return text;
        }
        assert!(waited < PATIENCE, "no {word:?} in\n{text}");
        std::thread::sleep(STEP);
        waited += STEP;
    }
}

/// The number behind the last of these words.
fn last(console: &str, word: &str) -> u64 {
    let numbers = console.split(word).skip(1).filter_map(|rest| rest.split_once('.')?.0.trim().parse().ok());
    numbers.last().unwrap_or(0)
}

/// Waits until the writer has committed so many more.
fn commits_after(console: &Path, before: u64) -> u64 {
    let mut waited = Duration::ZERO;
    loop {
        let now = last(&console_with(console, "GUEST-READY"), "GUEST-COMMIT ");
        if now > before {
            return now;
        }
        assert!(waited < PATIENCE, "the writer stands still at {now}");
        std::thread::sleep(STEP);
        waited += STEP;
    }
}

fn machine(kernel: &Path, first: &Path, console: &Path) -> String {
    format!(
        "<domain type='qemu'><name>db</name><memory unit='MiB'>192</memory><os><type arch='x86_64' machine='pc'>hvm</type>\
         <kernel>{}</kernel><initrd>{}</initrd><cmdline>console=ttyS0 panic=-1 quiet</cmdline></os><features><acpi/></features>\
         <on_reboot>destroy</on_reboot><devices><emulator>/usr/bin/qemu-system-x86_64</emulator>\
         <serial type='file'><source path='{}'/></serial></devices></domain>",
        kernel.display(),
        first.display(),
        console.display()
    )
}

#[test]
fn every_point_of_a_working_machine_boots_and_tells_one_story() {
    let points = if std::env::var_os("BLOCKD_SOAK").is_some() { 20 } else { 4 };
    let mut libvirt = Libvirt::new();
    let state = State::new();
    let dir = tempfile::tempdir().expect("a directory");
    let (boot, console) = (dir.path().join("first.gz"), dir.path().join("console"));
    fs::copy(first(dir.path(), "writer", WRITER), &boot).expect("copied");
    let checker = first(dir.path(), "checker", CHECKER);
    let mut daemon = state.start();
    for disk in ["vm/db/vda", "vm/db/vdb"] {
        daemon.create(disk, 48 << 20);
        let uri = daemon.client().disk(disk).expect("a disk").uri;
        sh(
            dir.path(),
            &format!(
                "truncate -s 48M image && mke2fs -q -F -t ext4 image && nbdcopy --flush image '{uri}'; rm image"
            ),
        );
    }
    libvirt.define(&machine(&vmlinuz(), &boot, &console));
    let uri = Some(libvirt.uri());
    for disk in ["vm/db/vda", "vm/db/vdb"] {
        let request =
            AttachDisk { domain: "db".into(), uri: uri.clone(), disk: disk.into(), ..AttachDisk::default() };
        daemon.client().attach_disk(&request).expect("attached");
    }
    let protect = ProtectMachine { domain: "db".into(), uri, ..ProtectMachine::default() };
    daemon.client().protect_machine("vm/db", &protect).expect("protected");
    libvirt.virsh(&["start", "db"]);

    let mut committed = vec![commits_after(&console, 0)];
    for point in 1..=points {
        let before = committed[point - 1];
        let made = daemon.client().snapshot(&["vm/db".into()]).expect("a point");
        assert_eq!((made.len(), made[0].epoch), (3, point as u64));
        if point == points / 3 + 1 {
            daemon.kill();
            std::thread::sleep(Duration::from_millis(500));
            daemon = state.start();
        }
        if point == points * 2 / 3 + 1 {
            libvirt.restart();
        }
        committed.push(commits_after(&console, before));
    }
    // the last one comes from the vault alone
    assert_eq!(daemon.backup("vm/db").error, None);
    for member in ["definition", "vda", "vdb"] {
        let name = format!("vm/db/{member}@{}", points + 1);
        daemon
            .client()
            .delete_point(&name, &DeletePointQuery::from(Tier::Instant))
            .expect("gone from the instant tier");
    }
    assert_eq!(libvirt.virsh(&["domstate", "db"]), "running");
    libvirt.virsh(&["destroy", "db"]);
    fs::copy(checker, &boot).expect("copied");
    for point in 1..=points + 1 {
        let prefix = checked(&daemon, &libvirt, &console, point);
        let least = committed[point - 1];
        println!("vm/db@{point}: a log of {prefix} records, {least} were committed before");
        assert!(
            prefix >= least,
            "point {point} has {prefix} records, and {least} were committed before it was taken"
        );
    }
}

/// Restores a point, one as a run and the next as a copy, boots it, and takes it away again. How long its log is.
fn checked(daemon: &Daemon, libvirt: &Libvirt, console: &Path, point: usize) -> u64 {
    let (client, word) = (daemon.client(), format!("try-{point}"));
    let name = format!("vm/{word}");
    let run = point % 2 == 1;
    let request = RestoreMachine {
        point: format!("vm/db@{point}"),
        name: name.clone(),
        run,
        ..RestoreMachine::default()
    };
    fs::remove_file(console).expect("the last one's");
    let done = daemon.finished(&client.restore_machine(&request).expect("a job"));
    assert_eq!((done.state, done.note), (JobState::Done, None), "{:?}", done.error);
    if !run {
        libvirt.virsh(&["start", &word]);
    }
    let said = console_with(console, "GUEST-DONE");
    daemon.eventually("it ends", |_| libvirt.virsh(&["domstate", &word]) == "shut off");
    libvirt.virsh(&["undefine", &word]);
    client.unprotect_machine(&name).expect("forgotten");
    for target in ["vda", "vdb"] {
        client.delete_disk(&format!("{name}/{target}")).expect("deleted");
    }
    last(&said, "GUEST-PREFIX ")
}
