//! `blockd`: serves virtual disks over NBD, takes recovery points, moves them to vaults. This file only starts and
//! ends; what the daemon is made of begins in [`daemon`].

mod api;
mod bases;
mod bell;
mod catalog;
mod claim;
mod config;
mod consolidation;
mod contexts;
mod daemon;
mod descriptors;
mod disk_file;
mod disks;
mod error;
mod exports;
mod gate;
mod hydration;
mod jobs;
mod keeper;
mod lifetime;
mod marks;
mod metrics;
mod names;
mod points;
mod policies;
mod policy;
mod protection;
mod recover;
mod repair;
mod restore;
mod run;
mod scrub;
mod serve;
mod sockets;
mod space;
mod state;
mod store;
mod traffic;
mod transfer;
mod upkeep;
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

fn main() -> ExitCode {
    // nothing this process makes is readable by others unless it is opened on purpose
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o077));
    descriptors::raise_limit();
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
