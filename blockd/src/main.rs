//! `blockd`: serves virtual disks over NBD, takes recovery points, moves them to vaults. This file only starts and
//! ends; what the daemon is made of begins in [`daemon`].

mod api;
mod catalog;
mod config;
mod daemon;
mod disk_file;
mod disks;
mod error;
mod exports;
mod jobs;
mod names;
mod points;
mod restore;
mod serve;
mod state;
mod transfer;
mod vaults;

use clap::{Parser, Subcommand};
use std::process::ExitCode;

/// The backup appliance's daemon.
#[derive(Parser)]
#[command(version, max_term_width = 100)]
struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Serve the disks of a state directory, in the foreground.
    Serve(serve::Options),
}

/// Asks for as many descriptors as the host lets this process have: layers, clients and vaults share them. Where that is
/// refused the limit stays, and running out of them is an error that heals.
fn raise_descriptor_limit() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    if let Err(errno) = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit }) {
        eprintln!("blockd: cannot raise the limit of open files: {errno}");
    }
}

fn main() -> ExitCode {
    // nothing this process makes is readable by others unless it is opened on purpose
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o077));
    raise_descriptor_limit();
    let Verb::Serve(options) = Arguments::parse().verb;
    match serve::run(&options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let body = error.body();
            eprintln!("error: {}", body.message);
            if let Some(help) = body.help {
                eprintln!("help: {help}");
            }
            ExitCode::from(body.kind.exit_code())
        }
    }
}
