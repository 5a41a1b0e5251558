//! Running and restoring recovery points as people and scripts do, onto qemu's server too.

use crate::fixture::{Stage, image};
use serde_json::Value;
use std::fs;
use std::process::{Child, Command};
use std::time::Duration;

const SIZE: u64 = (8 << 20) + 512;

/// A state with disk `web` made of an image, of which the vault holds `web@1`.
fn stored() -> (Stage, Vec<u8>) {
    let stage = Stage::set();
    let path = stage.path("web.raw");
    image(&path, 3 << 20, SIZE);
    stage.text(&["disk", "create", "web", "--from", &path]);
    stage.text(&["backup", "web"]);
    (stage, fs::read(path).expect("its bytes"))
}

fn content(stage: &Stage, name: &str) -> Vec<u8> {
    let out = stage.path("content.raw");
    stage.text(&["disk", "export", name, &out, "--yes"]);
    fs::read(out).expect("its bytes")
}

#[test]
fn a_run_is_started_promoted_and_discarded() {
    let (stage, bytes) = stored();
    stage.text(&["point", "delete", "web@1", "--tier", "instant", "--yes"]);
    let run = stage.json(&["run", "web@1", "--name", "try", "--no-hydrate"]);
    assert_eq!((run["state"].as_str(), run["vault"].as_str()), (Some("kept"), Some("main")));
    assert_eq!(run["size"].as_u64(), Some(SIZE));
    assert_eq!(content(&stage, "try"), bytes);
    assert!(stage.text(&["run", "status"]).contains("vault main"));
    assert!(stage.text(&["status"]).contains("kept"));
    let again = stage.failure(&["run", "web@1", "--name", "try"]);
    assert_eq!(again.0, Some(4), "{}", again.1);
    assert_eq!(stage.failure(&["run", "web@9", "--name", "other"]).0, Some(3));
    let (code, said) = stage.failure(&["run", "discard", "try"]);
    assert!(code == Some(2) && said.contains("--yes"), "{said}");
    let run = stage.json(&["run", "promote", "try"]);
    assert_eq!((run["state"].as_str(), run["point"].as_str()), (Some("independent"), None));
    assert_eq!(content(&stage, "try"), bytes);
    assert_eq!(stage.failure(&["run", "discard", "try", "--yes"]).0, Some(4));
    stage.text(&["run", "web@1", "--name", "other", "--no-hydrate"]);
    stage.text(&["run", "discard", "other", "--yes"]);
    assert_eq!(stage.failure(&["run", "status", "other"]).0, Some(3));
}

#[test]
fn a_disk_is_replaced_and_that_undone() {
    let (stage, bytes) = stored();
    let written = stage.path("later.raw");
    image(&written, 1 << 20, SIZE);
    let later = fs::read(&written).expect("its bytes");
    let uri = stage.text(&["disk", "uri", "web"]);
    let copied = Command::new("nbdcopy").args(["--flush", &written, uri.trim()]).status().expect("nbdcopy");
    assert!(copied.success());
    assert_eq!(content(&stage, "web"), later);
    let foreseen = stage.json(&["restore", "disk", "web@1", "--replace", "web", "--preflight"]);
    assert!(foreseen["bytes_lost"].as_u64() > Some(0) && foreseen["obstacles"] == Value::Array(vec![]));
    let (code, said) = stage.failure(&["restore", "disk", "web@1", "--replace", "web"]);
    assert!(code == Some(2) && said.contains("--yes"), "{said}");
    let job = stage.json(&["restore", "disk", "web@1", "--replace", "web", "--verify", "--yes"]);
    assert!(job["restore"]["bytes_verified"].as_u64() >= Some(3 << 20), "{job}");
    assert_eq!(content(&stage, "web"), bytes);
    stage.text(&["restore", "disk", "--replace", "web", "--undo", "--yes"]);
    assert_eq!(content(&stage, "web"), later);
    let (code, _) = stage.failure(&["restore", "disk", "web@1", "--to", "web", "--preflight"]);
    assert_eq!(code, Some(5), "the name is taken");
}

/// A qemu-nbd that serves a file for writing; it ends with this value.
struct QemuNbd(Child);

impl Drop for QemuNbd {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

#[test]
fn a_point_goes_onto_another_server_and_is_read_back() {
    let (stage, bytes) = stored();
    let (file, socket) = (stage.path("foreign.raw"), stage.path("foreign.sock"));
    // what was there before must not show through
    fs::write(&file, vec![0xee; SIZE as usize + 4096]).expect("a file");
    let server =
        Command::new("qemu-nbd").args(["-f", "raw", "-t", "-k", &socket, &file]).spawn().expect("qemu-nbd");
    let server = QemuNbd(server);
    while !std::path::Path::new(&socket).exists() {
        std::thread::sleep(Duration::from_millis(10));
    }
    let uri = format!("nbd+unix:///?socket={socket}");
    let foreseen = stage.json(&["restore", "disk", "web@1", "--output", &uri, "--preflight"]);
    assert_eq!(
        (foreseen["bytes_lost"].as_u64(), foreseen["space_available"].as_u64()),
        (Some(SIZE), Some(SIZE + 4096)),
        "{foreseen}"
    );
    assert_eq!(
        (&foreseen["target"], &foreseen["elsewhere"]),
        (&Value::from(uri.as_str()), &Value::from(true))
    );
    let sent = stage.json(&["restore", "disk", "web@1", "--output", &uri, "--verify", "--yes"]);
    assert_eq!((sent["verified"].as_bool(), sent["size"].as_u64()), (Some(true), Some(SIZE)));
    drop(server);
    let found = fs::read(&file).expect("its bytes");
    assert!(found[..SIZE as usize] == bytes[..] && found[SIZE as usize..].iter().all(|&byte| byte == 0xee));
    let (code, said) = stage.failure(&["restore", "disk", "web@1", "--output", &uri, "--preflight"]);
    assert!(code == Some(5) && said.contains(&uri), "nobody listens there any more: {said}");
    let image = stage.path("web.qcow2");
    let foreseen = stage.json(&["restore", "disk", "web@1", "--output", &image, "--preflight"]);
    assert_eq!(
        (&foreseen["bytes_lost"], &foreseen["unlocked"]),
        (&Value::Null, &Value::from(true)),
        "{foreseen}"
    );
    assert!(foreseen["space_needed"].as_u64() >= Some(3 << 20), "{foreseen}");
    stage.text(&["restore", "disk", "web@1", "--output", &image, "--verify"]);
}
