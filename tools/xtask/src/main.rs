//! `cargo xtask`: the demo, the tests, the benchmarks and the checks of this workspace.
//!
//! It starts other programs and reads their answers; it knows nothing of how blockd works and depends on none
//! of its crates, so that it builds in seconds on a fresh machine.

mod arrows;
mod checks;
mod ci;
mod command;
mod deb;
mod demo;
mod deny;
mod docs;
mod fuzz;
mod install;
mod packages;
mod servers;
mod sources;
mod test;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "cargo xtask", about = "Demo, test, bench and checks of this workspace")]
struct Cli {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Build in release and let `blockctl demo` tell the whole story on temporary state
    Demo(demo::Args),
    /// Install what the tests need (as root), then run every test
    Test(test::Args),
    /// Run every test, the heavy proofs in their long forms
    Soak,
    /// Every check of continuous integration: what .ci/run calls
    Ci,
    /// Install the object store servers the tests talk to
    Servers,
    /// Check that crates depend on each other only along the arrows of the design
    Arrows,
    /// Check the licences and sources of every dependency with cargo-deny
    Deny,
    /// Check the prose: no machine paths, no unfinished marks, links that lead somewhere
    Docs,
    /// Run a fuzz target with cargo-fuzz
    Fuzz(fuzz::Args),
    /// Build in release and put programs, manual pages, units and the hook of libvirt in place
    Install(install::Args),
    /// Build in release and pack a Debian package
    Deb,
    /// Build in release and measure a workload beside its peers
    Bench(demo::BenchArgs),
}

fn main() -> ExitCode {
    let outcome = match Cli::parse().task {
        Task::Demo(args) => demo::run(&args),
        Task::Test(args) => test::run(&args),
        Task::Soak => test::soak(),
        Task::Ci => ci::run(),
        Task::Servers => servers::ensure(),
        Task::Arrows => arrows::check(),
        Task::Deny => deny::check(),
        Task::Docs => docs::check(),
        Task::Fuzz(args) => fuzz::run(&args),
        Task::Install(args) => install::run(&args),
        Task::Deb => deb::run(),
        Task::Bench(args) => demo::bench(&args),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
