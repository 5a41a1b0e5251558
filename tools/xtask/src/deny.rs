//! Licences, bans and sources of every dependency, judged by cargo-deny with `deny.toml`.
//!
//! Advisories are not asked here: they need a database from elsewhere that changes by itself, and a check of one
//! commit must give the same answer tomorrow. `cargo deny check advisories` asks them.

use std::path::PathBuf;

use anyhow::Result;

use crate::command::{cargo, output, program, run};
use crate::demo::target_folder;

/// The version the rules were written for; a newer one is a change to review.
const VERSION: &str = "0.20.2";

/// Runs cargo-deny, installing it into the target folder first if this version is not there.
///
/// # Errors
/// It cannot be installed, or names a crate that breaks the rules.
pub fn check() -> Result<()> {
    run(&mut program(installed()?, ["check", "licenses", "bans", "sources"]))
}

/// Installing takes about two minutes on two cores, once.
fn installed() -> Result<PathBuf> {
    let folder = target_folder().join("cargo-deny");
    let path = folder.join("bin/cargo-deny");
    let is_current = path.is_file()
        && output(&mut program(&path, ["--version"])).is_ok_and(|text| text.trim().ends_with(VERSION));
    if !is_current {
        let args = ["install", "cargo-deny", "--locked", "--force", "--version", VERSION, "--root"];
        run(cargo(args).arg(&folder).arg("--target-dir").arg(folder.join("build")))?;
    }
    Ok(path)
}
