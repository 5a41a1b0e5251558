//! Tokens, approvals, the audit log and the clock from the command line.

use crate::fixture::Stage;
use std::fs;
use std::os::unix::fs::PermissionsExt;

#[test]
fn a_token_is_made_used_and_taken_back() {
    let stage = Stage::set();
    let file = stage.path("ops.token");
    stage.text(&["token", "create", "ops", "--role", "operator", "--item", "web*", "--output", &file]);
    assert_eq!(fs::metadata(&file).expect("a file").permissions().mode() & 0o777, 0o600);
    let (_, said) = stage.failure(&["token", "create", "x", "--role", "reader", "--output", &file]);
    assert!(said.contains("ops.token"), "{said}");
    assert_eq!(stage.json(&["token", "list"]).as_array().map(Vec::len), Some(1), "no token without a file");
    let run = |arguments: &[&str]| {
        let output = stage.run(&[&["--token-file", &file][..], arguments].concat());
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    assert_eq!(run(&["disk", "create", "web", "--size", "1M"]).0, Some(0));
    assert_eq!(run(&["snapshot", "web"]).0, Some(0));
    assert_eq!(run(&["disk", "create", "db", "--size", "1M"]).0, Some(5), "outside of its scope");
    let (code, said) = run(&["disk", "delete", "web", "--yes"]);
    assert!(code == Some(5) && said.contains("takes admin") && said.contains("help:"), "{said}");
    let tokens = stage.json(&["token", "list"]);
    assert_eq!((&tokens[0]["role"], &tokens[0]["items"][0]), (&"operator".into(), &"web*".into()));
    stage.text(&["token", "delete", "ops", "--yes"]);
    assert_eq!(run(&["status"]).0, Some(5));
    assert!(stage.json(&["events"]).is_array());
    let log = stage.text(&["audit", "list"]);
    assert!(
        log.contains("token ops") && log.contains("POST /v1/snapshots") && log.contains("refused"),
        "{log}"
    );
    let verified = stage.json(&["audit", "verify"]);
    assert_eq!(verified["ok"], true, "{verified}");
    let head = verified["head"].as_str().expect("a head");
    stage.text(&["audit", "verify", "--head", head]);
    assert_eq!(stage.failure(&["audit", "verify", "--head", &head.replace(':', ":f")]).0, Some(6));
}

#[test]
fn a_guard_approves_from_elsewhere_and_the_command_is_given_again() {
    let stage = Stage::set();
    stage.text(&["disk", "create", "web", "--size", "1M"]);
    stage.text(&["backup", "web"]);
    let (key, token) = (stage.path("guard.key"), stage.path("guard.token"));
    let made = stage.json(&["approval", "keygen", &key]);
    assert_eq!(made["public_key"].as_str().map(str::len), Some(64));
    assert_eq!(fs::metadata(&key).expect("a file").permissions().mode() & 0o777, 0o600);
    let public = format!("{key}.pub");
    stage.text(&["token", "create", "eve", "--role", "guard", "--key", &public, "--output", &token]);
    let delete = ["point", "delete", "web@1", "--tier", "vault", "--yes"];
    let (code, said) = stage.failure(&delete);
    assert!(code == Some(5) && said.contains("blockctl approval approve"), "{said}");
    let id = stage.json(&["approval", "list"])[0]["id"].as_str().expect("an id")[..8].to_owned();
    assert!(stage.text(&["approval", "show", &id]).contains("web@1"));
    let approve = ["approval", "approve", &id, "--key", &key, "--yes"];
    assert_eq!(stage.failure(&approve).0, Some(5), "the admin is no guard");
    assert_eq!(stage.failure(&["approval", "approve", &id, "--key", &public, "--yes"]).0, Some(2));
    let said = stage.text(&[&["--token-file", &token][..], &approve].concat());
    assert!(said.contains("approved"), "{said}");
    stage.text(&delete);
    assert_eq!(stage.json(&["approval", "show", &id])["state"], "used");
    stage.text(&["vault", "protect", "main", "--immutability", "on", "--immutable-days", "7"]);
    assert_eq!(stage.json(&["vault", "show", "main"])["immutability"], "on");
    let off = ["vault", "protect", "main", "--immutability", "off"];
    assert_eq!(stage.failure(&off).0, Some(5), "less takes the guard");
    assert_eq!(stage.failure(&["vault", "protect", "main"]).0, Some(2));
    let locked = ["vault", "protect", "main", "--immutability", "locked"];
    assert_eq!(stage.failure(&locked).0, Some(2), "nobody is there to confirm it");
    let clock = stage.json(&["clock", "show"]);
    assert!(clock["now"].is_string() && clock["jump"].is_null(), "{clock}");
}
