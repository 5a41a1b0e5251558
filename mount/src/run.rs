//! `mount` as a command: in the foreground until its end, or leaving a process behind once the mount is usable.

use crate::luks::Passphrases;
use crate::parser::close_descriptors;
use crate::points::PointsFrom;
use crate::serve::{Item, own_executable};
use crate::{Error, Mount, Options, Result, Unmounter, log};
use block::Kind;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use std::ffi::{OsStr, OsString};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

/// The argument that makes an executable the supervisor of a mount in the background.
const ARGUMENT: &str = "--blockd-mount-supervisor";
const READY: &str = "ready";
const ALLOW_OTHER: &str = "allow-other";
const FOR_OWNER: &str = "for-owner";
const POINT: &str = "point";
const ITEM: &str = "item";
const MACHINE: &str = "machine:";
/// How often a signal tries to unmount, and how long it waits in between: five seconds in all.
const UNMOUNT_TRIES: usize = 50;
const UNMOUNT_PAUSE: Duration = Duration::from_millis(100);
/// The longest report of a failed start, in bytes.
const MAX_REPORT: u64 = 8 << 10;

/// Mounts. In the foreground it returns after the mount's end; otherwise as soon as the tree is usable, and a process
/// of its own serves it from then on. That process writes why something could not be read to the file returned, which
/// goes with the mount if it stayed empty.
///
/// # Errors
/// As [`Mount::start`], also from the background.
pub fn run(options: &Options) -> Result<Option<PathBuf>> {
    if !options.foreground {
        return leave_behind(options).map(Some);
    }
    log::start(None);
    serve(options, || Ok(())).map(|()| None)
}

/// Becomes the supervisor if this process was started as one, and then does not return.
pub(crate) fn supervisor_entry(points: Option<PointsFrom>) {
    let arguments: Vec<OsString> = std::env::args_os().collect();
    let [_, marker, uri, dir, who, what, its_log, name, beside @ ..] = arguments.as_slice() else { return };
    if marker.as_os_str() != OsStr::new(ARGUMENT) {
        return;
    }
    let text = |argument: &OsString| argument.to_string_lossy().into_owned();
    // before anything else, as whoever waits for a report has written them
    let passphrases = match Passphrases::read(std::io::stdin().lock()) {
        Ok(passphrases) => passphrases,
        Err(error) => std::process::exit(i32::from(report(&describe(&error)).is_ok())),
    };
    let options = Options {
        uri: text(uri),
        name: text(name),
        beside: beside.as_chunks::<2>().0.iter().map(|[name, uri]| (text(name), text(uri))).collect(),
        dir: PathBuf::from(dir),
        foreground: true,
        allow_other: who.as_os_str() == OsStr::new(ALLOW_OTHER),
        executable: None,
        passphrases,
        item: points.and_then(|points| item(&what.to_string_lossy(), points)),
    };
    log::start(Some(log::LIMIT_BYTES));
    let served = detach().and_then(|()| serve(&options, || report(READY)));
    log::remove_if_empty(Path::new(its_log));
    std::process::exit(match served {
        Ok(()) => 0,
        // nobody may be there to read it any more, and then nothing is left to tell
        Err(error) => i32::from(report(&describe(&error)).is_ok()),
    });
}

/// What is mounted, as the supervisor is told it.
fn what(item: Option<&Item>) -> String {
    match item {
        None => POINT.to_owned(),
        Some(Item { machine: None, .. }) => ITEM.to_owned(),
        Some(Item { machine: Some(machine), .. }) => format!("{MACHINE}{machine}"),
    }
}

fn item(what: &str, points: PointsFrom) -> Option<Item> {
    match what.strip_prefix(MACHINE) {
        Some(machine) => Some(Item { machine: Some(machine.to_owned()), points }),
        None => (what == ITEM).then_some(Item { machine: None, points }),
    }
}

/// A session of its own: no terminal's hang-up or interrupt ends the mount. Nothing of whoever started it stays open either,
/// a lock of a script for instance: the mount outlives them.
fn detach() -> Result<()> {
    close_descriptors()?;
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
            match unmount_in_time(&unmounter) {
                Ok(()) => break,
                Err(error) => tracing::warn!("asked to end: {}", error.with_causes()),
            }
        }
    });
    let served = ready().and_then(|()| mount.wait());
    handle.close();
    watcher.join().map_err(|_| failed(std::io::Error::other("a thread of it panicked")))?;
    served
}

/// Unmounts, also if somebody looks in at this very moment; gives up if a file stays in use.
fn unmount_in_time(unmounter: &Unmounter) -> Result<()> {
    for _ in 1..UNMOUNT_TRIES {
        if unmounter.unmount().is_ok() {
            return Ok(());
        }
        std::thread::sleep(UNMOUNT_PAUSE);
    }
    unmounter.unmount()
}

/// Starts the supervisor and waits for its word.
fn leave_behind(options: &Options) -> Result<PathBuf> {
    let own = own_executable();
    let executable = options.executable.as_ref().unwrap_or(&own);
    let failed = |source| Error::host("start the process that serves", &options.dir, source);
    // the supervisor's working directory is another
    let dir = std::path::absolute(&options.dir).map_err(failed)?;
    let (its_log, file) = log::create()?;
    let mut supervisor = Command::new(executable)
        .arg(ARGUMENT)
        .arg(&options.uri)
        .arg(&dir)
        .arg(if options.allow_other { ALLOW_OTHER } else { FOR_OWNER })
        .arg(what(options.item.as_ref()))
        .arg(&its_log)
        .arg(&options.name)
        .args(options.beside.iter().flat_map(|(name, uri)| [name, uri]))
        .current_dir("/")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(file)
        .spawn()
        .map_err(failed)?;
    // by a pipe: neither in its arguments nor in its environment can anybody see them
    if let Some(mut input) = supervisor.stdin.take() {
        input.write_all(&options.passphrases.to_bytes()).map_err(failed)?;
    }
    let mut report = String::new();
    if let Some(output) = supervisor.stdout.take() {
        read_report(output, &mut report).map_err(failed)?;
    }
    match report.trim_end() {
        READY => Ok(its_log),
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

/// A failure in one line: its kind, then what a person reads, causes included.
fn describe(error: &Error) -> String {
    format!("{} {}", error.kind().name(), error.with_causes().replace('\n', " "))
}

fn undescribe(line: &str) -> Error {
    let (name, text) = line.split_once(' ').unwrap_or(("io", line));
    Error::Reported { kind: Kind::named(name).unwrap_or(Kind::Io), text: text.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_survive_the_way_through_the_pipe() {
        for kind in Kind::all() {
            let told = undescribe(&describe(&Error::Reported { kind, text: "a\nreason".to_owned() }));
            assert_eq!((told.kind(), told.to_string()), (kind, "a reason".to_owned()));
        }
        let cause = std::io::Error::other("the cause");
        let told = undescribe(&describe(&Error::host("do", "a thing", cause)));
        assert_eq!((told.kind(), told.to_string()), (Kind::Io, "cannot do a thing: the cause".to_owned()));
    }
}
