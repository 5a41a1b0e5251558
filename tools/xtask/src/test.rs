//! Every test: unit and integration tests, documentation examples, interleavings.

use std::process::Command;

use anyhow::Result;

use crate::command::{cargo, run as run_program};
use crate::packages;

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
    // Tests start the real programs; the test profile shares their libraries with the tests.
    start(cargo(["build", "--profile", "test", "--workspace", "--bins"]), false)?;
    start(cargo(["test", "--workspace", "--no-fail-fast"]), soak)
}

fn start(mut command: Command, soak: bool) -> Result<()> {
    command.arg("--locked");
    if soak {
        command.env(SOAK, "1");
    }
    run_program(&mut command)
}
