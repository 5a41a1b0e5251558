//! Fuzz targets: each crate that decodes foreign or stored bytes has a `fuzz` folder for cargo-fuzz.

use std::path::PathBuf;

use anyhow::{Context, Result, bail};

use crate::command::{cargo, output, root, run as run_program};
use crate::demo::target_folder;

/// Folders with crates that have a `fuzz` folder.
const FLOORS: &[&str] = &[".", "images", "blockd", "tools"];

/// Options of `fuzz`.
#[derive(clap::Args)]
pub struct Args {
    /// The target, a file name in a crate's fuzz/fuzz_targets; without it the targets are listed
    target: Option<String>,
    /// How long to look
    #[arg(default_value_t = 60)]
    seconds: u32,
}

/// Runs one target, or lists them all.
///
/// # Errors
/// No target has the name, cargo-fuzz is not installed, or it found a failing input.
pub fn run(args: &Args) -> Result<()> {
    let targets = targets()?;
    let Some(wanted) = &args.target else {
        for (name, folder) in &targets {
            println!("{name:<24} {}", folder.strip_prefix(root()).unwrap_or(folder).display());
        }
        return Ok(());
    };
    let Some((_, folder)) = targets.iter().find(|(name, _)| name == wanted) else {
        bail!("no fuzz target {wanted}\nhelp: cargo xtask fuzz lists them");
    };
    if output(&mut cargo(["fuzz", "--version"])).is_err() {
        bail!("cargo-fuzz is not installed\nhelp: cargo install cargo-fuzz --locked");
    }
    let mut command = cargo(["fuzz", "run", "--fuzz-dir"]);
    command.arg(folder).arg(wanted).arg("--").arg(format!("-max_total_time={}", args.seconds));
    // the sanitizer flags cargo-fuzz passes are unstable ones; this lets the stable compiler take them
    run_program(command.env("RUSTC_BOOTSTRAP", "1"))
}

/// Every fuzz folder still compiles: they are workspaces of their own, which nothing else builds.
///
/// # Errors
/// One does not, or there is none to check.
pub fn check() -> Result<()> {
    let folders = folders()?;
    if folders.is_empty() {
        bail!("there is no fuzz folder under {FLOORS:?}");
    }
    for folder in folders {
        let mut command = cargo(["check", "--quiet", "--bins", "--manifest-path"]);
        command.arg(folder.join("Cargo.toml")).arg("--target-dir").arg(target_folder().join("fuzz"));
        run_program(command.env("RUSTFLAGS", "--deny warnings"))?;
    }
    Ok(())
}

/// Every target by name with the fuzz folder it lives in, sorted.
fn targets() -> Result<Vec<(String, PathBuf)>> {
    let mut targets = Vec::new();
    for folder in folders()? {
        let sources = folder.join("fuzz_targets");
        for entry in std::fs::read_dir(&sources).with_context(|| sources.display().to_string())? {
            let path = entry?.path();
            let stem = path.file_stem().and_then(|stem| stem.to_str());
            targets.extend(stem.map(|stem| (stem.to_owned(), folder.clone())));
        }
    }
    targets.sort();
    Ok(targets)
}

/// Every `fuzz` folder of the workspace.
fn folders() -> Result<Vec<PathBuf>> {
    let mut folders = Vec::new();
    for floor in FLOORS {
        let floor = root().join(floor);
        for entry in std::fs::read_dir(&floor).with_context(|| floor.display().to_string())? {
            let fuzz = entry?.path().join("fuzz");
            if fuzz.join("Cargo.toml").is_file() {
                folders.push(fuzz);
            }
        }
    }
    folders.sort();
    folders.dedup();
    Ok(folders)
}
