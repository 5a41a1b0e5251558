//! `mount` as a command: in the foreground until its end, or leaving a process behind once the mount is usable.

use crate::{Error, Mount, Options, Result};
use block::Kind;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use std::ffi::{OsStr, OsString};
use std::io::{Read, Write};
use std::path::PathBuf;
use std::process::{Command, Stdio};

/// The argument that makes an executable the supervisor of a mount in the background.
const ARGUMENT: &str = "--blockd-mount-supervisor";
const READY: &str = "ready";
const ALLOW_OTHER: &str = "allow-other";
const FOR_OWNER: &str = "for-owner";
/// The longest report of a failed start, in bytes.
const MAX_REPORT: u64 = 8 << 10;

/// Mounts. In the foreground it returns after the mount's end; otherwise as soon as the tree is usable, and a process
/// of its own serves it from then on.
///
/// # Errors
/// As [`Mount::start`], also from the background.
pub fn run(options: &Options) -> Result<()> {
    if options.foreground { serve(options, || Ok(())) } else { leave_behind(options) }
}

/// Becomes the supervisor if this process was started as one, and then does not return.
pub(crate) fn supervisor_entry() {
    let arguments: Vec<OsString> = std::env::args_os().collect();
    let [_, marker, uri, dir, who] = arguments.as_slice() else { return };
    if marker.as_os_str() != OsStr::new(ARGUMENT) {
        return;
    }
    let options = Options {
        uri: uri.to_string_lossy().into_owned(),
        dir: PathBuf::from(dir),
        foreground: true,
        allow_other: who.as_os_str() == OsStr::new(ALLOW_OTHER),
        executable: None,
    };
    std::process::exit(match detach().and_then(|()| serve(&options, || report(READY))) {
        Ok(()) => 0,
        // nobody may be there to read it any more, and then nothing is left to tell
        Err(error) => i32::from(report(&describe(&error)).is_ok()),
    });
}

/// A session of its own: no terminal's hang-up or interrupt ends the mount.
fn detach() -> Result<()> {
    rustix::process::setsid().map(|_| ()).map_err(|errno| Error::host("detach", "the mount", errno))
}

/// Serves until unmounted; the usual signals unmount.
fn serve(options: &Options, ready: impl FnOnce() -> Result<()>) -> Result<()> {
    let failed = |error| Error::host("handle signals for", &options.dir, error);
    let mut signals = Signals::new([SIGINT, SIGTERM, SIGHUP]).map_err(failed)?;
    let handle = signals.handle();
    let mount = Mount::start(options)?;
    let unmounter = mount.unmounter();
    let watcher = std::thread::spawn(move || {
        for _ in signals.forever() {
            match unmounter.unmount() {
                Ok(()) => break,
                Err(error) => tracing::warn!("{error}"),
            }
        }
    });
    let served = ready().and_then(|()| mount.wait());
    handle.close();
    watcher.join().map_err(|_| failed(std::io::Error::other("a thread of it panicked")))?;
    served
}

/// Starts the supervisor and waits for its word.
fn leave_behind(options: &Options) -> Result<()> {
    let own = PathBuf::from("/proc/self/exe");
    let executable = options.executable.as_ref().unwrap_or(&own);
    let failed = |source| Error::host("start the process that serves", &options.dir, source);
    // the supervisor's working directory is another
    let dir = std::path::absolute(&options.dir).map_err(failed)?;
    let mut supervisor = Command::new(executable)
        .arg(ARGUMENT)
        .arg(&options.uri)
        .arg(&dir)
        .arg(if options.allow_other { ALLOW_OTHER } else { FOR_OWNER })
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .map_err(failed)?;
    let mut report = String::new();
    if let Some(output) = supervisor.stdout.take() {
        read_report(output, &mut report).map_err(failed)?;
    }
    match report.trim_end() {
        READY => Ok(()),
        "" => {
            let status = supervisor.wait().map_err(failed)?;
            Err(failed(std::io::Error::other(format!("it ended without a word ({status})"))))
        }
        told => Err(undescribe(told)),
    }
}

/// Up to the first line's end: the supervisor keeps its end of the pipe for as long as it lives.
fn read_report(output: impl Read, report: &mut String) -> std::io::Result<()> {
    let mut lines = std::io::BufReader::new(output.take(MAX_REPORT));
    std::io::BufRead::read_line(&mut lines, report).map(|_| ())
}

fn report(line: &str) -> Result<()> {
    let mut output = std::io::stdout();
    let written = writeln!(output, "{line}").and_then(|()| output.flush());
    written.map_err(|error| Error::host("report to", "the command that started it", error))
}

const KINDS: [(Kind, &str); 12] = [
    (Kind::Invalid, "invalid"),
    (Kind::OutOfRange, "out-of-range"),
    (Kind::NotFound, "not-found"),
    (Kind::Conflict, "conflict"),
    (Kind::ReadOnly, "read-only"),
    (Kind::NoSpace, "no-space"),
    (Kind::Io, "io"),
    (Kind::Corrupt, "corrupt"),
    (Kind::Unsupported, "unsupported"),
    (Kind::Unavailable, "unavailable"),
    (Kind::Poisoned, "poisoned"),
    (Kind::Cancelled, "cancelled"),
];

/// A failure in one line: its kind, then what a person reads, causes included.
fn describe(error: &Error) -> String {
    let kind = KINDS.iter().find(|(kind, _)| *kind == error.kind()).map_or("io", |(_, name)| name);
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    format!("{kind} {}", text.replace('\n', " "))
}

fn undescribe(line: &str) -> Error {
    let (name, text) = line.split_once(' ').unwrap_or(("io", line));
    let kind = KINDS.iter().find(|(_, its)| *its == name).map_or(Kind::Io, |(kind, _)| *kind);
    Error::Reported { kind, text: text.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_survive_the_way_through_the_pipe() {
        for (kind, _) in KINDS {
            let told = undescribe(&describe(&Error::Reported { kind, text: "a\nreason".to_owned() }));
            assert_eq!((told.kind(), told.to_string()), (kind, "a reason".to_owned()));
        }
        let cause = std::io::Error::other("the cause");
        let told = undescribe(&describe(&Error::host("do", "a thing", cause)));
        assert_eq!((told.kind(), told.to_string()), (Kind::Io, "cannot do a thing: the cause".to_owned()));
    }
}
