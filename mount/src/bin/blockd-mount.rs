//! `blockd-mount NBD-URI... DIR [--foreground] [--allow-other]` and `blockd-mount --umount DIR`: the files inside any NBD
//! export, without the daemon. `blockctl mount` does the same for recovery points by name.

use std::ffi::OsString;
use std::path::Path;
use std::process::ExitCode;

const USAGE: &str =
    "usage: blockd-mount NBD-URI... DIR [--foreground] [--allow-other]\n       blockd-mount --umount DIR";

fn main() -> ExitCode {
    mount::child_entry(None);
    let arguments: Vec<OsString> = std::env::args_os().skip(1).collect();
    let (flags, rest): (Vec<_>, Vec<_>) =
        arguments.iter().partition(|argument| argument.as_encoded_bytes().starts_with(b"--"));
    let has = |flag: &str| flags.iter().any(|argument| *argument == flag);
    let known =
        flags.iter().all(|flag| ["--foreground", "--allow-other", "--umount"].iter().any(|its| *flag == its));
    let done = match (rest.as_slice(), known) {
        ([dir], true) if has("--umount") => mount::umount(Path::new(dir)).map(|()| None),
        ([uri, beside @ .., dir], true) => {
            // several are called by their place
            let disk = |(number, uri): (usize, &&OsString)| {
                (format!("disk{number}"), uri.to_string_lossy().into_owned())
            };
            let options = mount::Options {
                name: if beside.is_empty() { String::new() } else { "disk1".to_owned() },
                beside: (2..).zip(beside).map(disk).collect(),
                foreground: has("--foreground"),
                allow_other: has("--allow-other"),
                ..mount::Options::new(uri.to_string_lossy(), dir.as_os_str())
            };
            mount::run(&options)
        }
        _ => {
            eprintln!("{USAGE}");
            return ExitCode::from(2);
        }
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
