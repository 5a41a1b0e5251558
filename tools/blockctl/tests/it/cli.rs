//! The contract of the command line: forms, fields, exit codes.

use crate::fixture::{Stage, image};
use rustix::process::Signal;
use serde_json::Value;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::process::Stdio;

fn fields(value: &Value, names: &[&str]) {
    for name in names {
        assert!(value.get(name).is_some(), "{name} is missing in {value}");
    }
}

#[test]
fn an_image_goes_in_and_every_point_of_it_comes_out() {
    let stage = Stage::set();
    let source = stage.path("source.raw");
    // to the byte, and mostly hole
    image(&source, 3_000_001, (64 << 20) + 513);
    let disk = stage.json(&["disk", "create", "web-root", "--from", &source]);
    assert_eq!(disk["size"], (64 << 20) + 513);
    assert_eq!(stage.text(&["snapshot", "web-root"]), "web-root@1\n");
    let uri = stage.text(&["disk", "uri", "web-root"]);
    let socket = fs::canonicalize(stage.path("state/nbd.sock")).expect("a socket");
    assert_eq!(uri.trim(), format!("nbd+unix:///web-root?socket={}", socket.display()));
    let out = stage.path("out.raw");
    stage.text(&["disk", "export", "web-root", &out]);
    assert_eq!(fs::read(&out).expect("a file"), fs::read(&source).expect("a file"));
    assert!(fs::metadata(&out).expect("a file").blocks() * 512 < 8 << 20, "sparse");
    let job = stage.json(&["backup", "web-root"]);
    let named =
        ["id", "point", "kind", "state", "bytes_changed", "bytes_read", "chunks_new", "chunks_reused"];
    fields(&job, &named);
    fields(&job, &["bytes_stored", "duration_ms"]);
    assert_eq!(
        (&job["point"], &job["kind"], &job["state"]),
        (&"web-root@2".into(), &"full".into(), &"done".into())
    );
    let fresh = stage.path("fresh.raw");
    image(&fresh, 5000, 5000);
    let updated = std::process::Command::new("qemu-io")
        .args(["-f", "raw", "-c", "write -P 9 1M 8k", uri.trim()])
        .output()
        .expect("qemu-io");
    assert!(updated.status.success());
    let changes = stage.json(&["disk", "changes", "web-root", "--since", "web-root@latest"]);
    assert_eq!(changes["ranges"], serde_json::json!([{ "offset": 1 << 20, "length": 8192, "kind": "data" }]));
    let job = stage.json(&["backup", "web-root"]);
    assert_eq!((&job["kind"], &job["bytes_changed"]), (&"incremental".into(), &8192.into()));
    // an earlier point, as a disk from the vault alone and as a file
    stage.text(&["point", "delete", "web-root@2", "--tier", "instant", "--yes"]);
    let restored = stage.json(&["restore", "disk", "web-root@2", "--to", "again"]);
    assert_eq!(restored["state"], "done");
    stage.text(&["disk", "export", "again", &out, "--yes"]);
    assert_eq!(fs::read(&out).expect("a file"), fs::read(&source).expect("a file"));
    let file = stage.path("restored.raw");
    stage.text(&["restore", "disk", "web-root@1", "--output", &file]);
    assert_eq!(fs::read(&file).expect("a file"), fs::read(&source).expect("a file"));
}

#[test]
fn every_answer_has_its_fields() {
    let stage = Stage::set();
    stage.text(&["disk", "create", "a", "--size", "1M"]);
    stage.text(&["disk", "create", "b", "--size", "513"]);
    let points = stage.json(&["snapshot", "a", "b"]);
    let listed = stage.json(&["point", "list"]);
    assert_eq!(points, listed);
    let named = ["name", "disk", "epoch", "time", "size", "tiers", "consistency", "verified"];
    listed.as_array().expect("an array").iter().for_each(|point| fields(point, &named));
    assert_eq!(
        (&listed[0]["tiers"], &listed[0]["verified"]),
        (&serde_json::json!(["instant"]), &false.into())
    );
    fields(&stage.json(&["status"]), &["daemon", "disks", "points", "vaults", "warnings"]);
    assert_eq!(stage.json(&["disk", "list"]).as_array().map(Vec::len), Some(2));
    fields(&stage.json(&["disk", "show", "b"]), &["name", "id", "size", "uri", "state"]);
    fields(&stage.json(&["disk", "uri", "a@1"]), &["name", "uri"]);
    assert_eq!(stage.json(&["point", "show", "a@latest"])["name"], "a@1");
    stage.text(&["backup", "a"]);
    assert_eq!(stage.json(&["vault", "check", "main"])["ok"], true);
    assert_eq!(stage.json(&["point", "show", "a@2"])["verified"], true);
    fields(
        &stage.json(&["vault", "show", "main"]),
        &["name", "id", "store", "locked", "key_file", "recovery_sheet"],
    );
    let store = stage.path("second");
    assert_eq!(stage.json(&["vault", "create", "second", "--store", &store])["points"], 0);
    assert_eq!(stage.json(&["vault", "list"]).as_array().map(Vec::len), Some(2));
    let jobs = stage.json(&["job", "list"]);
    let id = jobs[0]["id"].as_str().expect("an id");
    assert_eq!(stage.json(&["job", "show", &id[..8]])["operation"], "check");
    assert_eq!(stage.json(&["job", "watch", id])["state"], "done");
    // the same for people
    for arguments in [
        &["status"][..],
        &["disk", "list"],
        &["point", "list"],
        &["vault", "list"],
        &["job", "list"],
        &["job", "show", id],
    ] {
        let text = stage.text(arguments);
        assert!(!text.is_empty() && !text.contains('{'), "{arguments:?}: {text}");
    }
    assert_eq!(stage.json(&["disk", "delete", "b", "--yes"])["name"], "b");
}

#[test]
fn failures_have_their_exit_code_and_say_what_to_do() {
    let stage = Stage::set();
    stage.text(&["disk", "create", "web", "--size", "1M"]);
    let full = stage.path("full.raw");
    image(&full, 10, 10);
    let dir = stage.path("");
    let keys = stage.path("state/keys/second");
    let (empty, missing, key) =
        (stage.path("empty"), stage.path("missing"), stage.path("state/keys/main.key"));
    fs::create_dir(&empty).expect("a directory");
    let cases: [(&[&str], i32, &str); 33] = [
        (&["disk", "show", "nope"], 3, "nope"),
        (&["point", "show", "web@7"], 3, "web@7"),
        (&["backup", "web", "--vault", "nope"], 3, "nope"),
        (&["restore", "disk", "web@7", "--to", "x"], 3, "web@7"),
        (&["disk", "create", "web", "--size", "1M"], 4, "exists"),
        (&["disk", "create", "Web", "--size", "1M"], 2, "Web"),
        (&["disk", "create", "x"], 2, "--size"),
        (&["disk", "create", "x", "--size", "many"], 2, "many"),
        (&["disk", "create", "x", "--size", "5", "--from", &full], 2, "10 bytes"),
        (&["disk", "create", "x", "--from", "/nonexistent/file"], 3, "/nonexistent"),
        (&["disk", "export", "web", "out", "--format", "zip"], 2, "zip"),
        (&["disk", "export", "web", "out", "--compress"], 2, "qcow2"),
        (&["disk", "export", "web", "out", "--format", "qcow2", "--fixed"], 2, "vhd"),
        (&["disk", "create", "x", "--from", "/tmp"], 2, "directory"),
        (&["disk", "create", "x", "--size", "1M", "--format", "raw"], 2, "--from"),
        (&["disk", "export", "web", &full], 2, "--yes"),
        (&["disk", "delete", "web"], 2, "--yes"),
        (&["mount", "web", "/tmp"], 3, "snapshot"),
        (&["disk", "create", "vm/web", "--size", "1M"], 2, "vm/web/vda"),
        (&["snapshot", "vm/none"], 3, "vm/none"),
        (&["disk", "export", "web", &dir], 2, "directory"),
        (&["vault", "create", "second", "--store", "gopher://bucket"], 2, "gopher"),
        (&["vault", "create", "second", "--store", &keys], 5, "state directory"),
        (&["job", "show", "0123"], 3, "0123"),
        (&["disk", "explode"], 2, "explode"),
        (&["umount", "/nowhere"], 3, "/nowhere"),
        (&["disk", "adopt", "q", "/nonexist"], 3, "check the path"),
        (&["disk", "show", "web@1"], 2, "its disk is web"),
        (&["backup", "web@1"], 2, "point show web@1"),
        (&["disk", "stats", "nope"], 3, "nope"),
        (&["vault", "open", "old", "--store", &empty, "--key", &key], 3, "vault.BLOB"),
        (&["vault", "open", "old", "--store", &missing, "--key", &key], 3, "vault.BLOB"),
        (&["disk", "delete", "web", "--adopted-file", "--yes"], 2, "leave --adopted-file away"),
    ];
    for (arguments, code, says) in cases {
        let (exit, said) = stage.failure(arguments);
        assert_eq!(exit, Some(code), "{arguments:?}: {said}");
        assert!(said.starts_with("error: ") && said.contains(says), "{arguments:?}: {said}");
        assert!(said.contains("\nhelp: "), "{arguments:?}: {said}");
    }
    assert_eq!(stage.json(&["disk", "list"]).as_array().map(Vec::len), Some(1), "nothing half made is left");
    let nobody = stage.path("nobody");
    let (exit, said) = stage.failure(&["status", "--state", &nobody]);
    assert!(exit == Some(7) && said.contains("nobody") && said.contains("help: "), "{exit:?} {said}");
}

#[test]
fn a_point_is_not_written_over_a_directory() {
    let stage = Stage::set();
    stage.text(&["disk", "create", "vm/web/vda", "--size", "1M"]);
    assert_eq!(stage.text(&["snapshot", "vm/web"]), "vm/web/vda@1\n");
    let dir = stage.path("");
    let (exit, said) = stage.failure(&["restore", "disk", "vm/web/vda@1", "--output", &dir]);
    assert_eq!(exit, Some(2));
    assert!(said.contains("directory") && said.contains("vm-web-vda@1.raw"), "{said}");
    let file = stage.path("vda.raw");
    stage.text(&["restore", "disk", "vm/web/vda@1", "--output", &file]);
    assert_eq!(fs::metadata(&file).expect("a file").len(), 1 << 20);
}

#[test]
fn a_daemon_that_is_killed_meanwhile_is_unavailable() {
    let mut stage = Stage::set();
    stage.text(&["disk", "create", "web", "--size", "64M"]);
    let point = stage.text(&["snapshot", "web"]);
    // stopped, it takes the request and never answers
    stage.signal(Signal::STOP);
    let asked = ["status", "snapshot web", "job list", "backup web"].map(|verb| {
        let mut command = stage.command(&verb.split(' ').collect::<Vec<_>>());
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("a command")
    });
    let file = stage.path("out.raw");
    let export = stage.command(&["disk", "export", point.trim(), &file]).stderr(Stdio::piped()).spawn();
    std::thread::sleep(std::time::Duration::from_millis(500));
    stage.signal(Signal::KILL);
    for command in asked.into_iter().chain(export) {
        let output = command.wait_with_output().expect("its end");
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(7), "{said}");
        assert!(said.starts_with("error: ") && said.contains("\nhelp: "), "{said}");
    }
    stage.start_again();
    assert_eq!(stage.json(&["disk", "list"]).as_array().map(Vec::len), Some(1));
}

#[test]
fn ready_is_said_once() {
    let dir = tempfile::tempdir().expect("a directory");
    let out = fs::File::create(dir.path().join("out")).expect("a file");
    let mut daemon = std::process::Command::new(crate::fixture::blockd())
        .arg("serve")
        .arg("--state")
        .arg(dir.path().join("state"))
        .stdout(out.try_clone().expect("the same file"))
        .stderr(out)
        .spawn()
        .expect("a daemon");
    let said = || fs::read_to_string(dir.path().join("out")).expect("text");
    while !said().contains("ready\n") {
        assert!(daemon.try_wait().expect("its state").is_none(), "{}", said());
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    rustix::process::kill_process(rustix::process::Pid::from_child(&daemon), Signal::TERM).expect("a signal");
    assert!(daemon.wait().expect("its end").success());
    assert_eq!(said().lines().filter(|line| line.contains("ready")).count(), 1, "{}", said());
}

#[test]
fn one_thing_is_no_plural() {
    let stage = Stage::set();
    stage.text(&["disk", "create", "web", "--size", "1M"]);
    stage.text(&["backup", "web"]);
    let (_, said) = stage.failure(&["disk", "delete", "web"]);
    assert!(said.contains("1 instant recovery point:"), "{said}");
    let said = stage.text(&["vault", "check", "main"]);
    assert!(said.contains("1 recovery point,"), "{said}");
    fields(
        &stage.json(&["vault", "usage", "main"]),
        &["points", "packs", "bytes_stored", "bytes_referenced", "bytes_unreferenced"],
    );
}

#[test]
fn a_sweep_says_what_it_did_and_a_run_that_is_not_there() {
    let stage = Stage::set();
    stage.text(&["disk", "create", "web", "--size", "1M"]);
    stage.text(&["backup", "web"]);
    let said = stage.text(&["vault", "sweep", "main"]);
    assert!(said.contains("0 packs") && !said.contains("--undo"), "{said}");
    fields(
        &stage.json(&["vault", "sweep", "main"]),
        &[
            "vault",
            "run",
            "quarantined",
            "rewritten",
            "bytes_rewritten",
            "bytes_quarantined",
            "deleted",
            "bytes_deleted",
            "released",
        ],
    );
    assert_eq!(stage.json(&["vault", "sweep", "main", "--list"]).as_array().map(Vec::len), Some(0));
    let (code, said) = stage.failure(&["vault", "sweep", "main", "--undo", "nope"]);
    assert!(code == Some(3) && said.contains("vault sweep main --list"), "{said}");
}

#[test]
fn completions_and_man_pages_know_every_verb() {
    let stage = Stage::set();
    for shell in ["bash", "zsh", "fish"] {
        let text = stage.text(&["completions", shell]);
        assert!(text.contains("snapshot") && text.contains("restore"), "{shell}");
    }
    assert!(stage.text(&["man"]).contains(".TH"));
    let dir = stage.path("man");
    stage.text(&["man", "--dir", &dir]);
    assert!(fs::metadata(format!("{dir}/blockctl-disk-create.1")).is_ok());
}

#[test]
fn what_is_shown_is_in_sensible_units_and_of_disks_that_are_there() {
    let stage = Stage::set();
    for name in ["web", "gone"] {
        stage.text(&["disk", "create", name, "--size", "513"]);
        stage.text(&["snapshot", name]);
        stage.text(&["disk", "export", &format!("{name}@1"), &stage.path("out.raw"), "--yes"]);
    }
    let shown = stage.text(&["disk", "show", "web"]);
    assert!(shown.lines().any(|line| line.split_whitespace().eq(["state", "ready"])), "{shown}");
    assert!(stage.text(&["disk", "stats", "gone"]).contains("gone@1"));
    stage.text(&["disk", "delete", "gone", "--yes"]);
    let all = stage.text(&["disk", "stats"]);
    assert!(all.contains("web@1") && !all.contains("gone"), "{all}");
    assert_eq!(stage.json(&["disk", "stats", "web"]).as_array().map(Vec::len), Some(1));
    // a format of whole sectors says what it adds
    let out = stage.path("out.qcow2");
    let said = stage.text(&["disk", "export", "web@1", &out, "--format", "qcow2"]);
    assert!(said.contains("511 zero bytes at the end"), "{said}");
    let written = stage.json(&["disk", "export", "web@1", &out, "--format", "qcow2", "--yes"]);
    assert_eq!((&written["size"], &written["bytes_added"]), (&1024.into(), &511.into()));
    assert!(stage.text(&["vault", "usage", "main"]).contains("indexes"));
}

#[test]
fn the_daemon_speaks_as_the_commands_do() {
    let daemon = |arguments: &[&str]| {
        let output = std::process::Command::new(crate::fixture::blockd()).args(arguments).output();
        let output = output.expect("a daemon");
        let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        (output.status.code(), said)
    };
    let (code, said) = daemon(&["serve", "--nbd-lisen", "x"]);
    assert!(code == Some(2) && said.starts_with("error: ") && said.contains("\nhelp: "), "{said}");
    assert!(!said.contains("For more information"), "{said}");
    let (code, said) = daemon(&["man"]);
    assert!(code == Some(0) && said.contains(".TH") && said.contains("serve"), "{said}");
    assert_eq!(daemon(&["--help"]).0, Some(0));
}
