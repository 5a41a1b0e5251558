//! Every test: unit and integration tests, documentation examples, interleavings.

use anyhow::Result;

use crate::command::cargo;
use crate::packages;

/// The factor of `test --soak`: long enough to find what one run in CI rarely meets, short enough for a night.
const SOAK_FACTOR: u32 = 20;

/// Options of `test`.
#[derive(clap::Args)]
pub struct Args {
    /// Multiply the rounds of the heavy proofs (power cuts, kills, interleavings, seeds)
    #[arg(long)]
    soak: bool,
}

/// Options of `soak`.
#[derive(clap::Args)]
pub struct SoakArgs {
    /// By how much to multiply the rounds of the heavy proofs; tests read it as BLOCKD_SOAK
    #[arg(long, default_value_t = SOAK_FACTOR, value_parser = clap::value_parser!(u32).range(1..))]
    factor: u32,
}

/// Runs every test.
///
/// # Errors
/// A package is missing and cannot be installed, something does not build, or a test fails.
pub fn run(args: &Args) -> Result<()> {
    every_test(if args.soak { SOAK_FACTOR } else { 1 })
}

/// Runs every test with the heavy proofs multiplied.
///
/// # Errors
/// As [`run`].
pub fn soak(args: &SoakArgs) -> Result<()> {
    every_test(args.factor)
}

fn every_test(factor: u32) -> Result<()> {
    packages::ensure(packages::TEST)?;
    // Tests start the real programs; the test profile shares their libraries with the tests.
    run_cargo(&["build", "--profile", "test", "--workspace", "--bins"], factor)?;
    run_cargo(&["test", "--workspace", "--no-fail-fast"], factor)
}

fn run_cargo(args: &[&str], factor: u32) -> Result<()> {
    crate::command::run(cargo(args).arg("--locked").env("BLOCKD_SOAK", factor.to_string()))
}
