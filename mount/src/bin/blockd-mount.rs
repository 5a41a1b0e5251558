//! `blockd-mount NBD-URI... DIR [--foreground] [--allow-other]` and `blockd-mount --umount DIR`: the files inside any NBD
//! export, without the daemon. `blockctl mount` does the same for recovery points by name.

use clap::Parser;
use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

/// Show the files inside NBD exports as a tree: disk.raw, partitions/N.raw, files/N/.
#[derive(Parser)]
#[command(version, max_term_width = 100)]
struct Arguments {
    /// The disks of one machine, such as nbd://localhost/web or nbd+unix:///web?socket=PATH, and the directory to mount at.
    #[arg(value_names = ["NBD-URI", "DIR"], num_args = 2.., required_unless_present = "umount")]
    disks_and_dir: Vec<OsString>,
    /// Stay in the foreground until the mount ends.
    #[arg(long)]
    foreground: bool,
    /// Let other users look in too.
    #[arg(long)]
    allow_other: bool,
    /// Open volumes encrypted with LUKS with a passphrase, the first line of this file; may be given several times.
    #[arg(long, value_name = "FILE")]
    passphrase_file: Vec<PathBuf>,
    /// End the mount at this directory.
    #[arg(long, value_name = "DIR", conflicts_with_all = ["disks_and_dir", "foreground", "allow_other", "passphrase_file"])]
    umount: Option<PathBuf>,
}

fn main() -> ExitCode {
    mount::child_entry(None);
    let arguments = Arguments::parse();
    let done = match (&arguments.umount, arguments.disks_and_dir.as_slice()) {
        (Some(dir), _) => mount::umount(dir).map(|()| None),
        (None, [uri, beside @ .., dir]) => {
            // several are called by their place
            let disk = |(number, uri): (usize, &OsString)| {
                (format!("disk{number}"), uri.to_string_lossy().into_owned())
            };
            mount::Passphrases::from_files(&arguments.passphrase_file).and_then(|passphrases| {
                mount::run(&mount::Options {
                    passphrases,
                    name: if beside.is_empty() { String::new() } else { "disk1".to_owned() },
                    beside: (2..).zip(beside).map(disk).collect(),
                    foreground: arguments.foreground,
                    allow_other: arguments.allow_other,
                    ..mount::Options::new(uri.to_string_lossy(), dir.as_os_str())
                })
            })
        }
        // the parser asks for two at least
        (None, _) => return ExitCode::from(2),
    };
    match done {
        Ok(log) => {
            if let Some(log) = log {
                println!("what cannot be read is explained in {}", log.display());
            }
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("error: {}", error.with_causes());
            ExitCode::FAILURE
        }
    }
}
