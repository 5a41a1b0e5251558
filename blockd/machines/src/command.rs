//! Another program, run with bounds: on what it may say, and on how long it may take.

use crate::error::{Error, Result};
use rustix::process::{Pid, Signal, kill_process_group};
use std::io::{Read, Write};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::Duration;

/// What a program may print: a definition has some kilobytes, a list of 10,000 machines a megabyte.
const OUTPUT_LIMIT_BYTES: u64 = 16 << 20;
/// What of its complaints is kept.
const COMPLAINT_LIMIT_BYTES: u64 = 64 << 10;

/// How a program ended.
pub struct Ended {
    /// Whether it says that it did what it was asked to.
    pub success: bool,
    /// What it printed.
    pub output: Vec<u8>,
    /// What it complained of.
    pub complaint: String,
}

/// Runs a program to its end with `input` as its standard input.
///
/// # Errors
/// It cannot be started, prints more than any answer has, or does not end in time: it and what it started are ended then.
pub fn run(mut command: Command, input: &[u8], patience: Duration) -> Result<Ended> {
    let program = command.get_program().to_string_lossy().into_owned();
    let host = |source| Error::Host { program: program.clone(), source };
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
    let mut child = command.spawn().map_err(host)?;
    let (sender, done) = channel();
    let said = child.stdout.take().map(|pipe| read(pipe, OUTPUT_LIMIT_BYTES, sender.clone()));
    let complained = child.stderr.take().map(|pipe| read(pipe, COMPLAINT_LIMIT_BYTES, sender));
    if let Some(mut pipe) = child.stdin.take() {
        // small enough for the pipe, or read by a program that is waiting for it; one that does not want it says why itself
        let input = input.to_vec();
        std::thread::spawn(move || drop(pipe.write_all(&input)));
    }
    let outcome = wait(&done, patience);
    if outcome.is_err() {
        end(&mut child);
    }
    let status = child.wait().map_err(host)?;
    let take = |reader: Option<std::thread::JoinHandle<Vec<u8>>>| {
        reader.and_then(|reader| reader.join().ok()).unwrap_or_default()
    };
    let (output, complaint) = (take(said), take(complained));
    outcome.map_err(|()| Error::TimedOut { program: program.clone(), seconds: patience.as_secs() })?;
    if output.len() as u64 > OUTPUT_LIMIT_BYTES {
        let said = format!("answers with more than {OUTPUT_LIMIT_BYTES} bytes");
        return Err(Error::Said { program, said, kind: block::Kind::Unsupported });
    }
    let complaint = String::from_utf8_lossy(&complaint).trim().to_owned();
    Ok(Ended { success: status.success(), output, complaint })
}

/// Reads a pipe to its end, keeps a bounded beginning of it, and tells.
fn read(
    mut pipe: impl Read + Send + 'static,
    limit: u64,
    done: std::sync::mpsc::Sender<()>,
) -> std::thread::JoinHandle<Vec<u8>> {
    std::thread::spawn(move || {
        let mut kept = Vec::new();
        // what cannot be read is missing, and the program's own end says more
        let read = pipe.by_ref().take(limit + 1).read_to_end(&mut kept);
        if read.is_ok() && kept.len() as u64 <= limit {
            drop(std::io::copy(&mut pipe, &mut std::io::sink()));
        }
        // nobody waits any more once the time was up
        let _told = done.send(());
        kept
    })
}

/// Waits until both pipes are at their end.
fn wait(done: &std::sync::mpsc::Receiver<()>, patience: Duration) -> Result<(), ()> {
    let mut left = patience;
    for _ in 0..2 {
        match done.recv_timeout(left) {
            Ok(()) => left = left.max(Duration::from_secs(1)),
            Err(RecvTimeoutError::Disconnected) => return Ok(()),
            Err(RecvTimeoutError::Timeout) => return Err(()),
        }
        left = left.min(patience);
    }
    Ok(())
}

/// Ends a program and what it started.
fn end(child: &mut Child) {
    // one that has just ended by itself is gone, and that is what is wanted
    let _gone = kill_process_group(Pid::from_child(child), Signal::KILL);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sh(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    #[test]
    fn a_program_that_hangs_or_talks_without_end_is_ended() {
        let hangs = run(sh("sleep 60 & sleep 60"), b"", Duration::from_millis(200));
        assert!(matches!(hangs, Err(Error::TimedOut { .. })));
        let talks = run(sh("yes"), b"", Duration::from_secs(20));
        assert!(matches!(talks, Err(Error::Said { .. })));
        let missing = run(Command::new("/no/such/program"), b"", Duration::from_secs(1));
        assert!(matches!(missing, Err(Error::Host { .. })));
    }

    #[test]
    fn input_goes_in_and_both_outputs_come_back() {
        let ended = run(sh("cat; echo no >&2; exit 3"), b"yes", Duration::from_secs(20)).expect("ended");
        assert_eq!(
            (ended.success, ended.output.as_slice(), ended.complaint.as_str()),
            (false, &b"yes"[..], "no")
        );
    }
}
