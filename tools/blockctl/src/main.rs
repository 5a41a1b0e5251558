//! `blockctl`: the person's door to blockd. It asks the daemon over its API; bytes of disks and files go over NBD, opened
//! here and not by the daemon.

mod access;
mod approval;
mod archive;
mod bases;
mod cli;
mod copy;
mod demo;
mod disk;
mod failure;
mod files;
mod group;
mod history;
mod hook;
mod inspect;
mod job;
mod machine;
mod mark;
mod mounts;
mod output;
mod point;
mod policy;
mod rehearse;
mod rescue;
mod restore;
mod run;
mod secret;
mod shell;
mod size;
mod span;
mod status;
mod vault;

use clap::Parser;
use cli::{Arguments, Reach, VaultVerb, Verb};
use failure::{Failure, Result};
use output::Output;
use std::process::ExitCode;
use std::time::Duration;

/// How long a daemon that was started a moment ago may take until it listens.
const START_LIMIT: Duration = Duration::from_secs(1);

fn main() -> ExitCode {
    // the sandboxed child of a mount is this very program and begins here
    mount::child_entry(Some(history::points));
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => return misused(&error),
    };
    let output = Output::new(arguments.json);
    match run(arguments, &output) {
        Ok(()) => ExitCode::SUCCESS,
        // whoever read our output has had enough
        Err(failure) if failure.is_broken_pipe() => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("error: {}", failure.message);
            if let Some(help) = failure.help.as_deref().or(failure.kind.advice()) {
                eprintln!("help: {help}");
            }
            ExitCode::from(failure.kind.exit_code())
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

fn run(arguments: Arguments, output: &Output) -> Result<()> {
    let Arguments { reach, verb, .. } = arguments;
    let client = || {
        let client = daemon(&reach)?;
        Ok::<_, Failure>(match &reach.token_file {
            Some(file) => client.with_token(secret::passphrase(file)?),
            None => client,
        })
    };
    match verb {
        Verb::Demo(options) => demo::run(&options, output),
        Verb::Status => status::show(&client()?, output),
        Verb::Disk(verb) => disk::run(verb, &client()?, output),
        Verb::Snapshot { disks, require } => point::snapshot(&client()?, output, disks, require),
        Verb::Point(verb) => point::run(verb, &client()?, output),
        Verb::Backup(options) => point::backup(&client()?, output, &options),
        Verb::Restore(verb) => restore::run(&client()?, output, verb),
        Verb::Run(options) => run::run(options, &client()?, output),
        Verb::Rehearse(options) => rehearse::run(&client()?, output, options),
        Verb::Mount(options) => mounts::mount(&client()?, output, &options),
        Verb::Umount { dir } => mounts::umount(output, &dir),
        Verb::Files(verb) => files::run(verb, &client()?, output),
        Verb::Vault(VaultVerb::Rescue(options)) => rescue::run(options, output),
        Verb::Vault(verb) => vault::run(verb, &client()?, output),
        Verb::Policy(verb) => policy::run(verb, &client()?, output),
        Verb::Group(verb) => group::run(verb, &client()?, output),
        Verb::Protect(options) => policy::protect(&client()?, output, &options),
        Verb::Unprotect(options) => policy::unprotect(&client()?, output, &options),
        Verb::Machine(verb) => machine::run(verb, &client()?, output),
        Verb::Job(verb) => job::run(verb, &client()?, output),
        Verb::Token(verb) => access::token(verb, &client()?, output),
        Verb::Approval(verb) => approval::run(verb, client, output),
        Verb::Clock(verb) => approval::clock(verb, &client()?, output),
        Verb::Events => access::events(&client()?, output),
        Verb::Audit(verb) => access::audit(verb, &client()?, output),
        Verb::Inspect(verb) => inspect::run(verb, output),
        Verb::Hook(verb) => hook::run(verb, &client()?.patient(hook::PATIENCE)),
        Verb::Completions { shell } => shell::completions(shell, output),
        Verb::Man { dir } => shell::man(dir.as_deref(), output),
    }
}

/// The daemon to ask: at the socket of a state directory, or elsewhere.
fn daemon(reach: &Reach) -> Result<control::Client> {
    if let (Some(address), Some(ca)) = (&reach.connect, &reach.ca) {
        let authorities = secret::text("certificate", ca)?;
        return Ok(control::Client::remote(address, authorities.as_bytes())?);
    }
    let dir = reach.state.clone().or_else(control::default_state_dir).ok_or_else(|| {
        Failure::usage("state directory: neither BLOCKD_STATE, XDG_STATE_HOME nor HOME is set")
            .with_help("name it with --state DIR")
    })?;
    Ok(control::Client::new(dir.join("api.sock"))?.patient(START_LIMIT))
}
