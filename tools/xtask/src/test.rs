//! Every test: unit and integration tests, documentation examples, interleavings.

use std::process::Command;

use anyhow::Result;

use crate::command::{cargo, run as run_program};
use crate::demo::target_folder;
use crate::{packages, servers, sources};

/// Tests that have a long form take it when this is set.
const SOAK: &str = "BLOCKD_SOAK";

/// Options of `test`.
#[derive(clap::Args)]
pub struct Args {
    /// Run the long forms of the heavy proofs (power cuts, kills, interleavings, seeds); takes hours
    #[arg(long)]
    soak: bool,
}

/// Runs every test.
///
/// # Errors
/// A package is missing and cannot be installed, something does not build, or a test fails.
pub fn run(args: &Args) -> Result<()> {
    every_test(args.soak)
}

/// Runs every test, the heavy proofs in their long forms.
///
/// # Errors
/// As [`run`].
pub fn soak() -> Result<()> {
    every_test(true)
}

fn every_test(soak: bool) -> Result<()> {
    packages::ensure(packages::TEST)?;
    servers::ensure()?;
    sources::ensure(sources::TEST)?;
    // Tests start the real programs; the test profile shares their libraries with the tests.
    start(cargo(["build", "--profile", "test", "--workspace", "--bins"]), false)?;
    // The slowest proofs need no oracle and no program: they are built by themselves, with every lock and atomic a
    // point where the explorer may switch threads. A folder of their own keeps the other builds from starting over.
    let mut interleavings = cargo(["test", "--package", "blockd-layers", "--test", "interleavings"]);
    interleavings
        .arg("--target-dir")
        .arg(target_folder().join("shuttle"))
        .env("RUSTFLAGS", "--cfg blockd_shuttle");
    let explored = start(interleavings, soak);
    start(cargo(["test", "--workspace", "--no-fail-fast"]), soak).and(explored)
}

fn start(mut command: Command, soak: bool) -> Result<()> {
    command.arg("--locked");
    if soak {
        command.env(SOAK, "1");
    }
    run_program(&mut command)
}
