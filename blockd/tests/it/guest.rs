//! A real Linux as the client: Debian's cloud kernel under qemu's emulated processor. Its root filesystem lies on a disk
//! of ours that the daemon serves, is killed under, and serves again; and its own NBD client is tried.
//!
//! The kernel package is fetched once into `target/guest`. A boot takes a few seconds.

use crate::fixture::{Daemon, State};
use rustix::fs::{FlockOperation, flock};
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

/// Emulated, on a machine busy with other tests.
const PATIENCE: Duration = Duration::from_secs(120);

/// Modules in the order they are loaded.
const MODULES: [&str; 9] = [
    "virtio_ring",
    "virtio",
    "virtio_pci_legacy_dev",
    "virtio_pci_modern_dev",
    "virtio_pci",
    "virtio_blk",
    "failover",
    "net_failover",
    "virtio_net",
];

/// What fails in a guest's kernel log.
const TROUBLE: [&str; 5] =
    ["I/O error", "EXT4-fs error", "Remounting filesystem read-only", "Kernel panic", "hung task"];

pub fn sh(dir: &Path, script: &str) {
    let output = Command::new("sh").args(["-ec", script]).current_dir(dir).output().expect("a shell");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{script}: {said}");
}

/// The unpacked kernel package.
pub fn kernel() -> PathBuf {
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).with_file_name("guest");
    fs::create_dir_all(&dir).expect("a directory");
    // one test fetches, the others wait
    let lock = fs::File::create(dir.join("lock")).expect("a lock");
    flock(&lock, FlockOperation::LockExclusive).expect("the lock");
    if !dir.join("done").exists() {
        sh(
            &dir,
            "package=$(apt-cache depends linux-image-cloud-amd64 | sed -n 's/.*Depends: \\(linux-image-6.*\\)/\\1/p' | head -n 1)
             apt-get download -qq -o APT::Sandbox::User=root \"$package\"
             dpkg -x linux-image-*.deb kernel
             rm linux-image-*.deb
             touch done",
        );
    }
    dir.join("kernel")
}

/// The kernel itself.
pub fn vmlinuz() -> PathBuf {
    find(&kernel().join("boot"), "vmlinuz-*")
}

/// What a console says that no test should see.
pub fn trouble(console: &str) -> Option<&'static str> {
    TROUBLE.into_iter().chain(["GUEST-FAILED"]).find(|word| console.contains(*word))
}

pub fn find(dir: &Path, name: &str) -> PathBuf {
    let found = Command::new("find").arg(dir).args(["-name", name]).output().expect("find");
    let found = String::from_utf8_lossy(&found.stdout).lines().next().unwrap_or_default().to_owned();
    assert!(!found.is_empty(), "{name} is not in {}", dir.display());
    found.into()
}

pub fn script(path: &Path, text: &str) {
    fs::create_dir_all(path.parent().expect("a parent")).expect("a directory");
    fs::write(path, text).expect("a script");
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).expect("a mode");
}

/// A directory with busybox under the names of its tools.
pub fn busybox(root: &Path) {
    for dir in ["bin", "dev", "proc", "sys", "root", "data", "sbin", "etc"] {
        fs::create_dir_all(root.join(dir)).expect("a directory");
    }
    fs::copy("/bin/busybox", root.join("bin/busybox")).expect("busybox-static");
    let tools = [
        "sh",
        "mount",
        "umount",
        "insmod",
        "switch_root",
        "echo",
        "dd",
        "md5sum",
        "sleep",
        "poweroff",
        "sync",
        "cut",
        "ip",
        "seq",
        "cat",
        "head",
        "mkdir",
        "mke2fs",
        "blkdiscard",
        "fsfreeze",
    ];
    tools.iter().for_each(|tool| symlink("busybox", root.join("bin").join(tool)).expect("a link"));
}

/// A first filesystem in memory: loads drivers, then does `then`.
pub fn initramfs(dir: &Path, extra: &[&str], then: &str) -> PathBuf {
    let (root, modules) = (dir.join("initramfs"), kernel().join("lib/modules"));
    busybox(&root);
    let mut loads = String::new();
    for module in MODULES.iter().chain(extra) {
        fs::copy(find(&modules, &format!("{module}.ko")), root.join(format!("{module}.ko")))
            .expect("a module");
        loads += &format!("insmod /{module}.ko\n");
    }
    let init = format!(
        "#!/bin/sh\nmount -t proc proc /proc\nmount -t sysfs sys /sys\nmount -t devtmpfs dev /dev\n{loads}{then}\n\
         echo GUEST-FAILED\npoweroff -f\n"
    );
    script(&root.join("init"), &init);
    sh(&root, "find . | busybox cpio -o -H newc 2>/dev/null | gzip -1 > ../initramfs.gz");
    dir.join("initramfs.gz")
}

/// A running guest; its console, line by line.
pub struct Guest {
    child: Child,
    lines: Receiver<String>,
    seen: Vec<String>,
}

impl Guest {
    pub fn boot(initramfs: &Path, more: &[&str]) -> Self {
        let kernel = vmlinuz();
        let mut child = Command::new("qemu-system-x86_64")
            .args([
                "-accel",
                "tcg",
                "-m",
                "256",
                "-nographic",
                "-no-reboot",
                "-nodefaults",
                "-serial",
                "stdio",
            ])
            .arg("-kernel")
            .arg(kernel)
            .arg("-initrd")
            .arg(initramfs)
            .args(["-append", "console=ttyS0 panic=-1 quiet"])
            .args(more)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .expect("qemu-system-x86_64");
        let (sender, lines) = channel();
        let console = BufReader::new(child.stdout.take().expect("a console"));
        std::thread::spawn(move || {
            for line in console.split(b'\n').map_while(Result::ok) {
                let line = String::from_utf8_lossy(&line).trim().to_owned();
                if sender.send(line).is_err() {
                    break;
                }
            }
        });
        Self { child, lines, seen: Vec::new() }
    }

    /// What follows `start` in the next line that has it. Trouble on the way is the end of the test.
    pub fn until(&mut self, start: &str) -> String {
        loop {
            let Ok(line) = self.lines.recv_timeout(PATIENCE) else {
                panic!("no {start:?} after\n{}", self.seen.join("\n"));
            };
            self.seen.push(line.clone());
            assert!(trouble(&line).is_none(), "{}", self.seen.join("\n"));
            // the firmware leaves a terminal's codes before the first words
            if let Some((_, rest)) = line.split_once(start) {
                return rest.trim().to_owned();
            }
        }
    }

    /// Its orderly end.
    pub fn ends(mut self) {
        self.until("GUEST-DONE");
        assert!(self.child.wait().expect("its end").success());
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// Writes files with a sum each, and says so once a file is durable.
const WRITER: &str = "#!/bin/sh
mount -t proc proc /proc
mount -t devtmpfs dev /dev
echo GUEST-ROOT
for i in $(seq 1 90); do
  dd if=/dev/urandom of=/data/$i bs=1k count=$((i % 7 + 1)) conv=fsync 2>/dev/null || echo GUEST-FAILED
  echo GUEST-WROTE $i $(md5sum /data/$i | cut -d' ' -f1)
done
sync
mount -o remount,ro /
echo GUEST-DONE
poweroff -f
";

#[test]
fn a_guest_whose_root_we_serve_survives_kills_of_the_daemon() {
    let state = State::new();
    let dir = tempfile::tempdir().expect("a directory");
    let mut daemon = Some(state.start());
    let served = |daemon: &Option<Daemon>| {
        daemon.as_ref().expect("running").client().socket().with_file_name("nbd.sock")
    };
    let socket = served(&daemon);
    daemon.as_ref().expect("running").create("root", 64 << 20);

    let root = dir.path().join("root");
    busybox(&root);
    script(&root.join("sbin/init"), WRITER);
    let image = dir.path().join("root.raw");
    sh(dir.path(), "truncate -s 64M root.raw && mke2fs -q -t ext4 -d root root.raw");
    let uri = nbd::Uri::unix(&socket, "root").to_string();
    sh(dir.path(), &format!("nbdcopy --flush {} '{uri}'", image.display()));

    let first =
        initramfs(dir.path(), &[], "mount -t ext4 /dev/vda /root && exec switch_root /root /sbin/init");
    let drive = format!(
        "driver=nbd,node-name=disk,server.type=unix,server.path={},export=root,reconnect-delay=60",
        socket.display()
    );
    let mut guest = Guest::boot(&first, &["-blockdev", &drive, "-device", "virtio-blk-pci,drive=disk"]);
    guest.until("GUEST-ROOT");
    let mut wrote = Vec::new();
    for count in 1..=90 {
        wrote.push(guest.until("GUEST-WROTE"));
        if [20, 45, 70].contains(&count) {
            daemon.take().expect("running").kill();
            std::thread::sleep(Duration::from_millis(700));
            daemon = Some(state.start());
        }
    }
    guest.ends();
    let daemon = daemon.expect("running");
    assert_eq!(daemon.client().disk("root").expect("a disk").opened.as_deref(), Some("live-map"));
    fs::remove_file(&image).expect("removed");
    check_files(dir.path(), &uri, &wrote);
}

/// A filesystem that a guest left is clean, and what it said it wrote is there: a number and a sum each.
fn check_files(dir: &Path, uri: &str, wrote: &[String]) {
    let image = dir.join("root.raw");
    sh(dir, &format!("nbdcopy '{uri}' {}", image.display()));
    sh(dir, "e2fsck -fn root.raw");
    let mut check = Command::new("debugfs")
        .args(["-f", "-"])
        .arg(&image)
        .current_dir(dir)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("debugfs");
    writeln!(check.stdin.take().expect("its input"), "rdump /data {}", dir.display()).expect("a command");
    assert!(check.wait().expect("its end").success());
    for line in wrote {
        let (number, sum) = line.split_once(' ').expect("a number and a sum");
        let found = Command::new("md5sum").arg(dir.join("data").join(number)).output().expect("md5sum");
        assert!(found.stdout.starts_with(sum.as_bytes()), "file {number} is not what was acknowledged");
    }
}

/// Reads what it was started with, all of it and again in the end, and works meanwhile.
const WORKER: &str = "#!/bin/sh
mount -t proc proc /proc
mount -t devtmpfs dev /dev
echo GUEST-ROOT
cd /old && md5sum -c -s sums || echo GUEST-FAILED
for i in $(seq 1 COUNT); do
  cat /old/$((i % 12 + 1)) | head -c $((i * 1000)) > /data/$i || echo GUEST-FAILED
  dd if=/dev/urandom of=/data/$i bs=1k count=$((i % 7 + 1)) seek=1 conv=notrunc,fsync 2>/dev/null || echo GUEST-FAILED
  echo GUEST-WROTE $i $(md5sum /data/$i | cut -d' ' -f1)
done
echo 3 > /proc/sys/vm/drop_caches
cd /old && md5sum -c -s sums || echo GUEST-FAILED
sync
mount -o remount,ro /
echo GUEST-DONE
poweroff -f
";

/// A guest boots from a point that only a vault holds and works while the rest of it is brought, as slowly as can be told,
/// and the daemon is killed again and again. In the end the disk is independent, clean and right.
#[test]
fn a_guest_works_on_a_run_while_it_is_hydrated_and_the_daemon_killed() {
    let kills = if std::env::var_os("BLOCKD_SOAK").is_some() { 10 } else { 3 };
    let state = State::new();
    fs::create_dir(state.path()).expect("a directory");
    fs::write(state.file("blockd.toml"), "hydration-bytes-per-second = 1048576\n").expect("a configuration");
    let dir = tempfile::tempdir().expect("a directory");
    let mut daemon = state.start();
    daemon.create("root", 64 << 20);
    let root = dir.path().join("root");
    busybox(&root);
    script(&root.join("sbin/init"), &WORKER.replace("COUNT", &(kills * 10).to_string()));
    sh(
        dir.path(),
        "mkdir root/old; for i in $(seq 1 12); do head -c 2000000 /dev/urandom > root/old/$i; done
         (cd root/old; md5sum * > ../sums; mv ../sums sums)
         truncate -s 64M root.raw && mke2fs -q -t ext4 -d root root.raw",
    );
    let socket = daemon.client().socket().with_file_name("nbd.sock");
    let uri = |disk: &str| nbd::Uri::unix(&socket, disk).to_string();
    sh(dir.path(), &format!("nbdcopy --flush root.raw '{}'; rm root.raw", uri("root")));
    assert_eq!(daemon.backup("root").error, None);
    daemon.client().delete_disk("root").expect("only the vault has it");
    let run = control::RunRequest { point: "root@1".into(), name: "now".into(), hydrate: true };
    daemon.client().run(&run).expect("it runs");

    let first =
        initramfs(dir.path(), &[], "mount -t ext4 /dev/vda /root && exec switch_root /root /sbin/init");
    let drive = format!(
        "driver=nbd,node-name=disk,server.type=unix,server.path={},export=now,reconnect-delay=60",
        socket.display()
    );
    let mut guest = Guest::boot(&first, &["-blockdev", &drive, "-device", "virtio-blk-pci,drive=disk"]);
    guest.until("GUEST-ROOT");
    let (mut wrote, mut while_hydrating) = (Vec::new(), 0);
    for count in 1..=kills * 10 {
        wrote.push(guest.until("GUEST-WROTE"));
        if count % 10 == 5 {
            let state_of = daemon.client().run_status("now").expect("its status").state;
            while_hydrating += u64::from(state_of == control::RunState::Hydrating);
            daemon.kill();
            std::thread::sleep(Duration::from_millis(300));
            daemon = state.start();
        }
    }
    guest.ends();
    assert!(while_hydrating > 0, "hydration was over before the first kill");
    fs::write(state.file("blockd.toml"), "").expect("a configuration");
    assert!(daemon.stop().success());
    let daemon = state.start();
    let promoted = daemon.client().promote("now").map(|run| run.state);
    while promoted.is_ok()
        && daemon.client().run_status("now").expect("its status").state != control::RunState::Independent
    {
        std::thread::sleep(Duration::from_millis(20));
    }
    check_files(dir.path(), &uri("now"), &wrote);
}

/// What the kernel's own client does with two connections.
const KERNEL_CLIENT: &str = "ip link set lo up; ip link set eth0 up; ip addr add 10.0.2.15/24 dev eth0
mkdir -p /run /disk
/bin/nbd-client -N kernel 10.0.2.2 PORT /dev/nbd0 -b 512 -connections 2 || echo GUEST-FAILED
mke2fs -F /dev/nbd0 >/dev/null 2>&1 || echo GUEST-FAILED
mount -t ext4 /dev/nbd0 /disk || echo GUEST-FAILED
dd if=/dev/urandom of=/disk/file bs=64k count=128 conv=fsync 2>/dev/null || echo GUEST-FAILED
echo GUEST-SUM $(md5sum /disk/file | cut -d' ' -f1)
umount /disk
sync
/bin/nbd-client -d /dev/nbd0
echo GUEST-DONE
poweroff -f";

#[test]
fn the_kernels_own_client_mounts_our_disk_over_tcp() {
    let state = State::new();
    let dir = tempfile::tempdir().expect("a directory");
    let daemon = Daemon::start_with(&state.path(), &["--nbd-listen", "127.0.0.1:0"]).expect("ready");
    daemon.create("kernel", 64 << 20);
    let at = daemon.client().status().expect("status").daemon.nbd_listen.expect("an address");
    let port = at.rsplit(':').next().expect("a port").to_owned();
    // the client's program with the libraries it needs
    let root = dir.path().join("initramfs");
    fs::create_dir_all(root.join("bin")).expect("a directory");
    sh(
        &root,
        "cp $(command -v nbd-client || echo /usr/sbin/nbd-client) bin/nbd-client
         for library in $(ldd bin/nbd-client | grep -o '/[^ ]*'); do mkdir -p .$(dirname $library); cp -L $library .$library; done",
    );
    let first = initramfs(dir.path(), &["nbd"], &KERNEL_CLIENT.replace("PORT", &port));
    let mut guest =
        Guest::boot(&first, &["-netdev", "user,id=net", "-device", "virtio-net-pci,netdev=net,romfile="]);
    let sum = guest.until("GUEST-SUM");
    guest.ends();
    let uri = nbd::Uri::unix(daemon.client().socket().with_file_name("nbd.sock"), "kernel").to_string();
    sh(
        dir.path(),
        &format!(
            "nbdcopy '{uri}' kernel.raw; e2fsck -fn kernel.raw; debugfs -R 'dump /file file' kernel.raw"
        ),
    );
    let found = Command::new("md5sum").arg(dir.path().join("file")).output().expect("md5sum");
    assert!(!sum.is_empty() && found.stdout.starts_with(sum.as_bytes()));
    let writes = daemon.client().exports().expect("exports");
    let kernel = writes.iter().find(|export| export.name == "kernel").expect("the export");
    assert!(kernel.commands.iter().any(|command| command.command == "flush" && command.requests > 0));
}
