//! The hook of libvirt as libvirt calls it, and the units of systemd.

use crate::fixture::Stage;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

fn hooks() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../hooks")
}

/// Calls the script with a machine's definition that has this disk.
fn hook(stage: &Stage, operation: [&str; 2], name: &str) -> Output {
    let programs = Path::new(env!("CARGO_BIN_EXE_blockctl")).parent().expect("a directory");
    let mut child = Command::new(hooks().join("libvirt/qemu"))
        .args(["web", operation[0], operation[1], "-"])
        .env("PATH", format!("{}:/usr/bin:/bin", programs.display()))
        .env("BLOCKD_STATE", stage.path("state"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the hook");
    let xml = format!(
        "<domain type='qemu'><name>web</name><devices><disk type='network' device='disk'>\
         <source protocol='nbd' name='{name}'><host transport='unix' socket='{}'/></source>\
         <target dev='vda' bus='virtio'/></disk></devices></domain>",
        stage.path("state/nbd.sock")
    );
    child.stdin.take().expect("its input").write_all(xml.as_bytes()).expect("taken");
    child.wait_with_output().expect("its end")
}

#[test]
fn a_machine_starts_only_with_its_disks() {
    let stage = Stage::set();
    stage.text(&["disk", "create", "vm/web/vda", "--size", "1M"]);
    let said = |output: &Output| String::from_utf8_lossy(&output.stderr).into_owned();
    let good = hook(&stage, ["prepare", "begin"], "vm/web/vda");
    assert!(good.status.success(), "{}", said(&good));
    let missing = hook(&stage, ["prepare", "begin"], "vm/web/vdb");
    assert_eq!(missing.status.code(), Some(3));
    assert!(said(&missing).contains("machine web is kept from starting"), "{}", said(&missing));
    assert!(hook(&stage, ["started", "begin"], "vm/web/vdb").status.success(), "that is no veto");
    assert!(hook(&stage, ["release", "end"], "vm/web/vda").status.success());
    // somebody who stays connected is waited for, and then named
    let uri = stage.text(&["disk", "uri", "vm/web/vda"]);
    let mut user = Command::new("qemu-io")
        .args(["-f", "raw", uri.trim()])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .expect("qemu-io");
    let connected = || stage.json(&["disk", "show", "vm/web/vda"])["writers"] != 0;
    while !connected() {
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    let mut input = user.stdin.take().expect("its input");
    let leaves = std::thread::spawn(move || {
        std::thread::sleep(std::time::Duration::from_millis(500));
        input.write_all(b"quit\n").expect("taken");
        user.wait().expect("its end");
    });
    assert!(hook(&stage, ["release", "end"], "vm/web/vda").status.success());
    leaves.join().expect("it left");
    assert!(!connected());
}

/// A namespace of mounts of its own would make every crash of the daemon cost what was not flushed.
#[test]
fn the_service_keeps_the_mounts_of_the_host() {
    let unit = std::fs::read_to_string(hooks().join("systemd/blockd.service")).expect("the unit");
    let set: Vec<&str> = unit.lines().filter(|line| !line.starts_with('#')).collect();
    let namespaced = [
        "ProtectSystem",
        "ProtectHome",
        "ProtectKernel",
        "ProtectControlGroups",
        "ProtectProc",
        "ProcSubset",
        "Private",
        "ReadOnlyPaths",
        "ReadWritePaths",
        "InaccessiblePaths",
        "ExecPaths",
        "NoExecPaths",
        "BindPaths",
        "BindReadOnlyPaths",
        "TemporaryFileSystem",
        "RootDirectory",
        "RootImage",
        "MountFlags",
        "DynamicUser",
        "MountAPIVFS",
        "ExtensionImages",
        "MountImages",
    ];
    for directive in namespaced {
        assert!(!set.iter().any(|line| line.starts_with(directive)), "{directive}");
    }
    let folder = tempfile::tempdir().expect("a directory");
    for name in ["blockd.socket", "blockd-api.socket", "blockd.service"] {
        let text = std::fs::read_to_string(hooks().join("systemd").join(name)).expect("a unit");
        std::fs::write(
            folder.path().join(name),
            text.replace("@bindir@", "/usr/bin").replace("/usr/bin/blockd", "/bin/true"),
        )
        .expect("written");
    }
    let verified = Command::new("systemd-analyze")
        .args(["verify", "--man=no"])
        .args(["blockd.service", "blockd.socket", "blockd-api.socket"].map(|name| folder.path().join(name)))
        .output()
        .expect("systemd-analyze, of the packages tests need");
    let said = String::from_utf8_lossy(&verified.stderr);
    let about_us: Vec<&str> = said.lines().filter(|line| line.contains("blockd")).collect();
    assert!(about_us.is_empty(), "{about_us:?}");
}
