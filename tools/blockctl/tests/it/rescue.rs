//! Recovery points out of a bare store: no daemon, no state, only a key.

use crate::fixture::{Stage, image};
use sim::server::{BUCKET, Server};
use std::fs;
use std::path::Path;
use std::process::{Command, Output};

/// The program with nothing around it: an empty home and no state.
fn bare(arguments: &[&str]) -> Output {
    let home = tempfile::tempdir().expect("a directory");
    let mut command = Command::new(env!("CARGO_BIN_EXE_blockctl"));
    command.args(arguments).env_clear().env("HOME", home.path()).env("PATH", "/usr/bin:/bin");
    command.output().expect("a process")
}

fn text(arguments: &[&str]) -> String {
    let output = bare(arguments);
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("text")
}

fn failure(arguments: &[&str]) -> (Option<i32>, String) {
    let output = bare(arguments);
    (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
}

/// The lines a person would have typed off the printed sheet.
fn typed(sheet: &Path) -> String {
    let sheet = fs::read_to_string(sheet).expect("a sheet");
    let lines: Vec<&str> = sheet.lines().skip_while(|line| !line.starts_with("vault:")).take(6).collect();
    lines.join("\n").to_lowercase()
}

fn with<'a>(store: &[&'a str], key: &[&'a str], verb: &[&'a str]) -> Vec<&'a str> {
    [&["vault", "rescue"], store, key, verb].concat()
}

/// Lists and restores with the key and compares with the image that was backed up.
fn rescue(store: &[&str], key: &[&str], raw: &str, out: &str) {
    let listed: serde_json::Value =
        serde_json::from_str(&text(&with(store, key, &["list", "--json"]))).expect("JSON");
    assert_eq!(listed[0]["name"], "web@1", "{listed}");
    let id = listed[0]["id"].as_str().expect("an id").to_owned();
    for point in ["web@1", "web@latest", &id[..12]] {
        let _gone = fs::remove_file(out);
        text(&with(store, key, &["restore", point, out]));
        assert!(fs::read(out).expect("restored") == fs::read(raw).expect("the image"), "{point}");
    }
    let (exit, said) = failure(&with(store, key, &["restore", "web@9", out]));
    assert!(exit == Some(3) && said.contains("web@9"), "{exit:?} {said}");
}

#[test]
fn a_directory_copies_of_it_and_a_bucket_are_rescued_with_the_sheet() {
    let server = Server::moto();
    let mut stage = Stage::set();
    let (raw, out) = (stage.path("web.raw"), stage.path("out.raw"));
    image(&raw, 3_000_001, 8 << 20);
    stage.json(&["disk", "create", "web", "--from", &raw]);
    let options = stage.path("options");
    let lines = format!(
        "endpoint = http://127.0.0.1:{}\nallow-http = true\nregion = us-east-1\naccess-key-id = a\nsecret-access-key = b\n",
        server.port()
    );
    fs::write(&options, lines).expect("written");
    let (one, two, plain) = (stage.path("one"), stage.path("two"), stage.path("plain"));
    let bucket = format!("s3://{BUCKET}/rescued");
    stage.json(&["vault", "create", "plain", "--store", &plain]);
    stage.json(&["vault", "create", "twice", "--store", &one, "--copy", &two]);
    stage.json(&["vault", "create", "far", "--store", &bucket, "--store-options", &options]);
    for vault in ["plain", "twice", "far"] {
        stage.json(&["backup", "web", "--vault", vault]);
    }
    let keys = |vault: &str| {
        let shown = stage.json(&["vault", "show", vault]);
        let sheet = stage.path(&format!("{vault}.typed"));
        fs::write(&sheet, typed(Path::new(shown["recovery_sheet"].as_str().expect("a path"))))
            .expect("written");
        (sheet, shown["key_file"].as_str().expect("a path").to_owned())
    };
    let (plain_sheet, plain_key) = keys("plain");
    let (twice_sheet, _) = keys("twice");
    let (far_sheet, _) = keys("far");
    let names = |vault: &str| stage.json(&["vault", "show", vault])["points"].as_u64();
    assert_eq!((names("plain"), names("twice")), (Some(1), Some(1)));
    stage.signal(rustix::process::Signal::KILL);
    // each vault has its own first point of the disk
    let rescue_first = |store: &[&str], key: &[&str]| {
        let listed: serde_json::Value =
            serde_json::from_str(&text(&with(store, key, &["list", "--json"]))).expect("JSON");
        let name = listed[0]["name"].as_str().expect("a name").to_owned();
        let _gone = fs::remove_file(&out);
        text(&with(store, key, &["restore", &name, &out]));
        assert!(fs::read(&out).expect("restored") == fs::read(&raw).expect("the image"), "{store:?}");
    };
    rescue(&[&plain], &["--key", &plain_sheet], &raw, &out);
    rescue(&[&plain], &["--key", &plain_key], &raw, &out);
    rescue_first(&[&one, "--copy", &two], &["--key", &twice_sheet]);
    rescue_first(&[&two], &["--key", &twice_sheet]);
    rescue_first(&[&bucket, "--store-options", &options], &["--key", &far_sheet]);
    // what is wrong is said for what it is
    let (exit, said) = failure(&["vault", "rescue", &plain, "--key", &twice_sheet, "list"]);
    assert!(exit == Some(7) && said.contains("wrong key") && !said.contains("damaged"), "{exit:?} {said}");
    let (exit, said) = failure(&["vault", "rescue", &stage.path("nothing"), "--key", &plain_sheet, "list"]);
    assert!(exit == Some(3), "{exit:?} {said}");
    fs::create_dir(stage.path("empty")).expect("made");
    let (exit, said) = failure(&["vault", "rescue", &stage.path("empty"), "--key", &plain_sheet, "list"]);
    assert!(exit == Some(3) && said.contains("no vault"), "{exit:?} {said}");
    let (exit, said) = failure(&[
        "vault",
        "rescue",
        "s3://no-such-bucket/x",
        "--store-options",
        &options,
        "--key",
        &plain_sheet,
        "list",
    ]);
    assert!(exit == Some(7) && said.contains("bucket does not exist"), "{exit:?} {said}");
    stage.start_again();
}

/// Passphrase and sheet of a vault that leaves nothing on the host; keys that come and go.
#[test]
fn keys_come_and_go_by_the_command_line() {
    let stage = Stage::set();
    let (raw, out) = (stage.path("web.raw"), stage.path("out.raw"));
    image(&raw, 100_000, 2 << 20);
    stage.json(&["disk", "create", "web", "--from", &raw]);
    let (secret, sheet, store) = (stage.path("secret"), stage.path("sheet"), stage.path("sealed"));
    fs::write(&secret, "correct horse\nanother line\n").expect("written");
    stage.json(&[
        "vault",
        "create",
        "sealed",
        "--store",
        &store,
        "--passphrase-file",
        &secret,
        "--sheet",
        &sheet,
    ]);
    assert!(fs::read_to_string(&sheet).expect("the sheet").contains("sheet:"));
    stage.json(&["backup", "web", "--vault", "sealed"]);
    let (exit, said) = stage.failure(&["vault", "key", "rotate", "sealed"]);
    assert!(exit == Some(3), "{exit:?} {said}");
    let file = stage.path("spare.key");
    let added = stage.json(&[
        "vault",
        "key",
        "add",
        "sealed",
        "--key-file",
        &file,
        "--current-passphrase-file",
        &secret,
    ]);
    assert_eq!(added["key_file"], file.as_str());
    assert_eq!(stage.json(&["vault", "key", "list", "sealed"]).as_array().map(Vec::len), Some(2));
    for key in [["--passphrase-file", &secret], ["--key", &file], ["--key", &sheet]] {
        rescue(&[&store], &key, &raw, &out);
    }
    let slot = added["slot"].as_str().expect("an id");
    stage.json(&["vault", "key", "remove", "sealed", slot, "--yes"]);
    let (exit, said) = failure(&["vault", "rescue", &store, "--key", &file, "list"]);
    assert!(exit == Some(7) && said.contains("wrong key"), "{exit:?} {said}");
    let slots = stage.json(&["vault", "key", "rotate", "main"]);
    assert_eq!(slots.as_array().map(Vec::len), Some(1));
}
