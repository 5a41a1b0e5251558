//! The demo tells its whole story, and leaves nothing behind.

use crate::fixture::blockd;
use serde_json::Value;
use std::process::Command;

#[test]
fn the_whole_story() {
    let dir = tempfile::tempdir().expect("a directory");
    assert!(blockd().is_file());
    let output = Command::new(env!("CARGO_BIN_EXE_blockctl"))
        .args(["demo", "--exit", "--size", "8M", "--json"])
        .env("TMPDIR", dir.path())
        .output()
        .expect("a demo");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    let told: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let steps: Vec<&str> =
        told["steps"].as_array().expect("steps").iter().filter_map(|step| step["step"].as_str()).collect();
    for part in [
        "ext4",
        "filled over NBD",
        "full",
        "incremental since",
        "restored",
        "all equal",
        "is gone",
        "there it is",
    ] {
        assert!(steps.iter().any(|step| step.contains(part)), "{part}: {steps:#?}");
    }
    assert_eq!(std::fs::read_dir(dir.path()).expect("a directory").count(), 0, "nothing is left behind");
}
