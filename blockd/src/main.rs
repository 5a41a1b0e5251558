//! `blockd`: serves virtual disks over NBD, takes recovery points, moves them to vaults. This file only starts and
//! ends; what the daemon is made of begins in [`daemon`].

mod api;
mod appliance_clock;
mod approvals;
mod archive;
mod attached;
mod audit;
mod audit_log;
mod bases;
mod bell;
mod catalog;
mod check;
mod claim;
mod config;
mod consolidation;
mod contexts;
mod daemon;
mod descriptors;
mod disk_file;
mod disks;
mod error;
mod events;
mod exports;
mod gate;
mod groups;
mod hydration;
mod identity;
mod jobs;
mod keeper;
mod lifetime;
mod machines;
mod marks;
mod metrics;
mod names;
mod pace;
mod points;
mod policies;
mod policy;
mod protection;
mod quiesce;
mod recover;
mod rehearsal;
mod repair;
mod restore;
mod resume;
mod run;
mod scrub;
mod serve;
mod sockets;
mod space;
mod state;
mod store;
mod sweep;
mod traffic;
mod transfer;
mod upkeep;
mod vaults;

use clap::{CommandFactory, Parser, Subcommand};
use error::{Error, Result};
use std::io::Write;
use std::path::{Path, PathBuf};
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
    /// Hold a guest's filesystems still for a recovery point; started by the daemon, which it outlives.
    #[command(hide = true)]
    Watchdog,
    /// Print the man page, or write one for every verb to a directory.
    Man {
        /// The directory, which is made if it does not exist.
        #[arg(long, value_name = "DIR")]
        dir: Option<PathBuf>,
    },
}

/// Heaps of the C library: one for each core of a small host.
const HEAPS: u16 = 2;

fn main() -> ExitCode {
    // nothing this process makes is readable by others unless it is opened on purpose
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o077));
    descriptors::raise_limit();
    block::linux::share_heaps(HEAPS);
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => return misused(&error),
    };
    let done = match arguments.verb {
        Verb::Serve(options) => serve::run(&options),
        Verb::Watchdog => quiesce::watchdog::run(),
        Verb::Man { dir } => man(dir.as_deref()),
    };
    match done {
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

/// What the parser says, with the help line where every other error has it. Help and version are no errors.
fn misused(error: &clap::Error) -> ExitCode {
    let text = error.render().to_string();
    let told = match text.trim_end().strip_suffix("For more information, try '--help'.") {
        Some(why) => {
            eprintln!("{}\nhelp: --help behind the command shows what it takes", why.trim_end());
            Ok(())
        }
        None => error.print(),
    };
    match told {
        Ok(()) => ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2)),
        Err(_) => ExitCode::FAILURE,
    }
}

/// The man pages, made of the same definitions as the parser.
fn man(dir: Option<&Path>) -> Result<()> {
    let command = Arguments::command();
    let Some(dir) = dir else {
        let mut page = Vec::new();
        let printed = clap_mangen::Man::new(command)
            .render(&mut page)
            .and_then(|()| std::io::stdout().lock().write_all(&page));
        return printed.map_err(|error| Error::host("print the man page", error));
    };
    let failed = |error| Error::host(format!("write man pages to {}", dir.display()), error);
    std::fs::create_dir_all(dir).map_err(failed)?;
    clap_mangen::generate_to(command, dir).map_err(failed)
}
