//! A real Debian as the guest, made by debootstrap: installs packages on a run while that is hydrated and the daemon killed; and
//! boots from a run beside a raw file of the same image. Long form only: it is fetched, and emulated.

use crate::fixture::{Daemon, State};
use crate::guest::{Guest, initramfs, script, sh};
use control::{BackupRequest, RunRequest, RunState};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

/// Packages that are installed, each after what it needs.
const PACKAGES: &str = "make patch less libsigsegv2 m4 ed dc time";

/// Installs and builds, and says so; at last every file of every package is compared with its sum.
const INSTALLER: &str = "#!/bin/sh
export PATH=/usr/sbin:/usr/bin:/sbin:/bin DEBIAN_FRONTEND=noninteractive
mount -t proc proc /proc; mount -t sysfs sys /sys; mount -t devtmpfs dev /dev
echo GUEST-ROOT
for deb in $(cat /debs/order); do
  dpkg -i /debs/$deb >/debs/log 2>&1 || { cat /debs/log; echo GUEST-FAILED; }
  echo GUEST-STEP $deb
done
mkdir /built
cat > /built/Makefile <<'MAKE'
ALL := $(shell seq 1 24)
all: $(ALL)
%:
\tfind /usr/share/doc /usr/lib/dpkg -type f | sort | xargs cat | head -c $$(( $@ * 20000 )) > $@.in
\tm4 $@.in > $@.tmp 2>/dev/null || cp $@.in $@.tmp
\tsha256sum < $@.in > $@
\tsync -f $@
\t@echo GUEST-STEP built $@
MAKE
make -s -C /built all || echo GUEST-FAILED
echo 3 > /proc/sys/vm/drop_caches
for i in $(seq 1 24); do [ \"$(sha256sum < /built/$i.in)\" = \"$(cat /built/$i)\" ] || echo GUEST-FAILED; done
dpkg --verify > /debs/verify 2>&1; [ ! -s /debs/verify ] || { cat /debs/verify; echo GUEST-FAILED; }
[ -z \"$(dpkg --audit)\" ] || echo GUEST-FAILED
sync
mount -o remount,ro /
echo GUEST-DONE
/busybox poweroff -f
";

/// Says how long `tar` of `/usr` takes once systemd has everything up.
const BENCH: &str = "#!/bin/sh
exec >/dev/ttyS0 2>&1
echo GUEST-BOOTED
sync; echo 3 > /proc/sys/vm/drop_caches
begin=$(date +%s%N)
tar cf - /usr | cat > /dev/null
echo GUEST-TAR $(( ($(date +%s%N) - begin) / 1000000 ))
sync
echo GUEST-DONE
/busybox poweroff -f
";

const UNIT: &str = "[Unit]
After=systemd-user-sessions.service
[Service]
Type=simple
ExecStart=/bench.sh
[Install]
WantedBy=multi-user.target
";

/// An image of a Debian with packages to install; made once, whoever asks first.
fn image() -> &'static Path {
    static IMAGE: OnceLock<PathBuf> = OnceLock::new();
    IMAGE.get_or_init(make_image)
}

fn make_image() -> PathBuf {
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).with_file_name("guest");
    fs::create_dir_all(&dir).expect("a directory");
    let done = dir.join("debian.raw");
    if done.exists() {
        return done;
    }
    sh(
        &dir,
        "rm -rf debian; debootstrap --variant=minbase --include=systemd-sysv,udev bookworm debian >debian.log 2>&1",
    );
    let root = dir.join("debian");
    fs::create_dir_all(root.join("debs")).expect("a directory");
    for name in PACKAGES.split_whitespace() {
        sh(
            &root.join("debs"),
            &format!("apt-get download -qq -o APT::Sandbox::User=root {name} && ls {name}_*.deb >> order"),
        );
    }
    fs::copy("/bin/busybox", root.join("busybox")).expect("busybox-static");
    script(&root.join("install.sh"), INSTALLER);
    script(&root.join("bench.sh"), BENCH);
    fs::write(root.join("etc/systemd/system/bench.service"), UNIT).expect("a unit");
    sh(
        &dir,
        // nobody else on the console: a getty cuts off who writes there
        "ln -s /dev/null debian/etc/systemd/system/serial-getty@ttyS0.service
         ln -s ../bench.service debian/etc/systemd/system/multi-user.target.wants/bench.service
         truncate -s 1G making.raw && mke2fs -q -t ext4 -d debian making.raw && mv making.raw debian.raw && rm -rf debian",
    );
    done
}

/// A first filesystem that goes over to the disk's.
fn first(dir: &Path, init: &str) -> PathBuf {
    initramfs(dir, &[], &format!("mount -t ext4 /dev/vda /root && exec switch_root /root {init}"))
}

/// A daemon on whose vault alone the image lies, as `root@1`.
fn stored(config: &str) -> (State, Daemon) {
    let state = State::new();
    fs::create_dir(state.path()).expect("a directory");
    fs::write(state.file("blockd.toml"), config).expect("a configuration");
    let daemon = state.start();
    daemon.create("root", 1 << 30);
    let uri = daemon.client().disk("root").expect("a disk").uri;
    sh(Path::new("/"), &format!("nbdcopy --flush {} '{uri}'", image().display()));
    let request = BackupRequest { item: "root".into(), ..BackupRequest::default() };
    let job = daemon.client().backup(&request).expect("a job");
    assert_eq!(daemon.finished(&job).error, None);
    daemon.client().delete_disk("root").expect("only the vault has it");
    (state, daemon)
}

fn run(daemon: &Daemon, name: &str) -> String {
    let request = RunRequest { point: "root@1".into(), name: name.into(), hydrate: true };
    daemon.client().run(&request).expect("it runs");
    format!(
        "driver=nbd,node-name=disk,server.type=unix,server.path={},export={name},reconnect-delay=60",
        daemon.client().socket().with_file_name("nbd.sock").display()
    )
}

fn boot(first: &Path, drive: &str) -> Guest {
    Guest::boot(first, &["-blockdev", drive, "-device", "virtio-blk-pci,drive=disk"])
}

#[test]
fn a_debian_installs_packages_on_a_run_while_it_is_hydrated_and_the_daemon_killed() {
    if std::env::var_os("BLOCKD_SOAK").is_none() {
        return;
    }
    let (state, mut daemon) = stored("hydration-bytes-per-second = 4194304\n");
    let dir = tempfile::tempdir().expect("a directory");
    let mut guest = boot(&first(dir.path(), "/install.sh"), &run(&daemon, "now"));
    guest.until("GUEST-ROOT");
    let (mut kills, mut while_hydrating) = (0, 0);
    // 8 packages, then 24 things that are built
    for step in 0..32 {
        guest.until("GUEST-STEP");
        if step < 7 || step % 8 == 0 {
            let hydrates =
                daemon.client().run_status("now").expect("its status").state == RunState::Hydrating;
            while_hydrating += u32::from(hydrates);
            // in the middle of the next step
            std::thread::sleep(Duration::from_millis(250));
            daemon.kill();
            kills += 1;
            std::thread::sleep(Duration::from_millis(200));
            daemon = state.start();
        }
    }
    guest.ends();
    println!("{kills} kills, {while_hydrating} of them while hydrating");
    assert!(kills >= 10 && while_hydrating > 2, "{kills} kills, {while_hydrating} while hydrating");
    // as fast as it goes
    fs::write(state.file("blockd.toml"), "").expect("a configuration");
    assert!(daemon.stop().success());
    let daemon = state.start();
    daemon.client().promote("now").expect("asked");
    daemon.eventually("it becomes independent", |client| {
        client.run_status("now").expect("its status").state == RunState::Independent
    });
    let uri = daemon.client().disk("now").expect("a disk").uri;
    sh(dir.path(), &format!("nbdcopy '{uri}' found.raw && e2fsck -fn found.raw"));
}

/// How long a guest takes until it is up, and for its `tar`.
fn measure(first: &Path, drive: &str) -> [f64; 2] {
    let began = Instant::now();
    let mut guest = boot(first, drive);
    guest.until("GUEST-BOOTED");
    let up = began.elapsed().as_secs_f64();
    let tar: f64 = guest.until("GUEST-TAR").parse().expect("milliseconds");
    guest.ends();
    [up, tar / 1000.0]
}

#[test]
fn a_debian_boots_from_a_run_nearly_as_fast_as_from_a_raw_file() {
    if std::env::var_os("BLOCKD_SOAK").is_none() {
        return;
    }
    let (state, mut daemon) = stored("");
    let dir = tempfile::tempdir().expect("a directory");
    let first = first(dir.path(), "/sbin/init");
    let raw = dir.path().join("copy.raw");
    let mut ratios = [Vec::new(), Vec::new()];
    for round in 0..3 {
        let mut pair = [[0.0; 2]; 2];
        for turn in 0..2 {
            let subject = (round + turn) % 2;
            pair[subject] = if subject == 0 {
                assert!(daemon.stop().success());
                daemon = state.start();
                measure(&first, &run(&daemon, &format!("run-{round}")))
            } else {
                fs::copy(image(), &raw).expect("a copy");
                let file = raw.display();
                measure(&first, &format!("driver=raw,node-name=disk,file.driver=file,file.filename={file}"))
            };
        }
        println!("round {round}: run {:?}, raw file {:?} (boot and tar, seconds)", pair[0], pair[1]);
        (0..2).for_each(|what| ratios[what].push(pair[0][what] / pair[1][what]));
    }
    for (what, ratios) in ["boot", "tar of /usr"].into_iter().zip(&mut ratios) {
        ratios.sort_by(f64::total_cmp);
        println!("{what}, of a raw file: {:.2} ({:.2}-{:.2})", ratios[1], ratios[0], ratios[2]);
    }
    assert!(ratios[0][1] <= 1.2 && ratios[1][1] <= 2.0, "{ratios:?}");
}
