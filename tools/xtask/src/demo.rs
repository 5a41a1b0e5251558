//! What runs the real programs, built in release: the demo and the benchmarks.

use std::ffi::OsString;
use std::path::PathBuf;

use anyhow::{Result, bail};

use crate::command::{cargo, program, root, run as run_program};
use crate::packages;

/// Options of `demo`.
#[derive(clap::Args)]
pub struct Args {
    /// Handed to `blockctl demo`, such as --exit
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "ARGS")]
    rest: Vec<OsString>,
}

/// Options of `bench`.
#[derive(clap::Args)]
pub struct BenchArgs {
    /// The workload and its options, such as `nbd --rounds 5`; none lists the workloads
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "WORKLOAD")]
    rest: Vec<OsString>,
}

/// Builds blockd and blockctl and hands over to `blockctl demo`.
///
/// # Errors
/// A package is missing and cannot be installed, a build fails, or the demo does.
pub fn run(args: &Args) -> Result<()> {
    packages::ensure(packages::DEMO)?;
    build(&["blockd", "blockctl"])?;
    run_program(program(built("blockctl")?, ["demo"]).args(&args.rest))
}

/// Builds the programs and the workloads and hands over to them.
///
/// # Errors
/// As [`run`].
pub fn bench(args: &BenchArgs) -> Result<()> {
    packages::ensure(packages::TEST)?;
    let untracked = release_folder().join("blockd-untracked");
    if args.rest.first().is_some_and(|workload| workload == "tracking") {
        let build = ["build", "--release", "--locked", "--package", "blockd", "--features", "untracked"];
        run_program(&mut cargo(build))?;
        std::fs::copy(built("blockd")?, &untracked)?;
    }
    build(&["blockd", "blockctl", "blockd-bench"])?;
    let mut bench = program(built("bench")?, &args.rest);
    run_program(bench.env("BLOCKD_BIN_DIR", release_folder()).env("BLOCKD_UNTRACKED", untracked))
}

pub fn build(packages: &[&str]) -> Result<()> {
    eprintln!("building {} in release; the first time this takes some minutes", packages.join(", "));
    let mut command = cargo(["build", "--release", "--locked", "--bins"]);
    run_program(command.args(packages.iter().flat_map(|package| ["--package", package])))
}

pub fn built(name: &str) -> Result<PathBuf> {
    let path = release_folder().join(name);
    if !path.is_file() {
        bail!("{} was not built", path.display());
    }
    Ok(path)
}

fn release_folder() -> PathBuf {
    target_folder().join("release")
}

/// Where cargo builds.
pub fn target_folder() -> PathBuf {
    root().join(std::env::var_os("CARGO_TARGET_DIR").unwrap_or_else(|| "target".into()))
}
