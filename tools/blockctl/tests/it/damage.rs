//! Damage at the command line: exit code 6 and names, with the daemon and without it.

use crate::fixture::{Stage, image};
use std::fs;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

fn flip(path: &PathBuf, offset: u64) {
    let file = fs::OpenOptions::new().read(true).write(true).open(path).expect("a file");
    let mut byte = [0];
    file.read_exact_at(&mut byte, offset).expect("a byte");
    file.write_all_at(&[byte[0] ^ 1], offset).expect("written");
}

#[test]
fn a_rotten_block_ends_commands_with_6() {
    let stage = Stage::set();
    let source = stage.path("source.raw");
    image(&source, 1 << 20, 1 << 20);
    stage.text(&["disk", "create", "web", "--from", &source]);
    stage.text(&["snapshot", "web"]);
    let clean = stage.json(&["disk", "scrub", "web"]);
    assert_eq!((&clean["ok"], &clean["bytes_read"]), (&true.into(), &(1 << 20).into()));
    let id = stage.json(&["disk", "show", "web"])["id"].as_str().expect("an id").to_owned();
    let dir = PathBuf::from(stage.path("state/disks")).join(&id);
    let files = |ending: &str| -> PathBuf {
        let mut found: Vec<PathBuf> =
            fs::read_dir(&dir).expect("a directory").map(|entry| entry.expect("an entry").path()).collect();
        found.retain(|path| path.extension().is_some_and(|found| found == ending));
        found.sort();
        found.remove(0)
    };
    let (layer, map) = (files("layer"), files("map"));
    let (layer_text, map_text) = (layer.display().to_string(), map.display().to_string());
    let dir_text = dir.display().to_string();

    // without the daemon: everything is sound
    let shown = stage.json(&["inspect", "layer", &layer_text, "--check"]);
    assert_eq!((&shown["blocks_verified"], &shown["bytes_data"]), (&256.into(), &(1 << 20).into()));
    assert_eq!(stage.json(&["inspect", "map", &map_text, "--check"])["extents"][0]["kind"], "data");
    let whole = stage.json(&["inspect", "disk", &dir_text, "--check"]);
    assert_eq!((&whole["points"], &whole["blocks_verified"]), (&serde_json::json!([1]), &256.into()));

    flip(&layer, 77 << 12);
    let out = stage.path("out.raw");
    for (arguments, parts) in [
        (vec!["disk", "scrub", "web"], vec!["web"]),
        (vec!["disk", "export", "web", &out], vec!["block 77", "web@1"]),
        (vec!["disk", "export", "web@1", &out], vec!["block 77", "web@1"]),
        (vec!["restore", "disk", "web@1", "--output", &out], vec!["block 77"]),
        (vec!["backup", "web"], vec!["block 77"]),
        (vec!["inspect", "layer", &layer_text, "--check"], vec!["block 77"]),
        (vec!["inspect", "disk", &dir_text, "--check"], vec!["block 77"]),
    ] {
        let (code, said) = stage.failure(&arguments);
        assert_eq!(code, Some(6), "{arguments:?}: {said}");
        parts.iter().for_each(|part| assert!(said.contains(part), "{arguments:?}: {said}"));
    }
    assert!(!fs::exists(&out).expect("looked"), "nothing is left of a failed export");
    let scrubbed = stage.run(&["disk", "scrub", "web", "--json"]);
    let found: serde_json::Value = serde_json::from_slice(&scrubbed.stdout).expect("JSON");
    assert_eq!(
        (&found["hurt"][0]["offset"], &found["hurt"][0]["length"]),
        (&(77 << 12).into(), &4096.into())
    );
    // without --check the bytes are not read
    stage.text(&["inspect", "layer", &layer_text]);
    flip(&map, 70);
    let (code, said) = stage.failure(&["inspect", "map", &map_text]);
    assert_eq!(code, Some(6), "{said}");
    let (code, _) = stage.failure(&["inspect", "map", &stage.path("nothing.map")]);
    assert_eq!(code, Some(3));
    flip(&map, 70);
    assert_eq!(stage.json(&["disk", "recover", "web"])["state"], "ready");
}

#[test]
fn a_rotten_copy_in_a_vault_ends_commands_with_6_and_is_named() {
    let stage = Stage::set();
    let source = stage.path("source.raw");
    image(&source, 1 << 20, 1 << 20);
    stage.text(&["disk", "create", "web", "--from", &source]);
    stage.text(&["backup", "web"]);
    stage.text(&["backup", "web"]);
    stage.text(&["point", "delete", "web@1", "--tier", "instant", "--yes"]);
    let mut dirs = vec![PathBuf::from(stage.path("state/vaults/main"))];
    while let Some(dir) = dirs.pop() {
        for path in fs::read_dir(dir).expect("a directory").map(|entry| entry.expect("an entry").path()) {
            match path.is_dir() {
                true => dirs.push(path),
                false if path.to_string_lossy().contains("/packs/") => {
                    flip(&path, path.metadata().expect("a pack").len() / 2);
                }
                false => {}
            }
        }
    }
    // before any check: the read that meets it says so
    let (out, code) = (stage.path("out.raw"), |arguments: &[&str]| stage.failure(arguments));
    for arguments in [&["restore", "disk", "web@1", "--output", &out][..], &["vault", "check", "main"]] {
        let (code, said) = code(arguments);
        assert_eq!(code, Some(6), "{arguments:?}: {said}");
        assert!(said.contains("damaged") || said.contains("web@1"), "{arguments:?}: {said}");
        assert!(!said.contains("dmesg"), "{said}");
    }
    let listed = stage.text(&["point", "list"]);
    assert!(
        listed.lines().filter(|line| line.starts_with("web@")).all(|line| line.ends_with("damaged")),
        "{listed}"
    );
    assert!(stage.text(&["point", "show", "web@1"]).contains("damaged in vault main"));
    let status = stage.text(&["status"]);
    assert!(status.contains("damaged in it: web@1, web@2"), "{status}");
    assert!(stage.text(&["vault", "list"]).contains("damaged"));
    assert!(stage.text(&["vault", "show", "main"]).contains("DAMAGED"));
    // what the disk has not changed since is read from its own points, and needs the vault for nothing
    stage.text(&["restore", "disk", "web@1", "--to", "new"]);
    let (refused, said) = code(&["point", "delete", "web@2", "--tier", "instant", "--yes"]);
    assert!(refused == Some(5) && said.contains("--last-copy"), "{said}");
    stage.text(&["point", "delete", "web@2", "--tier", "instant", "--last-copy", "--yes"]);
    let (corrupt, said) = code(&["restore", "disk", "web@1", "--to", "later"]);
    assert_eq!(corrupt, Some(6), "{said}");
}

#[test]
fn blobs_of_a_vault_are_shown_and_checked_with_its_key_and_without() {
    let stage = Stage::set();
    let source = stage.path("source.raw");
    image(&source, 1 << 20, 1 << 20);
    stage.text(&["disk", "create", "web", "--from", &source]);
    stage.text(&["backup", "web"]);
    let key = stage.path("state/keys/main.key");
    let blob = |shelf: &str| -> PathBuf {
        let mut at = PathBuf::from(stage.path("state/vaults/main")).join(shelf);
        while at.is_dir() {
            at = fs::read_dir(&at).expect("a directory").next().expect("an entry").expect("an entry").path();
        }
        at
    };
    let (pack, index, point) = (blob("packs"), blob("index"), blob("points"));
    let show = |kind: &str, file: &PathBuf, more: &[&str]| {
        stage.json(&[&["inspect", kind, &file.display().to_string(), "--check"], more].concat())
    };
    let with = ["--key", &key];
    let shown = show("pack", &pack, &[]);
    assert_eq!((&shown["chunks"], &shown["table"]), (&256.into(), &serde_json::Value::Null));
    let shown = show("pack", &pack, &with);
    assert_eq!(shown["table"].as_array().map(Vec::len).map(|count| count as u64), shown["entries"].as_u64());
    assert_eq!(shown["table"][0]["kind"], "frame");
    assert_eq!(show("index", &index, &[])["packs"], 1);
    assert_eq!(show("index", &index, &with)["table"][0]["name"], shown["name"]);
    assert_eq!(show("manifest", &point, &[])["point"], serde_json::Value::Null);
    assert_eq!(show("manifest", &point, &with)["point"]["item"], "web");
    let text = stage.text(&["inspect", "pack", &pack.display().to_string(), "--key", &key]);
    assert!(text.contains("frame"), "{text}");

    // a key of another vault is said to be wrong, and damage to be damage
    stage.text(&["vault", "create", "other", "--store", &stage.path("other")]);
    let other = stage.path("state/keys/other.key");
    let (code, said) = stage.failure(&["inspect", "pack", &pack.display().to_string(), "--key", &other]);
    assert!(code == Some(7) && said.contains("wrong key"), "{code:?} {said}");
    fs::set_permissions(&pack, std::os::unix::fs::PermissionsExt::from_mode(0o600)).expect("writable");
    flip(&pack, 5000);
    for more in [&[][..], &with] {
        let pack = pack.display().to_string();
        let arguments = [&["inspect", "pack", &pack, "--check"], more].concat();
        let (code, said) = stage.failure(&arguments);
        assert!(code == Some(6) && said.contains("checksum"), "{code:?} {said}");
    }
    flip(&point, 150);
    let (code, said) = stage.failure(&["inspect", "manifest", &point.display().to_string(), "--key", &key]);
    assert!(code == Some(6) && said.contains("seal is broken"), "{code:?} {said}");
}
